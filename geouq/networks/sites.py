"""Dropout sites: the named points of a network where a sample's channel mask enters.

A site multiplies each channel by 0 or by 1/(1 − rate) (inverted, channel-wise dropout: Srivastava et al.
2014; spatial dropout: Tompson et al. 2015, arXiv 1411.4280). While training it draws its own mask; while sampling it
is handed one, so that sample *s* is the same network everywhere in a scene.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn import functional

from geouq.errors import ModelError

#: Groups of sites that ``active`` may name beside the sites themselves.
GROUPS = ("encoder", "bottleneck", "decoder", "last2", "head", "all", "none")


_HERE = threading.local()


def _masks() -> WeakKeyDictionary[nn.Module, Tensor | None]:
    """Return the masks that this thread has set."""
    if not hasattr(_HERE, "masks"):
        _HERE.masks = WeakKeyDictionary()
    found: WeakKeyDictionary[nn.Module, Tensor | None] = _HERE.masks
    return found


class DropoutSite(nn.Module):
    """Channel dropout with a name, a rate, and a mask that can be set from outside.

    ``mask`` is None (identity outside training) or a float tensor of shape (S, C, 1, 1) with S = 1 or the batch size.
    Each thread has its own: samples are computed side by side.
    """

    def __init__(self, name: str, channels: int, rate: float = 0.0) -> None:
        super().__init__()
        self.name, self.channels, self.rate = name, channels, rate

    @property
    def mask(self) -> Tensor | None:
        """What channels are multiplied by, (S, C, 1, 1); None = nothing."""
        return _masks().get(self)

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        _masks()[self] = mask

    def forward(self, x: Tensor) -> Tensor:
        """Apply the mask to ``x`` (N, C, H, W)."""
        mask = self.mask
        if mask is not None:
            return x * mask
        if self.training and self.rate > 0:
            return functional.dropout2d(x, self.rate, training=True)
        return x

    def extra_repr(self) -> str:
        """Show name and rate."""
        return f"{self.name!r}, channels={self.channels}, rate={self.rate}"


def find_sites(network: nn.Module) -> dict[str, DropoutSite]:
    """Return the network's dropout sites by name, in the order in which the network holds them."""
    return {m.name: m for m in network.modules() if isinstance(m, DropoutSite)}


def expand_sites(names: Iterable[str], available: Iterable[str]) -> tuple[str, ...]:
    """Expand group names into site names, in the network's order.

    Raises
    ------
    ModelError : a name is neither a site nor a group of this network.
    """
    available = tuple(available)
    chosen: set[str] = set()
    for name in names:
        members = set(_group(name, available))
        if not members and name != "none":
            known = ", ".join([*GROUPS, *available])
            raise ModelError(f"no dropout site {name!r} in this network: choose among {known}")
        chosen |= members
    return tuple(n for n in available if n in chosen)


def _group(name: str, available: tuple[str, ...]) -> Iterable[str]:
    if name == "all":
        return available
    if name == "last2":
        return [n for n in available if n.startswith("decoder.")][-2:]
    return [n for n in available if n == name or n.startswith(f"{name}.")]


def set_rates(network: nn.Module, rates: Mapping[str, float]) -> None:
    """Set the rates of sites, by their names or those of groups; of several that name a site the last one holds.

    Raises
    ------
    ModelError : a rate is no share below 1, or there is no such site.
    """
    sites = find_sites(network)
    for group, rate in rates.items():
        if not 0 <= rate < 1:
            raise ModelError(f"dropout rate of {group!r} is {rate}: it must be at least 0 and below 1")
        for name in expand_sites([group], sites):
            sites[name].rate = rate


def set_masks(network: nn.Module, masks: Mapping[str, Tensor] | None) -> None:
    """Hand each site its mask; sites not named (or all, for None) become the identity."""
    for name, site in find_sites(network).items():
        site.mask = None if masks is None else masks.get(name)


def as_logits(output: object) -> Tensor:
    """Return what a network gave, if it is one tensor (N, C, H, W); raise ModelError if it is a dictionary, say."""
    if isinstance(output, Tensor) and output.ndim == 4:
        return output
    what = "a dictionary" if isinstance(output, Mapping) else f"a {type(output).__name__}"
    what = f"a tensor of {output.ndim} dimensions" if isinstance(output, Tensor) else what
    raise ModelError(f"the network returns {what}: wrap it so that it returns logits (N, classes, H, W) alone")
