"""Overviews of a mask: from the map's own pixels, and no class gains or loses by zooming out."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter

from geouq.grid import Roi
from geouq.layers import Legend
from geouq.maps import overviews
from geouq.maps.bands import map_bands, quantise
from geouq.maps.cog import MapWriter
from geouq.maps.overviews import mask_levels


def levels_of(mask, levels, legend):
    """Each level put together from its parts."""
    shapes = [tuple(-(-n // 2**k) for n in mask.shape) for k in range(1, levels + 1)]
    out = [np.full(shape, 77, np.uint8) for shape in shapes]
    for level, roi, plane in mask_levels(lambda roi: mask[roi.slices], mask.shape, levels, legend):
        out[level - 1][roi.slices] = plane
    return out


def blocks(mask, level):
    """The pixels under each pixel of a level: (row, column, pixels)."""
    step = 2**level
    for y in range(0, mask.shape[0], step):
        for x in range(0, mask.shape[1], step):
            yield y // step, x // step, mask[y : y + step, x : x + step].ravel()


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("share", [0.17, 0.5, 0.9])
def test_the_share_of_the_positive_class_stays(share, positive):
    field = gaussian_filter(np.random.default_rng(0).normal(0, 1, (1500, 1300)), 3)
    mask = np.where(field > np.quantile(field, 1 - share), positive, 1 - positive).astype(np.uint8)
    mask[:200, :300] = 255
    truth = (mask == positive).sum() / (mask != 255).sum()
    for level, plane in enumerate(levels_of(mask, 5, Legend(("a", "b"), positive)), 1):
        shown = (plane == positive).sum() / (plane != 255).sum()
        assert shown == pytest.approx(truth, abs=0.002), level


@pytest.mark.parametrize("window", [16, 2048])
def test_what_is_shown_has_the_highest_shares(monkeypatch, window):
    monkeypatch.setattr(overviews, "WINDOW", window)
    rng = np.random.default_rng(1)
    mask = rng.integers(0, 2, (61, 83)).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.2] = 255
    mask[:8, :8] = 255
    for level, plane in enumerate(levels_of(mask, 4, Legend()), 1):
        shares = {0: [0.0], 1: [1.0]}
        for y, x, pixels in blocks(mask, level):
            valid = pixels[pixels != 255]
            assert (plane[y, x] == 255) == (valid.size == 0)
            if valid.size:
                shares[int(plane[y, x])].append(np.floor(4096 * valid.mean()) / 4096)
        assert max(shares[0]) <= min(shares[1])


@pytest.mark.parametrize("window", [16, 2048])
def test_of_many_classes_the_most_frequent_one_is_shown(monkeypatch, window):
    monkeypatch.setattr(overviews, "WINDOW", window)
    mask = np.random.default_rng(2).choice([0, 1, 2, 3, 255], (37, 50)).astype(np.uint8)
    for level, plane in enumerate(levels_of(mask, 3, Legend(tuple("abcd"), 2)), 1):
        for y, x, pixels in blocks(mask, level):
            valid = pixels[pixels != 255]
            expected = np.bincount(valid).argmax() if valid.size else 255  # the lowest on a tie
            assert plane[y, x] == expected


@pytest.mark.parametrize("only", [0, 1, 255])
def test_a_mask_of_one_value_stays_that(only):
    for plane in levels_of(np.full((40, 40), only, np.uint8), 3, Legend()):
        assert (plane == only).all()


@pytest.mark.parametrize("float32", [False, True])
def test_a_file_shows_the_same_share_at_every_level(tmp_path, float32):
    field = gaussian_filter(np.random.default_rng(3).normal(0, 1, (2100, 2300)), 2)
    mask = (field > np.quantile(field, 0.83)).astype(np.uint8)
    mask[:400] = 255
    bands, geobox = map_bands(["mask"], float32), GeoBox(mask.shape, Affine(10, 0, 0, 0, -10, 0), "EPSG:32633")
    with MapWriter(tmp_path / "m.tif", geobox, bands) as writer:
        writer.write(Roi(0, 2100, 0, 2300), quantise({"mask": mask}, bands))
        writer.finish()
    truth = (mask == 1).sum() / (mask != 255).sum()
    for level in (0, 1, 2):
        with rasterio.open(tmp_path / "m.tif", overview_level=level) as file:
            shown = file.read(1, masked=True)
        assert float(np.ma.mean(shown)) == pytest.approx(truth, abs=0.001)
        expected = levels_of(mask, 3, Legend())[level]
        np.testing.assert_array_equal(shown.filled(255).astype(np.uint8), expected)


def test_undecided_pixels_are_shown_where_they_are_more_than_the_other_class():
    field = gaussian_filter(np.random.default_rng(2).normal(0, 1, (700, 900)), 4)
    mask = np.where(field > 0.06, 1, np.where(field > 0.02, 254, 0)).astype(np.uint8)
    mask[:100, :100] = 255
    truth = [(mask == value).sum() / (mask != 255).sum() for value in (1, 254)]
    for level, plane in enumerate(levels_of(mask, 4, Legend(undecided=True)), 1):
        valid = plane != 255
        assert (plane == 1).sum() / valid.sum() == pytest.approx(truth[0], abs=0.002), level
        for y, x, pixels in blocks(mask, level):
            if valid[y, x] and plane[y, x] != 1:
                assert (plane[y, x] == 254) == ((pixels == 254).sum() > (pixels == 0).sum())
        if level < 3:
            assert (plane == 254).sum() / valid.sum() == pytest.approx(truth[1], abs=0.03)
