import numpy as np
import pytest

pytest.importorskip("skimage", reason="baselines need the [train] extra")
from geouq.learning.judging.baselines import (  # noqa: E402
    CANDIDATES,
    best_global_threshold,
    best_smoothed_iou,
    boxcar,
    otsu,
    threshold_ious,
)


@pytest.fixture
def lake():
    rng = np.random.default_rng(0)
    label = np.zeros((60, 60), np.uint8)
    label[20:45, 10:40] = 1
    db = np.where(label, -20, -10) + 10 * np.log10(rng.gamma(4, 1 / 4, label.shape))
    return db.astype(np.float32), label


def test_boxcar_averages_power_and_leaves_out_what_is_not_valid():
    db = np.full((5, 5), -10.0)
    db[2, 2], db[2, 3] = 0.0, np.nan
    out = boxcar(db, 3)
    assert np.isnan(out[2, 3]) and np.isfinite(out[2, 2])
    assert out[2, 2] == pytest.approx(10 * np.log10((7 * 0.1 + 1) / 8), abs=1e-4)
    assert out[0, 0] == pytest.approx(-10, abs=1e-4)


def test_threshold_ious_match_brute_force_and_skip_nan(lake):
    db, label = lake
    db[0, :7] = np.nan
    known = np.isfinite(db)
    ious = threshold_ious(db, label)
    for i in (180, 250, 300):
        below = (db < CANDIDATES[i]) & known
        assert ious[i] == pytest.approx((below & (label == 1)).sum() / ((below | (label == 1)) & known).sum())
    assert np.isnan(threshold_ious(db, np.zeros_like(label))).all()


def test_global_threshold_is_the_best_mean(lake):
    db, label = lake
    level, ious = best_global_threshold([db, db - 4], [label, label])
    table = np.mean([threshold_ious(db, label), threshold_ious(db - 4, label)], axis=0)
    assert np.mean(ious) == pytest.approx(table.max())
    assert -18 < level < -14


def test_smoothing_helps_and_names_the_band(lake):
    db, label = lake
    iou, band, size, level = best_smoothed_iou([np.full_like(db, -10), db], label)
    assert band == 1 and size in (3, 5, 7) and -20 < level < -10
    assert iou > threshold_ious(db, label).max()


def test_otsu_lies_between_two_surfaces(lake):
    db, _ = lake
    db[3, 3] = np.nan
    assert -17 < otsu(db) < -12
