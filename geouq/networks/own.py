"""Networks of a user's own code: their dropout becomes named sites, and their class is known by an importable name.

A model file holds that name, the arguments of the constructor and the weights, never code. Nothing is imported because
a file says so: whoever loads such a file names the class, too.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geouq.errors import ModelError
from geouq.networks.sites import DropoutSite

#: "package.module:Class"
IMPORTABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def importable_name(network: nn.Module) -> str:
    """Return ``package.module:Class`` of a network; "custom" where its class cannot be imported by that name.

    Of several such names it is that of the outermost package, which is where a library shows what it has.
    """
    kind = type(network)
    parts = kind.__module__.split(".")
    modules = [".".join(parts[: i + 1]) for i in range(len(parts))]
    shown = (m for m in modules if getattr(sys.modules.get(m), kind.__qualname__, None) is kind)
    name = f"{next(shown, kind.__module__)}:{kind.__qualname__}"
    return name if IMPORTABLE.fullmatch(name) and kind.__module__ != "__main__" else "custom"


def build_own(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Import ``package.module:Class``, which the user has named, and return ``Class(**arguments)``.

    Raises
    ------
    ModelError : there is no such module, or no class of ``nn.Module`` in it, or the arguments do not make one.
    """
    if not IMPORTABLE.fullmatch(name):
        raise ModelError(f"{name!r} names no class: give package.module:Class")
    module, _, cls = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), cls)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):  # nothing else is called
            raise ModelError("it is no class of torch.nn.Module")
        network: nn.Module = kind(**arguments)
    except Exception as error:  # a user's own code may raise anything
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{name} gives no network ({type(error).__name__}: {reason}): it must be importable from here, and take "
            f"the arguments {dict(arguments)}"
        ) from error
    return network


def told_apart(network: nn.Module) -> str:
    """Return what tells a network from others with the same weights: its modules, and the values and functions in them.

    It is for this process alone, for a function is told by where it lies.
    """
    torchs = vars(nn.Module())
    modules = [
        (name, str(type(module)), {key: value for key, value in vars(module).items() if key not in torchs})
        for name, module in network.named_modules()
    ]
    return json.dumps(
        modules, skipkeys=True, default=lambda value: value.tolist() if hasattr(value, "tolist") else repr(value)
    )


def with_sites(network: nn.Module, bands: int, stride: int) -> nn.Module:
    """Replace ``nn.Dropout`` and ``nn.Dropout2d`` by named sites, in place, and return the network in eval mode.

    Sites drop whole channels, so that a sample is one network everywhere in a scene. Dropout of what is no image
    (N, C, H, W), or is never called, stays as it is, which is off in eval mode.

    Raises
    ------
    ModelError : the network does not run on so many bands, or one dropout is used at places of different channels.
    """
    drops = {m: name for name, m in network.named_modules() if type(m) in (nn.Dropout, nn.Dropout2d)}
    parameter = next(network.parameters(), torch.zeros(()))  # on its device, of its kind
    seen = _shapes_seen(network.eval(), list(drops), parameter.new_zeros(1, bands, 4 * stride, 4 * stride))
    sites = {}
    for drop, shapes in seen.items():
        channels = {shape[1] for shape in shapes if len(shape) == 4}
        if len(channels) > 1:
            several = " and ".join(map(str, sorted(channels)))
            raise ModelError(f"dropout {drops[drop]!r} is called on {several} channels: give each place one of its own")
        if channels and all(len(shape) == 4 for shape in shapes):
            sites[drop] = DropoutSite(drops[drop], channels.pop(), float(drop.p))  # type: ignore[arg-type]
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if module in sites:
            parent, _, own = path.rpartition(".")
            setattr(network.get_submodule(parent), own, sites[module])
    return network


def _shapes_seen(network: nn.Module, modules: list[nn.Module], example: Tensor) -> dict[nn.Module, list[torch.Size]]:
    """Return the shapes of what each of the modules is given in one pass."""
    seen: dict[nn.Module, list[torch.Size]] = {module: [] for module in modules}
    handles = [m.register_forward_pre_hook(lambda m, args: seen[m].append(args[0].shape)) for m in modules]
    try:
        with torch.no_grad():
            network(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        shape = " x ".join(map(str, example.shape[1:]))
        raise ModelError(f"the network does not run on {shape} (bands, rows, columns): {reason}") from None
    finally:
        for handle in handles:
            handle.remove()
    return seen
