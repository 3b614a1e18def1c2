"""The page on places left out: the values for ``left_out.html.jinja``, and its diagrams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from geouq.alarm import TOO_WRONG, expected_wrong
from geouq.layers import Legend
from geouq.learning.judging import diagrams
from geouq.learning.judging.decide import DEFAULT
from geouq.learning.judging.html import bold, legend, render
from geouq.learning.judging.left_out_text import HEADS, decision_rows, facts, heading, percent, place_rows
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
        told = f"{percent(chip['wrong'][rule])} % wrong, IoU {number(chip['iou'][rule])}; {chip['alarm_line']}"
        yield {"name": picture.name, "facts": told, "panels": diagrams.panels(picture, names)}


# --- diagrams


def _drawings(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "alarm", _alarm(found["chips"], found["decide"])
    yield "reliability", _reliability(found["calibration"]["reliability"], found["model"]["positive"])
    wet = [chip for chip in found["chips"] if chip["wet"]]
    chosen = sorted(wet, key=lambda chip: chip["positive_share"])[:: -(-len(wet) // 60) or 1]
    yield "areas", diagrams.areas(chosen, found["model"]["positive"]) if chosen else ""


def _alarm(chips: Sequence[dict[str, Any]], rule: str) -> str:
    """Draw the share wrong of each chip against its doubt, and the curve of what is to be expected."""
    doubt, wrong = (np.array(v) for v in zip(*((c["doubt"], c["wrong"][rule]) for c in chips), strict=True))
    wet = np.array([chip["wet"] for chip in chips])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for where, colour, label in ((wet, diagrams.SAMPLED, "wet chips"), (~wet, diagrams.ONCE, "dry chips")):
            axes.plot(100 * doubt[where], 100 * wrong[where], "o", ms=3, alpha=0.6, color=colour, label=label)
        x, y = expected_wrong(np.array([chip["place"] for chip in chips]), doubt, wrong)
        axes.plot(100 * x, 100 * y, color="black", lw=1.2, label="expected")
        axes.axhline(100 * TOO_WRONG, color=diagrams.IDEAL, lw=0.8, ls=":")
        axes.set(xlabel="doubt of the chip, %", ylabel="wrong pixels, %", xlim=(0, None), ylim=(0, 100))
        axes.legend(loc="upper right")

    return diagrams.svg("alarm", draw)


def _reliability(table: Sequence[Sequence[float]], event: str) -> str:
    """Draw how often ``event`` came true against its predicted probability, every place weighing the same."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=diagrams.IDEAL, lw=0.8, ls="--", label="calibrated")
        _, predicted, observed = np.array(table, float).T
        axes.plot(predicted, observed, color=diagrams.SAMPLED, lw=1.2, marker="o", ms=3, label="places left out")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"predicted probability of {event}")
        axes.set_ylabel(f"observed frequency of {event}")
        axes.legend(loc="upper left")

    return diagrams.svg("left-out-reliability", draw)
