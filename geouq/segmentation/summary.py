"""What a run found, in plain values."""

from __future__ import annotations

from typing import Any

import numpy as np

from geouq.sampling.estimators import area_interval
from geouq.segmentation.job import Job, run_attrs
from geouq.segmentation.ledger import Receipt
from geouq.segmentation.results import Results


def summarise(job: Job, results: Results, receipts: list[Receipt]) -> dict[str, Any]:
    """Return what a run found, in plain values; areas in m² (in squared grid units without a CRS)."""
    rows, columns = job.region.shape
    valid = sum(r.valid for r in receipts)
    low, high = area_interval(np.sum([r.areas for r in receipts], axis=0)) if job.intervals else (None, None)
    drawn = sum(r.drawn * r.valid for r in receipts) / max(valid * max(len(job.sampler.numbers), 1), 1)
    saved = {"samples_saved_percent": round(100 * (1 - drawn), 2)} if job.question.tolerance and valid else {}
    return {
        "map": None if results.map is None else str(results.map),
        "files": [str(path) for path in results.files],
        "rows": rows,
        "columns": columns,
        "crs": None if job.geobox.crs is None else str(job.geobox.crs),
        "not_classified_percent": round(100 * (1 - valid / (rows * columns)), 4),
        "valid_area_m2": sum(r.valid_area for r in receipts),
        "area_m2": sum(r.water_area for r in receipts),
        "area_m2_p05": low,
        "area_m2_p95": high,
        **run_attrs(job),
        **saved,
        "positive_class": job.sampler.model.spec.positive,
    }
