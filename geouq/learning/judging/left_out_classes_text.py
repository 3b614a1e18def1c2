"""What was found on places left out, of more than two classes, as text: for a terminal, the page and the card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from geouq.learning.judging.left_out_text import alarm_fact, calibration_fact, percent
from geouq.learning.judging.summary import KEYS, number

HEADS = ("class", "label %", "places", "precision", "recall", "F1", "IoU", "IoU, places", "areas covered", "width %")
WITHOUT = (
    "not here, for it is of two classes: a cut (the mask is the likeliest class), a risk, and a strength of samples "
    "(they lie as far apart as the model was trained to)"
)


def class_rows(found: dict[str, Any]) -> Iterator[list[str]]:
    """Yield a row a class, and that of their mean."""
    pooled = found["pooled"]
    for row, one in zip(found["classes"], pooled["by_class"], strict=True):
        scores = [*(number(one[key]) for key in KEYS), number(row["iou_places"])]
        areas = row["areas"]
        held = [f"{areas['covered']} of {areas['chips']}", percent(areas["median_width"])]
        yield [row["class"], percent(row["share"]), str(row["places"]), *scores, *held]
    scores = [number(pooled[key]) for key in ("f1", "miou")] + [number(found["miou_places"])]
    areas = found["areas"]
    held = [f"{areas['covered']} of {areas['chips']}", percent(areas["median_width"])]
    yield ["mean", "", str(len(found["places"])), "", "", *scores, *held]


def place_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of the table by place."""
    heads = ["place", "dataset", "fold", "chips", "accuracy", "mIoU", "wrong %", "doubt %", "alarms", "areas covered"]
    rows = []
    for r in found["places"]:
        announced = sum(bool(chip["alarm"]) for chip in found["chips"] if chip["place"] == r["place"])
        (wrong,) = r["wrong"].values()
        scores = [number(r["accuracy"]), number(r["miou"]), percent(wrong), percent(r["doubt"])]
        named = [r["place"], r["dataset"], str(r["fold"]), str(r["chips"])]
        rows.append([*named, *scores, str(announced), f"{r['covered']} of {r['areas']}"])
    return heads, rows


def facts(found: dict[str, Any]) -> list[str]:
    """Return what no table holds, a line each."""
    areas = found["areas"]
    lines = [
        "IoU, places: mean over places of their chips whose label is the class on 2 % or more; the other scores are of "
        "all pixels together. Areas covered: on how many of these chips the 90 % interval of the class's area holds "
        "the label's; width: the interval's median width, of the chip.",
        f"accuracy {number(found['pooled']['accuracy'])}, of all pixels together",
        f"{calibration_fact(found)}, of the probability of the mapped class",
        f"areas: the 90 % interval holds the label's on {areas['covered']} of {areas['chips']} pairs of a chip and a "
        f"class in it ({percent(areas['places'])} % with every place weighing the same)",
        alarm_fact(found),
    ]
    lone = [row["class"] for row in found["classes"] if row["folds"] == 1]
    if lone:
        lines.append(f"{', '.join(lone)}: in places of one fold alone, judged by a model that has never seen it")
    return [*lines, WITHOUT]
