"""Cuts, undecided pixels and promised risks, on histograms alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geouq.decisions import (
    LEAST_CUT,
    LEVELS,
    NO_RANK,
    STEPS,
    Cut,
    Decision,
    RankSums,
    expected_iou,
    level_for,
    measured_risk,
    ranks,
    wrong_shares,
)
from geouq.errors import InputError


def beliefs(seed: int, pixels: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, float32, of wet, dry and doubtful ground in any proportion, with areas; some not classified."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet((0.5, 0.5, 0.5))
    kinds = [rng.beta(8, 1, pixels), rng.beta(0.3, 12, pixels), rng.random(pixels)]
    p = np.choose(rng.choice(3, pixels, p=share), kinds).astype(np.float32)
    p[rng.random(pixels) < 0.05] = np.nan
    return p, rng.uniform(80, 120, pixels)


def histogram(p: np.ndarray, area: np.ndarray) -> RankSums:
    return RankSums.of(p, area, np.where(np.isnan(p), np.nan, 0.5))


def test_a_rank_is_what_a_comparison_of_floats_says():
    p = np.float32([0, 1e-9, 0.35, np.nextafter(np.float32(0.5), 0), 0.5, 1 - 2**-24, 1])
    assert ranks(p).tolist() == [0, 0, 358, 511, 512, 1023, 1024]
    for k in (0, 1, 358, 359, 512, 1024):
        assert ((p >= k / STEPS) == (ranks(p) >= k)).all()
    assert ranks(np.float32([np.nan])) == NO_RANK


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_no_cut_of_the_grid_has_a_higher_expected_iou(seed):
    p, area = beliefs(seed)
    cut = Decision("iou").cut(histogram(p, area)).at
    known = ~np.isnan(p)
    p, area = p[known].astype(float), area[known]

    def iou(at):  # by the definition, pixel by pixel
        wet = p >= at
        union = area[wet].sum() + (area * p)[~wet].sum()
        return (area * p)[wet].sum() / union if union else 0.0

    best = iou(cut)
    assert cut >= LEAST_CUT
    assert all(best >= iou(k / STEPS) - 1e-12 for k in range(int(np.ceil(LEAST_CUT * STEPS)), STEPS + 1))
    assert np.isclose(best, expected_iou(histogram(p, area))[int(cut * STEPS)])
    assert (
        cut <= best / (1 + best) + 2 / STEPS
        or cut in (0.5, np.ceil(LEAST_CUT * STEPS) / STEPS)
        or not (
            (
                (p >= best / (1 + best) + 1 / STEPS) & (p < cut)
            ).any()  # the optimum is J / (1 + J), where pixels lie there
        )
    )


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_no_cut_of_the_grid_has_an_area_nearer_to_the_expected_one(seed):
    p, area = beliefs(seed)
    cut = Decision("area").cut(histogram(p, area)).at
    expected = np.nansum(p.astype(float) * area)
    off = [abs(area[p >= k / STEPS].sum() - expected) for k in range(STEPS + 2)]
    assert abs(area[p >= cut].sum() - expected) <= min(off) + 1e-6


def test_a_scene_without_water_is_not_called_water():
    p = np.full(1000, 0.01, np.float32)  # the largest expected IoU is that of all water: 0.01
    for rule in ("iou", "area", "accuracy"):
        cut = Decision(rule).cut(histogram(p, np.ones(1000)))
        assert not (p >= cut.at).any()
    nothing = histogram(np.full(5, np.nan, np.float32), np.ones(5))
    assert Decision("iou").cut(nothing).at == Decision("area").cut(nothing).at == 0.5


def test_cuts_that_give_the_same_mask_are_told_as_the_one_nearest_to_a_half():
    p = np.float32([0.001] * 50 + [0.999] * 50)
    assert Decision("iou").cut(histogram(p, np.ones(100))).at == 0.5


def test_histograms_of_tiles_add_up():
    p, area = beliefs(3)
    whole, parts = histogram(p, area), [histogram(p[i : i + 100], area[i : i + 100]) for i in range(0, 500, 100)]
    assert np.allclose(RankSums.total(parts).expected, whole.expected, rtol=1e-12)
    assert np.isclose(whole.area.sum(), area[~np.isnan(p)].sum())


@pytest.mark.parametrize("at", [0.1, 0.203125, 0.35, 0.5, 0.9])
def test_what_is_decided_at_a_level_is_decided_at_all_lower_ones(at):
    p = np.linspace(0, 1, 4001, dtype=np.float32)
    before = np.zeros(p.shape, bool)
    for level in LEVELS:
        cut = Cut.at_level(at, level)
        undecided = cut.undecided(p)
        assert cut.low <= at <= cut.high and (undecided >= before).all()
        before = undecided
    assert not Cut.at_level(at, 0.5).undecided(p).any()
    assert Cut.at_level(0.5, 0.9).low == pytest.approx(0.1, abs=1 / STEPS)
    assert Cut.at_level(0.5, 0.9).high == pytest.approx(0.9, abs=1 / STEPS)
    assert before[:-1].all()  # at 1 only p̄ = 1 is decided


def test_wrong_shares_are_those_of_the_pixels():
    p, area = beliefs(5)
    known = ~np.isnan(p)
    p, area = p[known], area[known]
    wet = np.random.default_rng(0).random(len(p)) < p
    dry_area, wet_area = (np.bincount(ranks(p)[w], area[w], STEPS + 1) for w in (~wet, wet))
    at = 300 / STEPS
    found = wrong_shares(dry_area, wet_area, at)
    for level, share in zip(LEVELS, found, strict=True):
        cut = Cut.at_level(at, level)
        wrong = ((p >= at) != wet) & ~cut.undecided(p)
        assert share == pytest.approx(area[wrong].sum() / area.sum())
    assert (np.diff(found) <= 0).all()


def test_the_risk_that_is_promised_is_kept_on_exchangeable_places():
    """Places drawn from one distribution, some of them hopeless: the mean loss on further places is at most α."""
    rng = np.random.default_rng(1)
    levels = np.array(LEVELS)

    def losses(n):
        bad = rng.random(n) < 0.15
        start, fade = np.where(bad, rng.uniform(0.2, 0.9, n), rng.beta(1, 30, n)), rng.uniform(0.5, 3, n)
        return start[:, None] * (2 * (1 - levels)) ** fade[:, None]

    for most in (0.05, 0.1):
        found = []
        for _ in range(400):
            level = level_for(measured_risk({"iou": losses(40)}), "iou", most)
            found.append(losses(1)[0, np.flatnonzero(levels == level)[0]])
        assert np.mean(found) <= most + 2 * np.std(found) / 20
        assert np.mean(found) > most / 5  # and it is not kept by deciding nothing


def test_what_cannot_be_promised_is_refused_in_one_line():
    risk = measured_risk({"iou": np.zeros((19, len(LEVELS)))})
    assert level_for(risk, "iou", 0.05) == 0.5  # 1 / (n + 1), and nothing was wrong
    with pytest.raises(InputError, match=r"risk 0\.04 cannot be promised from 19 places: give --risk 0\.05 or more"):
        level_for(risk, "iou", 0.04)
    with pytest.raises(InputError, match="measured for --decide iou, and not for --decide area"):
        level_for(risk, "area", 0.1)
    with pytest.raises(InputError, match="no share of pixels"):
        level_for(risk, "iou", 1.5)


@pytest.mark.parametrize("rule", ["", "best", "1.5", "-1", "nan"])
def test_a_rule_that_is_none_is_refused(rule):
    with pytest.raises(InputError, match="none of accuracy, iou, area, nor a probability"):
        Decision(rule)
