"""Blocks: a sample of a large core, computed a piece at a time, so that what is in work stays in the processor's cache.

A window is large because its halo must be paid for once; what is left to compute for each sample hardly needs a halo (a
pixel or two at the finest level), and tensors of a whole window go through main memory at every step. So the core is
cut into blocks, each with its own crops of what the prefix kept. On a GPU, which has work enough only with
large tensors, a core is one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geouq.grid import Roi
from geouq.sampling.crops import crop
from geouq.sampling.plan import Plan

#: Side of a block on a CPU, in pixels: the tensors of one stage are a few MiB.
BLOCK_SIDE = 768


@dataclass(frozen=True)
class Block:
    """A part of the core, in the core's coordinates: what its samples start from, and where in their result it lies."""

    part: Roi
    kept: tuple[Tensor, ...]
    boxes: tuple[Roi, ...]
    inner: Roi


def cut(plan: Plan, kept: Sequence[Tensor], core: Roi, window: tuple[int, int]) -> list[Block]:
    """Return the blocks of ``core``, of about ``plan.block``² pixels each; one where the plan cannot be cropped.

    ``kept`` : what the prefix gave for the whole ``window``; blocks hold copies of their parts.
    """
    if plan.crops is None:
        return [Block(Roi(0, core.shape[0], 0, core.shape[1]), tuple(kept), (), core)]
    blocks = []
    for roi in _parts(core, plan.block or max(core.shape)):
        smaller = (crop(t, r.box(roi, window)) for t, r in zip(kept, plan.crops.kept, strict=True))
        boxes = (to.box(roi, window).within(of.box(roi, window)) for of, to in plan.crops.steps)
        blocks.append(
            Block(
                roi.within(core),
                tuple(t.contiguous(memory_format=torch.channels_last) for t in smaller),
                tuple(boxes),
                roi.within(plan.crops.result.box(roi, window)),
            )
        )
    return blocks


def block_logits(plan: Plan, blocks: Sequence[Block], masks: Sequence[Tensor]) -> Tensor:
    """Return the whole core's logits (S, classes or 1, h, w) of the S samples that ``masks`` are for."""
    parts = (crop(plan.suffix(*block.kept, *masks, *block.boxes), block.inner) for block in blocks)
    if len(blocks) == 1:
        return next(parts)
    shape = blocks[-1].part.y1, blocks[-1].part.x1
    out: Tensor | None = None
    for block, logits in zip(blocks, parts, strict=True):
        out = logits.new_empty(*logits.shape[:2], *shape) if out is None else out
        crop(out, block.part).copy_(logits)
    assert out is not None
    return out


def _parts(core: Roi, side: int) -> Iterator[Roi]:
    """Yield rectangles of nearly equal size, none longer than ``side``, that cover ``core``."""
    for y0, y1 in _spans(core.y0, core.y1, side):
        for x0, x1 in _spans(core.x0, core.x1, side):
            yield Roi(y0, y1, x0, x1)


def _spans(start: int, stop: int, side: int) -> list[tuple[int, int]]:
    count = max(-(-(stop - start) // side), 1)
    ends = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(zip(ends[:-1], ends[1:], strict=True))
