import numpy as np
import pytest

from geouq.errors import InputError
from geouq.learning.judging.metrics import CELLS, Calibration, RiskCoverage, binary_entropy
from geouq.scores.confusion import Confusion, ConfusionMatrix


@pytest.fixture
def maps():
    rng = np.random.default_rng(3)
    p = (rng.integers(0, CELLS, (40, 50)) + 0.5) / CELLS
    y = (rng.random((40, 50)) < p**1.5).astype(np.uint8)
    valid = rng.random((40, 50)) < 0.8
    return p, y, valid


def test_confusion_counts_valid_pixels_only():
    label = np.array([1, 1, 0, 0, 1, 0])
    predicted = np.array([1, 0, 1, 0, 1, 1])
    valid = np.array([1, 1, 1, 1, 1, 0], bool)
    c = Confusion().add(predicted, label, valid)
    assert (c.tp, c.fp, c.fn, c.tn) == (2, 1, 1, 1)
    assert c.iou == 0.5 and c.accuracy == 0.6
    assert c.precision == c.recall == c.f1 == pytest.approx(2 / 3)
    assert c.false_water == 0.5


def test_confusion_streams_and_says_nan_where_there_is_nothing():
    a, b = np.array([1, 0, 1]), np.array([1, 1, 0])
    whole = Confusion().add(np.r_[a, b], np.r_[b, a])
    assert Confusion().add(a, b).add(b, a) == whole == Confusion().add(a, b) + Confusion().add(b, a)
    assert np.isnan(Confusion().add(np.zeros(3), np.zeros(3)).iou)


def test_brier_and_nll_match_their_definitions(maps):
    p, y, valid = maps
    c = Calibration().add(p[:20], y[:20], valid[:20]).add(p[20:], y[20:], valid[20:])
    q, z = p[valid], y[valid]
    assert c.brier == pytest.approx(((q - z) ** 2).mean())
    assert c.nll == pytest.approx(-np.log(np.where(z == 1, q, 1 - q)).mean())


def test_ece_equal_width_matches_brute_force(maps):
    p, y, valid = maps
    q, z = p[valid], y[valid]
    bins = np.minimum((q * 10).astype(int), 9)
    expected = sum(abs(q[bins == b].mean() - z[bins == b].mean()) * (bins == b).mean() for b in range(10))
    assert Calibration().add(p, y, valid).ece(10, equal_mass=False) == pytest.approx(expected)


def test_ece_equal_mass_matches_brute_force_when_cells_do_not_straddle_bins():
    rng = np.random.default_rng(0)
    p = (rng.permutation(CELLS)[:1500] + 0.5) / CELLS  # one pixel a cell
    y = (rng.random(1500) < p**2).astype(int)
    order = np.argsort(p).reshape(15, 100)
    expected = np.mean([abs(p[o].mean() - y[o].mean()) for o in order])
    assert Calibration().add(p, y).ece(15) == pytest.approx(expected)


def test_perfect_and_absurd_probabilities():
    y = np.array([0, 1, 1, 0])
    assert Calibration().add(y.astype(float), y).ece() == pytest.approx(0)
    assert Calibration().add(1.0 - y, y).ece(2) == pytest.approx(1)


def test_aurc_matches_brute_force_over_random_orders_of_ties():
    rng = np.random.default_rng(1)
    u = rng.integers(0, 6, 60) / 6
    wrong = rng.random(60) < u * 0.6
    r = RiskCoverage().add(u[:30], wrong[:30]).add(u[30:], wrong[30:])
    brute = []
    for _ in range(3000):
        order = np.lexsort((rng.random(60), u))
        brute.append((np.cumsum(wrong[order]) / np.arange(1, 61)).mean())
    assert r.aurc == pytest.approx(np.mean(brute), abs=4 * np.std(brute) / np.sqrt(3000))


def test_aurc_is_exact_without_ties_and_prefers_the_better_order():
    wrong = np.array([0, 0, 1, 0, 1], bool)
    u = np.linspace(0.1, 0.9, 5)
    good, bad = RiskCoverage().add(u, wrong), RiskCoverage().add(1 - u, wrong)
    assert good.aurc == pytest.approx((np.cumsum(wrong) / np.arange(1, 6)).mean())
    assert good.aurc < bad.aurc
    coverage, risk = good.curve()
    assert coverage[-1] == 1 and risk[-1] == pytest.approx(0.4)


def test_binary_entropy_ends_and_middle():
    assert binary_entropy(np.array([0.0, 0.5, 1.0])) == pytest.approx([0, 1, 0], abs=1e-9)


def test_nothing_is_not_calibrated_and_no_value_counts_as_another_class():
    assert np.isnan(Calibration().ece()) and np.isnan(Calibration().ece(equal_mass=False))
    for predicted, label in (([3], [0]), ([-1], [1]), ([0], [3]), ([255], [0])):
        with pytest.raises(InputError, match="give 0 to 2"):
            ConfusionMatrix(3).add(np.array(predicted, np.int16), np.array(label, np.int16))
    assert ConfusionMatrix(3).add(np.array([2, 0]), np.array([2, 1])).counts.sum() == 2
