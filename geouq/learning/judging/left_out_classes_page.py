"""The page on places left out, of more than two classes: the values for ``left_out_classes.html.jinja``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from geouq.layers import Legend
from geouq.learning.judging import diagrams
from geouq.learning.judging.html import bold, legend, render
from geouq.learning.judging.left_out_classes import RULE
from geouq.learning.judging.left_out_classes_text import HEADS, class_rows, facts, place_rows
from geouq.learning.judging.left_out_text import expectation, heading, percent
from geouq.learning.judging.summary import confusion_rows, number
from geouq.learning.judging.tally import Picture
from geouq.maps.styles import class_colours


def page(found: dict[str, Any], pictures: Sequence[Picture]) -> str:
    """Return the page: HTML with all its diagrams and pictures inside.

    Parameters
    ----------
    found : what ``folds.json`` holds. pictures : of chips left out, the worst first.
    """
    model = found["model"]
    names = Legend(tuple(model["classes"]), model["classes"].index(model["positive"]))
    heads, rows = place_rows(found)
    *classes, mean = class_rows(found)
    return render(
        "left_out_classes.html.jinja",
        title=f"{model['name']} on places it had not seen",
        heading=heading(found),
        model=model,
        tiles=list(_tiles(found)),
        classes={"heads": HEADS, "rows": [*classes, [bold(cell) for cell in mean]]},
        confusion={"heads": ["label", "pixels", *names.names], "rows": confusion_rows(found)},
        drawings={name: Markup(svg) for name, svg in _drawings(found)},
        facts=facts(found),
        places={"heads": heads, "rows": rows},
        folds=[[str(fold["number"]), str(fold["chips"]), ", ".join(fold["places"])] for fold in found["folds"]],
        chips=list(_chips(found, pictures, names)),
        legend=legend(names.names, model["positive"]),
        colours=list(zip(class_colours(names), names.names, strict=True)),
        fitted=found["fitted"],
        samples=found["samples"],
        seed=found["seed"],
    )


def _tiles(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the few numbers that stand at the top, with their names."""
    pooled, areas, alarm = found["pooled"], found["areas"], found["alarm"]
    yield "mIoU, places", number(found["miou_places"])
    yield "mIoU, pooled", number(pooled["miou"])
    yield "F1, mean", number(pooled["f1"])
    yield "accuracy", number(pooled["accuracy"])
    yield "ECE", number(found["calibration"]["ece"], ".4f")
    yield "areas covered", f"{areas['covered']} of {areas['chips']}"
    yield "bad chips announced", f"{alarm['announced']} of {alarm['bad']}"


def _drawings(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "alarm", diagrams.alarm(found["chips"], RULE)
    event = "the mapped class being right"
    yield "reliability", diagrams.reliability_of_places(found["calibration"]["reliability"], event)


def _chips(found: dict[str, Any], pictures: Sequence[Picture], names: Legend) -> Iterator[dict[str, Any]]:
    """Yield name, facts and panels of each chip that is shown."""
    chips = {chip["name"]: chip for chip in found["chips"]}
    for picture in pictures:
        chip = chips[picture.name]
        told = f"{percent(chip['wrong'][RULE])} % wrong, mIoU {number(chip['miou'])}; {expectation(chip)}"
        yield {"name": picture.name, "facts": told, "panels": diagrams.panels(picture, names)}
