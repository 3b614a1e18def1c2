"""Rewrites of a network's graph that change what it costs and not what it says (geouq.compiling.plan runs them).

Letters in shape comments: N images in a batch, C channels, H rows, W columns; of weights O channels out and I in, M
those between two layers that are merged.
"""

from __future__ import annotations

import copy
import itertools
import operator
import re
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geouq.compiling.crops import cat_samples, is_local_mean, one_side, pixel_shuffle
from geouq.compiling.shapes import note_shapes, shape_of
from geouq.networks.sites import DropoutSite

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def module_of(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the layer that a node calls, if it calls one."""
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def remove_in_place(module: fx.GraphModule) -> None:
    """Make each in-place step return a new tensor, which later readers of the overwritten one then read."""
    augmented = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}
    seen: set[fx.Node] = set()
    for node in module.graph.nodes:
        seen.add(node)
        layer = module_of(module, node)
        overwrites = True
        if layer is not None and getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]
        elif node.op == "call_function" and node.target in augmented:
            node.target = augmented[node.target]
        elif node.op == "call_method" and re.fullmatch(r"[a-z]\w*[a-z0-9]_", str(node.target)):
            node.target = str(node.target)[:-1]
        elif node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        else:
            overwrites = False
        if overwrites:
            before = set(seen)
            node.args[0].replace_all_uses_with(node, delete_user_cb=lambda user, old=before: user not in old)


def remove_inactive_sites(module: fx.GraphModule, active: dict[str, float]) -> None:
    """Take out identity layers: sites that do not sample, and dropout of other kinds (off in eval mode)."""
    for node in list(module.graph.nodes):
        layer = module_of(module, node)
        idle = isinstance(layer, (nn.Identity, nn.modules.dropout._DropoutNd)) or (
            isinstance(layer, DropoutSite) and layer.name not in active
        )
        if idle:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def scale_interpolations(module: fx.GraphModule, examples: Sequence[Tensor]) -> None:
    """Make an enlargement to the size of another tensor, say, a layer that enlarges by a factor, where that is so.

    examples : windows (1, K, H, W) of different sizes; the factor is the same whole number for all of them.
    """
    found = [node for node in module.graph.nodes if node.target is functional.interpolate and not _blends(node)]
    if not found:
        return
    factors: dict[fx.Node, set[tuple[float, ...]]] = {node: set() for node in found}
    for example in examples:
        note_shapes(module, example)
        for node in found:
            sizes = zip(shape_of(node)[2:], shape_of(node.args[0])[2:], strict=True)
            factors[node].add(tuple(new / old for new, old in sizes))
    for node in found:
        factor = max(factors[node])[0]
        if factors[node] == {(factor, factor)} and factor == int(factor):
            name = f"{node.name}_scaled"
            module.add_submodule(name, nn.Upsample(scale_factor=int(factor), mode=node.kwargs.get("mode", "nearest")))
            node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}
    for node in reversed(module.graph.nodes):  # sizes that nobody reads any more
        if not node.users and node.op in ("call_function", "call_method") and not shape_of(node):
            module.graph.erase_node(node)


def _blends(node: fx.Node) -> bool:
    """True for an interpolation that is no plain nearest or bilinear one of cells."""
    told = node.kwargs
    return (
        len(node.args) > 1
        or bool(told.get("align_corners") or told.get("antialias"))
        or (told.get("mode", "nearest") not in ("nearest", "bilinear"))
    )


def fold_batch_norm(module: fx.GraphModule) -> None:
    """Fold each batch normalisation (in eval mode) into the convolution that it alone reads.

    A convolution that is called several times has one set of weights: it is folded if the same normalisation follows
    each time, and else left as it is.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if isinstance(module_of(module, node), CONVOLUTIONS):
            calls.setdefault(str(node.target), []).append(node)
    for name, nodes in calls.items():
        after = [next(iter(node.users)) if len(node.users) == 1 else node for node in nodes]
        conv, norm = module_of(module, nodes[0]), module_of(module, after[0])
        if not isinstance(conv, CONVOLUTIONS) or not isinstance(norm, nn.BatchNorm2d):
            continue
        transpose, alike = isinstance(conv, nn.ConvTranspose2d), all(module_of(module, node) is norm for node in after)
        if not alike or (transpose and conv.groups != 1):
            continue
        module.set_submodule(name, fuse_conv_bn_eval(conv, norm, transpose))
        for node, read in zip(after, nodes, strict=True):
            node.replace_all_uses_with(read)
            module.graph.erase_node(node)


def fold_mean(module: fx.GraphModule) -> None:
    """Make a mean over neighbours and the 1×1 convolution that alone reads it one convolution."""
    for node in list(module.graph.nodes):
        conv = module_of(module, node)
        if not isinstance(conv, nn.Conv2d) or not _is_pointwise(conv):
            continue
        before = node.args[0]
        mean = module_of(module, before)
        if not is_local_mean(mean) or len(before.users) != 1:
            continue
        side, name = one_side(mean.kernel_size), f"{node.name}_mean"
        merged = nn.Conv2d(conv.in_channels, conv.out_channels, side, padding=side // 2, bias=conv.bias is not None)
        merged.weight = nn.Parameter((conv.weight / side**2).repeat(1, 1, side, side))  # (O, I, 1, 1) → (O, I, k, k)
        merged.bias = conv.bias
        module.add_submodule(name, merged)
        node.target, node.args = name, before.args
        module.graph.erase_node(before)


def _is_pointwise(conv: nn.Conv2d) -> bool:
    """True for a plain 1×1 convolution."""
    return (conv.kernel_size, conv.stride, conv.groups) == ((1, 1), (1, 1), 1) and conv.padding in ((0, 0), "same")


def tainted_nodes(module: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes that depend on an active site (all remaining sites are active)."""
    tainted: set[fx.Node] = set()
    for node in module.graph.nodes:
        if isinstance(module_of(module, node), DropoutSite) or any(n in tainted for n in node.all_input_nodes):
            tainted.add(node)
    return tainted


def split_convolutions(module: fx.GraphModule, tainted: set[fx.Node]) -> tuple[str, ...]:
    """Split each convolution over masked and clean channels into the sum of two; return their names.

    A convolution whose channels are all clean is split too, into the doubled half and the skip half, where
    ``merge_upsampling`` can then make the doubling and the doubled half one layer.
    """
    splits = []
    for node in list(module.graph.nodes):
        conv = module_of(module, node)
        if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
            continue
        cat = node.args[0]
        parts = _cat_parts(cat)
        clean = [p for p in parts if p not in tainted]
        if clean == parts and _plain_3x3(conv):
            doubled = [p for p in parts if _doubling(module_of(module, p), 1) is not None and len(p.users) == 1]
            clean = [p for p in parts if p not in doubled]
        if not clean or len(clean) == len(parts):
            continue
        halves = []
        for kind, members in (("masked", [p for p in parts if p not in clean]), ("clean", clean)):
            part = _slice_conv(conv, parts, members, bias=kind == "clean")
            name = f"{node.name}_{kind}"
            module.add_submodule(name, part)
            with module.graph.inserting_before(node):
                source = members[0] if len(members) == 1 else module.graph.call_function(torch.cat, (members, 1))
                halves.append(module.graph.call_module(name, (source,)))
        with module.graph.inserting_before(node):
            total = module.graph.call_function(torch.add, tuple(halves))
        node.replace_all_uses_with(total)
        if node in tainted:
            tainted |= {halves[0], total}
            splits.append(str(node.target))
        module.graph.erase_node(node)
        if not cat.users:
            module.graph.erase_node(cat)
    return tuple(splits)


def share_concatenated(module: fx.GraphModule, tainted: set[fx.Node]) -> None:
    """Let concatenations that are left (read by a dropout site, say) join samples and what they share."""
    for node in module.graph.nodes:
        if len({part in tainted for part in _cat_parts(node)}) == 2:
            node.target = cat_samples


def _cat_parts(node: fx.Node) -> list[fx.Node]:
    """Return what is concatenated along channels, or nothing if ``node`` is no such concatenation."""
    if node.op != "call_function" or node.target not in (torch.cat, torch.concat):
        return []
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    return list(node.args[0]) if axis == 1 else []  # type: ignore[arg-type]


def _slice_conv(conv: nn.Conv2d, parts: list[fx.Node], members: list[fx.Node], bias: bool) -> nn.Conv2d:
    """Return the convolution over the input channels that ``members`` hold within ``parts``."""
    picked, start = [], 0
    for part in parts:
        width = shape_of(part)[1]
        picked += [slice(start, start + width)] if part in members else []
        start += width
    weight = torch.cat([conv.weight[:, s] for s in picked], 1)  # (O, I, 3, 3), I the members' channels
    half = copy.deepcopy(conv)
    half.in_channels = weight.shape[1]
    half.weight = nn.Parameter(weight.detach().clone())
    if not bias:
        half.bias = None
    return half


class AddConstant(nn.Module):
    """Add a constant image to x (1, C, H, W): the 3×3 convolution by ``weight`` of an image of ones.

    Inside, every pixel of that image has the same value; at the border the padding's zeros make it differ, in eight
    ways (4 edges, 4 corners). So nine values a channel are all there is to compute.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, weight.shape[0], 3, padding=1, bias=False)
        self.conv.weight = nn.Parameter(weight)  # (C, 1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(1, C, H, W) → (1, C, H, W)."""
        if min(x.shape[2:]) < 3:
            constant: Tensor = self.conv(x.new_ones(1, 1, *x.shape[2:]))  # (1, C, H, W)
            return constant.add_(x)
        nine: Tensor = self.conv(x.new_ones(1, 1, 3, 3))  # (1, C, 3, 3): corners, edges, and all that is inside
        out = x + nine[:, :, 1:2, 1:2]  # (1, C, H, W) + (1, C, 1, 1)
        for row, y in ((0, 0), (2, -1)):
            for column, part in ((0, slice(0, 1)), (1, slice(1, -1)), (2, slice(-1, None))):
                out[:, :, y, part] = x[:, :, y, part] + nine[:, :, row, column, None]  # (1, C, ≤ W) + (1, C, 1)
        for column, z in ((0, 0), (2, -1)):
            out[:, :, 1:-1, z] = x[:, :, 1:-1, z] + nine[:, :, 1, column, None]  # (1, C, H − 2) + (1, C, 1)
        return out


class Doubling(nn.ConvTranspose2d):
    """A doubling and a 3×3 convolution in one: a 4×4 transposed convolution of stride 2 and padding 1."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) → (N, C', 2H, 2W)."""
        rows, columns = x.shape[2:]
        if x.device.type == "cpu" and rows % 2 and columns % 2:
            # A column of zeros is what lies beyond the border anyhow. Without it oneDNN takes seven times as long at
            # sides such as 97 or 193, which a core in a scene's corner has.
            return super().forward(functional.pad(x, (0, 1)))[..., : 2 * columns]  # W → W + 1 → 2W + 2 → 2W
        return super().forward(x)


def merge_upsampling(module: fx.GraphModule, tainted: set[fx.Node]) -> None:
    """Make a 2×2 doubling and the 3×3 convolution after it one 4×4 transposed convolution, where that is less work.

    Both are linear, so their composition is exact; a U-Net's stage (C = 2·width channels in) takes 8 instead of 11
    multiplications a weight pair. The doubling's bias meets the convolution's border of zeros: its part is the
    same for all samples and goes to the skip half that is added next.
    """
    for node in list(module.graph.nodes):
        conv = module_of(module, node)
        if not isinstance(conv, nn.Conv2d) or not _plain_3x3(conv):
            continue
        source = node.args[0]
        up = _doubling(module_of(module, source), conv.in_channels)
        if up is None or len(source.users) > 1:
            continue
        weight, bias = up  # (I, M, 2, 2), (M,)
        inputs, middle, outputs = weight.shape[0], conv.in_channels, conv.out_channels
        learnt = inputs * middle if isinstance(module_of(module, source), nn.ConvTranspose2d) else 0
        if 4 * inputs * outputs >= learnt + 9 * middle * outputs:
            continue
        # (O, M, 3, 3), (M,) → (O, 3, 3): what each tap makes of the doubling's bias
        if bias is not None and not _move_bias(module, node, tainted, torch.einsum("omkl,m->okl", conv.weight, bias)):
            continue
        merged = Doubling(inputs, outputs, bias=conv.bias is not None)
        merged.weight = nn.Parameter(_compose(weight, conv.weight))  # (I, O, 4, 4)
        merged.bias = conv.bias
        module.add_submodule(f"{node.name}_merged", merged)
        node.target, node.args = f"{node.name}_merged", source.args
        module.graph.erase_node(source)


def _plain_3x3(conv: nn.Conv2d) -> bool:
    alike = (conv.kernel_size, conv.stride, conv.dilation, conv.groups) == ((3, 3), (1, 1), (1, 1), 1)
    return alike and conv.padding in ((1, 1), "same") and conv.padding_mode == "zeros"


def _doubling(layer: nn.Module | None, channels: int) -> tuple[Tensor, Tensor | None] | None:
    """Return a doubling layer as a transposed convolution: weight (I, M, 2, 2) and bias (M,); None for others."""
    if isinstance(layer, nn.ConvTranspose2d):
        shape = layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups
        return (layer.weight, layer.bias) if shape == ((2, 2), (2, 2), (0, 0), (0, 0), (1, 1), 1) else None
    if isinstance(layer, nn.Upsample) and layer.mode == "nearest" and layer.scale_factor == 2:
        return torch.eye(channels)[:, :, None, None].expand(-1, -1, 2, 2), None  # (M, M, 2, 2)
    return None


def _move_bias(module: fx.GraphModule, node: fx.Node, tainted: set[fx.Node], bias: Tensor) -> bool:
    """Add ``bias`` (C, 3, 3), a convolution of a constant, to the clean summand that ``node`` is added to, if any."""
    user = next(iter(node.users))
    others = [n for n in user.all_input_nodes if n is not node and n not in tainted]
    if len(node.users) > 1 or user.target is not torch.add or len(others) != 1:
        return False
    name = f"{node.name}_constant"
    module.add_submodule(name, AddConstant(bias.detach()[:, None]))  # (C, 3, 3) → (C, 1, 3, 3)
    with module.graph.inserting_before(user):
        total = module.graph.call_module(name, (others[0],))
    user.replace_input_with(others[0], total)
    return True


def _compose(up: Tensor, conv: Tensor) -> Tensor:
    """Return (I, O, 4, 4) of a 4×4 stride 2 padding 1 transposed convolution = ``conv`` after ``up``.

    ``up`` is (I, M, 2, 2), ``conv`` (O, M, 3, 3).

    Pixel 2c + a of the doubled image goes to pixel y through the tap k with y + k − 1 = 2c + a; the transposed
    convolution's tap p goes to y = 2c + p − 1. Hence p = a − k + 2.
    """
    up, conv = up.double(), conv.double()
    out = torch.zeros(up.shape[0], conv.shape[0], 4, 4, dtype=torch.float64)
    for a, b, k, m in itertools.product(range(2), range(2), range(3), range(3)):
        out[:, :, a - k + 2, b - m + 2] += up[:, :, a, b] @ conv[:, :, k, m].T  # (I, M) @ (M, O) → (I, O)
    return out.float()


def replace_pixel_shuffle(module: fx.GraphModule) -> None:
    """Use a pixel shuffle that is three times faster for channels-last tensors."""
    for node in list(module.graph.nodes):
        layer = module_of(module, node)
        if isinstance(layer, nn.PixelShuffle):
            with module.graph.inserting_before(node):
                faster = module.graph.call_function(pixel_shuffle, (node.args[0], layer.upscale_factor))
            node.replace_all_uses_with(faster)
            module.graph.erase_node(node)
