"""Which run is this? What the run is called in every file it leaves, and what its parts depend on.

A run's *id* is the same wherever and whenever the same command maps the same scene: it goes by the scene's content and
not by its path or its times. A broken run is continued only where nothing at all has changed, times included, since
content is looked at in excerpts.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from geouq.files import metadata_of, scene_files, scene_sources
from geouq.rasters.windowed import spread_out
from geouq.scenes.arrays import as_opened
from geouq.segmentation.job import Job, run_attrs
from geouq.segmentation.results import Results
from geouq.sources import decides, described, state, unknown

#: of a scene's file so many stretches of so many bytes are looked at; of a small file, all
STRETCHES, BYTES = 64, 1 << 18


@dataclass(frozen=True)
class Identity:
    """run : the id, 16 hexadecimal digits. values : all that parts depend on, by the names people know them by.

    unknown : remote files of the scene whose state no server tells. A run on them is never continued, nor found to be
    there already: it may be on others.
    """

    run: str
    values: Mapping[str, Any]
    unknown: tuple[str, ...] = ()


def identify(scene: xr.DataArray, job: Job, results: Results) -> Identity:
    """Return which run this is."""
    files = scene_files(scene)
    asked = {
        "grid": [job.tiling.shape, list(job.geobox.affine)[:6], str(job.geobox.crs)],
        "bounds": None if job.tiling.bounds is None else asdict(job.tiling.bounds),
        "bands": job.bands,
        "scale": job.units,
        "nodata": job.nodata,
        "layers": [*(band.name for band in results.bands), *(["votes"] if results.votes else [])],
        "batch": job.sampler.batch,
        "device": ",".join(
            sorted({device.partition(":")[0] for device in job.devices})
        ),  # which of a kind is no matter
        **run_attrs(job),
        "float32": results.float32,
        "version": version("geouq"),
    }
    seen = {"content": _content(scene, files), "min_area": results.min_area, "options": dict(results.options)}
    states = [state(name) for name in scene_sources(scene)]
    hidden = unknown(states)
    parts = {
        "scene": [*states, *([f"state not known, {uuid.uuid4()}"] if hidden else [])],
        "scene as read": dask.base.tokenize(scene.data),  # which bands, what is nodata, files that are not local
        "votes": bool(results.vote_bands),
        "picture": results.preview is not None,
    }
    return Identity(_digest(asked | seen), json.loads(json.dumps(asked | parts)), tuple(hidden))


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _content(scene: xr.DataArray, files: list[str]) -> Any:
    """Return what tells a scene from any other, the same for a copy of its files unless it was changed since."""
    if not files:
        return dask.base.tokenize(scene.data)
    told = [scene.attrs.get("read_as", ""), [_file_digest(file) for file in files if decides(file)], _look(scene)]
    return told if as_opened(scene) else [*told, dask.base.tokenize(scene.data)]  # masked, say, where nobody looks


def _file_digest(file: str) -> str:
    """Return a hash of a file's size and of stretches spread over it."""
    if file.endswith(".aux.xml"):
        return hashlib.sha256(described(file)).hexdigest()
    size = os.path.getsize(file)
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as opened:
        for stretch in spread_out(size, STRETCHES, BYTES):
            opened.seek(stretch.start)
            digest.update(opened.read(stretch.stop - stretch.start))
    return digest.hexdigest()


def _look(scene: xr.DataArray) -> str:
    """Return a hash of a few windows of a scene as it is read: what comes with its files may change that too."""
    windows = [
        scene.data[:, rows, columns]
        for rows in spread_out(scene.shape[1], 2, 64)
        for columns in spread_out(scene.shape[2], 2, 64)
    ]
    digest = hashlib.sha256()
    for values in dask.compute(*windows, scheduler=dask.get):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def carries(path: Path, text: str) -> bool:
    """True if an output holds a text, such as a run's id: no format that geouq writes hides its metadata."""
    told = metadata_of(path)
    if not told.is_file() or path.is_symlink() or told.is_symlink() or not told.stat().st_size:
        return False
    with open(told, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text.encode()) >= 0


def marks(run: str, results: Results) -> dict[Path, str]:
    """Return the text that each file of a run carries, and those of no other run."""
    told = {file: run for file in results.files}
    if results.vector is not None:
        from geouq.polygons.vectorize import origin  # here, as in geouq.segmentation.results

        told[results.vector] = origin(run, results.min_area)
    return told


def made_by(run: str, scene: xr.DataArray, results: Results) -> bool:
    """True if all files of a run are there, are of this very run, and are not older than the scene."""
    if not all(carries(file, text) for file, text in marks(run, results).items()):
        return False
    newest = max((os.stat(file).st_mtime_ns for file in scene_files(scene) if decides(file)), default=0)
    return all(file.stat().st_mtime_ns >= newest for file in results.files)
