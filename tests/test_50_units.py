"""The units that a scene says it is in are believed, unless its levels say otherwise: then it is told or refused."""

import warnings

import numpy as np
import pytest
import rasterio
import xarray as xr

import geouq
from geouq.errors import UnitsError
from geouq.scenes.open import open_scene
from geouq.units import AMPLITUDE, POWER, likelier
from tests.helpers import as_scene, scene_values, small_model, write_raster

LINEAR = {POWER: 10, AMPLITUDE: 20}


def linear(unit, level=0.0):
    return (10 ** ((scene_values(200, 200, holes=False) + level) / LINEAR[unit])).astype(np.float32)


@pytest.mark.parametrize("names", [("VV", "VH"), ("HH", "HV"), ("", "")])
@pytest.mark.parametrize("unit", [POWER, AMPLITUDE])
@pytest.mark.parametrize("said", [POWER, AMPLITUDE])
def test_power_and_amplitude_mixed_up_are_told(tmp_path, names, unit, said):
    path = write_raster(tmp_path / "s.tif", linear(unit, 3.0))
    with rasterio.open(path, "r+") as file:
        file.descriptions = names
    notes = open_scene(path, scale=said).attrs.get("notes", "")
    mixed = said != unit and (names[0] != "" or unit == POWER)  # without names, -5 and -8 dB may be two of VV
    assert (f"dB as {unit}, which is likelier" in notes) == mixed and "\n" not in notes


@pytest.mark.parametrize("unit", [POWER, AMPLITUDE])
def test_in_memory_it_is_a_warning(unit):
    other = AMPLITUDE if unit == POWER else POWER
    with pytest.warns(UserWarning, match=f"dB as {unit}, which is likelier"):
        geouq.segment(as_scene(linear(unit, 3.0), units=other), small_model(), samples=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        geouq.segment(as_scene(linear(unit, 3.0), units=unit), small_model(), samples=0)


@pytest.mark.parametrize(
    ("vv", "vh"), [(-8, -14), (-10, -17), (-20, -26), (-23, -27), (-4, -10), (-7, -12.5), (-3, -9), (-14, -28)]
)
def test_levels_that_are_met_are_not_doubted(vv, vh):
    for unit, factor in LINEAR.items():
        assert likelier(unit, {"VV": 10 ** (vv / factor), "VH": 10 ** (vh / factor)}) == ""
    assert likelier("dB", {"VV": vv, "VH": vh}) == ""


@pytest.mark.parametrize(("vv", "vh"), [(-30.5, -30.7), (-28, -29), (-19.8, -32.2), (-26, -25)])
def test_calm_water_in_the_noise_is_not_doubted(vv, vh):
    assert likelier("dB", {"VV": vv, "VH": vh}) == ""


@pytest.mark.parametrize(("wrong", "right"), [(0.5, "--factor 2"), (2, "--factor 0.5")])
def test_decibels_by_the_wrong_logarithm_are_told(tmp_path, wrong, right):
    """10·log10 of amplitude, 20·log10 of power: land came out as water, or floods as land, without a word."""
    path = write_raster(tmp_path / "s_db.tif", (wrong * (scene_values(200, 200, holes=False) - 5)).astype(np.float32))
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("VV", "VH")
    scene = open_scene(path)
    assert scene.attrs["unlike"].endswith(f"which is likelier: give {right}")
    found = geouq.run(scene, small_model(), tmp_path / "map.tif", samples=0)
    assert found["warnings"] == [f"do not trust this map: {scene.attrs['unlike']}"]
    assert "unlike" not in open_scene(path, factor=1 / wrong).attrs


def test_units_that_xarray_hands_on_are_not_believed(tmp_path):
    """It keeps the attributes of decibels for the power that is made of them."""
    path = write_raster(tmp_path / "s.tif", scene_values(200, 200, holes=False))
    scene = open_scene(path, scale="db")
    with xr.set_options(keep_attrs=True):
        power = 10 ** (scene / 10)
    assert power.attrs["judged_in"] == power.attrs["units"] == "dB"
    asked = {"samples": 0, "tile": 64}
    for changed in (power, power.compute()):
        with pytest.raises(UnitsError, match="cannot be dB"):
            geouq.segment(changed, small_model(), layers=["mask"], **asked).mask.compute()
    with pytest.raises(UnitsError, match="cannot be dB"):
        geouq.run(power, small_model(), tmp_path / "map.tif", **asked)
    expected = geouq.run(scene, small_model(), tmp_path / "dB.tif", **asked)
    found = geouq.run(power.assign_attrs(units="power"), small_model(), tmp_path / "map.tif", **asked)
    assert found["area_m2"] == pytest.approx(expected["area_m2"], rel=1e-3)


def test_units_that_are_set_on_an_open_scene_are_the_truth(tmp_path):
    decibels = scene_values(200, 200, holes=False)
    path = write_raster(tmp_path / "s.tif", decibels)
    scene = open_scene(path, scale="dn")
    scene.attrs["units"] = "power"
    with pytest.raises(UnitsError, match="are no power"):
        geouq.segment(scene, small_model(), samples=0, layers=["mask"], tile=64).mask.values  # noqa: B018
    scene.attrs["units"] = "dB"
    given = geouq.segment(scene, small_model(), samples=0, layers=["mask"], tile=64).mask
    right = geouq.segment(open_scene(path, scale="db"), small_model(), samples=0, layers=["mask"], tile=64).mask
    np.testing.assert_array_equal(given, right)


def test_fill_is_looked_for_in_the_units_that_are_set(tmp_path):
    decibels = scene_values(200, 200, holes=False)
    decibels[:, :48] = -9999
    scene = open_scene(write_raster(tmp_path / "s.tif", decibels), scale="dn")
    scene.attrs["units"] = "dB"
    mask = geouq.segment(scene, small_model(), samples=0, layers=["mask"], tile=64).mask.values
    assert (mask[:48] == 255).all() and (mask[48:] != 255).all()
