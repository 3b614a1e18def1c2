"""What was found on places left out, of two classes, as text: what a terminal, the page and the card share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from geouq.learning.judging.decide import DEFAULT
from geouq.learning.judging.summary import columns, number

HEADS = ("decide", "IoU", "mixed", "pooled", "false %", "worst %", "worst chip", "accuracy")


def decisions(found: dict[str, Any], positive: str) -> str:
    """Return the table of decisions and what is to be known beside it; ``positive``: the class's name."""
    return "\n".join([columns([HEADS, *decision_rows(found)]), "", *facts(found, positive)])


def heading(found: dict[str, Any]) -> str:
    """Return what was judged on what."""
    chips, places, folds = len(found["chips"]), len(found["places"]), len(found["folds"])
    return (
        f"{found['model']['name']}: {chips} chips of {places} places, each left out once in {folds} folds and mapped "
        f"by a model that never saw its place, {found['samples']} samples"
    )


def expectation(chip: dict[str, Any]) -> str:
    """Return what the other places make of a chip's doubt."""
    told: str | None = chip["alarm_line"]
    return told or "the other places are too few to expect anything"


def decision_rows(found: dict[str, Any]) -> Iterator[list[str]]:
    """Yield a row a decision, the one that is stored marked by a star."""
    for row in found["decisions"]:
        star = " *" if row["decide"] == found["decide"] else ""
        ious = (number(row[key]) for key in ("iou", "iou_mixed", "iou_pooled"))
        false = (percent(row[key]) for key in ("false_positive_rate", "worst"))
        yield [row["decide"] + star, *ious, *false, row["worst_chip"] or "–", number(row["accuracy"])]


def place_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of the table by place, by the decision that is stored."""
    heads = ["place", "dataset", "fold", "chips", f"{found['model']['positive']} %", "IoU", "false %", "wrong %"]
    rule, rows = found["decide"], []
    for r in found["places"]:
        name = [r["place"], r["dataset"], str(r["fold"]), str(r["chips"]), percent(r["positive_share"])]
        scores = [number(r["iou"][rule]), percent(r["false_positive_rate"][rule]), percent(r["wrong"][rule])]
        announced = sum(bool(c["alarm"]) for c in found["chips"] if c["place"] == r["place"])
        rows.append([*name, *scores, percent(r["doubt"]), str(announced), f"{r['covered']} of {r['chips']}"])
    return [*heads, "doubt %", "alarms", "areas covered"], rows


def facts(found: dict[str, Any], positive: str) -> list[str]:
    """Return what no table holds, a line each."""
    lines = [
        f"IoU: mean over places of their chips with 2 % of {positive} or more; mixed: those with 2 to 98 %. False: "
        f"share of dry chips called {positive}, mean over places, and the worst chip.",
        f"* stored: {DEFAULT}",
        calibration_fact(found),
        *_areas(found),
        alarm_fact(found),
    ]
    return lines + [_risk(row) for row in found["risk"]]


def calibration_fact(found: dict[str, Any]) -> str:
    """Return how far probabilities are from observed frequencies."""
    ece, even = (number(found["calibration"][key], ".4f") for key in ("ece", "ece_places"))
    return f"calibration: ECE {ece} pooled, {even} with every place weighing the same"


def alarm_fact(found: dict[str, Any]) -> str:
    """Return how well doubt tells wrong maps."""
    alarm = found["alarm"]
    return (
        f"alarm: {alarm['bad']} of {alarm['chips']} chips are wrong on more than a tenth; doubt ranks them with AUROC "
        f"{number(alarm['auroc'])}; by the alarm of the other places {alarm['announced']} are announced, and "
        f"{alarm['false_alarms']} others; the share wrong lies in the expected interval on {alarm['within']}"
    )


def _areas(found: dict[str, Any]) -> Iterator[str]:
    for kind, row in found["areas"].items():
        if row["chips"]:
            yield (
                f"areas, {kind} chips: the 90 % interval holds the label's on {row['covered']} of {row['chips']} "
                f"({percent(row['places'])} % with every place weighing the same); its median width is "
                f"{percent(row['median_width'])} % of the chip"
            )


def _risk(row: dict[str, Any]) -> str:
    if row["found"] is None:
        return f"risk {row['promised']:g}: cannot be promised from so few places, or so wrong ones"
    return (
        f"risk {row['promised']:g}: of places left out {percent(row['found'])} % was decided and wrong (at worst "
        f"{percent(row['worst'])} %), {percent(row['undecided'])} % undecided"
    )


def percent(share: float | None) -> str:
    """Write a share in percent, with two digits where it is small."""
    return "–" if share is None else f"{100 * share:.2f}" if share < 0.1 else f"{100 * share:.1f}"
