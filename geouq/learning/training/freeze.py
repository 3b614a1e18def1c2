"""Parts of a network that training leaves as they are: neither weights nor running statistics move."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from geouq.errors import InputError
from geouq.learning.training.extra import Extra

#: the part that all of geouq's networks have: what comes before the way back up (its modules, by the class)
ENCODER = "encoder"


def freeze(network: nn.Module, names: Sequence[str]) -> None:
    """Set a network to training, all but the parts named.

    Parameters
    ----------
    names : "encoder", or names of modules of the network ("down.0").

    Raises
    ------
    InputError : there is no such part.
    """
    network.train()
    inner = network.network if isinstance(network, Extra) else network
    for part in (part for name in names for part in _parts(inner, name)):
        part.eval().requires_grad_(False)


def _parts(network: nn.Module, name: str) -> list[nn.Module]:
    if name == ENCODER:
        owner = next((module for module in network.modules() if hasattr(module, ENCODER)), None)
        if owner is None:
            raise InputError("freeze encoder: this network says of none of its modules that they are it: name modules")
        return [owner.get_submodule(part) for part in owner.encoder]  # type: ignore[union-attr]
    try:
        if not name:
            raise AttributeError
        return [network.get_submodule(name)]
    except AttributeError:
        known = ", ".join([ENCODER, *(child for child, _ in network.named_children())])
        raise InputError(f"freeze {name!r}: the network has no such part: it has {known}") from None
