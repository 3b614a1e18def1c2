"""Labelled data of any kind, by a small convention: pictures or scenes, a class index for each pixel, and a place.

Three forms are read (``read_dataset``):

- a folder with ``images/`` and ``labels/`` (or ``masks/``), one label file for each image, under the same name but for
  the ending; ``classes.txt``, if it is there, names the classes, one a line. The place of ``Bonn_12.tif`` is ``Bonn``:
  the name up to its last underscore and number.
- a manifest, ``manifest.csv`` or ``manifest.json``, with one row a chip. Columns: ``image`` (path relative to the
  manifest; several, one a band, divided by ``;``), ``label``; and where wanted ``name``, ``place``, ``split`` (train,
  validation or test), ``dataset``, ``bands`` (names, in order), ``units`` (as ``--scale``), ``factor`` and ``offset``
  (value · factor + offset is in those units; one number, or one a band), ``nodata``, ``ignore`` (label values that
  say nothing; else 255 and all below 0), ``classes`` (label values in class order; else 0, 1, 2 …), ``class_names``
  (names in that order), ``throughout`` (the class index of every pixel, in place of a label). JSON: a list of objects
  with those keys. Several labels of one image, divided by ``;``, are those of several raters.
- a folder of public Sentinel-1 chips as their publishers lay them out (geouq.learning.data.layouts); ``etci2021/``
  beside them gives outlines of water (``read_outlines``).

Names that all begin alike (``water_body_1``, ``water_body_2`` …) say nothing of places: then each chip is one.

No pixel is read here, but for a look into a few labels: geouq.learning.data.loading does that.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geouq.errors import InputError
from geouq.learning.data.chip import LabelledChip, class_names_of, place_in, place_of
from geouq.learning.data.examples import look_anew
from geouq.learning.data.layouts import public_chips
from geouq.rasters.raster import inspect_raster, read_window

RASTERS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".vrt", ".img", ".jp2")
COLUMNS = (
    "image", "label", "name", "place", "split", "dataset",
    "bands", "units", "factor", "offset", "nodata", "ignore", "classes", "class_names", "throughout",
)  # fmt: skip
_SPLITS = {"val": "validation", "valid": "validation"}


# --- forms ---------------------------------------------------------------------------------------------


def data_files(data: str | Path, chips: Sequence[LabelledChip]) -> list[Path]:
    """Return every file that data are made of, the manifest too: nothing made of them may replace one."""
    inside = [file for chip in chips for file in (*chip.images, chip.label, *chip.raters)]
    manifests = [Path(data, f"manifest.{end}") for end in ("csv", "json")] if Path(data).is_dir() else [Path(data)]
    return [*(file for file in manifests if file.is_file()), *inside]


def read_dataset(data: str | Path, place_pattern: str | None = None) -> list[LabelledChip]:
    """Return the chips of a folder or manifest, in a fixed order; files are looked up, and a few labels looked into.

    ``place_pattern`` : a regular expression that tells a chip's place from its name, by its group ``place`` or its
    first one; it overrules what the data say.

    Raises
    ------
    InputError : nothing labelled is there, a file is missing, a row is not understood, or two chips share a name or
        name one class differently.
    """
    look_anew()
    data = Path(data)
    if not data.exists():
        raise InputError(f"{data}: no such file or folder: give a folder of images and labels, or a manifest")
    chips = list(_manifest(data)) if data.is_file() else _folder(data)
    chips = _looked_up(_placed(chips, place_pattern), data)
    class_names_of(chips)
    _check_masks([c for c in chips if c.ignore is None and not c.classes and c.throughout is None])
    return chips


def _looked_up(chips: list[LabelledChip], data: str | Path) -> list[LabelledChip]:
    """Return the chips, whose files are there and whose names differ; else raise InputError."""
    seen: set[str] = set()
    for chip in chips:
        missing = next((p for p in (*chip.images, chip.label, *chip.raters) if not p.exists()), None)
        if missing:
            raise InputError(
                f"{missing}: is missing, and chip {chip.name!r} needs it: copy it there, or leave that out"
            )
        if chip.name in seen:
            raise InputError(f"{data}: two chips are named {chip.name!r}: give them a name column in a manifest")
        seen.add(chip.name)
    return chips


def read_unlabelled(data: str | Path, place_pattern: str | None = None) -> list[LabelledChip]:
    """Return images without labels as chips whose label is not to be read: the rasters of a folder, or of its images/.

    Where a manifest is given, or lies in the folder, its rows tell the images and how to read them; labels are left.

    Raises
    ------
    InputError : there is no image, one is missing, or a manifest or a place pattern does not fit.
    """
    manifest = _manifest_in(Path(data), labelled=False) if Path(data).is_dir() else Path(data)
    if manifest is not None and manifest.is_file():
        rows = [replace(c, label=c.images[0], raters=(), throughout=None, split="") for c in _manifest(manifest, False)]
        return _looked_up(_placed(rows, place_pattern), data)
    folder = Path(data) / "images" if (Path(data) / "images").is_dir() else Path(data)
    images = _rasters(folder) if folder.is_dir() else {}
    if not images:
        raise InputError(f"{data}: holds no images: give a folder of rasters ({', '.join(RASTERS)})")
    chips = [LabelledChip(name, "", (path,), path, dataset=folder.resolve().name) for name, path in images.items()]
    return _placed(chips, place_pattern)


def read_outlines(data: str | Path, least: float = 0.02, most: float = 0.9) -> list[np.ndarray]:
    """Read outlines of real water, flood and permanent, from the ETCI 2021 labels of a data folder, if it has any.

    Returns
    -------
    (rows, columns) bool arrays, those with a share of water between ``least`` and ``most``.
    """
    floods = sorted(Path(data).glob("etci2021/*/flood/*.png"))
    shapes = [_positive(flood) | _positive(flood.parent.parent / "water" / flood.name) for flood in floods]
    return [shape for shape in shapes if least <= shape.mean() <= most]


def read_masks(folder: str | Path, least: float = 0.02, most: float = 0.9) -> list[np.ndarray]:
    """Read outlines of water from a folder of masks (rasters of one band, not 0 on water), those of 32² pixels or more.

    Returns
    -------
    As ``read_outlines``.
    """
    shapes = [_positive(path) for path in _rasters(Path(folder)).values()]
    return [shape for shape in shapes if min(shape.shape) >= 32 and least <= shape.mean() <= most]


def _positive(path: Path) -> np.ndarray:
    raster = inspect_raster(path, [1])
    return np.asarray(read_window(raster, raster.bands, *(slice(0, n) for n in raster.shape))[0] > 0)


def _placed(chips: list[LabelledChip], pattern: str | None) -> list[LabelledChip]:
    """Return the chips, each without a place at the one its name tells; if all tell the same, its own.

    A pattern tells the place of each instead.
    """
    if pattern is not None:
        return [replace(chip, place=place_in(chip.name, pattern)) for chip in chips]
    told = {place_of(chip.name) for chip in chips if not chip.place}
    alone = len(told) == 1 and not any(chip.place for chip in chips)
    return [chip if chip.place else replace(chip, place=chip.name if alone else place_of(chip.name)) for chip in chips]


def _check_masks(chips: Sequence[LabelledChip], most: int = 20) -> None:
    """Refuse labels that hold 0 and 255 alone: 255 would be taken for pixels without a label."""
    values: set[float] = set()
    for chip in chips[:: max(1, len(chips) // most)]:
        raster = inspect_raster(chip.label, [1])
        part = [slice(0, min(n, 1024)) for n in raster.shape]
        values |= {float(v) for v in np.unique(read_window(raster, raster.bands, *part))}
        if any(0 < v < 255 for v in values):
            return
    if 255 in values:
        raise InputError(
            f"{chips[0].label}: labels hold 255 and no class but 0: is 255 a class (classes: 0;255), "
            "or a pixel without a label (ignore: 255)? say so in a manifest"
        )


def _folder(folder: Path) -> list[LabelledChip]:
    manifest = _manifest_in(folder)
    labels = next((folder / name for name in ("labels", "masks") if (folder / name).is_dir()), None)
    if manifest:
        return list(_manifest(manifest))
    if labels and (folder / "images").is_dir():
        return list(_pairs(folder, labels))
    chips = public_chips(folder)
    if not chips:
        raise InputError(f"{folder}: holds no labelled data: give it images/ and labels/, or a manifest.csv")
    return chips


def _pairs(folder: Path, labels: Path) -> Iterator[LabelledChip]:
    """Yield images and labels under the same name; an image without a label is a mistake, not something to skip."""
    images, found = _rasters(folder / "images"), _rasters(labels)
    lonely = sorted(set(images) ^ set(found))
    if lonely or not images:
        what = f"{lonely[0]!r} has an image or a label, but not both" if lonely else "images/ is empty"
        raise InputError(f"{folder}: {what}: give each image a label under the same name")
    names, told = _class_names(folder / "classes.txt"), folder.resolve().name
    for stem, path in images.items():
        yield LabelledChip(stem, "", (path,), found[stem], dataset=told, class_names=names)


def _class_names(path: Path) -> tuple[str, ...]:
    """Return the names in a file, one a line; none if there is no such file."""
    if not path.is_file():
        return ()
    try:
        return tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no text ({error}): give names of the classes, one a line") from None


def _rasters(folder: Path) -> dict[str, Path]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in RASTERS)
    stems = {p.stem: p for p in paths}
    if len(stems) < len(paths):
        raise InputError(f"{folder}: two files differ only in their ending: keep one of them")
    return stems


def _manifest_in(folder: Path, labelled: bool = True) -> Path | None:
    paths = (folder / f"manifest.{end}" for end in ("csv", "json"))
    return next((path for path in paths if _is_manifest(path, labelled)), None)


def _is_manifest(path: Path, labelled: bool) -> bool:
    """True for a manifest of chips, also one that is to be refused for how it is written; False for another table."""
    if not path.is_file():
        return False
    header = path.read_text("utf-8-sig", "replace").partition("\n")[0].replace('"', "")
    columns = {name.strip().lower() for name in re.split("[,;\t]", header)}
    return path.suffix == ".json" or ("image" in columns and (not labelled or bool(columns & {"label", "throughout"})))


def _manifest(path: Path, labelled: bool = True) -> Iterator[LabelledChip]:
    try:
        text = path.read_text("utf-8-sig")
        rows = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{path}: is no manifest ({' '.join(str(error).split())}): give a .csv or .json one") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: holds no rows: give one for each chip, with columns image and label")
    for number, row in enumerate(rows, 1):
        row = {key: _text(value) for key, value in row.items()}
        unknown = [str(key) for key in row if key not in COLUMNS]
        lacks = labelled and bool(_several(row, "label")) == bool(row.get("throughout"))
        if unknown or not _several(row, "image") or lacks:
            needs = "needs image, and either label or throughout" if labelled else "needs image"
            what = f"has a column {unknown[0]!r}" if unknown else needs
            raise InputError(f"{path}: row {number} {what}: columns, divided by commas, are {', '.join(COLUMNS)}")
        try:
            chip = _row(path, row)
        except ValueError as error:
            raise InputError(f"{path}: row {number} holds something that is no number ({error}): correct it") from None
        several = [value for value in chip.classes if (*chip.classes, *(chip.ignore or ())).count(value) > 1]
        if several:
            raise InputError(f"{path}: row {number} says two things of label {several[0]} (classes, ignore): say one")
        yield chip
        if row.get("split", "").lower() not in ("", "train", "validation", "test", *_SPLITS):
            raise InputError(f"{path}: row {number} has split {row['split']!r}: train, validation and test are known")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ";".join(map(str, value))
    return "" if value is None else str(value).strip()


def _several(row: dict[str, str], column: str) -> list[str]:
    return [part.strip() for part in row.get(column, "").split(";") if part.strip()]


def _row(path: Path, row: dict[str, str]) -> LabelledChip:
    images = tuple(path.parent / image for image in _several(row, "image"))
    labels = tuple(path.parent / label for label in _several(row, "label")) or images[:1]
    throughout = int(row["throughout"]) if row.get("throughout") else None
    if throughout is not None and not 0 <= throughout < 255:
        raise ValueError(f"throughout {throughout} is no class index")
    return LabelledChip(
        name=row.get("name") or images[0].stem,
        place=row.get("place", ""),
        images=images,
        label=labels[0],
        raters=labels[1:],
        split=_SPLITS.get(row.get("split", "").lower(), row.get("split", "").lower()),
        dataset=row.get("dataset") or path.resolve().parent.name,
        bands=tuple(_several(row, "bands")),
        scale=row.get("units") or "auto",
        factor=tuple(map(float, _several(row, "factor"))) or (1.0,),
        offset=tuple(map(float, _several(row, "offset"))) or (0.0,),
        nodata=float(row["nodata"]) if row.get("nodata") else None,
        ignore=tuple(map(int, _several(row, "ignore"))) if row.get("ignore") else None,
        classes=tuple(map(int, _several(row, "classes"))),
        class_names=tuple(_several(row, "class_names")),
        throughout=throughout,
    )
