"""What is no radar image is told by its two bands: by their levels, and by detail that they share."""

import numpy as np
import pytest
from scipy import ndimage

from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load
from geouq.likeness import unlike
from geouq.rasters.windowed import first_windows
from tests.shared import SHARED

PAIR = ("VV", "VH")
SIDE = 128


def speckle(seed=0, looks=4.4):
    """(2, h, w) dB: a field and a wood, VH 6 dB below VV, and speckle of each band."""
    rng = np.random.default_rng(seed)
    ground = np.where(np.arange(SIDE) < 50, -13.0, -8.0)
    power = rng.gamma(looks, 1 / looks, (2, SIDE, SIDE))
    return (np.stack([ground, ground - 6])[:, None] + 10 * np.log10(power)).astype(np.float32)


def picture(seed=0):
    """(2, h, w): an image without noise, seen in two colours, and stretched to the levels of backscatter."""
    rng = np.random.default_rng(seed)
    bright = sum(ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) * s for s in (1, 2, 4, 8))
    return np.stack([bright * 3 - 12, bright * 2.5 - 18 + rng.normal(0, 0.05, bright.shape)]).astype(np.float32)


def test_speckle_of_two_polarisations_is_backscatter():
    assert unlike([speckle()], PAIR) == unlike([speckle()], ("HH", "HV")) == ""
    smooth = ndimage.uniform_filter(speckle(), (0, 3, 3))
    assert unlike([smooth], PAIR) == ""
    cut = speckle()
    cut[:, :, 60:] = np.nan
    assert unlike([cut], PAIR) == ""


def test_swapped_bands_are_told_by_their_levels():
    assert "VH (median -10." in unlike([speckle()[::-1]], PAIR)
    assert unlike([speckle()[::-1]], ("VH", "VV")) == ""  # a band is what its name says, wherever it lies
    near = speckle()
    near[1] = near[0] + 1.5 + np.random.default_rng(1).normal(0, 1, near[0].shape)  # both in the noise
    assert "lies above" not in unlike([near], PAIR)


@pytest.mark.parametrize("bands", [picture(), speckle()[[0, 0]] - [[[0]], [[6]]]], ids=["picture", "one band twice"])
def test_shared_detail_is_none_of_radar(bands):
    assert "correlates by" in unlike([bands], PAIR)
    assert "correlates by" in unlike([bands[:, :64], bands[:, 64:]], PAIR)
    turned = np.stack([bands[0], 2 * np.float32(-20) - bands[1]])
    assert "correlates by -" in unlike([turned], PAIR)


def test_what_cannot_be_told_is_not_said():
    assert unlike([picture()], ("VV", "B3")) == unlike([picture()[:1]], ("VV",)) == ""
    assert unlike([picture()[:, :40, :40]], PAIR) == ""  # four cells
    assert unlike([np.full((2, 60, 60), np.nan, np.float32)], PAIR) == ""
    assert unlike([np.full((2, 100, 100), -20, np.float32)], PAIR) == ""


@pytest.mark.skipif(not SHARED.is_dir(), reason="real data")
def test_no_real_radar_image_is_doubted_and_most_swapped_ones_are():
    swapped, count = 0, 0
    for chip in read_dataset(SHARED / "s1"):
        pixels, _, _ = load(chip, PAIR, "dB")
        windows = [pixels[:, rows, columns] for rows, columns in first_windows(pixels.shape[1:])]
        assert unlike(windows, PAIR) == "", chip.name
        swapped, count = swapped + bool(unlike([window[::-1] for window in windows], PAIR)), count + 1
    assert count > 150 and swapped > 0.9 * count  # 161 of 175: calm water alone is in the noise in both bands
