"""``.geouq`` of xarray's objects: the same as the functions and the command line give."""

import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr

import geouq
from geouq.errors import OutputError, SceneError
from tests.helpers import as_scene, scene_values, small_model, write_raster
from tests.helpers import geouq as command

MODEL = small_model()
LAYERS = ("mask", "uncertainty", "probabilities", "votes")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("accessor")
    scene = as_scene(scene_values(100, 90))
    transform, crs = scene.odc.geobox.affine, "EPSG:32633"
    write_raster(path / "scene.tif", scene.values, crs=crs, transform=transform, nodata=np.nan)
    MODEL.save(path / "m.safetensors")
    asked = ("--model", "m.safetensors", "--samples", 4, "--scale", "db", "--layers", ",".join(LAYERS), "--tile", 32)
    command("segment", "scene.tif", "-o", "run.tif", *asked, "-q", cwd=path)
    square = geopandas.GeoDataFrame({"name": ["a"]}, geometry=[shapely.box(500_100, 4_999_200, 500_700, 4_999_900)])
    square.set_crs(crs).to_file(path / "places.gpkg")
    return path


def layers(folder: Path, **options) -> xr.Dataset:
    scene = geouq.open_scene(folder / "scene.tif", scale="db")
    return scene.geouq.segment(folder / "m.safetensors", **({"samples": 4, "layers": LAYERS, "tile": 32} | options))


def test_a_scene_is_segmented(folder):
    scene = geouq.open_scene(folder / "scene.tif", scale="db")
    told = {"samples": 4, "layers": LAYERS, "tile": 32}
    assert layers(folder).identical(geouq.segment(scene, folder / "m.safetensors", **told))
    by_band = scene.to_dataset("band")
    again = by_band.geouq.segment(folder / "m.safetensors", scale="db", **told)
    assert again["mask"].equals(layers(folder)["mask"])


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("float32", [False, True])
def test_a_cog_holds_what_the_run_writes(folder, tmp_path, computed, float32):
    given = layers(folder).compute() if computed else layers(folder)
    assert given.geouq.to_cog(tmp_path / "map.tif", float32=float32) == tmp_path / "map.tif"
    for name in ("{}.tif", "{}_samples.tif"):
        with rasterio.open(tmp_path / name.format("map")) as ours, rasterio.open(folder / name.format("run")) as theirs:
            assert (ours.crs, ours.transform, ours.descriptions) == (theirs.crs, theirs.transform, theirs.descriptions)
            found, expected = ours.read(masked=True), theirs.read(masked=True)
            if float32 and ours.count > 1:
                found = np.ma.masked_invalid(found)
                found[1:] = np.floor(100 * found[1:] + np.float32(0.5))
            np.testing.assert_array_equal(found.mask, expected.mask)
            np.testing.assert_array_equal(found.filled(0), expected.filled(0))
            told = [f"GEOUQ_{name.upper()}" for name in given.attrs if name != "Conventions"]
            assert {name: ours.tags()[name] for name in told} == {name: theirs.tags()[name] for name in told}
    assert (tmp_path / "map.qml").exists() and (tmp_path / "map_samples.qml").exists()
    with pytest.raises(OutputError, match="exists"):
        given.geouq.to_cog(tmp_path / "map.tif")
    given.geouq.to_cog(tmp_path / "map.tif", overwrite=True, COMPRESS="DEFLATE")


def test_classes_and_axes_come_in_any_order(tmp_path):
    model, names = small_model(classes=3), ["class0", "class1", "class2"]
    asked = {"samples": 3, "layers": ("mask", "probabilities", "votes"), "tile": 32}
    given = geouq.segment(as_scene(scene_values(40, 50)), model, **asked).compute()
    turned = given.sel({"class": names[::-1]}).transpose("y", "x", "class")
    files = {}
    for name, layers in (("given", given), ("turned", turned)):
        layers.geouq.to_cog(tmp_path / f"{name}.tif")
        files[name] = [read(tmp_path / f"{name}{end}.tif") for end in ("", "_samples")]
    for ours, theirs in zip(files["turned"], files["given"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for part in (given.isel({"class": [0, 1]}), given.isel({"class": 1})):
        with pytest.raises(SceneError, match=r"a map holds all of them \(class0, class1, class2\)"):
            part.geouq.to_cog(tmp_path / "part.tif")
    assert not (tmp_path / "part.tif").exists()


def test_votes_that_are_no_bits_any_more_are_refused(folder, tmp_path):
    """xarray makes float64 of what it masks, whose 53 bits hold no 64 samples."""
    given = layers(folder).compute().assign_attrs(samples=64)
    with pytest.raises(SceneError, match="lost bits as float64"):
        given.where(given.x > 500_300).geouq.to_cog(tmp_path / "map.tif")


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def test_polygons_and_answers_are_those_of_the_run(folder, tmp_path):
    given = layers(folder)
    frame, expected = given.geouq.to_polygons(), geouq.vectorize(folder / "run.tif")
    assert len(frame) == len(expected) > 0 and frame.geometry.equals(expected.geometry)
    np.testing.assert_array_equal(frame["area_m2_p95"], expected["area_m2_p95"])
    assert given.geouq.to_polygons(tmp_path / "w.gpkg", min_area=2000).polygons <= len(frame)
    assert (tmp_path / "w.gpkg").exists()
    answer = given.geouq.zonal(folder / "places.gpkg", shares=[10])
    told = geouq.zonal(folder / "run.tif", folder / "places.gpkg", shares=[10])
    for column in ("water_area_m2", "water_area_m2_p05", "mask_area_m2", "p_over_10"):
        assert answer[column].equals(told[column])


@pytest.mark.parametrize("how", ["netcdf", "zarr"])
def test_layers_that_were_stored_meanwhile_are_the_same_map(folder, tmp_path, how):
    """xarray reads a mask as floats, NaN where not classified: that is neither land nor a vote."""
    given, path = layers(folder, layers=("mask", "uncertainty", "votes")).compute(), tmp_path / "stored"
    assert (given["mask"] == 255).any()
    if how == "netcdf":
        given.to_netcdf(path)
        read = xr.open_dataset(path, decode_coords="all")
    else:
        given.to_zarr(path, consolidated=False)
        read = xr.open_zarr(path, consolidated=False, decode_coords="all")[list(given.data_vars)]  # by name there
    first, second = given.geouq.to_cog(tmp_path / "first.tif"), read.geouq.to_cog(tmp_path / "second.tif")
    for one, other in ((first, second), (tmp_path / "first_samples.tif", tmp_path / "second_samples.tif")):
        with rasterio.open(one) as expected, rasterio.open(other) as found:
            np.testing.assert_array_equal(found.read(), expected.read())
            np.testing.assert_array_equal(found.read_masks(1), expected.read_masks(1))
    places = folder / "places.gpkg"
    assert read.geouq.zonal(places).drop(columns="geometry").equals(given.geouq.zonal(places).drop(columns="geometry"))
    read["mask"] = read["mask"] * 0.5
    with pytest.raises(SceneError, match="between classes"):
        read.geouq.to_cog(tmp_path / "never.tif")
    assert not [*tmp_path.glob("never*")]


def test_what_is_no_map_is_told_so(folder, tmp_path):
    scene = geouq.open_scene(folder / "scene.tif", scale="db")
    with pytest.raises(SceneError, match="these are no layers that geouq.segment gave"):
        scene.to_dataset("band").geouq.to_cog(tmp_path / "m.tif")
    stack = layers(folder).expand_dims(time=2)
    with pytest.raises(SceneError, match=r"several maps, along time: give one, \.isel\(time=0\)"):
        stack.geouq.to_cog(tmp_path / "m.tif")
    stack.isel(time=1).geouq.to_cog(tmp_path / "one.tif")
    with pytest.raises(SceneError, match="no votes beside it"):
        layers(folder, layers=("mask",)).geouq.zonal(folder / "places.gpkg")
    with pytest.raises(OutputError, match="give it that suffix"):
        layers(folder).geouq.to_cog(tmp_path / "m.png")


def test_it_is_there_when_it_is_needed_and_costs_nothing_before():
    code = """
import sys
{}
assert ("xarray" in sys.modules) == {}
import xarray
assert hasattr(xarray.DataArray, "geouq") == hasattr(xarray.Dataset, "geouq") == {}
assert "torch" not in sys.modules
"""
    for first, loaded in (
        ("import geouq", False),
        ("import geouq.xarray", True),
        ("import geouq; geouq.open_scene", True),
    ):
        subprocess.run([sys.executable, "-c", code.format(first, loaded, loaded)], check=True, cwd=ROOT)
