"""Whatever xarray hands over: one table of inputs, each of which gives the map of ``open_scene``'s to the byte."""

from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
import rioxarray
import xarray as xr
from affine import Affine

import geouq
from geouq.errors import InputError, SceneError, UnitsError
from geouq.scenes.arrays import scene_array
from tests.helpers import scene_values, small_model, write_raster

MODEL = small_model()
ASK = {"samples": 2, "tile": 32, "layers": ("mask", "probability", "probabilities", "votes")}
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 5_000_000)


def segment(scene, **options) -> xr.Dataset:
    return geouq.segment(scene, MODEL, **(ASK | options))


def same(found: xr.Dataset, expected: xr.Dataset) -> None:
    for layer in ASK["layers"]:
        ours, theirs = found[layer], expected[layer]
        assert (
            ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
            and ours.values.tobytes() == theirs.values.tobytes()
        )
    grid, other = found["mask"].odc.geobox, expected["mask"].odc.geobox
    assert grid.crs == other.crs and grid.affine.almost_equals(other.affine, 1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One scene as a GeoTIFF, a netCDF file and a Zarr store."""
    path = tmp_path_factory.mktemp("given")
    values = scene_values(100, 90)
    write_raster(path / "scene.tif", values, crs="EPSG:32633", transform=TRANSFORM, nodata=np.nan)
    with_names(path / "scene.tif")
    bands = bands_of(opened(path))
    encoding = {name: {"grid_mapping": "spatial_ref"} for name in bands}
    bands.to_netcdf(path / "scene.nc", encoding=encoding)
    bands.to_zarr(path / "scene.zarr", consolidated=False, encoding=encoding)
    return path


@pytest.fixture(scope="module")
def of_file(folder) -> xr.Dataset:
    return segment(opened(folder)).compute()


def with_names(path: Path) -> None:
    import rasterio

    with rasterio.open(path, "r+") as file:
        file.descriptions = ("VV", "VH")


def opened(folder: Path) -> xr.DataArray:
    return geouq.open_scene(folder / "scene.tif", scale="db")


def plain(folder: Path) -> xr.DataArray:
    """The scene as it would come from elsewhere: without what ``open_scene`` knows of it."""
    scene = opened(folder).compute()
    return scene.assign_attrs({"units_reason": None}).drop_attrs(deep=False).assign_attrs(units="dB")


def bands_of(scene: xr.DataArray, names=("vv", "vh")) -> xr.Dataset:
    """A variable a band, as ``odc.stac.load`` names them."""
    data = {name: scene.isel(band=i, drop=True) for i, name in enumerate(names)}
    return xr.Dataset({name: array.drop_attrs(deep=False).assign_attrs(units="dB") for name, array in data.items()})


def by_rioxarray(folder: Path, **options):
    found = rioxarray.open_rasterio(folder / "scene.tif", **options)
    if isinstance(found, xr.Dataset):
        return found.assign({name: band.assign_attrs(units="dB") for name, band in found.items()})
    return found.assign_attrs(units="dB")


GIVEN: dict[str, Callable[[Path], xr.DataArray | xr.Dataset]] = {
    "in memory": plain,
    "one chunk": lambda f: plain(f).chunk(),
    "chunks of 37 x 53": lambda f: plain(f).chunk({"band": 1, "y": 37, "x": 53}),
    "float64": lambda f: plain(f).astype(np.float64),
    "rows, columns, bands": lambda f: plain(f).transpose("y", "x", "band"),
    "columns, rows, bands": lambda f: plain(f).chunk({"x": 20}).transpose("x", "y", "band"),
    "columns before rows": lambda f: plain(f).transpose("band", "x", "y"),
    "Y and X": lambda f: plain(f).rename(y="Y", x="X").transpose("Y", "X", "band"),
    "to_array": lambda f: bands_of(plain(f)).to_array().assign_attrs(units="decibel"),
    "polarization": lambda f: plain(f).rename(band="polarization").assign_coords(polarization=["vv", "vh"]),
    "bands turned": lambda f: plain(f).isel(band=[1, 0]),
    "bands in other words": lambda f: plain(f).assign_coords(band=["Sigma0_VV_db", "Sigma0_VH_db"]),
    "Dataset": lambda f: bands_of(plain(f)),
    "Dataset, lazy": lambda f: bands_of(plain(f).chunk({"y": 30})),
    "Dataset of more": lambda f: bands_of(plain(f), ("Gamma0-VV", "gamma0_vh")).assign(
        angle=plain(f)[0].drop_vars("band") * 0 + 30, mask=(("y", "x"), np.ones((100, 90), "u1")), quality=1
    ),
    "Dataset transposed": lambda f: bands_of(plain(f)).transpose("x", "y"),
    "Dataset of one array": lambda f: plain(f).to_dataset(name="backscatter"),
    "Dataset with other nodata": lambda f: bands_of(plain(f).fillna(-999)).assign(
        vv=lambda d: d.vv.assign_attrs(_FillValue=-999.0),
        vh=lambda d: d.vh.where(d.vh != -999, -32768).assign_attrs(nodata=-32768.0, units="dB"),
    ),
    "rioxarray": by_rioxarray,
    "rioxarray, lazy": lambda f: by_rioxarray(f, chunks={"y": 40}),
    "rioxarray, masked": lambda f: by_rioxarray(f, masked=True),
    "rioxarray, a variable a band": lambda f: by_rioxarray(f, band_as_variable=True),
    "rioxarray, a variable a band, lazy": lambda f: by_rioxarray(f, band_as_variable=True, chunks=True),
    "netCDF": lambda f: xr.open_dataset(f / "scene.nc", decode_coords="all"),
    "netCDF in chunks": lambda f: xr.open_dataset(f / "scene.nc", decode_coords="all", chunks={"y": 30}),
    "netCDF, CRS as a variable": lambda f: xr.open_dataset(f / "scene.nc"),
    "Zarr": lambda f: xr.open_zarr(f / "scene.zarr", decode_coords="all", consolidated=False),
    "Zarr, CRS as a variable": lambda f: xr.open_zarr(f / "scene.zarr", consolidated=False),
    "Zarr without chunks": lambda f: xr.open_zarr(f / "scene.zarr", chunks=None, consolidated=False),
}


@pytest.mark.parametrize("name", GIVEN)
def test_the_map_is_that_of_the_file(folder, of_file, name):
    same(segment(GIVEN[name](folder)).compute(), of_file)


@pytest.mark.parametrize("name", ["Dataset", "Dataset, lazy", "columns, rows, bands", "rioxarray, lazy", "netCDF"])
def test_each_date_has_its_map(folder, of_file, name):
    one, expected = GIVEN[name](folder), of_file
    other = one + 1.5 if isinstance(one, xr.DataArray) else one.map(lambda band: (band + 1.5).assign_attrs(band.attrs))
    dates = np.array(["2024-05-01", "2024-05-13", "2024-05-25"], "M8[ns]")
    with xr.set_options(keep_attrs=True):
        stack = xr.concat([one, other.assign_attrs(one.attrs), one], xr.DataArray(dates, dims="time", name="time"))
    stack = stack.assign_coords(platform=("time", ["S1A", "S1C", "S1A"]))
    found = segment(stack)
    assert found["mask"].dims == ("time", "y", "x") and found["probabilities"].dims == ("time", "class", "y", "x")
    assert found["mask"].chunks[0] == (1, 1, 1) and list(found.platform.values) == ["S1A", "S1C", "S1A"]
    np.testing.assert_array_equal(found.time, dates)
    computed = found.compute()
    same(computed.isel(time=0), expected)
    same(computed.isel(time=2), expected)
    assert computed["votes"].isel(time=1).values.tobytes() != expected["votes"].values.tobytes()
    alone = segment(stack.isel(time=1))
    assert alone["mask"].dims == ("y", "x")
    same(computed.isel(time=1), alone.compute())


def test_several_further_dimensions(folder):
    scene = plain(folder)
    stack = xr.concat([xr.concat([scene, scene + 1, scene - 1], "time"), xr.concat([scene + 2] * 3, "time")], "orbit")
    stack = stack.assign_attrs(units="dB").transpose("band", "y", "orbit", "x", "time")
    found = segment(stack, bounds=(500_070, 4_999_490, 500_420, 4_999_890))
    assert found["mask"].dims == ("orbit", "time", "y", "x") and found["mask"].shape == (2, 3, 40, 35)
    one = segment((scene - 1).assign_attrs(units="dB"), bounds=(500_070, 4_999_490, 500_420, 4_999_890))
    same(found.isel(orbit=0, time=2), one)


@pytest.mark.parametrize("axes", [{"y": -1}, {"x": -1}, {"y": -1, "x": -1}])
def test_reversed_axes(folder, tmp_path, axes):
    """The map is that of a file whose rows and columns run so."""
    scene = plain(folder).isel({dim: slice(None, None, step) for dim, step in axes.items()})
    affine = Affine(10 * axes.get("x", 1), 0, 500_000 + 900 * ("x" in axes), 0, -10 * axes.get("y", 1), 0)
    affine = Affine(*affine[:5], 5_000_000 - 1000 * ("y" in axes))
    write_raster(tmp_path / "r.tif", scene.values, crs="EPSG:32633", transform=affine, nodata=np.nan)
    with_names(tmp_path / "r.tif")
    same(segment(scene), segment(geouq.open_scene(tmp_path / "r.tif", scale="db")))


def test_latitude_and_longitude(tmp_path):
    affine = Affine(1e-4, 0, 6.0, 0, -1e-4, 46.0)
    write_raster(tmp_path / "d.tif", scene_values(60, 50), crs="EPSG:4326", transform=affine, nodata=np.nan)
    with_names(tmp_path / "d.tif")
    file = geouq.open_scene(tmp_path / "d.tif", scale="db")
    scene = file.compute().drop_attrs(deep=False).assign_attrs(units="dB").rename(y="latitude", x="longitude")
    found = segment(scene.transpose("longitude", "band", "latitude"))
    assert found["mask"].dims == ("latitude", "longitude")
    same(found, segment(file))


@pytest.mark.parametrize("name", ["netCDF", "Zarr without chunks"])
def test_what_is_not_read_yet_is_read_by_windows(folder, name):
    data = GIVEN[name](folder)
    for given in (data, data["vv"]):
        found = geouq.segment(given, MODEL.with_spec(missing_bands="zero"), **ASK)
        assert dask.is_dask_collection(found["mask"].data) and not data["vv"].variable._in_memory
    segment(data).compute()
    assert not data["vv"].variable._in_memory


@pytest.mark.parametrize("scale", ["linear", "intensity", "power", "Linear"])
def test_the_unit_may_be_said(folder, scale):
    decibels = plain(folder)
    power = (10 ** (decibels.astype(np.float64) / 10)).astype(np.float32)
    told = segment(power.assign_attrs(units="power")).compute()
    for silent in (power.drop_attrs(deep=False), power.assign_attrs(units="1"), bands_of(power).drop_attrs(deep=False)):
        same(segment(silent, scale=scale).compute(), told)
    with pytest.raises(UnitsError, match=r"set it to one of .* or give scale="):
        segment(power.drop_attrs(deep=False))
    with pytest.raises(InputError, match="scale 'furlongs' is none of auto, db"):
        segment(power, scale="furlongs")


def test_a_band_alone_is_one(folder):
    model = MODEL.with_spec(missing_bands="zero")
    expected = geouq.segment(opened(folder).isel(band=[0]), model, **ASK)
    scene = plain(folder)
    for given in (scene.isel(band=0), scene.isel(band=0, drop=True).rename("vv"), bands_of(scene)[["vv"]]):
        same(geouq.segment(given, model, **ASK), expected)


def test_odd_attributes_are_no_trouble(folder, of_file):
    """The nodata once for each band, and no label where one could be."""
    scene = plain(folder).fillna(-77).assign_attrs(units="dB", _FillValue=[-77.0, -77.0])
    same(segment(scene).compute(), of_file)
    same(segment(scene.drop_vars("band").assign_attrs(long_name=None)).compute(), of_file)


def test_what_is_no_scene_is_told_how_to_become_one(folder):
    scene = plain(folder)
    with pytest.raises(SceneError, match="a DataArray or a Dataset is needed"):
        segment(scene.values)
    with pytest.raises(SceneError, match="dimensions a, b, none of which .* rename them to y and x"):
        segment(xr.DataArray(np.zeros((3, 3), np.float32), dims=("a", "b")))
    with pytest.raises(SceneError, match="which are the bands\\? rename that one to 'band'"):
        segment(scene.expand_dims(look=[1], beam=[2]).rename(band="thing").assign_coords(thing=[5, 6]))
    words = xr.Dataset({"a": (("y", "x"), [["w"] * 2] * 2)}, coords={"y": [0.0, 1], "x": [0.0, 1]})
    with pytest.raises(SceneError, match=r"Dataset of a: give the variables that are its bands, such as scene\["):
        segment(words)
    several = bands_of(scene).assign(sigma0_vv=lambda d: d.vv)
    with pytest.raises(geouq.GeouqError, match="several bands called VV"):
        segment(several)
    packed = bands_of(scene).assign(vv=lambda d: d.vv.assign_attrs(scale_factor=0.01))
    with pytest.raises(SceneError, match="packed values"):
        segment(packed)
    with pytest.raises(SceneError, match="empty"):
        segment(scene.expand_dims(time=[1, 2]).isel(time=slice(0, 0)))
    for odd in ("none", [-9999.0, 0.0]):
        with pytest.raises(SceneError, match="nodata is .* one number is needed"):
            segment(scene.assign_attrs(nodata=odd))
    mixed = bands_of(scene).assign(vv=lambda d: d.vv.assign_attrs(units="power"))
    with pytest.raises(UnitsError, match=r"\['power', 'dB'\]"):
        segment(mixed)


def test_nothing_of_a_scene_is_changed(folder):
    data = bands_of(plain(folder))
    before = data.copy(deep=True)
    scene_array(data, "power")
    assert data.identical(before)


def test_a_durable_run_takes_what_segment_takes(folder, tmp_path):
    """Names and numbers in other kinds, outputs by name, one date of a stack: the run of ``open_scene``'s."""
    scene, model = opened(folder), MODEL
    plain = geouq.run(scene, model, tmp_path / "plain.tif", samples=2, layers=("mask",), decide=0.3)
    others = {
        "kinds": {"samples": np.float64(2), "layers": "mask", "decide": "0.30", "device": "cpu"},
        "named": {"samples": np.int64(2), "layers": ["mask"], "decide": np.float64(0.3), "sites": None},
    }
    for name, how in others.items():
        outputs = geouq.Outputs(f"{tmp_path}/{name}.tif", preview=f"{tmp_path}/{name}.png")
        found = geouq.run(scene, model, outputs, **how)
        assert found["area_m2"] == plain["area_m2"] and (tmp_path / f"{name}.png").is_file()
    bare = scene.expand_dims(time=[0]).drop_attrs(deep=False)
    found = geouq.run(bare, model, str(tmp_path / "date.tif"), samples=2, layers="mask", decide=0.3, scale="db")
    assert found["area_m2"] == plain["area_m2"]
    stack = xr.concat([scene.expand_dims(time=[0]), scene.expand_dims(time=[1])], "time")
    with pytest.raises(SceneError, match=r"several scenes, along time: give one, \.isel\(time=0\)"):
        geouq.run(stack, model, tmp_path / "stack.tif", samples=2)
    with pytest.raises(InputError, match="is none of accuracy"):
        geouq.run(scene, model, tmp_path / "never.tif", decide=np.array([0.2, 0.3]))
    with pytest.raises(InputError, match=r"no such file"):
        geouq.run(scene, model, tmp_path / "never.tif", scheduler=tmp_path / "scheduler.json")
    assert not [*tmp_path.glob("*never*"), *tmp_path.glob("stack*")]
