"""What a run found, in plain values, and whether it is to be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from geouq.alarm import EXPECTED, Expectation, expect
from geouq.decisions import Cut, RankSums
from geouq.layers import area_interval
from geouq.segmentation.arguments import rule_for
from geouq.segmentation.job import Job, run_attrs
from geouq.segmentation.ledger import Receipt
from geouq.segmentation.results import Results

#: A map is not to be trusted unseen if its positive class is less certain than this on the mean. Provisional: 0.5 is
#: the entropy of a probability of 0.89, and no more than ten chips were looked at with it (docs/outputs.md).
DOUBTFUL = 0.5
#: ... or if the interval of the area goes from less than this share of it to the whole. Provisional likewise.
NARROWEST = 0.1
#: findings that not every run has
_NOT_ALWAYS = ("samples_saved_percent", "cut", "undecided_area_m2", "by_class", *EXPECTED)


def findings(job: Job, receipts: list[Receipt], cut: Cut | None = None, sums: RankSums | None = None) -> dict[str, Any]:
    """Return what was found; mean uncertainty in 0..1 or None; ``open_percent`` is doubt as geouq.alarm means it.

    cut, sums : where the mask is cut, if by a decision; of the scene by rank, if that goes by the whole of it.

    Areas are in m², without a CRS in squared units of the grid. Only with a decision there is ``cut``, with a risk
    ``undecided_area_m2`` of what is classified, with more than two classes ``by_class`` (area, its interval, mean
    uncertainty of each), with a model that has an alarm ``expected_wrong`` (the share of wrong
    pixels; its interval, ``expected_wrong_p05`` and ``_p95``) and the same in words, ``expectation``. ``warnings`` are
    lines for people: why the map says nothing, or should not be trusted unseen.
    """
    rows, columns = job.region.shape
    valid = sum(r.valid for r in receipts)
    valid_area, doubt, open_area = (
        sum(getattr(r, of) for r in receipts) for of in ("valid_area", "doubt", "open_area")
    )
    area, water_doubt, undecided = _of_mask(receipts) if cut is None or sums is None else sums.of_mask(cut)
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
        "open_percent": round(100 * open_area / valid_area, 4) if valid_area else None,
        **saved,
    }
    found |= ({} if cut is None else {"cut": cut.at}) | (
        {"undecided_area_m2": undecided} if job.legend.undecided else {}
    )
    found |= {} if job.legend.binary else {"by_class": _by_class(job, receipts)}
    return found | _trust(job, found, open_area / valid_area if valid_area else None)


def _of_mask(receipts: list[Receipt]) -> tuple[float, float, float]:
    """Return the area and doubt of what is positive, and the area that is undecided."""
    water, doubt = sum(r.water_area for r in receipts), sum(r.water_doubt for r in receipts)
    return water, doubt, sum(r.undecided_area for r in receipts)


def _by_class(job: Job, receipts: list[Receipt]) -> list[dict[str, Any]]:
    """Return what was found of each of more than two classes, in their order."""
    areas, doubts = (np.sum([getattr(r, name) for r in receipts], axis=0) for name in ("mask_areas", "mask_doubts"))
    low: list[Any]
    high: list[Any]
    low = high = [None] * len(areas)
    if job.intervals:
        low, high = (end.tolist() for end in area_interval(np.sum([r.class_areas for r in receipts], axis=0)))
    return [
        {
            "class": number,
            "name": name,
            "area_m2": float(areas[number]),
            "area_m2_p05": low[number],
            "area_m2_p95": high[number],
            "mean_uncertainty": round(float(doubts[number] / areas[number]), 4) if areas[number] else None,
        }
        for number, name in enumerate(job.legend.names)
    ]


def _trust(job: Job, found: Mapping[str, Any], doubt: float | None) -> dict[str, Any]:
    """Return what is to be expected of a map of so much doubt, None where nothing is classified, and warnings."""
    if doubt is None:
        return {
            "warnings": ["nothing was classified: no pixel of the scene is valid in all bands that the model reads"]
        }
    if job.validity.unlike:  # what is to be expected was found on radar images
        return {"warnings": [f"do not trust this map: {job.validity.unlike}"]}
    expectation = _expectation(job, doubt)
    if expectation is None:
        return {"warnings": _warnings(job, found)}
    missing = [name for name, at in zip(job.sampler.model.spec.bands, job.bands, strict=True) if at is None]
    if missing:  # the alarm was made from maps that had all bands
        why = f"the scene has no {' and no '.join(missing)}, and how wrong maps are without was never measured"
        return {"warnings": [f"do not trust this map: {why}"]}
    ends = {"": expectation.wrong, "_p05": expectation.low, "_p95": expectation.high}
    told: dict[str, Any] = {f"expected_wrong{end}": round(share, 4) for end, share in ends.items()}
    told["expectation"] = str(expectation)
    return told | {"warnings": [str(expectation)] if expectation.alarm else []}


def _expectation(job: Job, doubt: float) -> Expectation | None:
    """Return what is to be expected of a map of so much doubt; None where that was never measured."""
    models, threshold = job.sampler.models, job.question.threshold
    alarm = models[0].spec.alarm
    if alarm is None or len(models) > 1:
        return None
    if not job.legend.binary:  # the likeliest class, whatever the threshold
        return expect(alarm, "accuracy", doubt)
    return expect(alarm, rule_for(threshold) if job.decision is None else job.decision.rule, doubt)


def _warnings(job: Job, found: Mapping[str, Any]) -> list[str]:
    """Return why a map should not be trusted unseen, where the model has no alarm."""
    if "by_class" in found:
        return _class_warnings(found["by_class"])
    positive, low, high = job.sampler.model.spec.positive, found["area_m2_p05"], found["area_m2_p95"]
    warnings = []
    doubt = found["mean_uncertainty_positive"]
    if doubt is not None and doubt > DOUBTFUL:
        warnings.append(f"the {positive} that was found is uncertain (on the mean {100 * doubt:.0f} %): look at it")
    if high and low < NARROWEST * high:
        share = f"{100 * low / high:.0f} % of its upper end"
        warnings.append(f"the samples contradict one another: the interval of the area begins at {share}")
    return warnings


def _class_warnings(rows: list[dict[str, Any]]) -> list[str]:
    """Return the same of more than two classes, each by itself."""
    doubtful = [
        f"{r['name']} ({100 * r['mean_uncertainty']:.0f} %)" for r in rows if (r["mean_uncertainty"] or 0) > DOUBTFUL
    ]
    vague = [r["name"] for r in rows if r["area_m2_p95"] and r["area_m2_p05"] < NARROWEST * r["area_m2_p95"]]
    warnings = (
        [f"some of what was found is uncertain on the mean: {', '.join(doubtful)}: look at it"] if doubtful else []
    )
    return warnings + (
        [f"the samples contradict one another on the area of {', '.join(vague)}: intervals begin near 0"]
        if vague
        else []
    )


def summarise(job: Job, results: Results, run: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was asked, left and found."""
    rows, columns = job.region.shape
    return {
        "run": run,
        "map": None if results.map is None else results.names[results.map],
        "files": [results.names[path] for path in results.files],
        "rows": rows,
        "columns": columns,
        "crs": None if job.geobox.crs is None else str(job.geobox.crs),
        **found,
        **run_attrs(job),
        "positive_class": job.sampler.model.spec.positive,
    }


def as_tags(found: Mapping[str, Any]) -> dict[str, str]:
    """Return findings as a file's tags, what is None or empty left out."""
    told = {f"GEOUQ_{name.upper()}": value for name, value in found.items() if value not in (None, [])}
    return {tag: json.dumps(value, ensure_ascii=False) for tag, value in told.items()}


def from_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the findings that ``as_tags`` has written; raise ValueError or KeyError for others."""
    names = ("not_classified_percent", "valid_area_m2", "area_m2")
    maybe = ("area_m2_p05", "area_m2_p95", "mean_uncertainty", "mean_uncertainty_positive", "open_percent")
    found = {name: json.loads(tags[f"GEOUQ_{name.upper()}"]) for name in names}
    found |= {name: json.loads(tags.get(f"GEOUQ_{name.upper()}", "null")) for name in maybe}
    told = [name for name in _NOT_ALWAYS if f"GEOUQ_{name.upper()}" in tags]
    found |= {name: json.loads(tags[f"GEOUQ_{name.upper()}"]) for name in told}
    return found | {"warnings": json.loads(tags.get("GEOUQ_WARNINGS", "[]"))}
