"""The STAC Item of a run: its files, its model and what it found, as a catalogue asks for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from geouq.grid import geobox_roi
from geouq.maps.stac import band_fields, file_asset, stac_item
from geouq.segmentation.job import Job
from geouq.segmentation.results import Results

#: of each output: its asset's key, title and role
_ASSETS = {
    "map": ("map", "Map: a band a layer", "data"),
    "votes": ("votes", "Votes: which samples call a pixel {what}", "data"),
    "vector": ("polygons", "Polygons of {subject}", "data"),
    "zarr": ("zarr", "The map's layers as a Zarr group", "data"),
    "preview": ("picture", "Picture of scene and map", "overview"),
    "style": ("style", "Style of the map for QGIS", "metadata"),
    "votes_style": ("votes_style", "Style of the votes for QGIS", "metadata"),
}


def write_item(job: Job, results: Results, summary: Mapping[str, Any]) -> None:
    """Write the Item of a run all of whose other files are made, into the work folder; the same run, the same bytes."""
    if results.stac is None:
        return
    grid = geobox_roi(job.geobox, job.region)
    item = stac_item(results.path.stem, grid, summary["acquired"], _properties(job, summary), _assets(job, results))
    text = json.dumps(item, indent=2, ensure_ascii=False, allow_nan=False)
    results.made(results.stac).write_text(f"{text}\n", encoding="utf-8")


def _assets(job: Job, results: Results) -> dict[str, Any]:
    assert results.stac is not None
    bands = {"map": results.bands, "votes": results.vote_bands}
    assets = {}
    for output, (key, title, role) in _ASSETS.items():
        final = getattr(results, output)
        if final is None:
            continue
        legend = job.legend
        what = legend.positive_name if legend.binary else "which class"
        made, title = results.made(final), title.format(what=what, subject=legend.subject)
        told = file_asset(made, final, results.stac, title, [role])
        assets[key] = told | (band_fields(made, bands[output]) if output in bands else {})
    return assets


def _properties(job: Job, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what made the map, in the words of the MLM extension where it has one, and all that the run says.

    MLM is not among the Item's extensions: that one describes models, and a map is none.
    """
    models = job.sampler.models
    by_model = {
        "mlm:name": "+".join(model.spec.name for model in models),
        "mlm:architecture": "+".join(model.spec.architecture for model in models),
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": version("torch"),
    }
    left_out = {"map", "files", "rows", "columns", "crs", "acquired"}  # are told by the standard's own words, or change
    own = {name: value for name, value in summary.items() if name not in left_out and value is not None}
    return {
        "processing:software": {"geouq": version("geouq")},
        **by_model,
        **{f"geouq:{name}": value for name, value in own.items()},
    }
