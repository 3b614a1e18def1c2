"""The sampling plan: what of a network is computed once a window, and what once a sample.

A plan is made from the network's own graph (torch.fx), not by hand for each architecture:

1. Batch normalisation is folded into the convolution before it, a mean over neighbours into a 1×1 one behind it; an
   enlargement to another tensor's size becomes one by its factor.
2. All that comes before the first active dropout site is the *prefix*; the rest is the *suffix*.
3. A convolution over ``cat(up, skip)`` whose skip half carries no mask is split,
   ``conv(cat(up, skip)) = conv_up(up) + conv_skip(skip)``, and the skip half moves into the prefix.
4. What is left of it, a convolution over a doubled image, becomes one transposed convolution with the doubling.
5. The suffix is cropped, level by level, to what the core needs (geouq.compiling.crops).
6. In-place operations become out-of-place, so that no sample can change what the next one starts from.

A network that cannot be traced is run whole for each sample (``suffix`` = the network); the plan says so.

Letters in shape comments: S samples, K bands, C channels of some level or classes of the logits, H rows and W columns
of the window, h and w those of a level.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from geouq.compiling.crops import FULL, Crops, plan_crops
from geouq.compiling.rewrites import (
    CONVOLUTIONS,
    fold_batch_norm,
    fold_mean,
    merge_upsampling,
    module_of,
    remove_in_place,
    remove_inactive_sites,
    replace_pixel_shuffle,
    scale_interpolations,
    share_concatenated,
    split_convolutions,
    tainted_nodes,
)
from geouq.compiling.shapes import note_shapes, shape_of
from geouq.compiling.tracing import trace
from geouq.networks.sites import DropoutSite, as_logits

#: Pixels that a block's coarse levels need around it, roughly.
BLOCK_MARGIN = 48
#: Sides that blocks on a CPU may have, in pixels, and the most bytes of one tensor in a block: some 10 MiB stay in the
#: cache, but smaller blocks would compute too much of the coarse levels twice.
SIDES = (768, 512, 384, 256, 192, 128)
BLOCK_BYTES = 20 << 20


@dataclass(frozen=True)
class Plan:
    """What is computed once (``prefix``), what per sample (``suffix``), and the bytes it takes.

    prefix : x (1, K, H, W) → the tensors kept for all samples, each (1, C, h, w).
    suffix : (kept tensors (1, C, h, w)…, masks (S, C, 1, 1)…) → logits (S, classes, H, W).
    sites : active sites in the order in which ``suffix`` takes their masks, with rates.
    channels : channels of each of those sites.
    bytes_per_pixel : peak of live float32 tensors until the first sample, per window pixel.
    held_bytes : bytes that all samples share while they are drawn, per window pixel.
    logit_bytes : bytes of the logits of each sample in a batch, per window pixel.
    sample_bytes : bytes that each sample of a batch adds, per pixel of the block that is being computed.
    block : side of the blocks that samples are computed in (geouq.compiling.blocks), in pixels; 0: whole cores.
    largest_bytes : bytes of the suffix's largest tensor, per pixel of the block.
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
        return working * self.sample_bytes

    def in_blocks(self) -> Plan:
        """Return the plan with blocks that stay in a processor's cache.

        A network that pools again behind a dropout site has one block: each block would compute the whole pooled level.
        """
        pools = self.crops is not None and any(region.margin >= FULL for region in self.crops.kept)
        return replace(self, block=0 if pools else _block_side(self.largest_bytes))


def _block_side(bytes_per_pixel: float) -> int:
    return next((side for side in SIDES if side**2 * bytes_per_pixel <= BLOCK_BYTES), SIDES[-1])


def make_plan(network: nn.Module, bands: int, stride: int, active: dict[str, float]) -> Plan:
    """Compile ``network`` (in eval mode, not changed) for sampling at the ``active`` sites."""
    network = copy.deepcopy(network).eval()
    try:
        module = trace(network, bands, stride)
    except Exception:  # a user's own code meets stand-ins for tensors here, and may raise anything
        return _untraced(network, active)
    if not isinstance(_result(module), fx.Node):
        as_logits(_result(module))  # a dictionary, say: refused
    remove_in_place(module)
    remove_inactive_sites(module, active)
    example, other = (torch.zeros(1, bands, n * stride, n * stride) for n in (4, 6))  # (1, K, H, W)
    scale_interpolations(module, (other, example))
    fold_batch_norm(module)
    fold_mean(module)
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
                sites[name].mask = mask[s : s + 1]  # (1, C, 1, 1)
            outputs.append(as_logits(self.network(x.clone())))  # (1, K, H, W) → (1, classes, H, W)
        return torch.cat(outputs)  # (S, classes, H, W)


def _result(module: fx.GraphModule) -> Any:
    return next(n for n in module.graph.nodes if n.op == "output").args[0]


def _partition(module: fx.GraphModule, active: dict[str, float], splits: tuple[str, ...], side: int) -> Plan:
    """Divide the rewritten network into prefix and suffix; ``side`` is that of the example that shapes are of."""
    tainted = tainted_nodes(module)
    nodes = [n for n in module.graph.nodes if n.op != "output"]
    result = _result(module)
    for node in reversed(nodes):  # what is kept are tensors: a size, say, is asked for again
        if not shape_of(node) and tainted & set(node.users):
            tainted.add(node)
    late, early = [n for n in nodes if n in tainted], [n for n in nodes if n not in tainted]
    kept = [n for n in early if n is result or tainted & set(n.users)]  # (1, C, h, w) each, or what the prefix is for
    names = {n: layer.name for n in late if isinstance(layer := module_of(module, n), DropoutSite)}
    prefix = _subgraph(module, early, [], kept, {})  # (1, K, H, W) → kept
    suffix = _subgraph(module, late, kept, [result], names)  # kept, masks (S, C, 1, 1) → (S, classes, H, W)
    masks = {n.name for n in suffix.graph.nodes if n.op == "placeholder"} - {n.name for n in kept}
    held, scale = sum(map(_floats, kept)), 4 / side**2  # scale: bytes of one float of the example, per pixel of it
    return Plan(
        prefix,
        suffix,
        sites={name: active[name] for name in names.values()},
        channels={name: shape_of(n)[1] for n, name in names.items()},
        bytes_per_pixel=scale * max(_peak(prefix), 2.25 * held),  # kept tensors are copied into blocks that overlap
        held_bytes=scale * 1.25 * held,
        logit_bytes=scale * 2 * _floats(result),  # 2: the core's, and those of the next batch
        sample_bytes=scale * _peak(suffix),
        largest_bytes=scale * max(map(_floats, late), default=0),
        splits=splits,
        crops=plan_crops(suffix, masks, side),
        prefix_nodes=tuple(map(str, early)),
        suffix_nodes=tuple(map(str, late)),
    )


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
            # (1 or S, C, h, w) · (S, C, 1, 1) → (S, C, h, w): the first site makes S tensors of the one all share
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
