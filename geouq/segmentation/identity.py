"""Which run is this? All that its parts depend on: a broken run may only be continued by the very same."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import dask
import xarray as xr

from geouq.files import scene_files
from geouq.segmentation.job import Job, run_attrs
from geouq.segmentation.results import Results


def identity(scene: xr.DataArray, job: Job, results: Results) -> dict[str, Any]:
    """Return all that the parts of a run depend on, in plain values, by the names that people know them by."""
    values = {
        "scene": [[f, os.stat(f).st_size, os.stat(f).st_mtime_ns] for f in scene_files(scene)],
        "scene as read": dask.base.tokenize(scene.data),  # which bands, what is nodata, files that are not local
        "grid": [job.tiling.shape, list(job.geobox.affine)[:6], str(job.geobox.crs)],
        "bounds": None if job.tiling.bounds is None else asdict(job.tiling.bounds),
        "bands": job.bands,
        "scale": job.units,
        "nodata": job.nodata,
        "layers": [band.name for band in results.bands],
        "batch": job.sampler.batch,
        "device": ",".join(job.devices),
        **run_attrs(job),
        "float32": results.float32,
        "votes": bool(results.vote_bands),
        "picture": results.preview is not None,
        "version": version("geouq"),
    }
    return dict(json.loads(json.dumps(values)))
