"""From points of places left out to an expectation, its interval and its words."""

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from geouq.alarm import MOST, expect, expected_wrong, is_alarm, isotonic, measured_alarm


def known(rule: str = "iou") -> dict:
    """Forty sure places that are right, and nine doubtful ones that are mostly wrong, one of them at eight dates."""
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.01, 0.1, 40)
    doubtful = np.concatenate([rng.uniform(0.4, 0.6, 8), np.linspace(0.45, 0.62, 8)])
    places = [f"p{i}" for i in range(48)] + ["plain"] * 8
    wrong = np.concatenate([0.4 * sure + rng.uniform(0, 0.02, 40), [0.02, 0.05], rng.uniform(0.3, 0.9, 14)])
    return measured_alarm(places, np.concatenate([sure, doubtful]), {rule: wrong})


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_the_isotonic_regression(seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.random(60) + np.linspace(0, 1, 60), rng.uniform(0.1, 3, 60)
    assert np.allclose(isotonic(values, weights), isotonic_regression(values, weights=weights).x)


def test_every_place_weighs_the_same():
    one = expected_wrong(np.array(["a", "b"]), np.array([0.1, 0.1]), np.array([0.0, 0.6]))[1]
    dates = expected_wrong(np.array(["a"] + ["b"] * 9), np.full(10, 0.1), np.array([0.0] + [0.6] * 9))[1]
    assert np.allclose(one, 0.3) and np.allclose(dates, 0.3)


def test_a_sure_map_is_told_what_to_expect():
    found = expect(known(), "iou", 0.05)
    assert not found.alarm and found.low <= found.wrong <= found.high and found.wrong < 0.05
    assert str(found).startswith("expected share of wrong pixels: ") and str(found).endswith(" %)")
    assert "3 % (3–4 %)" in str(found)


def test_a_doubtful_map_is_not_to_be_trusted():
    found = expect(known(), "iou", 0.5)
    assert found.alarm and not found.unseen and found.places == 9
    assert (
        str(found)
        == "do not trust this map: of 9 places left out with this much doubt, 7 were wrong on more than a tenth"
    )


def test_doubt_beyond_all_that_was_seen_is_said():
    found = expect(known(), "iou", 0.9)
    assert found.alarm and found.unseen and found.known == 49
    assert str(found).startswith("do not trust this map: it has more doubt than any of 49 places left out; of the ")
    assert found.places <= MOST


def test_more_doubt_never_means_less_to_expect():
    found = [expect(known(), "iou", doubt).wrong for doubt in np.linspace(0, 1, 200)]
    assert (np.diff(found) >= 0).all()


def test_what_was_measured_with_another_rule_is_better_than_nothing():
    assert str(expect(known("accuracy"), "0.3", 0.05)).endswith(" %) (as measured with --decide accuracy)")
    assert "measured" not in str(expect(known("accuracy"), "accuracy", 0.05))


def test_what_is_no_alarm():
    good = known()
    assert is_alarm(good) and not is_alarm({}) and not is_alarm(good | {"open": good["open"][:-1]})
    assert not is_alarm(good | {"wrong": {"iou": [2.0] * 56}}) and not is_alarm(
        good | {"wrong": {"best": good["open"]}}
    )
