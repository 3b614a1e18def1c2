"""Finished files and their final names: found there already, or published under them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import rasterio
import xarray as xr
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geouq.files import publish, remove, writing
from geouq.maps.votes import beside
from geouq.segmentation.identity import carries, made_by
from geouq.segmentation.results import COMPANIONS, Results, companion_tag
from geouq.segmentation.summary import from_tags


def found_before(run: str, scene: xr.DataArray, results: Results) -> dict[str, Any] | None:
    """Return what a run found if all its files are there already; None if they are not, or not of this very run."""
    if not made_by(run, scene, results):
        return None
    try:
        return from_tags(map_tags(results.map or results.files[0]))
    except (ValueError, KeyError):
        return None


def publish_results(results: Results, overwrite: bool) -> list[str]:
    """Give every file its final name, the map last; return notes for people.

    Without ``overwrite`` only what this very run has published before, and was broken then, is replaced.

    What the run that is overwritten left and this one does not make (votes, polygons, a picture) goes first: it would
    be taken for this run's. What lies in another folder is named, and left.
    """
    stale, notes = _left_over(results), []
    for path in stale:
        if path.absolute().parent == results.path.absolute().parent:
            remove(path)
            notes.append(f"removed {path.name}, which belonged to the map that is overwritten")
        else:
            notes.append(f"{path} belongs to the map that is overwritten, and no longer to {results.path.name}")
    for final in results.files:
        with writing(final):
            publish(results.made(final), final, replace=overwrite or carries(final, results.tags["GEOUQ_RUN"]))
    return notes


def _left_over(results: Results) -> list[Path]:
    """Return the files of the run whose map is to be overwritten that are not to be overwritten themselves."""
    if results.map is None or not results.map.is_file():
        return []
    tags = map_tags(results.map)
    ours = {file.absolute() for file in results.files}
    named = companions_named(results.map, tags)
    return [file for file in named if file.absolute() not in ours and carries(file, tags["GEOUQ_RUN"])]


def companions_named(path: Path, tags: Mapping[str, str]) -> list[Path]:
    """Return where other files of a map's run would be, by its name and tags; nothing for a map that is not geouq's."""
    if not re.fullmatch("[0-9a-f]{16}", tags.get("GEOUQ_RUN", "")):
        return []
    named = [path.parent / tags[tag] for tag in map(companion_tag, COMPANIONS) if tags.get(tag)]
    votes = beside(path)
    return [votes, votes.with_suffix(".qml"), *named]


def map_tags(file: Path | IO[bytes]) -> Mapping[str, str]:
    """Return the tags of a raster, its path or itself; none if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(file) as opened:
                return dict(opened.tags())
    except RasterioError:
        return {}
