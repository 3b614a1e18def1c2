"""The pixels of labelled chips: lazily, as a scene; or a window of them, with its label and where both are valid.

Nothing is read before it is asked for, and large labelled scenes are read window by window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import xarray as xr

from geouq.errors import InputError, UnitsError
from geouq.grid import GeoBox, Roi, pieces, same_grid
from geouq.learning.data.chip import LabelledChip
from geouq.likeness import doubtful
from geouq.rasters.coords import scene_geobox
from geouq.rasters.raster import Pixels, Raster, inspect_raster, read_window
from geouq.rasters.windowed import first_windows
from geouq.scenes.open import open_scene
from geouq.units import BACKSCATTER, convert
from geouq.validity import measured

#: what the label of a pixel without one is, in what ``load`` returns
UNLABELLED = -1


@lru_cache(maxsize=512)
def open_chip(chip: LabelledChip) -> xr.DataArray:
    """Return a chip's image as a lazy scene, (band, y, x) with ``attrs["units"]``, as ``segment`` takes it.

    Raises
    ------
    SceneError, UnitsError : it cannot be read or understood. InputError : its bands are not those named.
    """
    source = chip.images[0] if len(chip.images) == 1 else list(chip.images)
    told = {"scale": chip.scale, "nodata": chip.nodata, "factor": chip.factor, "offset": chip.offset}
    try:
        scene = open_scene(source, most_fill=1.0, **told)  # type: ignore[arg-type]
    except UnitsError as error:
        raise UnitsError(_in_a_manifest(str(error))) from None
    if chip.bands and len(chip.bands) != scene.shape[0]:
        alpha = inspect_raster(chip.images[0]).alpha
        marked = f" (band {alpha} is marked as alpha: gdal_edit.py -colorinterp_{alpha} undefined)" if alpha else ""
        raise InputError(
            f"{chip.images[0]}: has {scene.shape[0]} bands{marked}, and {len(chip.bands)} are named: correct bands"
        )
    if chip.least is not None:
        scene = scene.copy(data=np.maximum(scene.data, np.float32(chip.least)))
    return scene.assign_coords(band=list(chip.bands)) if chip.bands else scene


def _in_a_manifest(message: str) -> str:
    """Say of a flag that ``open_scene`` asks for where labelled data have it."""
    return message.replace("give --scale", "say in a manifest (units)").replace("--scale", "units")


def unlike_note(chips: Sequence[LabelledChip], most: int = 20) -> str:
    """Return a warning if some of the chips, of which up to ``most`` are looked at, are no radar images; else ""."""
    some = chips[:: -(-len(chips) // most) or 1]
    told = {chip.name: why for chip in some if (why := _unlike(open_chip(chip)))}
    if not told:
        return ""
    first, why = next(iter(told.items()))
    return f"{len(told)} of {len(some)} chips looked at do not look like what they are said to be, {first}: {why}"


def _unlike(scene: xr.DataArray) -> str:
    """Say why a scene's bands or levels are none of a radar image; empty if they may be, or are not said to be."""
    if scene.attrs["units"] not in BACKSCATTER:
        return ""  # and nothing is read
    places = first_windows((scene.shape[1], scene.shape[2]))
    windows = [np.asarray(scene.data[:, rows, columns]) for rows, columns in places]
    return doubtful(windows, [str(name).upper() for name in scene["band"].values], scene.attrs["units"])


def opacity_note(chip: LabelledChip) -> str:
    """Return a warning if a band that the file calls alpha looks like a measurement, such as near infrared; else ""."""
    raster = inspect_raster(chip.images[0])
    if not raster.alpha:
        return ""
    raster = inspect_raster(chip.images[0], [raster.alpha])
    values = read_window(raster, raster.bands, *(slice(0, min(n, 1024)) for n in raster.shape))
    if np.isin(values[np.isfinite(values)], (0, 255, 65535)).all():
        return ""
    return (
        f"{chip.images[0]}: band {raster.alpha} is marked as alpha and only says what is valid; if it is a measurement "
        f"(near infrared), mark it so: gdal_edit.py -colorinterp_{raster.alpha} undefined"
    )


@lru_cache(maxsize=512)
def open_label(chip: LabelledChip) -> Raster:
    """Return a chip's label raster, of one band, which must lie on the image's grid."""
    raster = inspect_raster(chip.label)
    if len(raster.bands) > 1:
        raise InputError(
            f"{chip.label}: has {len(raster.bands)} bands, and a label has one, of class indices: "
            "write it as one (gdal_translate -b 1, if all are alike)"
        )
    scene = open_chip(chip)
    if raster.shape != scene.shape[1:]:
        rows, columns = scene.shape[1:]
        what = f"has {raster.shape[1]} x {raster.shape[0]} pixels, its image {columns} x {rows}"
        raise InputError(f"{chip.label}: {what}: give a label on the image's own grid")
    if raster.transform and raster.crs and not _same_grid(scene_geobox(scene), Pixels(raster).geobox):
        raise InputError(f"{chip.label}: lies elsewhere than its image: warp it onto the image's grid")
    band = raster.bands[0]
    # A nodata value of 0 in a label nearly always stands for the class 0, not for pixels without a label, and one that
    # is named among the classes is a class.
    nodata = None if band.nodata in (0, *chip.classes) else band.nodata
    return replace(raster, bands=(replace(band, nodata=nodata, masked=False),))


def _same_grid(image: GeoBox, label: GeoBox) -> bool:
    """True if both CRS are one and the corners lie within half a pixel; also where the image has no CRS to compare."""
    return image.crs is None or same_grid(image, label)


def load(
    chip: LabelledChip,
    bands: Sequence[str] | None = None,
    units: str | None = None,
    window: Roi | None = None,
    black: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a chip, or a window of it.

    Parameters
    ----------
    bands : names wanted, in order; all the chip has by default. One it has not is NaN throughout, unless it has none.
    units : unit to convert to, where that is exact; the chip's own by default.
    window : rows and columns; all by default.
    black : as in a model's spec: pixels none of whose bands is above it are padding.

    Returns
    -------
    pixels : float32 (K, h, w), NaN where not measured.
    label : int16 (h, w), class index, -1 where none is given.
    valid : bool (h, w), labelled, and measured in the bands it has of those wanted (geouq.validity).

    Raises
    ------
    SceneError, UnitsError, InputError : naming the file.
    """
    scene = open_chip(chip)
    window = window or Roi(0, scene.shape[1], 0, scene.shape[2])
    index = _pick(chip, [str(b) for b in scene["band"].values], bands)
    values = np.asarray(scene.data[:, *window.slices])
    pixels = np.full((len(index), *window.shape), np.nan, np.float32)
    try:
        for k, i in enumerate(index):
            if i is not None:
                pixels[k] = convert(values[i], scene.attrs["units"], units or scene.attrs["units"])
    except UnitsError as error:
        raise UnitsError(_in_a_manifest(f"{chip.images[0]}: {error}")) from None
    label = load_label(chip, window)
    present = [k for k, i in enumerate(index) if i is not None]
    return pixels, label, measured(pixels, present, black) & (label != UNLABELLED)


def load_label(chip: LabelledChip, window: Roi) -> np.ndarray:
    """Read the class indices of a window, int16 (h, w), -1 where none is given."""
    if chip.throughout is not None:
        return np.full(window.shape, chip.throughout, np.int16)
    raster = open_label(chip)
    values = read_window(raster, raster.bands, *window.slices)[0]
    ignored = (values < 0) | (values == 255) if chip.ignore is None else np.isin(values, chip.ignore)
    ignored |= ~np.isfinite(values)
    if not chip.classes:
        odd = values[~ignored & ((values != np.round(values)) | (values < 0) | (values > 254))]
        if odd.size:
            raise InputError(
                f"{chip.label}: label {odd[0]:g} is no class index: name its values in a manifest (classes)"
            )
        return np.where(ignored, UNLABELLED, values).astype(np.int16)
    label = np.full(values.shape, UNLABELLED, np.int16)
    for number, value in enumerate(chip.classes):
        label[values == value] = number
    unknown = (label == UNLABELLED) & ~ignored
    if unknown.any():
        raise InputError(
            f"{chip.label}: label {values[unknown][0]:g} is neither in classes nor in ignore: name it in one"
        )
    return label


def windows(chip: LabelledChip, size: int) -> Iterator[Roi]:
    """Return windows of at most ``size``² pixels that cover a chip exactly once, row by row."""
    rows, columns = open_chip(chip).shape[1:]
    return pieces((rows, columns), size, size)


def _pick(chip: LabelledChip, names: Sequence[str], wanted: Sequence[str] | None) -> list[int | None]:
    """Return for each band wanted its index: by name, or by order where names say nothing and numbers agree."""
    if wanted is None:
        return list(range(len(names)))
    index = {name.upper(): i for i, name in enumerate(names)}
    twice = [name for name in wanted if [n.upper() for n in names].count(name.upper()) > 1]
    if twice:
        raise InputError(f"{chip.images[0]}: two bands are called {twice[0]}: name all in a manifest (bands)")
    found = [index.get(name.upper()) for name in wanted]
    if any(i is not None for i in found):
        return found
    if len(names) == len(wanted) and all(re.fullmatch(r"(band)?[ _]?\d*", name.lower()) for name in names):
        return list(range(len(names)))
    raise InputError(
        f"{chip.images[0]}: has bands {', '.join(names)}, and {', '.join(wanted)} are wanted: "
        "name them in a manifest (bands)"
    )
