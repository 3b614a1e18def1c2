"""Fill that none of the windows met which are looked at first: it is found where it lies, in any window alike."""

import numpy as np
import pytest
import rasterio

import geouq
from geouq.scenes.open import open_scene
from geouq.validity import judge, repeated
from tests.helpers import scene_values, small_model, write_raster

#: between the windows that are looked at, and on no corner of a cell
PATCH = np.s_[:, 263:361, 270:365]
PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}


def large(fill, change=lambda values: values):
    values = change(scene_values(1400, 1500, holes=False))
    values[PATCH] = fill
    return values


@pytest.mark.parametrize("scale", ["db", "power", "amplitude"])
@pytest.mark.parametrize("layout", [{"tiled": True, "blockxsize": 256, "blockysize": 256}, {"blockysize": 7}])
def test_fill_between_the_windows_is_not_valid_in_any_window(tmp_path, scale, layout):
    linear = {"db": lambda v: v, "power": lambda v: 10 ** (v / 10), "amplitude": lambda v: 10 ** (v / 20)}[scale]
    fill = linear(np.float32(-12.5))
    path = write_raster(tmp_path / "s.tif", large(fill, linear).astype(np.float32), **PLACE, **layout)
    scene = open_scene(path, scale=scale, chunk=300)
    whole = scene.values
    assert np.isnan(whole[PATCH]).all() and np.isnan(whole).sum() == whole[PATCH].size
    rng = np.random.default_rng(0)
    for top, left in rng.integers(200, 380, (12, 2)):
        height, width = rng.integers(1, 70, 2)
        window = np.s_[:, top : top + height, left : left + width]
        np.testing.assert_array_equal(scene[window].values, whole[window])
        np.testing.assert_array_equal(scene[1, top, left].values, whole[1, top, left])


def test_it_is_not_classified_whatever_the_tiles(tmp_path):
    scene = open_scene(write_raster(tmp_path / "s.tif", large(-12.5), **PLACE), scale="db")
    masks = [geouq.segment(scene, small_model(), samples=0, layers=["mask"], tile=t).mask.values for t in (97, 512)]
    np.testing.assert_array_equal(*masks)
    assert (masks[0][PATCH[1:]] == 255).all() and (masks[0] == 255).sum() == masks[0][PATCH[1:]].size


@pytest.mark.parametrize(
    "change",
    [
        lambda v: np.round(v, 1),  # coarse steps
        lambda v: np.round((v + 40) * 80) / 80 - 40,  # 16-bit numbers
        lambda v: np.clip(v, -18, -9),  # clipped: the patch is the least, below
        lambda v: np.kron(v[:, ::4, ::4], np.ones((1, 4, 4)))[:, :1400, :1500],  # enlarged
    ],
)
def test_what_repeats_itself_elsewhere_too_is_measured(tmp_path, change):
    values = change(scene_values(1400, 1500, holes=False)).astype(np.float32)
    values[PATCH] = values.min()
    assert np.isfinite(open_scene(write_raster(tmp_path / "s.tif", values), scale="db").values).all()


def test_a_lake_that_was_clipped_below_all_that_was_seen_is_measured(tmp_path):
    values = large(-45.0)
    assert np.isfinite(open_scene(write_raster(tmp_path / "s.tif", values), scale="db").values).all()


def test_the_floor_of_decibels_in_both_bands_was_not_measured(tmp_path):
    values = scene_values(1400, 1500, holes=False)
    values[:, 272:352, 272:352] = -60
    values[1, 100:180, 300:380] = -60  # in one band alone: below its noise
    values[:, 500:700:5, 500:700:5] = -60  # here and there
    path = write_raster(tmp_path / "s.tif", values, **PLACE)
    scene = open_scene(path, scale="db", chunk=300).values
    for chunk in (300, 4096):  # a band by itself is as valid as with the other
        np.testing.assert_array_equal(open_scene(path, scale="db", chunk=chunk)[1:2].values, scene[1:2])
    assert np.isnan(scene[:, 272:352, 272:352]).all() and np.isnan(scene).sum() == 2 * 80 * 80


def test_with_nodata_given_nothing_is_looked_for(tmp_path):
    path = write_raster(tmp_path / "s.tif", large(-12.5))
    assert np.isfinite(open_scene(path, scale="db", nodata=-9999).values).all()


def test_a_value_repeats_itself_from_eight_of_a_cell_on():
    speckle = scene_values(50, 40, holes=False)[0]
    assert judge([speckle[None]], "dB").rules[0].speckle == (float(speckle.min()), float(speckle.max()))
    for length, found in ((7, 0), (8, 8)):
        values = speckle.copy()
        values[16 + 4, 16 : 16 + length] = -14.0
        assert repeated(values, (-40, 0)).sum() == found
    values = speckle.copy()
    values[20, 12:20] = -14.0  # four in each of two cells
    assert not repeated(values, (-40, 0)).any() and not repeated(np.full((33, 17), np.nan, np.float32), (-40, 0)).any()
