"""Maps as Zarr groups: the GeoTIFF's pixels, the lazy step's metadata, the rules that all outputs have."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

import geouq
from geouq.errors import OutputError, SceneError
from geouq.grid import GeoBox, Roi
from geouq.maps import zarr as maps_zarr
from geouq.maps.bands import map_bands
from geouq.maps.zarr import ZarrWriter
from geouq.segmentation.events import TileDone
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run
from tests.helpers import as_scene, scene_values, small_model
from tests.helpers import geouq as command

pytest.importorskip("zarr")
MODEL = small_model()
LAYERS = ("mask", "uncertainty", "probabilities", "votes")
BANDS = ("mask", "uncertainty", "probability_land", "probability_water")
GRID = GeoBox((1100, 700), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")


def make(folder: Path, zarr: str | None = "map.zarr", overwrite=False, on_event=lambda event: None, **options):
    """A run of a map of 150 x 170 pixels in tiles of 48."""
    settings = {name: options.pop(name) for name in ("seed", "bounds", "layers") if name in options}
    job = prepare(scene(), MODEL, Settings(**{"samples": 4, "layers": LAYERS, "tile": 48} | settings))
    outputs = Outputs(folder / "map.tif", zarr=None if zarr is None else folder / zarr, **options)
    return run(scene(), job, outputs, overwrite=overwrite, on_event=on_event)


def scene() -> xr.DataArray:
    return as_scene(scene_values(150, 170))


def read(path: Path, raw: bool = False) -> xr.Dataset:
    return xr.open_zarr(path, decode_coords="all", mask_and_scale=not raw).load()


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("float32", [False, True])
@pytest.mark.parametrize("bounds", [None, (500_070, 4_998_700, 501_420, 4_999_890)])
def test_a_group_holds_the_pixels_of_the_geotiff_where_they_lie(tmp_path, float32, bounds):
    summary = make(tmp_path, float32=float32, bounds=bounds)
    assert str(tmp_path / "map.zarr") in summary["files"]
    raw, decoded = read(tmp_path / "map.zarr", raw=True), read(tmp_path / "map.zarr")
    assert set(raw.data_vars) == set(BANDS) and set(raw.coords) == {"x", "y", "spatial_ref"}
    with rasterio.open(tmp_path / "map.tif") as file:
        grid = GeoBox(file.shape, file.transform, "EPSG:32633")
        for number, (band, scale) in enumerate(zip(file.descriptions, file.scales, strict=True), 1):
            assert raw[band].odc.geobox == grid and raw[band].dtype == file.dtypes[0]
            np.testing.assert_array_equal(raw[band], file.read(number))
            truth = file.read(number, masked=True).astype(np.float32).filled(np.nan) * np.float32(scale)
            np.testing.assert_allclose(decoded[band], truth, rtol=1e-6)
        assert {name: raw.attrs[name] for name in file.tags(ns=None) if name.startswith("GEOUQ_")} == {
            name: text for name, text in file.tags().items() if name.startswith("GEOUQ_")
        }
    assert raw.attrs["GEOUQ_RUN"] == summary["run"] and raw.attrs["Conventions"].startswith("CF-")


def test_metadata_are_those_of_the_lazy_step(tmp_path):
    make(tmp_path)
    stored, lazy = read(tmp_path / "map.zarr", raw=True), geouq.segment(scene(), MODEL, samples=4, layers=LAYERS)
    for band, layer in zip(BANDS, ("mask", "uncertainty", "probabilities", "probabilities"), strict=True):
        told = {name: value for name, value in stored[band].attrs.items() if name not in ("_FillValue", "scale_factor")}
        expected = {name: value for name, value in lazy[layer].attrs.items() if name != "nodata"}
        assert set(told) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(told[name], value)
        assert stored[band].encoding["grid_mapping"] == "spatial_ref" and stored[band].attrs["_FillValue"] == 255
    for axis in "yx":
        np.testing.assert_array_equal(stored[axis], lazy[axis])
        assert stored[axis].attrs == lazy[axis].attrs
    assert stored.spatial_ref.attrs == lazy.spatial_ref.attrs


def test_gdal_reads_it_where_it_lies(tmp_path):
    make(tmp_path)
    with rasterio.Env() as env:
        if "Zarr" not in env.drivers():
            pytest.skip("this GDAL has no Zarr")
    with rasterio.open(tmp_path / "map.tif") as tif:
        for number, band in enumerate(BANDS, 1):
            with rasterio.open(f'ZARR:"{tmp_path / "map.zarr"}":/{band}') as file:
                assert file.crs == tif.crs and file.transform == tif.transform and file.nodata == 255
                assert file.scales == (tif.scales[number - 1],)
                np.testing.assert_array_equal(file.read(1), tif.read(number))


def test_bytes_do_not_depend_on_tiles_nor_on_their_order(tmp_path):
    """Chunks that a tile fills in part are completed by the next; those that say nothing are not there."""
    bands = map_bands(("mask", "probability"))
    values = np.random.default_rng(0).integers(0, 2, (2, *GRID.shape)).astype(np.uint8)
    values[:, :512, 512:] = 255
    made = []
    for size, order in ((1100, 1), (300, 1), (300, -1), (512, -1)):
        path = tmp_path / f"{len(made)}.zarr"
        corners = [(y, x) for y in range(0, 1100, size) for x in range(0, 700, size)]
        with ZarrWriter(path, GRID, bands, {}, {}) as writer:
            for y, x in corners[::order]:
                roi = Roi(y, min(y + size, 1100), x, min(x + size, 700))
                writer.write(roi, values[:, *roi.slices])
            writer.finish()
        made.append(digest(path))
    assert all(one == made[0] for one in made)
    assert "mask/0.0" in made[0] and "mask/0.1" not in made[0] and "mask/2.1" in made[0]
    assert read(path, raw=True)["mask"].encoding["chunks"] == (512, 512)


def test_what_is_never_written_is_not_classified(tmp_path):
    for bands in (map_bands(("mask", "std")), map_bands(("mask", "std"), float32=True)):
        path = tmp_path / f"{bands[0].dtype}.zarr"
        with ZarrWriter(path, GRID, bands, {}, {}) as writer:
            writer.write(Roi(0, 10, 0, 10), np.ones((2, 10, 10), bands[0].dtype))
            writer.finish()
        assert read(path)["mask"].count() == read(path)["std"].count() == 100


def test_what_is_not_whole_gets_no_name(tmp_path):
    with (
        pytest.raises(OutputError, match="does not hold all"),
        ZarrWriter(tmp_path / "map.zarr", GRID, map_bands(("mask",)), {}, {}) as writer,
    ):
        writer.write(Roi(0, 1100, 0, 700), np.ones((1, 1100, 700), np.uint8))
        (writer._made / "mask" / "1.0").unlink()
        writer.finish()
    assert not names(tmp_path)


def test_a_slash_in_the_name_of_a_class_begins_no_group(tmp_path):
    with ZarrWriter(tmp_path / "map.zarr", GRID, map_bands(("mask", "probability_ice/snow")), {}, {}) as writer:
        writer.finish()
    assert set(read(tmp_path / "map.zarr").data_vars) == {"mask", "probability_ice_snow"}


class Stop(Exception):
    pass


def test_a_broken_run_leaves_none_and_continues_to_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    make(tmp_path / "a")
    seen = []

    def stop(event):
        seen.append(isinstance(event, TileDone))
        if sum(seen) == 5:
            raise Stop

    with pytest.raises(Stop):
        make(tmp_path / "b", on_event=stop)
    assert names(tmp_path / "b") == {".map.tif.geouq"}
    assert make(tmp_path / "b")["tiles_continued"] >= 5
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_the_same_run_again_finds_it(tmp_path):
    make(tmp_path)
    before = digest(tmp_path)
    assert make(tmp_path)["already_there"] and digest(tmp_path) == before
    attributes = tmp_path / "map.zarr" / ".zattrs"
    attributes.write_text(attributes.read_text().replace(read(tmp_path / "map.zarr").attrs["GEOUQ_RUN"], "0" * 16))
    with pytest.raises(OutputError, match="exists already"):
        make(tmp_path)


def test_another_run_replaces_it_when_told_and_takes_it_away_when_it_makes_none(tmp_path):
    make(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        make(tmp_path, seed=1)
    other = make(tmp_path, seed=1, overwrite=True)
    assert read(tmp_path / "map.zarr").attrs["GEOUQ_RUN"] == other["run"]
    assert names(tmp_path) == {"map.tif", "map.qml", "map_samples.tif", "map_samples.qml", "map.zarr"}
    make(tmp_path, zarr=None, seed=2, overwrite=True)
    assert names(tmp_path) == {"map.tif", "map.qml", "map_samples.tif", "map_samples.qml"}


def test_what_cannot_be_is_refused_before_the_first_tile(tmp_path, monkeypatch):
    foreign = tmp_path / "foreign.zarr"
    xr.Dataset({"a": ("x", [1])}).to_zarr(foreign, zarr_format=2)
    before = digest(tmp_path)
    with pytest.raises(OutputError, match="geouq has not made it"):
        make(tmp_path, zarr="foreign.zarr", overwrite=True)
    with pytest.raises(OutputError, match="written as .zarr"):
        make(tmp_path, zarr="map.n5")
    with pytest.raises(OutputError, match="votes are none"):
        make(tmp_path, layers=("votes",))
    monkeypatch.setattr(maps_zarr, "find_spec", lambda name: None)
    with pytest.raises(OutputError, match=r'pip install "geouq\[zarr\]"'):
        make(tmp_path)
    assert digest(tmp_path) == before and names(tmp_path) == {"foreign.zarr"}


def test_no_output_lies_in_the_group(tmp_path):
    make(tmp_path)
    before, job = digest(tmp_path), prepare(scene(), MODEL, Settings(samples=4))
    outputs = Outputs(tmp_path / "map.zarr" / "map.tif", zarr=tmp_path / "map.zarr")
    with pytest.raises(OutputError, match="lies in"):
        run(scene(), job, outputs, overwrite=True)
    assert digest(tmp_path) == before


def test_a_scene_in_a_group_is_not_replaced_by_its_map(tmp_path):
    make(tmp_path)
    own = scene().assign_attrs(source=f'ZARR:"{tmp_path / "map.zarr"}":/mask')
    job = prepare(own, MODEL, Settings(samples=4))
    with pytest.raises((OutputError, SceneError), match="the scene itself"):
        run(own, job, Outputs(tmp_path / "new.tif", zarr=tmp_path / "map.zarr"), overwrite=True)


def test_from_the_command_line(tmp_path):
    command("simulate", "scene.tif", "--size", 96, "--seed", 3, cwd=tmp_path)
    ask = ("segment", "scene.tif", "-o", "water.tif", "--zarr", "water.zarr", "--samples", 2)
    said = command(*ask, cwd=tmp_path)
    assert "wrote water.zarr" in said.stdout
    with rasterio.open(tmp_path / "water.tif") as file:
        np.testing.assert_array_equal(read(tmp_path / "water.zarr", raw=True)["mask"], file.read(1))
        assert file.tags()["GEOUQ_ZARR"] == "water.zarr"
    assert "already there" in command(*ask, cwd=tmp_path).stdout
    refused = command(*ask[:-3], "water.n5", cwd=tmp_path, code=2).stderr
    assert len(refused.strip().splitlines()) == 1 and ".zarr" in refused
