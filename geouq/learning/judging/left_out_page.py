"""The page on places left out, of two classes: the values for ``left_out.html.jinja``, and its diagrams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from geouq.layers import Legend
from geouq.learning.judging import diagrams
from geouq.learning.judging.decide import DEFAULT
from geouq.learning.judging.html import bold, legend, render
from geouq.learning.judging.left_out_text import HEADS, decision_rows, expectation, facts, heading, percent, place_rows
from geouq.learning.judging.summary import number
from geouq.learning.judging.tally import Picture


def page(found: dict[str, Any], pictures: Sequence[Picture]) -> str:
    """Return the page: HTML with all its diagrams and pictures inside.

    Parameters
    ----------
    found : what ``folds.json`` holds. pictures : of chips left out, the worst first.
    """
    model = found["model"]
    names = tuple(model["classes"])
    heads, rows = place_rows(found)
    return render(
        "left_out.html.jinja",
        title=f"{model['name']} on places it had not seen",
        heading=heading(found),
        model=model,
        tiles=list(_tiles(found)),
        default=DEFAULT,
        decisions={"heads": HEADS, "rows": [_marked(row) for row in decision_rows(found)]},
        drawings={name: Markup(svg) for name, svg in _drawings(found)},
        facts=facts(found, model["positive"]),
        places={"heads": heads, "rows": rows},
        strengths=_strengths(found),
        folds=[[str(fold["number"]), str(fold["chips"]), ", ".join(fold["places"])] for fold in found["folds"]],
        chips=list(_chips(found, pictures, Legend(names, names.index(model["positive"])))),
        legend=legend(names, model["positive"]),
        fitted=found["fitted"],
        samples=found["samples"],
        seed=found["seed"],
    )


def _tiles(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the few numbers that stand at the top, with their names."""
    row = next(row for row in found["decisions"] if row["decide"] == found["decide"])
    area, alarm = found["areas"]["all"], found["alarm"]
    yield "decide", found["decide"]
    yield "IoU, wet places", number(row["iou"])
    yield "IoU, mixed", number(row["iou_mixed"])
    yield "false, dry", f"{percent(row['false_positive_rate'])} %"
    yield "at worst", f"{percent(row['worst'])} %"
    yield "ECE", number(found["calibration"]["ece"], ".4f")
    yield "areas covered", f"{area['covered']} of {area['chips']}"
    yield "bad chips announced", f"{alarm['announced']} of {alarm['bad']}"


def _marked(row: list[str]) -> list[str]:
    """Return a row, in bold if it is that of the decision that is stored."""
    return [bold(cell) for cell in row] if row[0].endswith("*") else row


def _strengths(found: dict[str, Any]) -> dict[str, Any]:
    """Return heads and rows of the table of strengths."""
    (field,) = set(found["fitted"]) - {"temperature"}
    keys = ("places", "chips", "wet", "dry", "nearly", "median_width")
    rows = []
    for row in found["strengths"]:
        cells = [f"{row[field]:g}", *(percent(row[key]) for key in keys)]
        rows.append([bold(cell) for cell in cells] if row[field] == found["fitted"][field] else cells)
    heads = [field.replace("_", " "), "places", "chips", "wet chips", "dry chips", "nearly", "median width"]
    return {"heads": heads, "rows": rows}


def _chips(found: dict[str, Any], pictures: Sequence[Picture], names: Legend) -> Iterator[dict[str, Any]]:
    """Yield name, facts and panels of each chip that is shown."""
    chips, rule = {chip["name"]: chip for chip in found["chips"]}, found["decide"]
    for picture in pictures:
        chip = chips[picture.name]
        told = f"{percent(chip['wrong'][rule])} % wrong, IoU {number(chip['iou'][rule])}; {expectation(chip)}"
        yield {"name": picture.name, "facts": told, "panels": diagrams.panels(picture, names)}


# --- diagrams


def _drawings(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "alarm", diagrams.alarm(found["chips"], found["decide"])
    yield "reliability", diagrams.reliability_of_places(found["calibration"]["reliability"], found["model"]["positive"])
    wet = [chip for chip in found["chips"] if chip["wet"]]
    chosen = sorted(wet, key=lambda chip: chip["positive_share"])[:: -(-len(wet) // 60) or 1]
    yield "areas", diagrams.areas(chosen, found["model"]["positive"]) if chosen else ""
