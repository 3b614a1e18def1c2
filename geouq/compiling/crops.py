"""Shrinking windows: from the coarse levels to the fine ones, a sample computes only what its core still needs.

A window's halo is wide because the *first* layers need it. On the way back up, each layer needs less context than the
one before, and the last ones a pixel or two. So the suffix is cropped, level by level, to what the core
depends on: exact (what is cut away is what nobody reads), and at a tile of 512 with a halo of 96 about half the work of
the finest level.

Cells are the pixels of a level: at scale s a cell covers s×s scene pixels. A region of a level is the core in cells,
rounded outwards, with a margin of context, clipped at the window.

Letters in shape comments: N images in a batch, S of them samples, C channels, H rows and W columns of cells, f the
factor by which a level is made finer.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from geouq.compiling.shapes import shape_of
from geouq.grid import Roi

#: A margin that is clipped to the window: the level is kept whole.
FULL = 1 << 30


def cat_samples(tensors: Sequence[Tensor], dim: int = 1) -> Tensor:
    """Concatenate along channels tensors of S samples (S, C, H, W) with what all samples share (1, C, H, W)."""
    samples = max(t.shape[0] for t in tensors)
    return torch.cat([t.expand(samples, -1, -1, -1) for t in tensors], dim)  # (S, ΣC, H, W)


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """Unfold (N, C·factor², H, W) into (N, C, H·factor, W·factor) as torch's does, at once for channels-last."""
    n, channels, rows, columns = x.shape
    depth = channels // factor**2
    cells = x.permute(0, 2, 3, 1).reshape(n, rows, columns, depth, factor, factor)  # (N, H, W, C, f, f)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(n, depth, rows * factor, columns * factor)  # (N, C, H·f, W·f)


_POINTWISE = {
    torch.relu,
    torch.add,
    torch.mul,
    torch.cat,
    torch.concat,
    torch.sigmoid,
    functional.relu,
    torch.sub,
    operator.add,
    operator.mul,
    operator.sub,
    cat_samples,
}


@dataclass(frozen=True)
class Region:
    """The part of a level that a core depends on.

    It is the core in cells of ``scale`` pixels, rounded outwards, with ``margin`` such cells on each side. Where the
    level was made finer since (a doubling: ``factor`` 2), the same part is counted in cells of scale / factor pixels.
    """

    scale: int
    margin: int
    factor: int = 1

    def finer(self, factor: int) -> Region:
        """Return the same region in cells ``factor`` times finer."""
        return Region(self.scale, self.margin, self.factor * factor)

    def holds(self, other: Region) -> bool:
        """True if this region contains ``other``, of equal cells, for every core."""
        if self.margin >= FULL:
            return True
        return self.margin * self.factor >= other.margin * other.factor + other.factor - 1

    def box(self, core: Roi, window: tuple[int, int]) -> Roi:
        """Return the region of ``core`` (window pixels) in this level's cells."""

        def reach(start: int, stop: int, size: int) -> tuple[int, int]:
            low = max(start // self.scale - self.margin, 0)
            high = min(-(-stop // self.scale) + self.margin, size // self.scale)
            return low * self.factor, high * self.factor

        return Roi(*reach(core.y0, core.y1, window[0]), *reach(core.x0, core.x1, window[1]))


@dataclass(frozen=True)
class Crops:
    """Where a plan crops: kept tensors to ``kept``, within the suffix from one region to another, the result."""

    kept: tuple[Region, ...]
    steps: tuple[tuple[Region, Region], ...]
    result: Region


def crop(x: Tensor, box: Roi) -> Tensor:
    """Return a view of a part of ``x`` (N, C, H, W)."""
    rows, columns = box.slices
    return x[:, :, rows, columns]  # (N, C, rows of the box, columns of the box)


def plan_crops(suffix: fx.GraphModule, masks: set[str], pixels: int) -> Crops | None:
    """Insert crops into ``suffix``, in place; None (and no change) if it holds a step whose reach is not known here.

    masks : names of those inputs that are masks of dropout sites; they have no rows and columns.
    pixels : side of the example image that was passed through the network when shapes were noted.
    Each crop's box becomes one more input of the suffix; the boxes come last, in the order of ``Crops.steps``.
    """
    nodes = [n for n in suffix.graph.nodes if n.name not in masks and n.op != "output"]
    known = {n: _effect(suffix, n) for n in nodes}
    effects = {n: effect for n, effect in known.items() if effect is not None}
    if len(effects) < len(nodes) or any(_side(n) == 0 or pixels % _side(n) for n in nodes):
        return None
    need = _needs(nodes, effects)
    regions: dict[fx.Node, Region] = {}
    cuts: list[tuple[fx.Node, fx.Node, Region]] = []
    for node in nodes:
        sources = [n for n in node.all_input_nodes if n.name not in masks]
        scale = pixels // _side(node)
        effect = effects[node]
        if not sources or effect.reduces:
            regions[node] = Region(scale, need[node] if not sources else FULL)
        elif effect.factor > 1:
            wanted = Region(scale * effect.factor, effect.margin(need[node]))
            cuts += [(node, sources[0], wanted)] if wanted.margin < FULL else []
            regions[node] = (wanted if wanted.margin < FULL else regions[sources[0]]).finer(effect.factor)
        else:
            target = next((regions[n] for n in sources if n.op != "placeholder"), regions[sources[0]])
            for source in sources:
                if source.op == "placeholder" and len(source.users) == 1:
                    regions[source] = target
                elif regions[source] != target:
                    if not regions[source].holds(target):
                        return None
                    cuts.append((node, source, target))
            regions[node] = target
    steps = tuple((regions[source], target) for _, source, target in cuts)
    _insert(suffix, cuts)
    result = next(n for n in suffix.graph.nodes if n.op == "output").args[0]
    return Crops(tuple(regions[n] for n in nodes if n.op == "placeholder"), steps, regions[result])


@dataclass(frozen=True)
class Effect:
    """What a step does to regions: each result needs ``reach`` cells around it, in cells ``factor`` times finer."""

    reach: int = 0
    factor: int = 1
    reduces: bool = False

    def margin(self, need: int) -> int:
        """Return the margin its source needs, in the source's cells, for a margin ``need`` of the result."""
        if need >= FULL or self.reduces:  # reduced cells must stay paired as they are in the whole scene
            return FULL
        return -(-(need + self.reach) // self.factor)


def _effect(module: fx.GraphModule, node: fx.Node) -> Effect | None:
    """Return what a step does to regions; None if that is not known here."""
    if node.op == "placeholder":
        return Effect()
    if node.op == "call_function" and node.target is pixel_shuffle:
        return Effect(factor=int(node.args[1]))  # type: ignore[arg-type]
    if node.op == "call_function":
        return Effect() if node.target in _POINTWISE else None
    if node.op == "call_method":
        return Effect() if node.target in ("relu_", "add_", "mul_", "relu", "add", "mul", "sigmoid") else None
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(layer, nn.ReLU | nn.Identity | nn.LeakyReLU | nn.SiLU | nn.BatchNorm2d):
        return Effect()
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        return _convolution(layer)
    if isinstance(layer, nn.ConvTranspose2d):
        return _transposed(layer)
    if isinstance(layer, nn.Upsample):
        return _upsampling(layer)
    if is_local_mean(layer):
        return Effect(one_side(layer.kernel_size) // 2)
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d | nn.PixelUnshuffle):
        return Effect(reduces=True)
    return None


def is_local_mean(layer: nn.Module | None) -> TypeGuard[nn.AvgPool2d]:
    """Return whether a layer is the mean over a square around each cell, with zeros beyond the edge."""
    if not isinstance(layer, nn.AvgPool2d) or layer.ceil_mode or layer.divisor_override or not layer.count_include_pad:
        return False
    side = one_side(layer.kernel_size)
    return side % 2 == 1 and one_side(layer.stride) == 1 and one_side(layer.padding) == side // 2


def one_side(size: int | tuple[int, int]) -> int:
    """Return the side of a square; 0 if it is none."""
    rows, columns = size if isinstance(size, tuple) else (size, size)
    return rows if rows == columns else 0


def _convolution(layer: nn.Conv2d) -> Effect | None:
    if layer.stride != (1, 1):
        return Effect(reduces=True)
    (k, kx), (d, dx), padding = layer.kernel_size, layer.dilation, layer.padding
    reach = d * (k - 1) // 2
    same = k % 2 == 1 and (k, d) == (kx, dx) and padding in ((reach, reach), "same")
    return Effect(reach) if same else None


def _upsampling(layer: nn.Upsample) -> Effect | None:
    """Nearest reaches no neighbours; bilinear the next cell, from half a cell on (align_corners would move all)."""
    factor = layer.scale_factor
    if not isinstance(factor, float) or factor % 1 or layer.align_corners:
        return None
    return {"nearest": Effect(0, int(factor)), "bilinear": Effect(int(factor) // 2, int(factor))}.get(layer.mode)


def _transposed(layer: nn.ConvTranspose2d) -> Effect | None:
    """Kernels as large as the stride reach no neighbours; 4×4 at stride 2 (a doubling and a 3×3), and 3×3, reach 1."""
    k, s, p, more = layer.kernel_size, layer.stride, layer.padding, layer.output_padding
    square = k[0] == k[1] and s[0] == s[1]
    if not square or set(layer.dilation) != {1}:
        return None
    if (k, p, more) == (s, (0, 0), (0, 0)):
        return Effect(factor=s[0])
    doublings = ((4, 4), (2, 2), (1, 1), (0, 0)), ((3, 3), (2, 2), (1, 1), (1, 1))
    return Effect(1, 2) if (k, s, p, more) in doublings else None


def _needs(nodes: list[fx.Node], effects: dict[fx.Node, Effect]) -> dict[fx.Node, int]:
    """Return for each node the margin around the core, in cells of its level, that its readers need."""
    need = dict.fromkeys(nodes, 0)
    for node in reversed(nodes):
        for source in node.all_input_nodes:
            if source in need:
                need[source] = max(need[source], effects[node].margin(need[node]))
    return need


def _side(node: fx.Node) -> int:
    shape = shape_of(node)
    return int(shape[2]) if len(shape) == 4 else 0


def _insert(suffix: fx.GraphModule, cuts: list[tuple[fx.Node, fx.Node, Region]]) -> None:
    last = [n for n in suffix.graph.nodes if n.op == "placeholder"][-1]
    for i, (user, source, _) in enumerate(cuts):
        with suffix.graph.inserting_after(last):
            last = suffix.graph.placeholder(f"box_{i}")
        with suffix.graph.inserting_before(user):
            smaller = suffix.graph.call_function(crop, (source, last))
        smaller.meta = dict(source.meta)
        user.replace_input_with(source, smaller)
    suffix.graph.lint()
    suffix.recompile()
