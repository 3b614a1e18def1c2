"""What a run found, in plain values, and whether it is to be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from geouq.layers import area_interval
from geouq.segmentation.job import Job, run_attrs
from geouq.segmentation.ledger import Receipt
from geouq.segmentation.results import Results

#: A map is not to be trusted unseen if its positive class is less certain than this on the mean. Provisional: 0.5 is
#: the entropy of a probability of 0.89, and no more than ten chips were looked at with it (docs/outputs.md).
DOUBTFUL = 0.5
#: ... or if the interval of the area goes from less than this share of it to the whole. Provisional likewise.
NARROWEST = 0.1


def findings(job: Job, receipts: list[Receipt]) -> dict[str, Any]:
    """Return what was found; mean uncertainty in 0..1 or None.

    Areas are in m², without a CRS in squared units of the grid.
    ``warnings`` are lines for people: why the map says nothing, or should not be trusted unseen.
    """
    rows, columns = job.region.shape
    valid = sum(r.valid for r in receipts)
    valid_area, area = sum(r.valid_area for r in receipts), sum(r.water_area for r in receipts)
    doubt, water_doubt = sum(r.doubt for r in receipts), sum(r.water_doubt for r in receipts)
    low, high = area_interval(np.sum([r.areas for r in receipts], axis=0)) if job.intervals else (None, None)
    drawn = sum(r.drawn * r.valid for r in receipts) / max(valid * max(len(job.sampler.numbers), 1), 1)
    saved = {"samples_saved_percent": round(100 * (1 - drawn), 2)} if job.question.tolerance and valid else {}
    found = {
        "not_classified_percent": round(100 * (1 - valid / (rows * columns)), 4),
        "valid_area_m2": valid_area,
        "area_m2": area,
        "area_m2_p05": low,
        "area_m2_p95": high,
        "mean_uncertainty": round(doubt / valid_area, 4) if valid_area else None,
        "mean_uncertainty_positive": round(water_doubt / area, 4) if area else None,
        **saved,
    }
    return found | {"warnings": _warnings(job, found)}


def _warnings(job: Job, found: Mapping[str, Any]) -> list[str]:
    """Return why a map says nothing, or should not be trusted unseen."""
    positive, low, high = job.sampler.model.spec.positive, found["area_m2_p05"], found["area_m2_p95"]
    if not found["valid_area_m2"]:
        return ["nothing was classified: no pixel of the scene is valid in all bands that the model reads"]
    warnings = []
    doubt = found["mean_uncertainty_positive"]
    if doubt is not None and doubt > DOUBTFUL:
        warnings.append(f"the {positive} that was found is uncertain (on the mean {100 * doubt:.0f} %): look at it")
    if high and low < NARROWEST * high:
        share = f"{100 * low / high:.0f} % of its upper end"
        warnings.append(f"the samples contradict one another: the interval of the area begins at {share}")
    return warnings


def summarise(job: Job, results: Results, run: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was asked, left and found."""
    rows, columns = job.region.shape
    return {
        "run": run,
        "map": None if results.map is None else str(results.map),
        "files": [str(path) for path in results.files],
        "rows": rows,
        "columns": columns,
        "crs": None if job.geobox.crs is None else str(job.geobox.crs),
        **found,
        **run_attrs(job),
        "positive_class": job.sampler.model.spec.positive,
    }


def as_tags(found: Mapping[str, Any]) -> dict[str, str]:
    """Return findings as a file's tags, what is None or empty left out."""
    return {f"GEOUQ_{name.upper()}": json.dumps(value) for name, value in found.items() if value not in (None, [])}


def from_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the findings that ``as_tags`` has written; raise ValueError or KeyError for others."""
    names = ("not_classified_percent", "valid_area_m2", "area_m2")
    maybe = ("area_m2_p05", "area_m2_p95", "mean_uncertainty", "mean_uncertainty_positive")
    found = {name: json.loads(tags[f"GEOUQ_{name.upper()}"]) for name in names}
    found |= {name: json.loads(tags.get(f"GEOUQ_{name.upper()}", "null")) for name in maybe}
    if "GEOUQ_SAMPLES_SAVED_PERCENT" in tags:
        found["samples_saved_percent"] = json.loads(tags["GEOUQ_SAMPLES_SAVED_PERCENT"])
    return found | {"warnings": json.loads(tags.get("GEOUQ_WARNINGS", "[]"))}
