"""Shapes of what the steps of a graph give, noted while an example passes through it once.

torch's own pass (torch.fx.passes.shape_prop) notes more, and imports sympy for it, which takes most of a second.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

_KEY = "shape"  # in a node's ``meta``


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta[_KEY] = tuple(result.shape) if isinstance(result, Tensor) else ()
        return result


def note_shapes(module: fx.GraphModule, example: Tensor) -> None:
    """Run ``example`` (1, K, H, W) through the graph, and note with each node the shape of its result."""
    with torch.no_grad():
        _Shapes(module).run(example)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape that was noted; empty for what is no tensor."""
    return tuple(node.meta.get(_KEY, ()))
