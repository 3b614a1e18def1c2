"""What a run tells of itself while it works: plain values, for whoever shows them. The library itself never prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """The run is about to compute: tiles and pixels in all and already done, promised bytes by term."""

    tiles: int
    done: int
    pixels: int
    done_pixels: int
    promise: Mapping[str, int]


@dataclass(frozen=True)
class TileDone:
    """One more tile is safe on disk."""

    pixels: int


@dataclass(frozen=True)
class BatchHalved:
    """A device had not the memory for ``asked`` samples at once; a tile was computed with ``batch``."""

    batch: int
    asked: int


@dataclass(frozen=True)
class Finishing:
    """All tiles are there; now ``step`` is being made."""

    step: str


@dataclass(frozen=True)
class Noted:
    """Something that people should know, in a line."""

    text: str


Event = Started | TileDone | BatchHalved | Finishing | Noted
OnEvent = Callable[[Event], None]
