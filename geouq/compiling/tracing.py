"""From a network to its graph: torch.fx, which keeps torch's own layers and dropout sites whole.

Many networks look at sizes on the way (``if rows % 32: raise …``, ``[n // 4 for n in x.shape]``), which torch.fx
refuses, as it knows none. Here such a question is asked of windows of several sizes, whose tensors have shapes and no
values; if all give one answer, that is the answer for every window. A question about values, number format or device,
or one that windows answer differently, is still refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from geouq.networks.sites import DropoutSite

#: images, and rows and columns in strides, of the windows that are asked: wide, high and square ones, a side of all
#: remainders, and one that is larger than any tile
ASKED = ((1, 1, 2), (2, 2, 1), (1, 3, 3), (3, 5, 4), (1, 64, 65), (2, 65, 64), (2, 5040, 5040))
#: what windows of one device and number format say nothing of
NO_SIZES = ("dtype", "device", "is_cuda", "is_cpu", "is_meta", "requires_grad")


def trace(network: nn.Module, bands: int, stride: int) -> fx.GraphModule:
    """Return the graph of a network in eval mode, whose layers are the network's own.

    Raises
    ------
    Exception : of any kind, for a user's own code meets stand-ins for tensors here.
    """
    return fx.GraphModule(network, _Tracer(network, bands, stride).trace(network))


class _Tracer(fx.Tracer):
    def __init__(self, network: nn.Module, bands: int, stride: int) -> None:
        super().__init__()
        self.network, self.asking = network, False
        shapes = [(images, bands, rows * stride, columns * stride) for images, rows, columns in ASKED]
        self.windows = [torch.empty(shape, device="meta") for shape in shapes]
        self.known: list[dict[fx.Node, Any]] = [{} for _ in ASKED]  # of each window: what each step of the graph gives

    @cached_property
    def shapes_only(self) -> nn.Module:
        """The network with weights that have shapes and no values."""
        return copy.deepcopy(self.network).to("meta")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, DropoutSite) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Note a call in the graph; a layer of ``shapes_only``, which is called to answer a question, simply runs."""
        return forward(*args, **kwargs) if self.asking else super().call_module(m, forward, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Return what a condition is for every window."""
        answer = self._ask(obj.node, bool)
        return super().to_bool(obj) if answer is None else bool(answer)

    def iter(self, obj: Any) -> Iterator[Any]:
        """Return the parts of what has as many for every window: a shape, say."""
        parts = self._ask(obj.node, len)
        return super().iter(obj) if parts is None else iter([obj[i] for i in range(parts)])

    def _ask(self, node: fx.Node, question: Callable[[Any], int]) -> int | None:
        """Return the one answer of all windows that the network runs on; None if there is none."""
        if any(map(_no_size, (node, *node.all_input_nodes))):
            return None
        answers, self.asking = set(), True
        for window, known in zip(self.windows, self.known, strict=True):
            try:
                answers.add(question(self._value(node, window, known)))
            except (RuntimeError, ValueError, TypeError):
                continue  # the window is too small for the network, or the question is about values
        self.asking = False
        return answers.pop() if len(answers) == 1 else None

    def _value(self, node: fx.Node, window: Tensor, known: dict[fx.Node, Any]) -> Any:
        """Return what the graph gives at a node for a window."""
        for step in self.graph.nodes:
            if step not in known:
                known[step] = self._run(step, window, known)
            if step is node:
                break
        return known[node]

    def _run(self, step: fx.Node, window: Tensor, known: dict[fx.Node, Any]) -> Any:
        args, kwargs = fx.node.map_arg((step.args, step.kwargs), lambda n: known[n])
        with torch.no_grad():
            if step.op == "placeholder":
                return window
            if step.op == "get_attr":
                return _attribute(self.shapes_only, str(step.target))
            if step.op == "call_module":
                return self.shapes_only.get_submodule(str(step.target))(*args, **kwargs)
            if step.op == "call_method":
                return getattr(args[0], str(step.target))(*args[1:], **kwargs)
            return step.target(*args, **kwargs)  # type: ignore[operator]


def _no_size(node: fx.Node) -> bool:
    """True for an attribute of a tensor, or one of that (``x.device.type``), that is among ``NO_SIZES``."""
    if node.target is not getattr:
        return False
    return node.args[1] in NO_SIZES or any(map(_no_size, node.all_input_nodes))


def _attribute(module: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)
