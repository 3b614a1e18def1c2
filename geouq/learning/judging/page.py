"""The page of an evaluation: the values for ``page.html.jinja``, which says what stands where and escapes all names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from geouq.learning.judging import diagrams
from geouq.learning.judging.evaluate import Evaluation
from geouq.learning.judging.html import bold, legend, render
from geouq.learning.judging.summary import (
    COLUMNS,
    ONE_CLASS,
    class_rows,
    confusion_rows,
    facts,
    heading,
    heads,
    methods,
    number,
    row,
)
from geouq.maps.styles import class_colours

_FEWEST = 0.005  # share of the class in a place that gets a column of its own among the methods


def page(evaluation: Evaluation, data: str) -> str:
    """Return the page: HTML with all its diagrams and pictures inside.

    Parameters
    ----------
    data : what the data are called on the page.
    """
    scores = evaluation.scores
    chips = list(_chips(evaluation))
    return render(
        "page.html.jinja",
        title=f"{scores['model']['name']} on {data}",
        heading=heading(scores),
        model=scores["model"],
        tiles=_tiles(scores),
        drawings={name: Markup(svg) for name, svg in _drawings(scores)},
        facts=facts(scores),
        places=_places(scores),
        classes=_classes(scores),
        methods=_methods(scores) if scores["baselines"] else None,
        legend=legend(scores["model"]["classes"], scores["model"]["positive"]),
        colours=list(zip(class_colours(evaluation.legend), evaluation.legend.names, strict=True)),
        chips=chips,
        left_out=len(scores["chips"]) - len(chips),
    )


def _tiles(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the few numbers that stand at the top, with their names."""
    several = len(scores["model"]["classes"]) > 2
    left = ONE_CLASS if several else ("accuracy", "miou", "false_positive_rate")
    wanted = [column for column in COLUMNS if column[1] not in left]
    tiles = [(name, number(scores["pooled"][key], form)) for name, key, form in wanted]
    area = scores["areas"]
    return [*tiles, ("areas covered", f"{area['covered']} of {area['chips']}")] if area else tiles


def _drawings(scores: dict[str, Any]) -> Iterator[tuple[str, str]]:
    model, curves = scores["model"], scores["curves"]
    event = model["positive"] if len(model["classes"]) == 2 else "the chosen class being right"
    error_rate = 1 - scores["pooled"]["accuracy"]
    yield "reliability", diagrams.reliability(curves, event)
    yield "risk", diagrams.risk_coverage(curves, error_rate)
    yield "errors", diagrams.error_detection(curves, error_rate)
    yield "areas", diagrams.areas(scores["chips"][:60], model["positive"]) if scores["areas"] else ""


def _places(scores: dict[str, Any]) -> dict[str, Any]:
    """Return heads and rows of the table by place, and above which row a line is drawn."""
    titles = ["place", "dataset", "pixels", f"{scores['model']['positive']} %", *heads(scores)]
    rows: list[list[str]] = [[r["place"], r["dataset"], *row("", r)[1:]] for r in scores["places"]]
    if len(scores["datasets"]) > 1:
        rows += [[bold("all of it"), r["dataset"], *row("", r)[1:]] for r in scores["datasets"]]
    rows.append([bold("pooled"), "all", *row("", scores["pooled"])[1:]])
    rows.append(["one pass", "all", *row("", scores["one_pass"])[1:]])
    rows.append(["mean of chips", "all", *row("", scores["chip_mean"])[1:]])
    return {"heads": titles, "rows": rows, "rule": len(scores["places"])}


def _classes(scores: dict[str, Any]) -> dict[str, Any] | None:
    """Return the tables by class where there are more than two: scores, and what of each class is mapped as which."""
    if "by_class" not in scores["pooled"]:
        return None
    names = scores["model"]["classes"]
    return {"names": names, "scores": class_rows(scores), "confusion": confusion_rows(scores)}


def _methods(scores: dict[str, Any]) -> dict[str, Any]:
    """Return heads and rows of the table of methods, with the IoU of the first ten places that have the class."""
    wet = [r for r in scores["places"] if r["positive_share"] and r["positive_share"] > _FEWEST][:10]
    (name, *model), once, *others = methods(scores)
    rows = [[bold(name), *model, *(number(r["iou"]) for r in wet)]]
    rows.append(["one pass, dropout off", *once[1:], *("" for _ in wet)])
    for method, line in zip(scores["baselines"], others, strict=True):
        rows.append([*line, *(number(method["places"].get(r["place"])) for r in wet)])
    return {"heads": ["method", "", "precision", "recall", "F1", "IoU", *(r["place"] for r in wet)], "rows": rows}


def _chips(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Yield name, facts and panels of each chip that is shown, that with the largest loss first."""
    scores = {c["name"]: c for c in evaluation.scores["chips"]}
    for picture in sorted(evaluation.pictures, key=lambda p: -scores[p.name]["nll"]):
        found = scores[picture.name]
        key, name = ("iou", "IoU") if evaluation.legend.binary else ("miou", "mIoU")
        told = f"{name} {number(found[key])}, ECE {number(found['ece'], '.4f')}, NLL {number(found['nll'], '.4f')}"
        told += f", {100 * found['positive_share']:.1f} % {evaluation.legend.positive_name}"
        if found.get("best_threshold_iou") is not None:
            told += f"; best threshold with hindsight: IoU {found['best_threshold_iou']:.3f}"
        yield {"name": picture.name, "facts": told, "panels": diagrams.panels(picture, evaluation.legend)}
