"""A Dataset of layers as a file: what GDAL, xarray, rioxarray and odc-geo read of it again."""

import warnings

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers .rio)
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import geouq
from geouq.errors import SceneError
from geouq.layers import LAYERS
from tests.helpers import as_scene, scene_values, small_model

BOUNDS = (500_070, 4_999_490, 500_420, 4_999_890)  # rows 11..50, columns 7..41 of a 10 m grid
ASK = {"samples": 2, "layers": ("mask", "probability", "votes"), "tile": 16}


def segment(scene: xr.DataArray, **options) -> xr.Dataset:
    return geouq.segment(scene, small_model(), **(ASK | options))


def scene() -> xr.DataArray:
    return as_scene(scene_values(60, 50))


def test_attributes_say_what_values_mean_and_encoding_what_files_must_hold():
    out = segment(scene(), layers=tuple(LAYERS))
    mask = out["mask"]
    assert mask.attrs["flag_meanings"] == "land water" and mask.attrs["flag_values"].dtype == np.uint8
    np.testing.assert_array_equal(mask.attrs["flag_values"], [0, 1])
    for told in (mask.encoding["missing_value"], mask.attrs["nodata"], mask.rio.nodata):
        assert told == 255 and told.dtype == np.uint8
    for layer in LAYERS:
        assert "_FillValue" not in out[layer].attrs and out[layer].attrs["long_name"]
        assert out[layer].encoding["grid_mapping"] == "spatial_ref"
        assert (out[layer].attrs.get("units") == "1") == (layer not in ("mask", "votes"))
        assert np.isnan(out[layer].encoding.get("_FillValue", 0)) == (layer not in ("mask", "votes"))
    assert mask.odc.nodata == 255 and np.isnan(out.probability.odc.nodata) and "_FillValue" not in out["votes"].encoding
    assert out.probability.attrs["long_name"] == "probability of the positive class"
    assert out.x.attrs["standard_name"] == "projection_x_coordinate" and out.y.attrs["axis"] == "Y"


def test_a_meaning_is_one_word():
    model = small_model()
    model = model.with_spec(classes=("dry land", "open water"), positive="open water")
    mask = geouq.segment(scene(), model, samples=2)["mask"]
    assert mask.attrs["flag_meanings"] == "dry_land open_water" and mask.attrs["classes"] == ["dry land", "open water"]


@pytest.mark.parametrize("bounds", [None, BOUNDS])
def test_gdal_reads_a_netcdf_where_it_lies(tmp_path, bounds):
    pytest.importorskip("netCDF4")
    out, path = segment(scene(), bounds=bounds).compute(), tmp_path / "map.nc"
    out.to_netcdf(path, engine="netcdf4")
    with rasterio.Env() as env:
        if "netCDF" not in env.drivers():
            pytest.skip("this GDAL has no netCDF")
    for layer in ("mask", "probability"):
        with rasterio.open(f"netcdf:{path}:{layer}") as file:
            assert file.crs.to_epsg() == 32633
            assert file.transform.almost_equals(out.odc.geobox.affine)
            assert file.nodata == 255 if layer == "mask" else np.isnan(file.nodata)
            np.testing.assert_array_equal(file.read(1), out[layer])


def test_xarray_reads_the_same_again(tmp_path):
    pytest.importorskip("netCDF4")
    out = segment(scene(), bounds=BOUNDS, layers=tuple(LAYERS)).compute()
    out.to_netcdf(tmp_path / "map.nc", engine="netcdf4")
    with xr.open_dataset(tmp_path / "map.nc", decode_coords="all", mask_and_scale=False) as again:
        assert again.odc.geobox == out.odc.geobox and again.rio.transform() == out.rio.transform()
        for layer in LAYERS:
            np.testing.assert_array_equal(again[layer], out[layer], err_msg=layer)
            assert again[layer].dtype == out[layer].dtype
        assert again.attrs["model_hash"] == out.attrs["model_hash"]


def test_dates_are_appended_to_a_zarr(tmp_path):
    pytest.importorskip("zarr")
    dates = np.array(["2024-05-01", "2024-05-13"], "M8[ns]")
    layers = tuple(LAYERS)
    one, other = (
        segment(scene(), bounds=BOUNDS, layers=layers, seed=s).expand_dims(time=[d]) for s, d in enumerate(dates)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Zarr format 3 specification|.*[Cc]onsolidated metadata")
        one.to_zarr(tmp_path / "maps.zarr")
        other.to_zarr(tmp_path / "maps.zarr", append_dim="time")
        again = xr.open_zarr(tmp_path / "maps.zarr", decode_coords="all", mask_and_scale=False)
    assert again.odc.geobox == one.odc.geobox and again["mask"].attrs["flag_meanings"] == "land water"
    np.testing.assert_array_equal(again.time, dates)
    for layer in layers:
        np.testing.assert_array_equal(again[layer], xr.concat([one[layer], other[layer]], "time"), err_msg=layer)


@pytest.mark.parametrize("written", [False, True])
def test_a_mask_is_warped_and_cut_as_bytes(tmp_path, written):
    out = segment(scene()).compute()
    if written:
        pytest.importorskip("netCDF4")
        out.to_netcdf(tmp_path / "map.nc", engine="netcdf4")
        out = xr.load_dataset(tmp_path / "map.nc", decode_coords="all", mask_and_scale=False, engine="netcdf4")
    mask, around = out["mask"], shapely.Point(500_200, 4_999_700).buffer(150)
    warped = {
        "rioxarray": mask.rio.reproject("EPSG:32634"),
        "rioxarray, all": out.rio.reproject("EPSG:32634")["mask"],
        "odc": mask.odc.reproject("EPSG:32634"),
        "cut": mask.rio.clip([around]),
    }
    for way, found in warped.items():
        assert found.dtype == np.uint8 and set(np.unique(found)) == {0, 1, 255}, way
        found.to_netcdf(tmp_path / "again.nc", mode="w")
        if way != "odc":
            assert found.rio.nodata == 255
    box = mask.rio.clip_box(*BOUNDS)
    assert box.dtype == np.uint8
    np.testing.assert_array_equal(box, segment(scene(), bounds=BOUNDS)["mask"])
    box.to_zarr(tmp_path / "box.zarr", zarr_format=2)
    assert xr.open_zarr(tmp_path / "box.zarr")["mask"].isnull().sum() == (box == 255).sum() > 0


@pytest.mark.parametrize("bounds", [None, BOUNDS, (500_150, 4_999_000, 500_500, 4_999_850)])
def test_chunks_are_even(bounds):
    out = segment(scene(), bounds=bounds, layers=("mask", "probabilities"))
    for chunks in (*out["mask"].chunks, *out["probabilities"].chunks[1:]):
        assert set(chunks[:-1]) <= {16} and chunks[-1] <= 16


@pytest.mark.parametrize("affine", [Affine(10, 2, 5e5, 2, -10, 5e6), Affine(10, 0, 5e5, 0, -10, 5e6)])
def test_the_grid_mapping_is_that_of_the_part(affine):
    geobox = GeoBox((60, 50), affine, "EPSG:32633")
    whole = scene().drop_vars(["x", "y", "spatial_ref"]).assign_coords(xr_coords(geobox))
    bounds = geobox[13:40, 9:31].boundingbox
    out = segment(whole, bounds=tuple(bounds), layers=("mask",))
    transform = Affine.from_gdal(*map(float, out.spatial_ref.attrs["GeoTransform"].split()))
    assert transform.almost_equals(out.odc.geobox.affine) and out.odc.geobox.shape == out["mask"].shape
    assert (~geobox.affine * (transform.c, transform.f)) == pytest.approx(
        np.round(~geobox.affine * (transform.c, transform.f)), abs=1e-6
    )
    if affine.b == 0:
        assert out.odc.geobox == geobox[13:40, 9:31]


def test_the_scenes_own_name_of_its_grid_mapping_is_kept():
    given = scene().rename(spatial_ref="crs")
    out = segment(given)
    assert out["mask"].encoding["grid_mapping"] == "crs" and "spatial_ref" not in out.coords
    assert out.odc.geobox == scene().odc.geobox


def test_a_crs_left_behind_in_the_file_is_missed():
    lost = scene().drop_vars("spatial_ref").assign_attrs(units="dB", grid_mapping="spatial_ref")
    for coord in "xy":
        del lost[coord].attrs["crs"]
    with pytest.raises(SceneError, match="decode_coords='all'"):
        segment(lost)
