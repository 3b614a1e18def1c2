"""Where the probability of the positive class is cut, and which pixels are left undecided (docs/decisions.md).

A *rule* says where p̄ is cut: "accuracy" at 0.5, a number at itself, and two by the whole scene, from its histogram of
p̄ alone: "iou" where the expected intersection over union is largest, "area" where the mask's area is the expected one.

The grid of p̄ has ``STEPS`` steps: *rank* k holds k/STEPS ≤ p̄ < (k + 1)/STEPS. STEPS is a power of two, so that
"p̄ ≥ k/STEPS" and "rank ≥ k" are the same for every float. Cuts of the scene, and the ends of what is undecided, lie on
it: histograms of ranks say all that there is to say about them, exactly, in whatever tiles they were counted.

A pixel is *decided* at a confidence level λ from 0.5 (every pixel) to 1 if its class is said with at least that
confidence, where confidence is max(p̄, 1 − p̄), stretched so that it is 0.5 at the cut c and 1 at p̄ = 0 and 1: water
from 1 − 2(1 − c)(1 − λ) on, not water below 2c(1 − λ). The higher λ, the fewer pixels: what is decided at one level is
decided at all lower ones, as conformal risk control needs it (Angelopoulos et al. 2022, arXiv 2208.02814).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geouq.errors import InputError

#: steps of the grid of p̄, and the rank of a pixel that is not classified
STEPS, NO_RANK = 1024, 65535
#: rules that go by the whole scene, and all that have a name
SCENE_WIDE = ("iou", "area")
RULES = ("accuracy", *SCENE_WIDE)
#: no scene is cut by "iou" below this: where all p̄ are small, the largest expected IoU would be that of all water
LEAST_CUT = 0.1
#: confidence levels that risks are measured at
LEVELS = tuple(0.5 + k / 256 for k in range(129))


@dataclass(frozen=True)
class Cut:
    """Positive at and above ``at``, undecided from ``low`` to below ``high``, which meet at the cut if all is decided.

    p̄ may be any array of the positive class's probability.
    """

    at: float
    low: float
    high: float

    @classmethod
    def at_level(cls, at: float, level: float = 0.5) -> Cut:
        """Return the cut at which a pixel is decided at a confidence level; ends are rounded outwards to the grid."""
        if level <= 0.5:
            return cls(at, at, at)
        low, high = 2 * at * (1 - level), 1 - 2 * (1 - at) * (1 - level)
        return cls(at, math.floor(low * STEPS) / STEPS, math.ceil(high * STEPS) / STEPS)

    def undecided(self, probability: Any) -> Any:
        """Return where neither class is said, bool."""
        return (probability >= self.low) & (probability < self.high)


@dataclass(frozen=True)
class RankSums:
    """Sums over the pixels of each rank, float64 (STEPS + 1,) each.

    area : of the pixels. expected : of p̄ times area. doubt : of normalised entropy times area.
    """

    area: np.ndarray
    expected: np.ndarray
    doubt: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, area: np.ndarray, uncertainty: np.ndarray) -> RankSums:
        """Return that of pixels, arrays of one shape; NaN = not classified, counted nowhere."""
        rank = ranks(probability)
        known = rank != NO_RANK
        rank, p, area = rank[known], probability[known].astype(np.float64), area[known]
        sums = (np.bincount(rank, w, STEPS + 1).astype(np.float64) for w in (area, p * area, uncertainty[known] * area))
        return cls(*sums)

    def of_mask(self, cut: Cut) -> tuple[float, float, float]:
        """Return what a cut makes of them: the area and doubt of what is positive, and the area that is undecided."""
        low, high = (math.ceil(end * STEPS) for end in (cut.low, cut.high))
        return float(self.area[high:].sum()), float(self.doubt[high:].sum()), float(self.area[low:high].sum())

    @classmethod
    def total(cls, parts: Iterable[RankSums]) -> RankSums:
        """Return the sum of several, added up in their order."""
        sums = np.zeros((3, STEPS + 1))
        for part in parts:
            sums += part.area, part.expected, part.doubt
        return cls(*sums)


@dataclass(frozen=True)
class Decision:
    """How a map of two classes is decided.

    rule : one of ``RULES`` or a probability as text.
    level : confidence level from which on a pixel is decided; 0.5: every pixel is.
    risk : what is promised by that: the share of pixels decided and wrong that is expected at most. None: nothing.

    Raises
    ------
    InputError : the rule is none.
    """

    rule: str = "accuracy"
    level: float = 0.5
    risk: float | None = None

    def __post_init__(self) -> None:
        if not is_rule(self.rule):
            raise InputError(f"decide {self.rule!r} is none of {', '.join(RULES)}, nor a probability from 0 to 1")

    @property
    def scene_wide(self) -> bool:
        """True if the cut is known only when the whole scene is."""
        return self.rule in SCENE_WIDE

    def cut(self, scene: RankSums | None = None) -> Cut:
        """Return the cut; ``scene``, the histogram of all of it, is needed for rules that go by it."""
        if self.rule == "iou" and scene is not None:
            at = _iou_cut(scene)
        elif self.rule == "area" and scene is not None:
            at = _area_cut(scene)
        else:
            at = 0.5 if self.rule in RULES else float(self.rule)
        return Cut.at_level(at, self.level)


def is_rule(text: Any) -> bool:
    """Return whether a text is one of ``RULES`` or a probability."""
    try:
        return isinstance(text, str) and (text in RULES or 0 <= float(text) <= 1)
    except ValueError:
        return False


def ranks(probability: np.ndarray) -> np.ndarray:
    """Return the rank of each probability, uint16; ``NO_RANK`` for NaN."""
    scaled = np.nan_to_num(np.asarray(probability) * STEPS, nan=NO_RANK)  # exact: times a power of two
    return np.asarray(np.floor(scaled), np.uint16)


def expected_iou(scene: RankSums) -> np.ndarray:
    """Return the expected IoU of cutting below each rank, (STEPS + 1,); 0 where nothing is positive.

    E[IoU] ≈ Σ_{p ≥ t} p / (Σ_{p ≥ t} 1 + Σ_{p < t} p), pixels by their area: the ratio of the expectations of
    intersection and union (Nowozin 2014, doi 10.1109/CVPR.2014.77; of F: Jansche 2007, ACL P07-1093).
    """
    area, hits = _from_above(scene.area), _from_above(scene.expected)
    union = area + (hits[0] - hits)
    return np.asarray(np.divide(hits, union, out=np.zeros_like(hits), where=union > 0))


def _iou_cut(scene: RankSums) -> float:
    value = expected_iou(scene)
    value[: math.ceil(LEAST_CUT * STEPS)] = -1
    return _nearest_to_half(value >= value.max() * (1 - 1e-12))


def _area_cut(scene: RankSums) -> float:
    """Return the cut from which on pixels have together the expected area, or as nearly as can be."""
    area = np.append(_from_above(scene.area), 0.0)  # the last: nothing is positive
    off = np.abs(area - scene.expected.sum())
    return _nearest_to_half(off <= off.min() + 1e-12 * area[0])


def _from_above(sums: np.ndarray) -> np.ndarray:
    """Return the sums over each rank and all above it."""
    return np.asarray(np.cumsum(sums[::-1])[::-1])


def _nearest_to_half(good: np.ndarray) -> float:
    """Return the cut nearest to 0.5 among ranks that are as good: where no pixel lies between, all give one mask."""
    found = np.flatnonzero(good)
    return float(found[np.argmin(np.abs(found - STEPS / 2))]) / STEPS


# --- what is wrong, and the risk that can be promised


def wrong_shares(dry: np.ndarray, wet: np.ndarray, at: float) -> np.ndarray:
    """Return the share of a labelled map's area that is decided and wrong at each of ``LEVELS``, in 0..1.

    dry, wet : area by rank, (STEPS + 1,) each, of pixels labelled not positive, and positive. at : where the map is
    cut, on the grid. At the first, 0.5, all is decided: it is the share of wrong pixels.
    """
    cuts = [Cut.at_level(at, level) for level in LEVELS]
    below, above = np.append(0.0, np.cumsum(wet)), np.append(_from_above(dry), 0.0)  # each rank: wet below, dry from it
    said_dry = below[[math.ceil(cut.low * STEPS) for cut in cuts]]
    said_wet = above[[math.ceil(cut.high * STEPS) for cut in cuts]]
    return np.asarray((said_dry + said_wet) / (dry.sum() + wet.sum() or 1.0))


def measured_risk(losses: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what a model file stores of its risk (``ModelSpec.risk``).

    losses : by rule, (places, levels): of each place left out the share of its classified area that is decided and
    wrong (``wrong_shares``), the mean over its chips.
    """
    (places,) = {len(loss) for loss in losses.values()}
    means = {rule: [float(f"{v:.6g}") for v in np.mean(loss, axis=0)] for rule, loss in losses.items()}
    return {"places": places, "level": list(LEVELS), "loss": means}


def level_for(risk: Mapping[str, Any], rule: str, most: float) -> float:
    """Return the least confidence level at which a risk of at most ``most`` can be promised.

    Conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814, theorem 1), with losses from 0 to 1 over n
    places: the least λ with n/(n + 1)·R̂(λ) + 1/(n + 1) ≤ α. Then the expected share of pixels decided and wrong is at
    most α on a further place that is exchangeable with these.

    Raises
    ------
    InputError : so little cannot be promised, or nothing was measured for this rule.
    """
    if not 0 < most < 1:
        raise InputError(f"risk {most:g} is no share of pixels: give a number between 0 and 1, such as 0.05")
    if rule not in risk["loss"]:
        known = ", ".join(f"--decide {name}" for name in risk["loss"])
        raise InputError(f"the risk of this model was measured for {known}, and not for --decide {rule}: give one")
    places = risk["places"]
    bound = (places * np.minimum(np.array(risk["loss"][rule], np.float64), 1) + 1) / (places + 1)
    good = np.flatnonzero(bound <= most)
    if not len(good):
        least = math.ceil(1000 * float(bound.min())) / 1000
        raise InputError(f"risk {most:g} cannot be promised from {places} places: give --risk {least:g} or more")
    return float(risk["level"][good[0]])


def is_risk(value: Any) -> bool:
    """Return whether a value is what ``measured_risk`` returns."""
    try:
        level, losses = np.array(value["level"], np.float64), np.array(list(value["loss"].values()), np.float64)
        whole = isinstance(value["places"], int) and value["places"] >= 1
        sound = 0.5 <= level[0] and level[-1] <= 1 and bool((np.diff(level) > 0).all())
        rules = all(map(is_rule, value["loss"]))
        return (
            whole and sound and rules and losses.shape[1] == len(level) and bool(((losses >= 0) & (losses <= 1)).all())
        )
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        return False
