"""What is to be done to a radar product on its way to a scene: plain values, shared by library and command line."""

from __future__ import annotations

from dataclasses import dataclass

from geouq.errors import InputError


@dataclass(frozen=True)
class Preprocessing:
    """The steps between a Sentinel-1 GRD product and backscatter on a map.

    calibration : sigma0 (the default), gamma0 or beta0.
    noise : subtract thermal noise.
    speckle : name of a filter, or None.
    crs : of the map; the UTM zone of the footprint's centre by default.
    resolution : pixel size in units of the CRS; the product's own by default.
    dem : path of an elevation model for terrain correction; without one, the product's geolocation grid.
    rtc : flatten the terrain's radiometry too, which gives gamma0 (needs ``dem``).
    hand : path of a raster of heights above the nearest drainage in m; pixels high above it are not valid.

    Raises
    ------
    InputError : if the steps do not go together.
    """

    calibration: str | None = None
    noise: bool = True
    speckle: str | None = None
    crs: str | None = None
    resolution: float | None = None
    dem: str | None = None
    rtc: bool = False
    hand: str | None = None

    def __post_init__(self) -> None:
        if self.rtc and self.dem is None:
            raise InputError("radiometric terrain flattening (--rtc) needs heights: give --dem")
        if self.rtc and self.calibration not in (None, "gamma0"):
            raise InputError(f"--rtc gives gamma0, not {self.calibration}: leave --calibration out")

    @property
    def quantity(self) -> str:
        """What pixels are calibrated to before they are geocoded: flattening starts from beta0."""
        return "beta0" if self.rtc else self.calibration or "sigma0"
