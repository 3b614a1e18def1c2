"""Fill that no tag declares is never water: 12 kinds in 5 units, in files, in memory and lazily."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

import geouq
from geouq.errors import UnitsError
from geouq.scenes.open import open_scene
from geouq.units import AMPLITUDE, DB, POWER, RANGES, REFLECTANCE, RGB
from geouq.validity import judge
from tests.helpers import as_scene, scene_values, small_model, write_raster
from tests.helpers import geouq as run

FILLS = [-9999, -32768, -999, -99, -1, 0, 1, 255, 9999, 65535, 1e20, np.finfo(np.float32).min]
UNITS = {DB: "db", POWER: "power", AMPLITUDE: "amplitude", REFLECTANCE: "reflectance", RGB: "rgb"}


def values_in(unit, rows=190, columns=200):
    """(2, rows, columns) float32 of a scene without holes."""
    decibels = scene_values(rows, columns, holes=False)
    if unit == REFLECTANCE:
        return (decibels + 30) / 60
    if unit == RGB:
        return np.clip(np.round((decibels + 30) * 6), 5, 240).astype(np.float32)
    return {DB: decibels, POWER: 10 ** (decibels / 10), AMPLITUDE: 10 ** (decibels / 20)}[unit].astype(np.float32)


def filled(values, fill):
    """The values with fill in 48 columns at the left, a wedge at the right and a block, and where that is."""
    where = np.zeros(values.shape[1:], bool)
    where[:, :48] = where[80:120, 90:140] = True
    where |= np.add.outer(np.arange(where.shape[0]) // 3, np.arange(where.shape[1])) > 210
    return np.where(where, np.float32(fill), values), where


def model_in(unit):
    """A network for a unit that finds water everywhere."""
    model = small_model()
    with np.errstate(all="ignore"):
        model.network.head.bias.data.fill_(50.0)
    spec = model.spec
    if unit in (REFLECTANCE, RGB):
        spec = replace(spec, units=unit, clip=(-1e30, 1e30), mean=(0.0, 0.0), std=(100.0, 100.0))
    return geouq.Model(model.network, spec)


def water(scene, unit):
    result = geouq.segment(scene, model_in(unit), samples=0, layers=["mask"], tile=64)
    return result.mask.values


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("how", ["file", "memory", "lazy"])
def test_undeclared_fill_is_not_classified(tmp_path, unit, fill, how):
    values, where = filled(values_in(unit), fill)
    if how == "file":
        path = write_raster(tmp_path / "s.tif", values)
        with rasterio.open(path, "r+") as file:
            file.descriptions = ("VV", "VH")
        scene = open_scene(path, scale=UNITS[unit])
        assert unit in (POWER, AMPLITUDE) and fill == 0 or f"{fill:.8g}" in scene.attrs["notes"]
    else:
        scene = as_scene(values, units=unit, crs=None, chunks=(1, 70, 90) if how == "lazy" else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask = water(scene, unit)
    assert (mask[where] == 255).all()
    assert (mask[~where] == 1).all()


def test_the_least_decibel_is_fill_in_whole_blocks_and_measured_here_and_there():
    values, where = filled(values_in(DB), -60.0)
    assert np.isnan(judge([values], DB).blank(values)[:, where]).all()
    dark = values_in(DB)
    dark[:, np.random.default_rng(0).random(dark.shape[1:]) < 0.3] = -60  # noise was subtracted from calm water
    dark[1, :64] = -60  # and one band holds nothing else there
    assert np.isfinite(judge([dark], DB).blank(dark)).all()


@pytest.mark.parametrize("unit", UNITS)
def test_what_was_measured_is_all_kept(unit):
    validity = judge([values_in(unit)], unit)
    assert np.isfinite(validity.blank(values_in(unit))).all() and not validity.notes


def test_where_a_band_was_clipped_it_was_measured():
    decibels = scene_values(200, 200, holes=False)
    clipped = np.clip(decibels, -19, -9)  # large parts are exactly -19 and -9
    assert np.isfinite(judge([clipped], DB).blank(clipped)).all()
    floor = np.where(decibels < -20, np.float32(-60), decibels)  # what geouq writes below the noise
    assert np.isfinite(judge([floor], DB).blank(floor)).all()


def test_flat_tones_and_coarse_steps_are_no_fill():
    rng = np.random.default_rng(0)
    coarse = np.round(scene_values(200, 200, holes=False)).astype(np.float32)
    enlarged = np.kron(scene_values(25, 25, holes=False), np.ones((1, 8, 8), np.float32))
    assert np.isfinite(judge([coarse], DB).blank(coarse)).all()
    assert np.isfinite(judge([enlarged], DB).blank(enlarged)).all()
    sky = rng.integers(0, 250, (3, 100, 100)).astype(np.float32)
    sky[0, :40] = 0  # one band alone is dark: deep water, say
    assert np.isfinite(judge([sky], RGB).blank(sky)).all()


def test_fill_at_the_edges_of_a_large_file_is_found(tmp_path):
    values = scene_values(1400, 1500, holes=False)
    values[:, :, :20] = values[:, -25:] = 0  # none of the 16 windows spread over the file comes near
    path = write_raster(tmp_path / "x_db.tif", values)
    scene = open_scene(path)
    assert "exactly 0" in scene.attrs["notes"]
    assert np.isnan(scene.values[:, :, :20]).all() and np.isnan(scene.values[:, -25:]).all()


def test_one_window_is_as_the_whole(tmp_path):
    values, where = filled(values_in(RGB), 0)
    path = write_raster(tmp_path / "s.tif", np.concatenate([values, values[:1]]), photometric="RGB")
    scene = open_scene(path, scale="rgb")
    whole = scene.values
    assert (np.isnan(whole) == where).all()
    np.testing.assert_array_equal(scene[1, 85:99, 100:130].values, whole[1, 85:99, 100:130])


@pytest.mark.parametrize(
    ("scale", "change", "words"),
    [
        ("reflectance", lambda v: ((v + 40) * 80).astype(np.uint16), "--factor"),
        ("power", lambda v: v, "--scale"),
        ("db", lambda v: 10 ** (v / 10), "--scale"),
        ("amplitude", lambda v: (v + 40) * 80, "--scale"),
        ("db", lambda v: np.where(np.arange(v.shape[2]) < 120, np.float32(-9999), v), "--nodata -9999"),
        ("db", lambda v: np.where(np.arange(v.shape[2]) < 120, np.float32(0), v), "--nodata 0"),
    ],
)
def test_what_cannot_be_in_a_unit_is_refused(tmp_path, scale, change, words):
    path = write_raster(tmp_path / "s.tif", change(values_in(DB)))
    with pytest.raises(UnitsError, match=words) as error:
        open_scene(path, scale=scale)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_half_of_a_scene_may_be_fill_where_it_is_declared(tmp_path):
    values = np.where(np.arange(200) < 120, np.float32(-9999), values_in(DB))
    scene = open_scene(write_raster(tmp_path / "s.tif", values), scale="db", nodata=-9999)
    assert np.isnan(scene.values).mean() == 0.6 and "-9999" not in scene.attrs["notes"]


def test_scaled_numbers_get_their_unit_by_factor_and_offset(tmp_path):
    values = ((values_in(DB) + 40) * 80).astype(np.uint16)
    path = write_raster(tmp_path / "s.tif", values)
    scene = open_scene(path, scale="db", factor=[1 / 80], offset=[-40])
    np.testing.assert_allclose(scene.values, values / 80 - 40, rtol=1e-5)
    told = json.loads(run("info", path, "--scale", "db", "--factor", "0.0125", "--offset", "-40", "--json").stdout)
    assert told["units"] == DB


def test_in_memory_a_warning_tells_and_nonsense_is_refused():
    values, _ = filled(values_in(DB), 0)
    with pytest.warns(UserWarning, match="exactly 0"):
        geouq.segment(as_scene(values), model_in(DB), samples=0)
    with pytest.raises(UnitsError, match="--scale"):
        geouq.segment(as_scene(values_in(DB), units="power"), model_in(DB), samples=0)
    lazy = geouq.segment(as_scene(values_in(DB), units="power", chunks=(2, 64, 64)), model_in(DB), samples=0)
    with pytest.raises(UnitsError, match="--scale"):
        lazy.compute()


def test_the_table_of_ranges_in_the_docs_is_the_code_s():
    text = (Path(__file__).parents[1] / "docs" / "units.md").read_text()
    for unit, found in RANGES.items():
        assert f"| {unit} | {found.low:.7g} | {found.high:.7g} | {found.source} |" in text
