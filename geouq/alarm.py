"""How wrong a map is likely to be, by its doubt: what was found on places left out (docs/decisions.md).

A map's *doubt* is the share of its classified area that is open: ``uncertainty`` is above ``OPEN``, which of two
classes means that p̄ lies between 0.3 and 0.7. (The mean uncertainty is a worse sign: half of it is of pixels that are
hardly in doubt, of which a dry field has many.) A model file holds points: of each map of a place left out its doubt
and the share of its pixels that were wrong, by the rule that it was cut by. From these come

- the expected share of wrong pixels: the isotonic regression of wrong on doubt (Barlow et al. 1972; pool adjacent
  violators), in which every place weighs the same, between its points a straight line;
- its interval: 5 % and 95 % quantiles over the places of about the same doubt: at least ``LEAST``, at most ``MOST`` of
  the nearest ones, within a factor ``WITHIN``;
- the alarm: a map is not to be trusted if more than ``TOO_WRONG`` of it is expected to be wrong, or half of these
  places were wrong on more than that, or it has more doubt than any place had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geouq.decisions import is_rule

#: uncertainty above which a pixel is open: the normalised entropy of 0.3
OPEN = 0.881291
#: share of wrong pixels from which on a map is not to be trusted
TOO_WRONG = 0.1
#: places that count as having about the same doubt: fewest, most, and how far their doubt may be off as a factor
LEAST, MOST, WITHIN = 3, 11, 1.5
QUANTILES = (0.05, 0.95)
#: what findings and tags call what is expected of a map
EXPECTED = ("expected_wrong", "expected_wrong_p05", "expected_wrong_p95", "expectation")
_FLOOR = 1e-3  # doubts below it are all the same


@dataclass(frozen=True)
class Expectation:
    """What is to be expected of a map, from places left out.

    wrong, low, high : share of wrong pixels, and its interval. places, bad : those of about the same doubt, and how
        many of them were wrong on more than ``TOO_WRONG``. known : all places. unseen : none had so much doubt.
    rule : what the points were measured with, if that is another rule than the one asked for.
    """

    wrong: float
    low: float
    high: float
    places: int
    bad: int
    known: int
    unseen: bool
    rule: str = ""

    @property
    def alarm(self) -> bool:
        """True if the map is not to be trusted."""
        return self.unseen or self.wrong > TOO_WRONG or 2 * self.bad >= self.places

    def __str__(self) -> str:
        return self._words() + (f" (as measured with --decide {self.rule})" if self.rule else "")

    def _words(self) -> str:
        found = f"{self.bad} {'was' if self.bad == 1 else 'were'} wrong on more than a tenth"
        if self.unseen:
            known = f"any of {self.known} places left out"
            return f"do not trust this map: it has more doubt than {known}; of the {self.places} with the most, {found}"
        if self.alarm:
            return f"do not trust this map: of {self.places} places left out with this much doubt, {found}"
        interval = f"{percent(self.low)}–{percent(self.high)} %"
        return f"expected share of wrong pixels: {percent(self.wrong)} % ({interval})"


def measured_alarm(
    places: Sequence[str], doubt: Sequence[float], wrong: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return what a model file stores (``ModelSpec.alarm``): a point a map, several of which may be of one place.

    doubt : open share of the classified area, 0..1. wrong : by rule, the share of labelled pixels wrong, 0..1.
    """
    rounded = {rule: [round(float(v), 6) for v in values] for rule, values in wrong.items()}
    return {"place": list(places), "open": [round(float(v), 6) for v in doubt], "wrong": rounded}


def expect(alarm: Mapping[str, Any], rule: str, doubt: float) -> Expectation:
    """Return what is to be expected of a map that was cut by ``rule`` and has so much doubt.

    Where nothing was measured with the rule, what was measured with the first one by name is taken.
    """
    measured = rule if rule in alarm["wrong"] else min(alarm["wrong"])
    places, doubts = np.array(alarm["place"]), np.array(alarm["open"], np.float64)
    wrong = np.array(alarm["wrong"][measured], np.float64)
    curve = expected_wrong(places, doubts, wrong)
    share = float(np.interp(doubt, *curve))
    near = _near(places, doubts, doubt)
    weights = _weights(places[near])
    low, high = (_quantile(wrong[near], weights, q) for q in QUANTILES)
    means = [wrong[near][places[near] == place].mean() for place in np.unique(places[near])]
    bad, unseen = sum(bool(mean > TOO_WRONG) for mean in means), doubt > doubts.max()
    ends = min(low, share), max(high, share)
    other = "" if measured == rule else measured
    return Expectation(share, *ends, len(means), bad, len(np.unique(places)), bool(unseen), other)


def expected_wrong(places: np.ndarray, doubt: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve from doubt to the expected share of wrong pixels: its points, (n,) each, none falling.

    All arguments are (points,); every place weighs the same.
    """
    x, at = np.unique(doubt, return_inverse=True)
    weights = _weights(places)
    weight = np.bincount(at, weights)
    return x, isotonic(np.bincount(at, weights * wrong) / weight, weight)


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the never falling (n,) nearest to values (n,) in weighted squares: pool adjacent violators."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values, weights, strict=True):
        mean, heavy, count = float(value), float(weight), 1
        while blocks and blocks[-1][0] >= mean:
            before, more, others = blocks.pop()
            mean, heavy, count = (before * more + mean * heavy) / (more + heavy), more + heavy, others + count
        blocks.append((mean, heavy, count))
    return np.repeat([mean for mean, _, _ in blocks], [count for _, _, count in blocks])


def _weights(places: np.ndarray) -> np.ndarray:
    """Return a weight a point, so that every place weighs 1."""
    _, at, count = np.unique(places, return_inverse=True, return_counts=True)
    return np.asarray(1 / count[at])


def _near(places: np.ndarray, doubts: np.ndarray, doubt: float) -> np.ndarray:
    """Return the points of places of about this doubt, nearest first."""
    away = np.abs(np.log((doubts + _FLOOR) / (doubt + _FLOOR)))
    chosen: list[int] = []
    for point in np.argsort(away, kind="stable"):
        taken = set(places[chosen])
        if places[point] not in taken and (
            len(taken) == MOST or (len(taken) >= LEAST and away[point] > np.log(WITHIN))
        ):
            break
        chosen.append(int(point))
    return np.array(chosen)


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the least value that at least a share of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, share - 1e-9)), len(values) - 1)])


def percent(share: float) -> str:
    """Return a share as percent for people: whole, and below one with one digit."""
    return f"{100 * share:.0f}" if share >= 0.00995 else f"{100 * share:.1f}"


def is_alarm(value: Any) -> bool:
    """Return whether a value is what ``measured_alarm`` returns, with two points or more."""
    try:
        points = np.array([value["open"], *value["wrong"].values()], np.float64)
        names = len(value["place"]) == points.shape[1] >= 2 and all(isinstance(name, str) for name in value["place"])
        rules = len(value["wrong"]) >= 1 and all(map(is_rule, value["wrong"]))
        return names and rules and bool(((points >= 0) & (points <= 1)).all())
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        return False
