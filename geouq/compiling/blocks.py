"""Blocks: a sample of a large core, computed a piece at a time, so that what is in work stays in the processor's cache.

A window is large because its halo must be paid for once; what is left to compute for each sample hardly needs a halo (a
pixel or two at the finest level), and tensors of a whole window go through main memory at every step. So the core is
cut into blocks, each with its own crops of what the prefix kept, and where the finest level is too large even so, its
part of a block is computed in pieces (the plan's tail). On a GPU, which has work enough only with large tensors, a core
is one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geouq.compiling.crops import Crops, crop
from geouq.compiling.plan import Plan
from geouq.grid import Roi

#: Blocks begin at multiples of this many pixels of the core, so that hardly a level has an odd number of cells a side.
_UNIT = 64


@dataclass(frozen=True)
class Block:
    """A part of the core, in the core's coordinates: what its samples start from, and where in their result it lies.

    before : in a piece, the part that it takes of the result of the block that it is a piece of.
    """

    part: Roi
    kept: tuple[Tensor, ...]
    boxes: tuple[Roi, ...]
    inner: Roi
    before: Roi | None = None
    pieces: tuple[Block, ...] = ()


def cut(plan: Plan, kept: Sequence[Tensor], core: Roi, window: tuple[int, int]) -> list[Block]:
    """Return the blocks of ``core``, of about ``plan.block``² pixels each; one where the plan cannot be cropped.

    ``kept`` : what the prefix gave for the whole ``window``; blocks hold copies of their parts.
    """
    if plan.crops is None:
        return [Block(Roi(0, core.shape[0], 0, core.shape[1]), tuple(kept), (), core)]
    mine, left = kept[: len(plan.crops.kept)], kept[len(plan.crops.kept) :]
    blocks = []
    for roi in _parts(core, plan.block or max(core.shape)):
        block = _block(plan.crops, mine, roi, core, window)
        if plan.tail is not None and plan.tail.crops is not None:
            start, *regions = plan.tail.crops.kept
            crops, result = replace(plan.tail.crops, kept=tuple(regions)), plan.crops.result.box(roi, window)
            pieces = (
                replace(_block(crops, left, part, core, window), before=start.box(part, window).within(result))
                for part in _parts(roi, plan.tail.block or max(roi.shape))
            )
            block = replace(block, pieces=tuple(pieces))
        blocks.append(block)
    return blocks


def _block(crops: Crops, kept: Sequence[Tensor], roi: Roi, core: Roi, window: tuple[int, int]) -> Block:
    smaller = (crop(t, region.box(roi, window)) for t, region in zip(kept, crops.kept, strict=True))
    boxes = (to.box(roi, window).within(of.box(roi, window)) for of, to in crops.steps)
    return Block(
        roi.within(core),
        tuple(t.contiguous(memory_format=torch.channels_last) for t in smaller),
        tuple(boxes),
        roi.within(crops.result.box(roi, window)),
    )


def block_logits(plan: Plan, blocks: Sequence[Block], masks: Sequence[Tensor]) -> Tensor:
    """Return the whole core's logits (S, classes or 1, h, w) of the S samples that ``masks`` are for."""
    shape = blocks[-1].part.y1, blocks[-1].part.x1
    out: Tensor | None = None
    for part, logits in _each(plan, blocks, masks):
        if part.shape == shape:
            return logits
        out = logits.new_empty(*logits.shape[:2], *shape) if out is None else out
        crop(out, part).copy_(logits)
    assert out is not None
    return out


def _each(plan: Plan, blocks: Sequence[Block], masks: Sequence[Tensor]) -> Iterator[tuple[Roi, Tensor]]:
    """Yield each block's part of the core, or each piece's, and its logits."""
    early = len(masks) - len(plan.tail.sites if plan.tail else ())
    for block in blocks:
        result = plan.suffix(*block.kept, *masks[:early], *block.boxes)
        if plan.tail is None:
            yield block.part, crop(result, block.inner)
        for piece in block.pieces:
            assert plan.tail is not None and piece.before is not None
            start = crop(result, piece.before)
            logits = plan.tail.suffix(start, *piece.kept, *masks[early:], *piece.boxes)
            yield piece.part, crop(logits, piece.inner)


def _parts(core: Roi, side: int) -> Iterator[Roi]:
    """Yield rectangles of nearly equal size, none longer than ``side``, that cover ``core``."""
    for y0, y1 in _spans(core.y0, core.y1, side):
        for x0, x1 in _spans(core.x0, core.x1, side):
            yield Roi(y0, y1, x0, x1)


def _spans(start: int, stop: int, side: int) -> list[tuple[int, int]]:
    count, unit = max(-(-(stop - start) // side), 1), _UNIT if side >= 2 * _UNIT else 1
    ends = [start + -(-(stop - start) * i // (count * unit)) * unit for i in range(count)]
    return list(zip(ends, [*ends[1:], stop], strict=True))
