"""What is to be decided on places left out: where to cut, when to warn, and what stays undecided.

All of it is made from the same maps (geouq.learning.judging.left_out), as plain values: ``found_on`` returns what a
report says, ``stored`` what a model file holds of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geouq.alarm import TOO_WRONG, expect, measured_alarm
from geouq.decisions import LEVELS, RULES, level_for, measured_risk
from geouq.errors import InputError
from geouq.learning.data.augment import WET
from geouq.learning.judging.left_out import AnyMapped, Mapped, pooled_calibration
from geouq.learning.judging.metrics import Calibration, place_means
from geouq.learning.judging.tally import plain
from geouq.scores.confusion import Confusion

#: rules that are tried, in the order that decides where two do equally well
TRIED = (*RULES, *(f"{k / 100:g}" for k in range(20, 65, 5) if k != 50))
#: share of dry places called positive that a rule may always reach
FALSE = 0.005
#: fewest places that a cut, an alarm and a risk can be measured on
FEWEST = 5
#: risks that are shown against what was found
RISKS = (0.025, 0.05, 0.1)
DEFAULT = (
    "the highest mean IoU over places with wet chips, among the decisions that call on the mean over places no more of "
    "dry chips positive than the cut at 0.5 does, or 0.5 % if that is more"
)

Row = dict[str, Any]


def found_on(chips: Sequence[Mapped]) -> dict[str, Any]:
    """Return what was found on chips left out, as plain values ready for JSON (None where a ratio has no meaning).

    ``decisions`` : a row a rule. ``decide`` : the rule that does best (``DEFAULT``). ``calibration``, ``areas``,
    ``alarm``, ``risk`` : of the pixels, the intervals, doubt as a sign of wrong maps, and risks promised and found, by
    that rule. ``places``, ``chips`` : everything by place and by chip; ``loss``: by rule, the share decided and wrong
    at each of ``levels``.
    """
    rows = [chip_row(chip) for chip in chips]
    losses = {rule: _by_place(chips, [chip.losses(rule) for chip in chips]) for rule in TRIED}
    decisions = [_decision(rule, chips, rows) for rule in TRIED]
    rule = best(decisions)
    add_expectations(rows, rule)
    places = list(dict.fromkeys(chip.place for chip in chips))
    of_place = {place: [row for row in rows if row["place"] == place] for place in places}
    loss = {place: {name: by_place[place] for name, by_place in losses.items()} for place in places}
    found: dict[str, Any] = plain(
        {
            "decide": rule,
            "decisions": decisions,
            "calibration": calibration_found(chips),
            "areas": {name: areas_held(part) for name, part in _kinds(rows).items()},
            "alarm": alarm_found(rows, rule),
            "risk": [_risk(chips, losses[rule], rule, most) for most in RISKS],
            "levels": list(LEVELS),
            "places": [place_row(place, of_place[place], loss[place]) for place in places],
            "chips": rows,
        }
    )
    return found


def stored(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a model's spec that are made from what was found: no alarm and no risk of too few places."""
    chips, places, rule = found["chips"], found["places"], found["decide"]
    if len(places) < FEWEST:
        return {"alarm": None, "risk": None}
    rules = tuple(dict.fromkeys((rule, *RULES)))
    risk = measured_risk({name: np.array([row["loss"][name] for row in places]) for name in rules})
    return {"decide": rule, "alarm": points(chips, rules), "risk": risk}


def best(decisions: Sequence[Row]) -> str:
    """Return the rule that does best: ``DEFAULT``."""
    usual = next(row for row in decisions if row["decide"] == "accuracy")
    most = max(FALSE, usual["false_positive_rate"] or 0.0)
    allowed = [row for row in decisions if (row["false_positive_rate"] or 0.0) <= most and np.isfinite(row["iou"])]
    return str(max(allowed, key=lambda row: row["iou"], default=usual)["decide"])


# --- rows


def chip_row(chip: Mapped) -> Row:
    """Return what is said of a chip."""
    counts = {rule: chip.confusion(rule) for rule in TRIED}
    low, high = chip.interval
    return {
        "name": chip.name,
        "dataset": chip.dataset,
        "place": chip.place,
        "fold": chip.fold,
        "pixels": chip.pixels,
        "positive_share": chip.truth / chip.total,
        "wet": chip.is_wet,
        "doubt": round(chip.doubt, 6),
        "cut": {rule: chip.cut(rule) for rule in TRIED},
        "iou": {rule: one.iou for rule, one in counts.items()},
        "wrong": {rule: round(float(chip.losses(rule)[0]), 6) for rule in TRIED},
        "false_positive_rate": {rule: one.false_water for rule, one in counts.items()},
        "area": chip.truth,
        "area_labelled": chip.total,
        "area_low": low,
        "area_high": high,
        "area_covered": bool(low <= chip.truth <= high),
    }


def place_row(place: str, rows: Sequence[Row], loss: Mapping[str, np.ndarray]) -> Row:
    """Return what is said of a place: means over its chips, IoU over its wet ones, what is false over its dry ones."""
    wet, dry = ([row for row in rows if row["wet"] is kind] for kind in (True, False))
    pixels = [row["pixels"] for row in rows]
    return {
        "place": place,
        "dataset": rows[0]["dataset"],
        "fold": rows[0]["fold"],
        "chips": len(rows),
        "pixels": sum(pixels),
        "positive_share": float(np.average([row["positive_share"] for row in rows], weights=pixels)),
        "doubt": float(np.mean([row["doubt"] for row in rows])),
        "iou": {rule: _mean([row["iou"][rule] for row in wet]) for rule in TRIED},
        "false_positive_rate": {rule: _mean([row["false_positive_rate"][rule] for row in dry]) for rule in TRIED},
        "wrong": {rule: _mean([row["wrong"][rule] for row in rows]) for rule in TRIED},
        "covered": sum(row["area_covered"] for row in rows),
        "loss": {rule: [float(f"{v:.6g}") for v in values] for rule, values in loss.items()},
    }


def _decision(rule: str, chips: Sequence[Mapped], rows: Sequence[Row]) -> Row:
    """Return what cutting by a rule does: means over places, the pooled IoU, and the worst dry chip."""
    wet, dry = ([row for row in rows if row["wet"] is kind] for kind in (True, False))
    mixed = [row for row in wet if row["positive_share"] < 1 - WET]
    worst = max(dry, key=lambda row: row["false_positive_rate"][rule], default=None)
    return {
        "decide": rule,
        "iou": _over_places(wet, "iou", rule),
        "iou_mixed": _over_places(mixed, "iou", rule),
        "iou_pooled": sum((chip.confusion(rule) for chip in chips), Confusion()).iou,
        "false_positive_rate": _over_places(dry, "false_positive_rate", rule),
        "worst": worst and worst["false_positive_rate"][rule],
        "worst_chip": worst and worst["name"],
        "accuracy": 1 - _over_places(rows, "wrong", rule),
    }


def calibration_found(chips: Sequence[AnyMapped]) -> Row:
    """Return calibration errors of all pixels together, and with every place weighing the same."""
    pooled, even = pooled_calibration(chips), pooled_calibration(chips, by_place=True)
    return {"ece": pooled.ece(), "ece_places": even.ece(), "reliability": _reliability(even)}


def _reliability(counts: Calibration) -> list[list[float]]:
    """Return (share, mean probability, observed frequency) in 15 bins of equal mass."""
    return [[float(v) for v in row] for row in counts.reliability()]


def _kinds(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {"all": list(rows), "wet": [r for r in rows if r["wet"]], "dry": [r for r in rows if not r["wet"]]}


def areas_held(rows: Sequence[Row]) -> Row:
    """Return on how many chips the interval holds the label's area, on how many places' chips, and its width."""
    if not rows:
        return {"chips": 0, "covered": 0, "places": None, "median_width": None}
    width = [(row["area_high"] - row["area_low"]) / row["area_labelled"] for row in rows]
    covered = [row["area_covered"] for row in rows]
    share = float(place_means([row["place"] for row in rows], np.array(covered)))
    return {"chips": len(rows), "covered": sum(covered), "places": share, "median_width": float(np.median(width))}


def points(rows: Sequence[Row], rules: Sequence[str]) -> dict[str, Any]:
    """Return what an alarm is made from (geouq.alarm.measured_alarm): a point a chip."""
    wrong = {rule: [row["wrong"][rule] for row in rows] for rule in rules}
    return measured_alarm([row["place"] for row in rows], [row["doubt"] for row in rows], wrong)


def add_expectations(rows: Sequence[Row], rule: str) -> None:
    """Add to each chip what the other places make of its doubt: expected share wrong, its interval, and the alarm."""
    for place in {row["place"] for row in rows}:
        others = [row for row in rows if row["place"] != place]
        alarm = points(others, [rule]) if len(others) > 1 else None
        for row in rows:
            if row["place"] == place:
                told = expect(alarm, rule, row["doubt"]) if alarm else None
                row["expected"] = told and [told.wrong, told.low, told.high]
                row["alarm"], row["alarm_line"] = (told.alarm, str(told)) if told else (None, None)


def alarm_found(rows: Sequence[Row], rule: str) -> Row:
    """Return how well doubt tells the chips that are wrong on more than a tenth, and how many are announced.

    ``auroc`` : ties counted half. ``announced`` of ``bad``, and ``false_alarms`` among the others: by an alarm made
    from the other places. ``within`` : of how many chips the share wrong lies in the interval that is expected.
    """
    doubt = np.array([row["doubt"] for row in rows])
    bad = np.array([row["wrong"][rule] > TOO_WRONG for row in rows])
    above = doubt[bad][:, None] - doubt[~bad][None]
    auroc = float(((above > 0) + 0.5 * (above == 0)).mean()) if above.size else float("nan")
    alarm = np.array([bool(row["alarm"]) for row in rows])
    within = [row["expected"] and row["expected"][1] <= row["wrong"][rule] <= row["expected"][2] for row in rows]
    counts = {
        "chips": len(rows),
        "bad": bad.sum(),
        "announced": (bad & alarm).sum(),
        "false_alarms": (~bad & alarm).sum(),
    }
    return {name: int(count) for name, count in counts.items()} | {"within": sum(map(bool, within)), "auroc": auroc}


def _risk(chips: Sequence[Mapped], losses: Mapping[str, np.ndarray], rule: str, most: float) -> Row:
    """Return a risk against what was found: each place at the level that the others promise it at."""
    others = {place: {name: v for name, v in losses.items() if name != place} for place in losses}
    levels = {place: level for place in losses if (level := _level(others[place], most)) is not None}
    if len(levels) < len(losses):
        return {"promised": most, "found": None, "worst": None, "undecided": None, "level": None}
    found = [float(loss[LEVELS.index(levels[place])]) for place, loss in losses.items()]
    undecided = [chip.undecided(rule, levels[chip.place]) for chip in chips]
    return {
        "promised": most,
        "found": float(np.mean(found)),
        "worst": max(found),
        "undecided": float(place_means([chip.place for chip in chips], np.array(undecided))),
        "level": float(np.median(list(levels.values()))),
    }


def _level(losses: Mapping[str, np.ndarray], most: float) -> float | None:
    """Return the level at which these places promise a risk; None if they cannot, or there are none."""
    try:
        return level_for(measured_risk({"": np.array(list(losses.values()))}), "", most) if losses else None
    except InputError:
        return None


# --- small things


def _by_place(chips: Sequence[Mapped], values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the mean of each place's chips."""
    places = list(dict.fromkeys(chip.place for chip in chips))
    return {p: np.mean([v for chip, v in zip(chips, values, strict=True) if chip.place == p], axis=0) for p in places}


def _over_places(rows: Sequence[Row], key: str, rule: str) -> float:
    """Return the mean over places of the mean over their chips; NaN of none."""
    if not rows:
        return float("nan")
    return float(place_means([row["place"] for row in rows], np.array([row[key][rule] for row in rows])))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
