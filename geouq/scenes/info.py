"""``scene_info``: what a scene is, as plain values for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from geouq.errors import UnitsError
from geouq.rasters.raster import Band, Pixels, Raster
from geouq.rasters.windowed import chunk_shape
from geouq.scenes.beside import sibling
from geouq.scenes.open import Source, describe_scene
from geouq.scenes.scene import Scene
from geouq.scenes.valid import valid_share
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.units import DB, UNKNOWN

if TYPE_CHECKING:
    from geouq.sentinel1.product import ProductPixels


def scene_info(
    source: Source,
    *,
    scale: str = "auto",
    nodata: float | None = None,
    bidx: Sequence[int] | None = None,
    chunk: int = 1024,
    factor: float | Sequence[float] = (1.0,),
    offset: float | Sequence[float] = (0.0,),
    preprocessing: Preprocessing | None = None,
) -> dict[str, Any]:
    """Return what a scene is: files, grid, bands, units and why, validity, chunks; JSON-able values only.

    For a Sentinel-1 product: what it is, the state it comes in, what is done to it on its way to a scene, and the
    grid that it is put on. Parameters are those of ``open_scene``. Where units cannot be told, they are ``unknown`` and
    ``units_reason`` says what to give; nothing else of a scene is harder to describe for it. ``valid_share`` is
    the share of pixels valid in all bands; of large files about, as ``valid_share_of`` says, with a range.

    Raises
    ------
    SceneError, InputError : as ``open_scene``.
    """
    units, reason = "", ""
    try:
        scene = describe_scene(
            source, scale=scale, nodata=nodata, bidx=bidx, factor=factor, offset=offset, preprocessing=preprocessing
        )
    except UnitsError as error:
        # Any scale will do to describe the rest.
        scene = describe_scene(source, scale="dn", nodata=nodata, bidx=bidx, factor=factor, offset=offset)
        units, reason = UNKNOWN, str(error)
    first = scene.parts[0]
    if not isinstance(first, Pixels):
        return _product(cast("ProductPixels", first)) | _grid(scene, chunk)
    rasters = [part.raster for part in scene.parts if isinstance(part, Pixels)]
    bands = [band for raster in rasters for band in raster.bands]
    return {
        "files": [raster.path for raster in rasters],
        "driver": _common(raster.driver for raster in rasters),
        "bands": list(scene.names),
        "dtype": _common(band.dtype for band in bands),
        "units": units or scene.units,
        "units_reason": reason or scene.units_reason,
        "nodata": _common(band.nodata for band in bands),
        "mask": _mask(rasters, bands),
        **valid_share([part for part in scene.parts if isinstance(part, Pixels)]),
        **_grid(scene, chunk),
        "placed_by": f"{len(rasters[0].gcps)} ground control points" if rasters[0].gcps else "transform",
        "block": list(rasters[0].block),
        "notes": list(scene.notes),
        "other_polarisation": sibling(rasters[0]) if len(rasters) == 1 else None,
    }


def _grid(scene: Scene, chunk: int) -> dict[str, Any]:
    geobox = scene.geobox
    return {
        "columns": int(geobox.shape[1]),
        "rows": int(geobox.shape[0]),
        "crs": None if geobox.crs is None else str(geobox.crs),
        "transform": [float(value) for value in geobox.affine[:6]],
        "resolution": [float(abs(geobox.resolution.x)), float(abs(geobox.resolution.y))],
        "bounds": [float(value) for value in geobox.boundingbox],
        "chunk": list(chunk_shape(scene.parts[0].shape[1:], scene.parts[0].block, chunk)),
    }


def _product(pixels: ProductPixels) -> dict[str, Any]:
    """What a product is and comes as, and what is done to it."""
    product, annotation = pixels.image.product, pixels.image.product.annotation
    empty = all(channel.noise.empty for channel in product.channels)
    removed = all(channel.annotation.noise_removed for channel in product.channels)
    noise = "already removed" if removed else "no values given" if empty else "not removed"
    blocks = "in range and azimuth" if product.channels[0].noise.blocks else "in range"
    return {
        "files": [product.path],
        "product": product.manifest.name,
        "mission": annotation.mission,
        "mode": annotation.mode,
        "pass": annotation.pass_direction.lower(),
        "orbit": annotation.orbit_number,
        "start": str(annotation.start.astype("datetime64[us]")),
        "stop": str(annotation.stop.astype("datetime64[us]")),
        "polarisations": list(product.polarisations),
        "footprint": [list(corner) for corner in product.manifest.footprint],
        "image": {"lines": annotation.lines, "pixels": annotation.pixels, "spacing_m": annotation.range_spacing},
        "processor": f"IPF {product.manifest.ipf}",
        "calibration": "not calibrated (digital numbers, with tables)",
        "noise": noise if removed or empty else f"{noise} (tables {blocks})",
        "bands": list(pixels.image.polarisations),
        "units": DB,
        "segment_would": list(pixels.notes),
    }


def _common(values: Any) -> Any:
    """The value that all share, or the list of the different ones; NaN and infinity as text, for JSON has none."""
    odd = (float("inf"), float("-inf"))
    distinct = list(dict.fromkeys(str(value) if value != value or value in odd else value for value in values))
    return distinct[0] if len(distinct) == 1 else distinct


def _mask(rasters: Sequence[Raster], bands: Sequence[Band]) -> str | None:
    if any(raster.alpha for raster in rasters):
        return "alpha band"
    return "mask band" if any(band.masked for band in bands) else None
