"""Many scenes at once: which files make one scene, and which scenes have to do with one another.

Names are files, products, folders of them, lists (a text file, a name a line) and STAC items (an ItemCollection in
JSON). What is one scene is decided by names alone: files that are alike but for the polarisation, in one folder.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from geouq.errors import GeouqError, InputError, SceneError
from geouq.gdal import gdal_errors, open_dataset
from geouq.rasters.acquired import acquired
from geouq.scenes.bands import polarisation_in
from geouq.scenes.beside import POLARISATION
from geouq.scenes.rasters import RASTERS, band_files
from geouq.sentinel1.safe import POLARISATIONS, is_product
from geouq.sources import is_remote

#: a product of ESA's by its name: what it is, when its image begins, and its data take
_SLICE = re.compile(r"(S1[A-D]_\w{2}_GRD\w_\w{4})_(\d{8}T\d{6})_\d{8}T\d{6}_\d{6}_([0-9A-F]{6})_[0-9A-F]{4}$")
#: a date in a name, with its time or without; and what OPERA calls a burst: its track, number and day
_TIME = re.compile(r"(?<!\d)(?:19|20)\d\d(-?)\d\d\1\d\d(?:T\d{6}Z?)?(?!\d)")
_BURST = re.compile(r"OPERA_L2_RTC-S1_(T\d{3})-(\d{6}-IW\d)_((?:19|20)\d{6})T")


@dataclass(frozen=True)
class OneOfMany:
    """A scene of a batch: what its map is called after, what ``open_scene`` takes, and what that is, for people.

    Of a mosaic (geouq.scenes.mosaic) ``source`` is a tuple of what ``open_scene`` takes.
    """

    name: str
    source: str | Mapping[str, str] | tuple[str | Mapping[str, str], ...]
    what: str

    @property
    def taken(self) -> str:
        """When the image was taken, by its name; empty if that does not say it."""
        return acquired(self.name, {})


def scenes_named(names: Iterable[str], mosaic: bool = False) -> tuple[list[OneOfMany], list[str]]:
    """Return the scenes that names stand for, those of STAC items last, and what is to be said of them.

    With ``mosaic`` bursts of one pass are one scene.

    Raises
    ------
    InputError : no scene is among them, two have the same name, or a list cannot be read.
    """
    found, notes = parts_named(names)
    if mosaic:
        found = _joined(found)
    for name, count in Counter(one.name for one in found).items():
        if count > 1:
            where = [" and ".join(_paths(one.source)) for one in found if one.name == name]
            raise InputError(
                f"{count} scenes are called {name} ({'; '.join(where[:3])}{' …' * (count > 3)}), and so would be their "
                "maps: give them other names, or a folder of maps each"
            )
    return found, notes + _together(found)


def _paths(source: str | Mapping[str, str] | tuple[str | Mapping[str, str], ...]) -> list[str]:
    """Return the paths of a scene, or of those that are joined."""
    if isinstance(source, tuple):
        return [path for one in source for path in _paths(one)]
    return [source] if isinstance(source, str) else list(source.values())


def parts_named(names: Iterable[str]) -> tuple[list[OneOfMany], list[str]]:
    """Return the scenes that names stand for as they are, and what is to be said; see ``scenes_named``."""
    notes: list[str] = []
    items, files = [], []
    for name in names:
        if name.lower().endswith(".json") and not is_remote(name):
            items += _items(name)
        else:
            files += _listed(name) if name.lower().endswith(".txt") else [name]
    found = [*_grouped([file for name in files for file in _inside(name, notes)], notes), *items]
    if not found:
        raise InputError(f"no scene is in {', '.join(names)}: name rasters, Sentinel-1 products, or folders of them")
    return found, notes


# --- what is named ---------------------------------------------------------------------------------------


def _listed(path: str) -> list[str]:
    """Return the names in a text file, a line each; those that are not from here are from its folder."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of scenes, a name a line ({error})") from None
    return [_near(path, line) for line in lines if line and not line.startswith("#")]


def _near(path: str, name: str) -> str:
    beside = os.path.join(os.path.dirname(path), name)
    return beside if not is_remote(name) and not os.path.exists(name) and os.path.exists(beside) else name


def _items(path: str) -> list[OneOfMany]:
    """Return the scenes of a STAC Item or ItemCollection: assets that are named by polarisation, or the only one."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            told = json.load(file)
        features = told["features"] if told["type"] == "FeatureCollection" else [told]
        return [_item(path, str(one["id"]), one["assets"]) for one in features]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: is no STAC Item or ItemCollection ({type(error).__name__}: {error})") from None


def _item(path: str, name: str, assets: Mapping[str, Any]) -> OneOfMany:
    hrefs = {key: _linked(path, str(asset["href"])) for key, asset in assets.items()}
    bands = {polarisation_in(key): href for key, href in hrefs.items() if polarisation_in(key)}
    data = [hrefs[key] for key, asset in assets.items() if "data" in asset.get("roles", ())] or list(hrefs.values())
    if not bands and len(data) != 1:
        raise InputError(f"{path}: none of the assets of {name} is named by polarisation ({', '.join(hrefs)})")
    source = {name: bands[name] for name in POLARISATIONS if name in bands} or data[0]
    return OneOfMany(re.sub(r"[^\w.+-]", "_", name), source, "STAC item of " + (" and ".join(bands) or "one raster"))


def _linked(path: str, href: str) -> str:
    """Return what a STAC Item in a file links to; a relative link is from the file's folder alone (STAC Item 1.0)."""
    if re.match("file:", href):
        return unquote(re.sub("^file:(//(localhost)?)?", "", href))
    return href if is_remote(href) else os.path.normpath(os.path.join(os.path.dirname(path), href))


def _inside(name: str, notes: list[str]) -> Iterator[str]:
    """Yield what in a folder may be a scene, or a band of one; anything else but a folder itself."""
    if is_remote(name) or not os.path.isdir(name) or is_product(name):
        yield name
        return
    for entry in sorted(os.listdir(name)):
        path = os.path.join(name, entry)
        if entry.startswith(".") or entry.endswith(".zarr") or os.path.islink(path) and os.path.isdir(path):
            continue
        if os.path.isdir(path):
            yield from _inside(path, notes)
        elif entry.lower().endswith(".zip"):
            yield path
        elif entry.lower().endswith(RASTERS) and not _is_own(path, notes):
            yield path


def _is_one(path: str) -> bool:
    """True for a folder or zip that is a scene by itself."""
    try:
        return is_product(path) or band_files(path) is not None
    except SceneError:  # several scenes in it
        return False


def _is_own(path: str, notes: list[str]) -> bool:
    """True for a map that geouq has made, which is noted."""
    try:
        with gdal_errors(path, "opened"), open_dataset(path) as file:
            own = "GEOUQ_MODEL_HASH" in file.tags()
    except GeouqError:  # is told where it is opened as a scene
        return False
    notes += [f"{path} is a map of geouq's, and no scene"] if own else []
    return own


# --- what belongs together -------------------------------------------------------------------------------


def _grouped(files: Sequence[str], notes: list[str]) -> list[OneOfMany]:
    """Return files as scenes: those alike but for the polarisation are bands of one."""
    bands: dict[str, dict[str, str]] = {}
    for file in dict.fromkeys(files):
        folder, entry = os.path.split(file)
        *_, match = (None, *POLARISATION.finditer(entry)) if not _is_one(file) else (None,)
        key = file if match is None else os.path.join(folder, entry[: match.start()] + "*" + entry[match.end() :])
        bands.setdefault(key, {})[match[0].upper() if match else ""] = file
    starts = [key.partition("*")[0] for key in bands if "*" in key]
    found = []
    for key, by in bands.items():
        if "" in by and any(key != start and key.startswith(start) for start in starts):
            notes.append(f"{key} belongs to a scene beside it, and is no scene")
            continue
        names = [name for name in (*POLARISATIONS, "") if name in by]
        what = f"{' and '.join(names)}, a file each" if len(names) > 1 else _kind(by[names[0]])
        source = by[names[0]] if len(names) == 1 else {name: by[name] for name in names}
        found.append(OneOfMany(_stem(key), source, what))
    return found


def _kind(path: str) -> str:
    if is_remote(path) or not _is_one(path):
        return "one raster"
    return "Sentinel-1 product" if is_product(path) else "bands in one place"


def _stem(key: str) -> str:
    """Return what a scene's map is called after: its file's name without folder, polarisation and suffix."""
    entry = os.path.basename(re.split(r"[?#]", key)[0].rstrip("/"))
    stem = re.sub(r"(\.rtc)?\.(tiff?|vrt|img|zip|safe)$", "", entry, flags=re.IGNORECASE)
    return re.sub(r"[_.-]?\*", "", stem).strip("_.-") or stem.replace("*", "bands")


def _joined(found: Sequence[OneOfMany]) -> list[OneOfMany]:
    """Return scenes, of which bursts of one pass are one."""
    passes: dict[tuple[str, str], list[OneOfMany]] = {}
    for number, one in enumerate(found):
        match = _BURST.match(one.name)
        passes.setdefault((match[1], match[3]) if match else (str(number), ""), []).append(one)
    return [bursts[0] if len(bursts) == 1 else _mosaic(*of, bursts) for of, bursts in passes.items()]


def _mosaic(track: str, day: str, bursts: Sequence[OneOfMany]) -> OneOfMany:
    sources = tuple(one.source for one in bursts if not isinstance(one.source, tuple))
    return OneOfMany(f"OPERA_L2_RTC-S1_{track}_{day}", sources, f"{len(bursts)} bursts of one pass, joined")


def _together(found: Sequence[OneOfMany]) -> list[str]:
    """Say which scenes are bursts of one pass, slices of one data take, or dates of one place: a map each."""
    bursts = {match.groups() for one in found if (match := _BURST.match(one.name))}
    passes = Counter((track, day) for track, _, day in bursts)
    notes = [
        f"{count} bursts of track {track} on {acquired(day, {})} are not joined: a map each (--mosaic joins them)"
        for (track, day), count in sorted(passes.items())
        if count > 1
    ]
    slices = {match.groups() for one in found if (match := _SLICE.match(one.name))}
    notes += [
        f"{count} slices of data take {take} are not joined: a map each (to join them, put each on one grid by "
        "geouq preprocess --crs --resolution, and give what that makes with --mosaic)"
        for (_, take), count in sorted(Counter((kind, take) for kind, _, take in slices).items())
        if count > 1
    ]
    places = Counter(pattern for one in found if (pattern := _TIME.sub("*", one.name)) != one.name)
    return notes + [f"{pattern}: {count} dates, a map each" for pattern, count in places.items() if count > 1]
