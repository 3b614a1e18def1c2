"""Blocks: a sample of a large core, computed a part at a time, so that its tensors stay in the processor's cache.

A window is large because its halo must be paid for once; what is left to compute for each sample hardly needs a halo (a
pixel or two at the finest level), and tensors of a whole window go through main memory at every step. So the core is
cut into blocks, each with its own crops of what the prefix kept. On a GPU, which has work enough only with large
tensors, a core is one block.

Letters in shape comments: S samples, C channels, H rows and W columns of the core, h and w those of a block at some
level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geouq.compiling.crops import Crops, crop
from geouq.compiling.plan import Plan
from geouq.grid import Roi

#: Blocks begin at multiples of this many pixels of the core, so that hardly a level has an odd number of cells a side.
_UNIT = 64


@dataclass(frozen=True)
class Block:
    """A part of the core, and what its samples are computed from.

    part : where it lies in the core. inner : where it lies in what the suffix gives for it.
    kept : the prefix's tensors (1, C, h, w), cropped to what the part needs.
    boxes : where the suffix crops further, step by step.
    """

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
    return [_block(plan.crops, kept, roi, core, window) for roi in _parts(core, plan.block or max(core.shape))]


def _block(crops: Crops, kept: Sequence[Tensor], roi: Roi, core: Roi, window: tuple[int, int]) -> Block:
    smaller = (crop(t, region.box(roi, window)) for t, region in zip(kept, crops.kept, strict=True))  # (1, C, h, w)
    boxes = (to.box(roi, window).within(of.box(roi, window)) for of, to in crops.steps)
    return Block(
        roi.within(core),
        tuple(t.contiguous(memory_format=torch.channels_last) for t in smaller),
        tuple(boxes),
        roi.within(crops.result.box(roi, window)),
    )


def block_logits(plan: Plan, blocks: Sequence[Block], masks: Sequence[Tensor]) -> Tensor:
    """Return the whole core's logits (S, classes or 1, H, W) of the S samples that ``masks``, (S, C, 1, 1), are for."""
    if len(blocks) == 1:
        return _logits(plan, blocks[0], masks)
    shape = blocks[-1].part.y1, blocks[-1].part.x1
    out: Tensor | None = None
    for block in blocks:
        logits = _logits(plan, block, masks)  # (S, classes or 1, h, w)
        out = logits.new_empty(*logits.shape[:2], *shape) if out is None else out  # (S, classes or 1, H, W)
        crop(out, block.part).copy_(logits)
    assert out is not None
    return out


def _logits(plan: Plan, block: Block, masks: Sequence[Tensor]) -> Tensor:
    """Return the logits (S, classes or 1, h, w) of a block's part of the core."""
    # (1, C, h, w)…, (S, C, 1, 1)… → (S, classes or 1, h', w') → without the margin that the last step still had
    return crop(plan.suffix(*block.kept, *masks, *block.boxes), block.inner)


def _parts(core: Roi, side: int) -> Iterator[Roi]:
    """Yield rectangles of nearly equal size, none longer than ``side``, that cover ``core``."""
    for y0, y1 in _spans(core.y0, core.y1, side):
        for x0, x1 in _spans(core.x0, core.x1, side):
            yield Roi(y0, y1, x0, x1)


def _spans(start: int, stop: int, side: int) -> list[tuple[int, int]]:
    count, unit = max(-(-(stop - start) // side), 1), _UNIT if side >= 2 * _UNIT else 1
    ends = [start + -(-(stop - start) * i // (count * unit)) * unit for i in range(count)]
    return list(zip(ends, [*ends[1:], stop], strict=True))
