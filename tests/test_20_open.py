"""Reading rasters: values, validity, grids, names and units come out as they are in the file, or in one line."""

import http.server
import json
import pickle
import threading
import warnings
import zipfile

import dask
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 (registers .rio)
import xarray as xr
from affine import Affine
from rasterio.windows import Window

from geouq import units
from geouq.errors import InputError, SceneError, UnitsError
from geouq.rasters import raster as raster_module
from geouq.rasters.coords import scene_geobox
from geouq.rasters.raster import inspect_raster
from geouq.rasters.windowed import chunk_shape
from geouq.scenes.info import scene_info
from geouq.scenes.open import open_scene
from tests.helpers import write_raster

NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_000_000)
VRT = (
    '<VRTDataset rasterXSize="20" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    '<SourceFilename relativeToVRT="{}">{}</SourceFilename><SourceBand>1</SourceBand>'
    "</SimpleSource></VRTRasterBand></VRTDataset>"
)


def write(path, values, transform=NORTH_UP, crs="EPSG:32633", nodata=None, mask=None, **profile):
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    after = {k: profile.pop(k) for k in ("descriptions", "units", "scales", "offsets", "colorinterp") if k in profile}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2],
            dtype=values.dtype, transform=transform, crs=crs, nodata=nodata, **profile,
        ) as file,
    ):  # fmt: skip
        file.write(values)
        for name, value in after.items():
            setattr(file, name, value)
        if mask is not None:
            file.write_mask(mask)
    return str(path)


def decibels(shape=(2, 30, 40), seed=0):
    return np.random.default_rng(seed).normal(-14, 3, shape).astype(np.float32)


def one_line(error, *mentioned):
    text = str(error.value)
    assert "\n" not in text
    for word in mentioned:
        assert str(word) in text, text
    return text


# --- values and validity ---------------------------------------------------------------------------------


def test_values_names_units_and_grid_of_a_plain_file(tmp_path):
    values = decibels()
    path = write(tmp_path / "a.tif", values, descriptions=("Sigma0_VV_db", "Sigma0_VH_db"))
    scene = open_scene(path)
    assert scene.dims == ("band", "y", "x") and scene.dtype == np.float32
    assert dask.is_dask_collection(scene.data)
    np.testing.assert_array_equal(scene.values, values)
    assert list(scene.band.values) == ["VV", "VH"]
    assert scene.attrs["units"] == units.DB and scene.attrs["source"] == [path]
    assert json.loads(json.dumps(scene.attrs)) == scene.attrs
    assert scene.rio.crs.to_epsg() == 32633 and scene.rio.transform() == NORTH_UP
    assert scene.odc.geobox.affine == NORTH_UP
    assert scene.x[0] == 500_005 and scene.y[0] == 4_999_995


@pytest.mark.parametrize(
    ("dtype", "tag", "given", "missing"),
    [
        ("float32", -9999, None, -9999),
        ("float32", float("nan"), None, np.nan),
        ("float32", -3.4028234663852886e38, None, -3.4028234663852886e38),
        ("float32", -3.40282346639e38, None, np.finfo("float32").min),  # tag rounded in print
        ("float32", 0.1, None, np.float32(0.1)),  # tag is not representable in the file's type
        ("float64", 1e-30, None, 1e-30),
        ("int16", -32768, None, -32768),
        ("uint8", 255, None, 255),
        ("uint8", None, 7, 7),
        ("float32", -9999, 0.0, 0.0),
        ("float32", None, None, np.inf),
        ("float32", None, None, -np.inf),
        ("float32", None, None, np.nan),
    ],
)
def test_missing_values_become_nan_and_no_others(tmp_path, dtype, tag, given, missing):
    values = np.arange(1, 13).reshape(3, 4).astype(dtype) * 10
    values[1, 2] = missing
    scene = open_scene(write(tmp_path / "a.tif", values, nodata=tag), scale="dn", nodata=given)
    expected = values.astype(np.float32)
    expected[1, 2] = np.nan
    np.testing.assert_array_equal(scene.values[0], expected)


@pytest.mark.parametrize("given", [-9999, 3.5, 300, float("nan")])
def test_a_nodata_value_the_type_cannot_hold_matches_nothing(tmp_path, given):
    values = np.arange(256, dtype="uint8").reshape(16, 16)
    scene = open_scene(write(tmp_path / "a.tif", values), scale="dn", nodata=given)
    np.testing.assert_array_equal(scene.values[0], values)


@pytest.mark.parametrize("by_points", [False, True])
def test_a_geocentric_crs_is_one_line(tmp_path, by_points):
    if by_points:
        points = [rasterio.control.GroundControlPoint(r, c, 10.0 + c, 50.0 - r) for r in (0, 30) for c in (0, 40)]
        path = write(tmp_path / "s.tif", decibels(), transform=None, crs="EPSG:4978", gcps=points)
    else:
        path = write(tmp_path / "s.tif", decibels(), crs="EPSG:4978")
    with pytest.raises(SceneError) as caught:
        open_scene(path)
    one_line(caught, "s.tif", "WGS 84", "geocentric", "gdal_edit.py")
    given = xr.DataArray(decibels(), dims=("band", "y", "x"), coords={"y": np.arange(30.0), "x": np.arange(40.0)})
    with pytest.raises(SceneError, match="geocentric"):
        scene_geobox(given.rio.write_crs("EPSG:4978"))


def test_a_local_crs_is_left_out_and_said(tmp_path):
    path = write(tmp_path / "s.tif", decibels(), crs='LOCAL_CS["x",UNIT["metre",1]]')
    scene = open_scene(path)
    assert scene_geobox(scene).crs is None and "local one" in scene.attrs["notes"]


def test_given_nodata_replaces_the_file_s(tmp_path):
    values = np.array([[0, 1, 5]], "float32")
    path = write(tmp_path / "a.tif", values, nodata=0)
    np.testing.assert_array_equal(open_scene(path, scale="dn", nodata=5).values[0], [[0, 1, np.nan]])


def test_mask_outranks_nodata(tmp_path):
    values = np.array([[0, 1, 2, 3]], "uint8")
    mask = np.array([[255, 255, 0, 255]], "uint8")
    path = write(tmp_path / "a.tif", values, nodata=None, mask=mask)
    np.testing.assert_array_equal(open_scene(path, scale="dn").values[0], [[0, 1, np.nan, 3]])
    assert scene_info(path, scale="dn")["mask"] == "mask band"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_is_validity_not_a_band(tmp_path, dtype):
    values = np.arange(4 * 6, dtype=dtype).reshape(4, 2, 3)
    values[3] = [[0, 255, 1], [255, 255, 0]]
    path = write(tmp_path / "a.tif", values, photometric="RGB", alpha="YES")
    scene = open_scene(path, scale="rgb")
    assert list(scene.band.values) == ["red", "green", "blue"]
    assert (np.isnan(scene.values) == (values[3] == 0)).all()
    np.testing.assert_array_equal(scene.values[:, 0, 1], values[:3, 0, 1])


def test_scale_and_offset_are_applied_to_values_not_to_nodata(tmp_path):
    values = np.array([[-32768, 100, 2500]], "int16")
    path = write(tmp_path / "a.tif", values, nodata=-32768, scales=(0.01,), offsets=(-30.0,))
    np.testing.assert_allclose(open_scene(path, scale="db").values[0], [[np.nan, -29, -5]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint64", "float64"])
def test_every_real_type_reads_as_float32(tmp_path, dtype):
    values = np.array([[0, 1, 100]], dtype)
    np.testing.assert_array_equal(open_scene(write(tmp_path / "a.tif", values), scale="dn").values[0], values)


def test_complex_and_palette_are_refused(tmp_path):
    path = write(tmp_path / "slc.tif", np.ones((3, 3), "complex64"))
    with pytest.raises(SceneError) as error:
        open_scene(path)
    one_line(error, path, "amplitude")
    path = write(tmp_path / "palette.tif", np.ones((3, 3), "uint8"), photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (0, 0, 0), 1: (255, 0, 0)})
    with pytest.raises(SceneError) as error:
        open_scene(path)
    one_line(error, path, "palette", "--scale dn")
    assert open_scene(path, scale="dn").values.max() == 1


# --- grids -----------------------------------------------------------------------------------------------

ROTATED = Affine(10, 3, 500_000, 2, -10, 5_000_000)
SOUTH_UP = Affine(10, 0, 500_000, 0, 10, 4_000_000)


@pytest.mark.parametrize("crs", ["EPSG:32633", None])
@pytest.mark.parametrize("shape", [(30, 40), (1, 1), (1, 9)])
@pytest.mark.parametrize("transform", [NORTH_UP, SOUTH_UP, ROTATED], ids=["north", "south", "rotated"])
def test_grids_come_out_as_they_went_in(tmp_path, transform, shape, crs):
    scene = open_scene(write(tmp_path / "a.tif", decibels((1, *shape)), transform, crs), scale="db")
    geobox = scene_geobox(scene)
    assert geobox.shape == shape
    np.testing.assert_allclose(geobox.affine[:6], transform[:6], rtol=1e-12)
    assert (geobox.crs is None) == (crs is None) and (crs is None or geobox.crs == crs)
    assert scene.rio.transform() == transform


@pytest.mark.parametrize("transform", [NORTH_UP, SOUTH_UP, ROTATED], ids=["north", "south", "rotated"])
def test_a_part_of_a_scene_keeps_its_place(tmp_path, transform):
    scene = open_scene(write(tmp_path / "a.tif", decibels(), transform), scale="db")
    x, y = transform.c + 7 * transform.a + 5 * transform.b, transform.f + 7 * transform.d + 5 * transform.e
    geobox = scene_geobox(scene[:, 5:20, 7:30] * 2)
    np.testing.assert_allclose(geobox.affine[:6], [transform.a, transform.b, x, transform.d, transform.e, y])


def test_without_georeference_a_scene_has_pixel_coordinates(tmp_path):
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        path = write(tmp_path / "a.tif", decibels(), Affine.identity(), None)
    geobox = scene_geobox(open_scene(path))
    assert geobox.crs is None and geobox.affine == Affine.identity()


def test_reading_in_threads_leaves_the_caller_s_warning_filters_alone(tmp_path, monkeypatch):
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        path = write(tmp_path / "a.tif", decibels((2, 600, 600)), Affine.identity(), None)
    scene = open_scene(path)
    main, real, elsewhere = threading.get_ident(), warnings.catch_warnings, []

    def watched(**options):
        if threading.get_ident() != main:
            elsewhere.append(options)
        return real(**options)

    with real(record=True) as seen:
        warnings.simplefilter("always")
        with monkeypatch.context() as patch:
            patch.setattr(warnings, "catch_warnings", watched)
            scene.compute(scheduler="threads", num_workers=2)
    assert not elsewhere and not seen


def test_scene_geobox_of_other_people_s_arrays(tmp_path):
    path = write(tmp_path / "a.tif", decibels(), ROTATED)
    assert scene_geobox(rioxarray.open_rasterio(path)).affine == ROTATED
    plain = xr.DataArray(
        np.zeros((2, 3, 4)), dims=("band", "lat", "lon"), coords={"lat": [50.2, 50.1, 50.0], "lon": [1, 2, 3, 4.0]}
    )
    assert scene_geobox(plain.odc.assign_crs("EPSG:4326")).crs == "EPSG:4326"
    with pytest.raises(SceneError):
        scene_geobox(xr.DataArray(np.zeros((2, 3, 4)), dims=("band", "y", "x")))
    with pytest.raises(SceneError):
        scene_geobox(plain.assign_coords(lat=[50, 49, 40.0]).odc.assign_crs("EPSG:4326"))


def test_a_part_of_another_reader_s_array_keeps_its_place(tmp_path):
    """Its transform is still that of the whole file: the part's coordinates tell where it lies."""
    rotated = rioxarray.open_rasterio(write(tmp_path / "a.tif", decibels(), ROTATED))
    part = rotated.isel(y=slice(3, 9), x=slice(5, 12))
    assert scene_geobox(part).affine == ROTATED * Affine.translation(5, 3)
    assert scene_geobox(part.isel(x=[1], y=[2])).affine == ROTATED * Affine.translation(6, 5)
    with pytest.raises(SceneError, match="not those of its transform"):
        scene_geobox(rotated.isel(x=slice(0, None, 2)))
    north_up = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    upright = rioxarray.open_rasterio(write(tmp_path / "b.tif", decibels(), north_up))
    assert scene_geobox(upright.isel(x=slice(4, 5))).affine == north_up * Affine.translation(4, 0)
    with pytest.raises(SceneError, match="nothing tells how large that pixel is"):
        scene_geobox(upright.isel(x=slice(4, 8)).coarsen(x=4).mean())
    with pytest.raises(SceneError, match="nothing tells which part"):
        scene_geobox(upright.drop_vars(["x", "y"]).isel(x=slice(5, 12)))


def test_rpc_alone_is_refused(tmp_path):
    one, zero = [1.0] + [0.0] * 19, [0.0] * 20
    rpcs = rasterio.rpc.RPC(0, 1, 45, 1, one, zero, 2, 2, 9, 1, one, zero, 2, 2)
    path = str(tmp_path / "rpc.tif")
    with rasterio.open(path, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8", rpcs=rpcs) as file:
        file.write(np.ones((1, 4, 4), "uint8"))
    with pytest.raises(SceneError) as error:
        open_scene(path, scale="dn")
    one_line(error, path, "RPC", "gdalwarp")


# --- several files ---------------------------------------------------------------------------------------


def test_two_files_stack_into_one_scene(tmp_path):
    values = decibels()
    vv, vh = (write(tmp_path / f"x_{p}.tif", v) for p, v in zip(("VV", "VH"), values, strict=True))
    for scene in (open_scene([vv, vh]), open_scene({"VV": vv, "VH": vh})):
        np.testing.assert_array_equal(scene.values, values)
        assert list(scene.band.values) == ["VV", "VH"] and scene.attrs["source"] == [vv, vh]
    assert list(open_scene(vv).band.values) == ["VV"]
    assert scene_info(vv)["other_polarisation"] == vh
    assert list(open_scene({"VH": vh, "VV": vv}).band.values) == ["VH", "VV"]


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"transform": Affine(10, 0, 500_010, 0, -10, 5_000_000)}, "transforms"),
        ({"crs": "EPSG:32634"}, "EPSG:32634"),
        ({"values": decibels((30, 41))}, "41 x 30"),
    ],
)
def test_files_on_different_grids_are_refused(tmp_path, other, word):
    a = write(tmp_path / "a_VV.tif", decibels((30, 40)))
    b = write(tmp_path / "b_VH.tif", **{"values": decibels((30, 40))} | other)
    with pytest.raises(SceneError) as error:
        open_scene([a, b])
    one_line(error, a, b, word, "warp")


def test_bands_are_chosen_by_number_or_by_name(tmp_path):
    values = decibels((3, 8, 9))
    path = write(tmp_path / "a.tif", values, descriptions=("VH", "angle", "VV"))
    scene = open_scene(path, bidx=[3, 1])
    np.testing.assert_array_equal(scene.values, values[[2, 0]])
    assert list(scene.band.values) == ["VV", "VH"]
    np.testing.assert_array_equal(open_scene({"VV": path, "VH": path}).values, values[[2, 0]])
    with pytest.raises(SceneError) as error:
        open_scene(path, bidx=[4])
    one_line(error, path, "band 4", "1 to 3")
    with pytest.raises(SceneError):
        open_scene({"HH": path})


@pytest.mark.parametrize(
    ("stem", "labels", "names"),
    [
        ("s1a-iw-grd-vv-2018", [None], ["VV"]),
        ("test_1.vh.x0_y0", [None], ["VH"]),
        ("ratio_VV_VH", [None], ["band1"]),
        ("mask_VV", [None], ["band1"]),
        ("a", ["Gamma0_VV", "gamma0 vh (dB)"], ["VV", "VH"]),
        ("a", ["VV_coherence", "VV"], ["VV_coherence", "VV"]),
        ("a", ["x", "y"], ["x", "y"]),
        ("a", [None, None, None], ["band1", "band2", "band3"]),
        ("a", ["bands", "bands", "bands"], ["band1", "band2", "band3"]),
        ("a", ["VV", "VV"], ["VV", "VV_2"]),
    ],
)
def test_band_names(tmp_path, stem, labels, names):
    path = write(tmp_path / f"{stem}.tif", decibels((len(labels), 5, 6)), descriptions=tuple(labels))
    assert list(open_scene(path, scale="db").band.values) == names


def test_two_nameless_bands_in_db_are_vv_and_vh(tmp_path):
    scene = open_scene(write(tmp_path / "a.tif", decibels()))
    assert list(scene.band.values) == ["VV", "VH"] and "VV and VH" in scene.attrs["notes"]


# --- units -----------------------------------------------------------------------------------------------


def test_units_as_auto_sees_them(tmp_path):
    power = 10 ** (decibels() / 10)
    power[1] *= 0.1
    cases = [
        ("scene.tif", decibels(), {}, units.DB),
        ("x_db.tif", decibels(), {}, units.DB),
        ("x.tif", np.full((2, 30, 40), np.nan, "f4"), {}, units.UNKNOWN),
        ("OPERA_L2_RTC-S1_T1_VV.tif", power[0], {}, units.POWER),
        ("S1A_IW_20191203T224518_DVP_RTC10_G_gpuned_54B9_VV.tif", power[0], {}, units.POWER),
        ("S1A_IW_20191203T224518_DVP_RTC10_G_gauned_54B9_VV.tif", np.sqrt(power[0]), {}, units.AMPLITUDE),
        ("snap.tif", power, {"descriptions": ("Sigma0_VV", "Sigma0_VH")}, units.POWER),
        ("pair.tif", power, {"descriptions": ("VV", "VH")}, units.POWER),
        ("tag.tif", power, {"units": ("linear", "linear")}, units.POWER),
        ("rgb.tif", np.full((3, 5, 6), 9, "uint8"), {"photometric": "RGB"}, units.RGB),
        ("s1a-iw-grd-vv-20150705t064241.tif", np.full((5, 6), 90, "uint16"), {}, units.DN),
        ("S1A_x_VV.tif", decibels((1, 700, 800)), {}, units.DB),
    ]
    for name, values, extra, unit in cases:
        scene = open_scene(write(tmp_path / name, values, **extra))
        assert scene.attrs["units"] == unit, name
        assert scene.attrs["units_reason"]


@pytest.mark.parametrize(
    ("name", "values", "extra", "flag"),
    [
        ("a_VV.tif", np.full((9, 9), 0.25, "f4"), {}, "--scale"),  # power or amplitude?
        ("a.tif", np.full((9, 9), 0.25, "f4"), {}, "--scale"),
        ("a_db.tif", np.full((9, 9), 0.25, "f4"), {}, "--scale"),  # name and values contradict
        ("a_VV.tif", np.full((9, 9), 600, "i2"), {}, "--scale"),
        ("a_VV.tif", np.full((9, 9), 90, "u1"), {}, "--scale"),
        ("a.tif", np.full((3, 9, 9), 90, "u1"), {"photometric": "RGB", "descriptions": ("VV", "VH", "x")}, "--scale"),
        ("a.tif", np.full((9, 9), -15, "f4"), {"units": ("Celsius",)}, "--scale"),
        ("a_VV.tif", np.where(np.eye(9) > 0, -9999, -12).astype("f4"), {}, "--nodata -9999"),
        ("a.tif", np.stack([np.full((9, 9), -15, "f4"), np.full((9, 9), 0.1, "f4")]), {}, "--scale"),
    ],
)
def test_units_that_cannot_be_told_are_refused(tmp_path, name, values, extra, flag):
    path = write(tmp_path / name, values, **extra)
    with pytest.raises(UnitsError) as error:
        open_scene(path)
    one_line(error, path, flag)
    assert open_scene(path, scale="dn").attrs["units"] == units.DN
    assert scene_info(path)["units"] == units.UNKNOWN


def test_unknown_units_fit_any_model_until_a_valid_pixel_turns_up():
    units.check_convertible(units.UNKNOWN, units.DB)
    assert np.isnan(units.convert(np.full(3, np.nan), units.UNKNOWN, units.DB)).all()
    with pytest.raises(UnitsError):
        units.convert(np.array([np.nan, 1.0]), units.UNKNOWN, units.DB)


def test_zero_in_a_grd_image_is_not_measured(tmp_path):
    values = np.array([[0, 50, 60]], "uint16")
    scene = open_scene(write(tmp_path / "s1a-iw-grd-vv-20150705t064241.tif", values))
    np.testing.assert_array_equal(scene.values[0], [[np.nan, 50, 60]])


def test_wrong_options_are_refused(tmp_path):
    path = write(tmp_path / "a.tif", decibels())
    with pytest.raises(InputError):
        open_scene(path, scale="decibel")
    with pytest.raises(InputError):
        open_scene(path, chunk=0)
    with pytest.raises(SceneError):
        open_scene([])


# --- lazy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "block", "chunk", "expected"),
    [
        ((5000, 5000), (512, 512), 1024, (1024, 1024)),
        ((5000, 5000), (256, 256), 1000, (1024, 1024)),
        ((300, 200), (512, 512), 1024, (300, 200)),
        ((16705, 26102), (1, 26102), 1024, (40, 26102)),
        ((16705, 26102), (8, 26102), 1024, (40, 26102)),
        ((9000, 9000), (9000, 9000), 1024, (9000, 9000)),
        ((16_777_215, 1), (1, 1), 1024, (1_048_576, 1)),
        ((5000, 5000), (16, 4992), 1024, (1024, 4992)),
    ],
)
def test_chunks_hold_whole_blocks(shape, block, chunk, expected):
    assert chunk_shape(shape, block, chunk) == expected


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", decibels((2, 600, 500)), tiled=True, blockxsize=128, blockysize=128)
    read = []
    whole = raster_module.read_window

    def spy(raster, bands, rows, columns):
        read.append((len(bands), rows, columns))
        return whole(raster, bands, rows, columns)

    scene = open_scene(path, scale="db", chunk=256)
    assert scene.chunks == ((2,), (256, 256, 88), (256, 244))
    monkeypatch.setattr(raster_module, "read_window", spy)
    part = scene[1:, 300:340, 10:20]
    with rasterio.open(path) as file:
        expected = file.read(2, window=Window(10, 300, 10, 40))
    np.testing.assert_array_equal(part.data.compute(scheduler="synchronous")[0], expected)
    assert read == [(1, slice(300, 340), slice(10, 20))]


def test_any_selection_reads_right(tmp_path):
    values = decibels((3, 50, 60))
    scene = open_scene(write(tmp_path / "a.tif", values), scale="db", chunk=16)
    for key in (
        np.s_[1], np.s_[:, 7], np.s_[:, :, -1], np.s_[::2, ::-3, 5:2:-1], np.s_[0, 3:3], np.s_[..., 4],
        np.s_[[2, 0], 5:9],
    ):  # fmt: skip
        np.testing.assert_array_equal(scene.data[key].compute(), values[key])


def test_threads_processes_and_pickles_read_alike(tmp_path):
    values = decibels((2, 300, 300))
    path = write(tmp_path / "a.tif", values, compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    scene = open_scene(path, scale="db", chunk=64)
    np.testing.assert_array_equal(scene.data.compute(scheduler="threads", num_workers=8), values)
    again = pickle.loads(pickle.dumps(scene))
    np.testing.assert_array_equal(again.data.compute(scheduler="synchronous"), values)
    assert open_scene(path, scale="db", chunk=64).data.name == scene.data.name


def test_a_file_written_anew_is_read_anew(tmp_path):
    path = write(tmp_path / "a.tif", decibels(seed=0))
    open_scene(path).compute()
    values = decibels((2, 33, 40), seed=1)
    write(path, values)
    np.testing.assert_array_equal(open_scene(path).values, values)


# --- what is no raster, or a broken one ------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5])
def test_truncated_files_are_refused_by_name(tmp_path, kept):
    noise = np.random.default_rng(0).normal(-14, 3, (2, 200, 200)).astype("f4")
    path = tmp_path / "cut.tif"
    write(path, noise, compress="deflate")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(SceneError) as error:
        open_scene(path)
    one_line(error, path)
    with pytest.raises(SceneError) as error:
        open_scene(path, scale="db").compute()
    one_line(error, path)


def test_what_is_no_raster_is_refused_by_name(tmp_path):
    (tmp_path / "page.tif").write_text("<html>404</html>")
    (tmp_path / "folder").mkdir()
    (tmp_path / "S1A_x.SAFE").mkdir()
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "manifest.safe").write_text("<xfdu/>")
    with zipfile.ZipFile(tmp_path / "safe.zip", "w") as archive:
        archive.writestr("S1A_x.SAFE/manifest.safe", "<xfdu/>")
    with zipfile.ZipFile(tmp_path / "rtc.zip", "w") as archive:
        archive.write(write(tmp_path / "x.tif", decibels((30, 40))), "x/x.tif")
    for name, word in [
        ("missing.tif", "no such file"),
        ("page.tif", "not recognized"),
        ("folder", "is a folder"),
        ("S1A_x.SAFE", "SAFE"),
        ("unpacked", "manifest"),
        ("safe.zip", "manifest"),
        ("rtc.zip", f"/vsizip/{tmp_path}/rtc.zip/x/x.tif"),
    ]:
        with pytest.raises(SceneError) as error:
            open_scene(tmp_path / name)
        one_line(error, tmp_path / name, word)
    assert open_scene(f"/vsizip/{tmp_path}/rtc.zip/x/x.tif").shape == (1, 30, 40)


@pytest.mark.parametrize(
    ("stem", "ending", "unit", "what"),
    [
        ("S1A_IW_20191203T224518_DVP_RTC10_G_gpuned_54B9_", ".tif", units.POWER, "ASF HyP3 RTC"),
        ("S1A_IW_20191203T224518_DVP_RTC30_G_sdufem_54B9_", ".tif", units.DB, "ASF HyP3 RTC"),
        (
            "OPERA_L2_RTC-S1_T137-292318-IW1_20211119T015854Z_20250830T120333Z_S1A_30_v1.0_",
            ".tif",
            units.POWER,
            "OPERA",
        ),
        ("iw-", ".rtc.tiff", units.POWER, "Planetary Computer RTC"),
        ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48_", ".tif", units.DB, "BigEarthNet-S1"),
    ],
)
def test_analysis_ready_products_are_known(tmp_path, stem, ending, unit, what):
    """As a folder and as a zip with both bands and what else such products hold; and by one band's file."""
    values = decibels() if unit == units.DB else 10 ** (decibels() / 10)
    folder, lower = tmp_path / "given", stem == "iw-"
    folder.mkdir()
    for name, band in zip(("VV", "VH"), values, strict=True):
        write(folder / f"{stem}{name.lower() if lower else name}{ending}", band)
    for other in (f"{stem}inc_map{ending}", "readme.txt"):
        (folder / other).write_text("x")
    with zipfile.ZipFile(tmp_path / "given.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"x/{file.name}")
    for source in (folder, tmp_path / "given.zip", next(folder.glob("*[vV][vV].*"))):
        scene = open_scene(source)
        assert list(scene.band.values) == (["VV"] if source.suffix in (".tif", ".tiff") else ["VV", "VH"])
        assert scene.attrs["units"] == unit and what in scene.attrs["units_reason"]


def test_folder_of_several_scenes_is_refused(tmp_path):
    for name in ("a_VV.tif", "a_VH.tif", "b_VV.tif"):
        write(tmp_path / name, decibels((30, 40)))
    with pytest.raises(SceneError) as error:
        open_scene(tmp_path)
    one_line(error, tmp_path, "holds 2 scenes")


def test_a_vrt_reads_and_names_what_it_misses(tmp_path):
    write(tmp_path / "a.tif", np.arange(400, dtype="uint8").reshape(20, 20))
    (tmp_path / "a.vrt").write_text(VRT.format(1, "a.tif"))
    (tmp_path / "b.vrt").write_text(VRT.format(1, "gone.tif"))
    assert open_scene(tmp_path / "a.vrt", scale="dn").values[0, 1, 0] == 20
    with pytest.raises(SceneError) as error:
        open_scene(tmp_path / "b.vrt", scale="dn").compute()
    one_line(error, "b.vrt", "gone.tif")


@pytest.fixture
def server():
    """A web server on this machine that keeps what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_address[1]}", asked
    web.shutdown()


def test_local_files_never_lead_to_the_network(tmp_path, server):
    url, asked = server
    wms = (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service><DataWindow>'
        "<UpperLeftX>-1</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>-1</LowerRightY>"
        "<TileLevel>2</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY></DataWindow>"
        "<Projection>EPSG:3857</Projection><BandsCount>3</BandsCount></GDAL_WMS>"
    )
    (tmp_path / "wms.xml").write_text(wms)
    (tmp_path / "curl.vrt").write_text(VRT.format(0, f"/vsicurl/{url}/x.tif"))
    (tmp_path / "http.tif").write_text(VRT.format(0, f"{url}/x.tif"))
    (tmp_path / "nested.vrt").write_text(VRT.format(1, "curl.vrt"))
    (tmp_path / "service.vrt").write_text(VRT.format(1, "wms.xml"))
    (tmp_path / "loop.vrt").write_text(VRT.format(1, "loop.vrt"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "wms.xml", "wms.xml")
        archive.write(tmp_path / "curl.vrt", "curl.vrt")
    for name in ("wms.xml", "curl.vrt", "http.tif", "nested.vrt", "service.vrt"):
        with pytest.raises(SceneError) as error:
            open_scene(tmp_path / name, scale="dn")
        one_line(error, name, "network")
    for name in ("loop.vrt", f"/vsizip/{tmp_path}/a.zip/wms.xml", f"/vsizip/{tmp_path}/a.zip/curl.vrt"):
        with pytest.raises(SceneError):
            open_scene(tmp_path / name, scale="dn").compute()
    assert asked == []
    with pytest.raises(SceneError) as error:  # asked for by its URL, it is tried
        open_scene(f"{url}/x.tif", scale="dn")
    one_line(error, url)
    assert asked


def test_info_is_plain(tmp_path):
    path = write(tmp_path / "a_VV.tif", decibels((1, 30, 40)), nodata=float("nan"))
    info = scene_info(path)
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    assert info["columns"] == 40 and info["rows"] == 30 and info["crs"] == "EPSG:32633"
    assert info["nodata"] == "nan" and info["valid_share"] == 1 and info["bands"] == ["VV"]
    assert inspect_raster(path).driver == info["driver"] == "GTiff"


def test_one_number_scales_all_bands_and_words_are_refused(tmp_path):
    path = write_raster(tmp_path / "s.tif", np.arange(200, 218, dtype=np.uint16).reshape(2, 3, 3))
    one, each = (open_scene(path, scale="reflectance", factor=f, offset=[0.5]) for f in (1e-3, (1e-3, 1e-3)))
    np.testing.assert_array_equal(one, each)
    assert "factor [0.001]" in one.attrs["read_as"] and one.values[0, 0, 0] == pytest.approx(0.7)
    with pytest.raises(InputError, match="factor='x'"):
        open_scene(path, scale="reflectance", factor="x")
