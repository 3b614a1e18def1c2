"""The sampling plan: what of a network is computed once a window, and what once a sample.

A plan is made from the network's own graph (torch.fx), not by hand for each architecture:

1. Batch normalisation is folded into the convolution before it.
2. All that comes before the first active dropout site is the *prefix*; the rest is the *suffix*.
3. A convolution over ``cat(up, skip)`` whose skip half carries no mask is split,
   ``conv(cat(up, skip)) = conv_up(up) + conv_skip(skip)``, and the skip half moves into the prefix.
4. What is left of it, a convolution over a doubled image, becomes one transposed convolution with the doubling.
5. The suffix is cropped, level by level, to what the core needs (geouq.compiling.crops).
6. From its last doubling on it is a plan of its own, the *tail*, which can run in smaller pieces.
7. In-place operations become out-of-place, so that no sample can change what the next one starts from.

A network that cannot be traced is run whole for each sample (``suffix`` = the network); the plan says so.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from geouq.compiling.crops import FULL, Crops, plan_crops
from geouq.compiling.rewrites import (
    CONVOLUTIONS,
    fold_batch_norm,
    merge_upsampling,
    module_of,
    remove_in_place,
    remove_inactive_sites,
    replace_pixel_shuffle,
    share_concatenated,
    split_convolutions,
    tainted_nodes,
)
from geouq.compiling.shapes import note_shapes, shape_of
from geouq.networks.sites import DropoutSite

#: Pixels that a block's coarse levels need around it, roughly.
BLOCK_MARGIN = 48
#: Sides that blocks on a CPU may have, in pixels, and the most bytes of one tensor in a block, and in a piece of its
#: tail: some 10 MiB stay in the cache, but smaller blocks would compute too much of the coarse levels twice.
SIDES = (768, 512, 384, 256, 192, 128)
BLOCK_BYTES, PIECE_BYTES = 20 << 20, 10 << 20


@dataclass(frozen=True)
class Plan:
    """What is computed once (``prefix``), what per sample (``suffix``), and the bytes it takes.

    prefix : x (1, K, H, W) → the tensors kept for all samples, each (1, …).
    suffix : (kept tensors…, masks…) → logits (S, classes, H, W), or what the tail takes.
    sites : active sites in the order in which ``suffix`` takes their masks, with rates.
    channels : channels of each of those sites.
    bytes_per_pixel : peak of live float32 tensors until the first sample, per window pixel.
    held_bytes, logit_bytes : then, per window pixel: what all samples share, and the logits of each in a batch.
    sample_bytes : what each sample in a batch adds in the pixels that are in work, those of a block; its tail adds its
        own.
    block : side of the blocks that samples are computed in (geouq.compiling.blocks), in pixels; 0: whole cores.
    largest_bytes : those of the suffix's largest tensor, per pixel in work.
    tail : None, or the plan of the end of a network: its own suffix takes the result of this one, then the kept
        tensors and the masks, those of ``sites`` too, that this one leaves over; its blocks are pieces of this one's.
    splits : names of the convolutions whose skip half is computed once.
    crops : how the suffix shrinks to the core, level by level; None if it runs on whole windows.
    traced : False if the network is run whole for each sample.
    """

    prefix: nn.Module
    suffix: nn.Module
    sites: dict[str, float]
    channels: dict[str, int]
    bytes_per_pixel: float = 0.0
    held_bytes: float = 0.0
    logit_bytes: float = 0.0
    sample_bytes: float = 0.0
    block: int = 0
    largest_bytes: float = 0.0
    tail: Plan | None = None
    splits: tuple[str, ...] = ()
    crops: Crops | None = None
    prefix_nodes: tuple[str, ...] = field(default=(), repr=False)
    suffix_nodes: tuple[str, ...] = field(default=(), repr=False)
    traced: bool = True

    def bytes_for(self, pixels: int, batch: int) -> int:
        """Return the promised bytes of live tensors for a window of ``pixels``, ``batch`` samples at once."""
        sampling = pixels * self.held_bytes + batch * (pixels * self.logit_bytes + self._bytes_in_work(pixels))
        return int(max(pixels * self.bytes_per_pixel, sampling))

    def _bytes_in_work(self, pixels: int) -> float:
        """Return the bytes of one sample's tensors in a window of ``pixels``."""
        whole = not self.block or self.crops is None
        working = pixels if whole else min(pixels, (self.block + 2 * BLOCK_MARGIN) ** 2)
        return working * self.sample_bytes + (self.tail._bytes_in_work(pixels) if self.tail else 0)

    def in_blocks(self) -> Plan:
        """Return the plan with blocks, and pieces for its tail, that stay in a processor's cache.

        What is pooled again is kept whole: each block would compute it anew, so that there is but one.
        """
        pools = self.crops is not None and any(region.margin >= FULL for region in self.crops.kept)
        tail = self.tail and replace(self.tail, block=_block_side(self.tail.largest_bytes, PIECE_BYTES))
        return replace(self, block=0 if pools else _block_side(self.largest_bytes, BLOCK_BYTES), tail=tail)


def _block_side(bytes_per_pixel: float, most: int) -> int:
    return next((side for side in SIDES if side**2 * bytes_per_pixel <= most), SIDES[-1])


class _Tracer(fx.Tracer):
    """Keeps torch's own layers and dropout sites whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DropoutSite) or super().is_leaf_module(m, module_qualified_name)


def make_plan(network: nn.Module, bands: int, stride: int, active: dict[str, float]) -> Plan:
    """Compile ``network`` (in eval mode, not changed) for sampling at the ``active`` sites."""
    network = copy.deepcopy(network).eval()
    try:
        graph = _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, NotImplementedError):
        return _untraced(network, active)
    module = fx.GraphModule(network, graph)
    remove_in_place(module)
    remove_inactive_sites(module, active)
    fold_batch_norm(module)
    example = torch.zeros(1, bands, 4 * stride, 4 * stride)
    note_shapes(module, example)
    splits = split_convolutions(module, tainted_nodes(module))
    merge_upsampling(module, tainted_nodes(module))
    replace_pixel_shuffle(module)
    share_concatenated(module, tainted_nodes(module))
    module = fx.GraphModule(module, module.graph)
    note_shapes(module, example)
    return _partition(module, active, splits, example.shape[2])


def _untraced(network: nn.Module, active: dict[str, float]) -> Plan:
    sites = {m.name: m for m in network.modules() if isinstance(m, DropoutSite)}
    channels = {name: sites[name].channels for name in active}
    return Plan(nn.Identity(), _Whole(network, tuple(active)), dict(active), channels, traced=False)


class _Whole(nn.Module):
    """The whole network as a suffix: sets the masks, then one plain pass a sample."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x: Tensor, *masks: Tensor) -> Tensor:
        sites = {m.name: m for m in self.network.modules() if isinstance(m, DropoutSite)}
        outputs = []
        for s in range(masks[0].shape[0] if masks else 1):
            for name, mask in zip(self.names, masks, strict=True):
                sites[name].mask = mask[s : s + 1]
            outputs.append(self.network(x.clone()))
        return torch.cat(outputs)


def _partition(module: fx.GraphModule, active: dict[str, float], splits: tuple[str, ...], side: int) -> Plan:
    tainted = tainted_nodes(module)
    nodes = [n for n in module.graph.nodes if n.op != "output"]
    result = next(n for n in module.graph.nodes if n.op == "output").args[0]
    late, early = [n for n in nodes if n in tainted], [n for n in nodes if n not in tainted]
    parts = _Parts(module, active, early, result, side)
    plan, kept = parts.in_two(late) or (parts.plan(late, parts.kept(late), result), parts.kept(late))
    prefix = _subgraph(module, early, [], kept, {})
    held, scale = sum(map(_floats, kept)), parts.scale
    return replace(
        plan,
        prefix=prefix,
        bytes_per_pixel=scale * max(_peak(prefix), 2.25 * held),  # kept tensors are copied into blocks that overlap
        held_bytes=scale * 1.25 * held,
        logit_bytes=scale * 2 * _floats(result),  # 2: the core's, and those of the next batch
        splits=splits,
        prefix_nodes=tuple(map(str, early)),
    )


@dataclass(frozen=True)
class _Parts:
    """What parts of the suffix are made from: the rewritten network, active sites, what comes early, and the result."""

    module: fx.GraphModule
    active: dict[str, float]
    early: list[fx.Node]
    result: fx.Node
    side: int

    @property
    def scale(self) -> float:
        """Bytes a pixel of a float in the example that shapes are of."""
        return torch.finfo(torch.float32).bits / 8 / self.side**2

    def kept(self, nodes: list[fx.Node]) -> list[fx.Node]:
        """Return what ``nodes`` read of the prefix; the network's result if that is all."""
        return [n for n in self.early if n is self.result or any(u in nodes for u in n.users)]

    def plan(self, nodes: list[fx.Node], inputs: list[fx.Node], result: fx.Node, margin: int = 0) -> Plan:
        """Return the plan, but for its prefix, of ``nodes`` that make ``result`` from ``inputs``."""
        names = {n: layer.name for n in nodes if isinstance(layer := module_of(self.module, n), DropoutSite)}
        suffix = _subgraph(self.module, nodes, inputs, [result], names)
        masks = {n.name for n in suffix.graph.nodes if n.op == "placeholder"} - {n.name for n in inputs}
        return Plan(
            nn.Identity(),
            suffix,
            sites={name: self.active[name] for name in names.values()},
            channels={name: shape_of(n)[1] for n, name in names.items()},
            sample_bytes=self.scale * _peak(suffix),
            largest_bytes=self.scale * max(map(_floats, nodes), default=0),
            crops=plan_crops(suffix, masks, self.side, margin),
            suffix_nodes=tuple(map(str, nodes)),
        )

    def in_two(self, late: list[fx.Node]) -> tuple[Plan, list[fx.Node]] | None:
        """Return a plan with a tail, and what both keep of the prefix; None if no doubling is a bottleneck."""
        at = _last_doubling(self.module, late)
        if not at:
            return None
        between, kept, left = late[at - 1], self.kept(late[:at]), self.kept(late[at:])
        tail = self.plan(late[at:], [between, *left], self.result)
        if tail.crops is None or tail.crops.kept[0].margin >= FULL:
            return None
        plan = self.plan(late[:at], kept, between, tail.crops.kept[0].margin)
        if plan.crops is None or set(plan.sites) & set(tail.sites):
            return None
        both = replace(
            plan,
            sites=plan.sites | tail.sites,
            channels=plan.channels | tail.channels,
            suffix_nodes=plan.suffix_nodes + tail.suffix_nodes,
            tail=tail,
        )
        return both, kept + left


def _last_doubling(module: fx.GraphModule, late: list[fx.Node]) -> int:
    """Return the index of the last layer in ``late`` that doubles and alone reads all that comes before; 0 if none."""
    for at in range(len(late) - 1, 0, -1):
        if isinstance(module_of(module, late[at]), nn.ConvTranspose2d | nn.Upsample):
            before, after = set(late[:at]), set(late[at:])
            if [n for n in before if after & set(n.users)] == [late[at - 1]]:
                return at
    return 0


def _subgraph(
    module: fx.GraphModule,
    nodes: list[fx.Node],
    inputs: list[fx.Node],
    outputs: list[fx.Node],
    sites: dict[fx.Node, str],
) -> fx.GraphModule:
    """Copy ``nodes`` into a graph of their own; dropout sites become a multiplication by a mask input."""
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {n: graph.placeholder(n.name) for n in inputs}
    for old, node in new.items():
        node.meta = dict(old.meta)
    by_name: dict[str, fx.Node] = {}  # a layer that is called twice has one mask
    for n, name in sites.items():
        by_name[name] = by_name.get(name) or graph.placeholder(f"mask_{n.name}")
    masks = {n: by_name[name] for n, name in sites.items()}
    for node in nodes:
        if node in masks:
            new[node] = graph.call_function(torch.mul, (new[node.args[0]], masks[node]))  # type: ignore[index]
        else:
            new[node] = graph.node_copy(node, lambda n: new[n])
        new[node].meta = dict(node.meta)
    results = tuple(new[n] for n in outputs)
    graph.output(results if inputs == [] else results[0])
    _reuse_buffers(module, graph, set(results))
    graph.lint()
    return fx.GraphModule(module, graph)


_ELEMENTWISE = {torch.relu: "relu_", torch.mul: "mul_", torch.add: "add_", functional.relu: "relu_"}


def _reuse_buffers(module: fx.GraphModule, graph: fx.Graph, results: set[fx.Node]) -> None:
    """Let an elementwise step overwrite its input where that input is a fresh result nobody else reads.

    Safe by construction: inputs of the subgraph (the cached prefix among them) are placeholders and never fresh.
    """
    fresh: set[fx.Node] = set()
    for node in graph.nodes:
        method = _ELEMENTWISE.get(node.target) if node.op == "call_function" else None
        if isinstance(module_of(module, node), nn.ReLU):
            method = "relu_"
        source = node.args[0] if node.args else None
        if method and source in fresh and len(source.users) == 1 and source not in results:
            node.op, node.target = "call_method", method
            node.args, node.kwargs = node.args[: 1 if method == "relu_" else 2], {}
            fresh.add(node)
        elif method or isinstance(module_of(module, node), CONVOLUTIONS):
            fresh.add(node)


def _floats(node: fx.Node) -> int:
    return math.prod(shape_of(node) or (0,))


def _peak(module: fx.GraphModule) -> int:
    """Return the largest number of floats alive at once while the graph runs, its placeholders left out."""
    nodes = [n for n in module.graph.nodes if n.op != "output"]
    owner: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, int] = {}
    for i, node in enumerate(module.graph.nodes):
        overwrites = node.op == "call_method" and str(node.target) in _ELEMENTWISE.values()
        owner[node] = owner[node.args[0]] if overwrites else node
        for n in {owner[node], *(owner[a] for a in node.all_input_nodes)}:
            last[n] = i
    alive = peak = 0
    for i, node in enumerate(nodes):
        alive += 0 if owner[node] is not node or _is_input(node) else _floats(node)
        peak = max(peak, alive)
        alive -= sum(_floats(n) for n, end in last.items() if end == i and not _is_input(n))
    return peak


def _is_input(node: fx.Node) -> bool:
    """True for what the caller holds; the image itself (in the prefix) counts as live."""
    return node.op == "placeholder" and node.name != "x"
