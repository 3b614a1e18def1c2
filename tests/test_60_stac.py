"""STAC Items beside maps: valid, the map's own fields, the rules that all outputs have."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer

import geouq
from geouq.errors import InputError, OutputError
from geouq.grid import GeoBox, apply
from geouq.maps.collection import write_collection
from geouq.maps.stac import outline
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run
from tests.helpers import as_scene, scene_values, small_model, write_raster
from tests.helpers import geouq as command

MODEL = small_model()
WHEN = "2024-05-01T05:16:31Z"


def make(folder: Path, overwrite=False, seed=0, scene=None, layers=("mask", "uncertainty"), bounds=None, **outputs):
    """A run of 70 x 80 pixels in tiles of 48, with an Item."""
    scene = as_scene(scene_values(70, 80)).assign_attrs(acquired=WHEN) if scene is None else scene
    job = prepare(scene, MODEL, Settings(samples=3, layers=layers, tile=48, seed=seed, bounds=bounds))
    wanted = Outputs(folder / "map.tif", **{"stac": folder / "map.json"} | outputs)
    return run(scene, job, wanted, overwrite=overwrite)


def item_of(path: Path) -> dict:
    return json.loads(path.read_text())


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_it_is_valid(tmp_path):
    pystac = pytest.importorskip("pystac")
    from pystac.extensions.projection import ProjectionExtension
    from pystac.validation import validate_dict
    from pystac.validation.stac_validator import JsonSchemaSTACValidator  # its schemas come with it: no network

    for number, acquired in enumerate((WHEN, "2024-05-01")):
        (tmp_path / str(number)).mkdir()
        scene = as_scene(scene_values(70, 80)).assign_attrs(acquired=acquired)
        make(tmp_path / str(number), scene=scene, layers=("mask", "std", "votes"), float32=bool(number))
        told = item_of(tmp_path / str(number) / "map.json")
        assert validate_dict(told, extensions=[], validator=JsonSchemaSTACValidator())
        with pytest.raises(pystac.errors.STACValidationError):
            validate_dict(told | {"bbox": "here"}, extensions=[], validator=JsonSchemaSTACValidator())
        item = pystac.Item.from_dict(told)
        assert ProjectionExtension.ext(item).epsg == 32633 and ProjectionExtension.ext(item).shape == [70, 80]


@pytest.mark.parametrize("bounds", [None, (500_070, 4_999_350, 500_620, 4_999_890)])
def test_its_fields_are_those_of_the_map(tmp_path, bounds):
    layers = ("mask", "uncertainty", "probabilities", "votes")
    summary = make(tmp_path, layers=layers, bounds=bounds, vector=tmp_path / "map.gpkg", preview=tmp_path / "map.png")
    item = item_of(tmp_path / "map.json")
    told, assets = item["properties"], item["assets"]
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (told["proj:code"], told["proj:shape"]) == (str(file.crs), list(file.shape))
        assert told["proj:transform"] == list(file.transform)[:6] and told["proj:bbox"] == list(file.bounds)
        bands, tags = assets["map"]["bands"], file.tags()
        assert [band["name"] for band in bands] == list(file.descriptions) and len(bands) == 4
        assert [band["data_type"] for band in bands] == list(file.dtypes)
        assert [band["nodata"] for band in bands] == list(file.nodatavals)
        assert [band.get("raster:scale", 1) for band in bands] == list(file.scales)
        for number, band in enumerate(bands, 1):
            valid = file.read(number, masked=True).compressed()
            assert band["statistics"]["mean"] == pytest.approx(valid.mean())
            assert band["statistics"]["maximum"] == valid.max()
        assert tags["GEOUQ_STAC"] == "map.json" and told["datetime"] == tags["GEOUQ_ACQUIRED"] == WHEN
        for name in ("run", "model_hash", "sampler", "halo", "threshold", "area_m2", "classes"):
            assert str(told[f"geouq:{name}"]) == tags[f"GEOUQ_{name.upper()}"]
        assert told["processing:software"] == {"geouq": tags["GEOUQ_VERSION"]} and told["mlm:name"] == "small"
        assert {one["value"]: one["name"] for one in bands[0]["classification:classes"]} == {0: "land", 1: "water"}
    with rasterio.open(tmp_path / "map_samples.tif") as file:
        assert assets["votes"]["bands"] == [{"name": "votes", "data_type": "uint32", "nodata": file.nodata}]
    described = {tmp_path / asset["href"] for asset in assets.values()} | {tmp_path / "map.json"}
    assert described == set(map(Path, summary["files"])), "each file of the run is an asset"
    for asset in assets.values():
        data = (tmp_path / asset["href"]).read_bytes()
        assert asset["file:size"] == len(data) and asset["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
    assert assets["picture"]["roles"] == ["overview"] and assets["polygons"]["roles"] == ["data"]
    assert shapely.geometry.shape(item["geometry"]).bounds == pytest.approx(item["bbox"])


def test_floats_say_nan_and_a_day_is_an_interval(tmp_path):
    scene = as_scene(scene_values(70, 80)).assign_attrs(acquired="2024-05-01")
    make(tmp_path, scene=scene, float32=True)
    item = item_of(tmp_path / "map.json")
    assert [(band["nodata"], band["data_type"]) for band in item["assets"]["map"]["bands"]] == [("nan", "float32")] * 2
    told = item["properties"]
    assert told["datetime"] is None
    assert (told["start_datetime"], told["end_datetime"]) == ("2024-05-01T00:00:00Z", "2024-05-01T23:59:59Z")


def test_addresses_are_relative_to_the_item_which_may_lie_elsewhere(tmp_path):
    (tmp_path / "items").mkdir()
    make(tmp_path, stac=tmp_path / "items" / "map.json")
    assert item_of(tmp_path / "items" / "map.json")["assets"]["map"]["href"] == "./../map.tif"


def test_the_same_run_leaves_the_same_bytes_and_finds_them(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert make(tmp_path / "a")["already_there"] and digest(tmp_path / "a") == digest(tmp_path / "b")
    (tmp_path / "a" / "map.json").write_text("{}")
    with pytest.raises(OutputError, match="exists already"):
        make(tmp_path / "a")


def test_another_run_replaces_it_when_told_and_takes_it_away_when_it_makes_none(tmp_path):
    first = make(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        make(tmp_path, seed=1)
    assert item_of(tmp_path / "map.json")["properties"]["geouq:run"] == first["run"]
    other = make(tmp_path, seed=1, overwrite=True)
    assert item_of(tmp_path / "map.json")["properties"]["geouq:run"] == other["run"] != first["run"]
    make(tmp_path, seed=2, overwrite=True, stac=None)
    assert {path.name for path in tmp_path.iterdir()} == {"map.tif", "map.qml"}


def test_what_no_item_can_say_is_refused_before_the_first_tile(tmp_path):
    values = scene_values(70, 80)
    for acquired in (None, "", "2024/05/01", "2024-02-31", "2024-05-01 05:16", np.datetime64("2024-05-01")):
        with pytest.raises(InputError, match="YYYYMMDD"):
            make(tmp_path, scene=as_scene(values).assign_attrs(acquired=acquired))
    with pytest.raises(OutputError, match="no CRS"):
        make(tmp_path, scene=as_scene(values, crs=None).assign_attrs(acquired=WHEN))
    with pytest.raises(OutputError, match=r"written as \.json"):
        make(tmp_path, stac=tmp_path / "map.xml")
    assert not list(tmp_path.iterdir())


GRIDS = {  # grid, its bounds in degrees as far as they are known
    "utm": (GeoBox((2500, 2500), Affine(100, 0, 300_000, 0, -100, 5_000_000), "EPSG:32633"), None),
    "rotated": (GeoBox((300, 400), Affine(80, 60, 500_000, 60, -80, 5_000_000), "EPSG:32633"), None),
    "antimeridian": (GeoBox((500, 500), Affine(500, 0, 100_000, 0, -500, 1_000_000), "EPSG:32601"), None),
    "beyond 180": (GeoBox((10, 20), Affine(1, 0, 170, 0, -1, 5), "EPSG:4326"), [170, -5, -170, 5]),
    "to 180": (GeoBox((10, 10), Affine(1, 0, 170, 0, -1, 5), "EPSG:4326"), [170, -5, 180, 5]),
    "world": (GeoBox((180, 360), Affine(1, 0, 0, 0, -1, 90), "EPSG:4326"), [-180, -90, 180, 90]),
    "north pole": (GeoBox((200, 300), Affine(1e4, 0, -1e6, 0, -1e4, 1e6), "EPSG:3413"), [-180, None, 180, 90]),
    "south pole": (GeoBox((200, 300), Affine(1e4, 0, -1e6, 0, -1e4, 1e6), "EPSG:3031"), [-180, -90, 180, None]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_outline_holds_all_pixels_and_nothing_else(name):
    """Against brute force: points in and around the grid, by where they are on it."""
    grid, expected = GRIDS[name]
    geometry, bbox = outline(grid, name)
    shape = shapely.geometry.shape(json.loads(json.dumps(geometry)))
    assert shape.is_valid and shape.bounds[0] >= -180 and shape.bounds[2] <= 180
    for part in shapely.get_parts(shape):
        assert part.exterior.is_ccw
    rows, columns = grid.shape
    inside = (np.random.default_rng(0).uniform(0.005, 0.995, (400, 2)) * (columns, rows)).T
    out = np.array([(-0.02, 0.5), (1.02, 0.5), (0.5, -0.02), (0.5, 1.02)]).T * [[columns], [rows]]
    degrees = Transformer.from_crs(str(grid.crs), 4326, always_xy=True).transform
    for (column, row), within in ((inside, True), (out, False)):
        x, y = degrees(*apply(grid.affine, column, row))
        x = (np.asarray(x) + 180) % 360 - 180
        if within or name != "world":
            assert (shapely.contains_xy(shape, x, y) == within).all()
        if within:
            assert ((y >= bbox[1]) & (y <= bbox[3])).all()
            across = (x >= bbox[0]) & (x <= bbox[2]) if bbox[0] <= bbox[2] else (x >= bbox[0]) | (x <= bbox[2])
            assert across.all()
    for found, known in zip(bbox, expected or bbox, strict=True):
        assert known is None or found == known
    if name == "antimeridian":
        assert bbox[0] > 170 and bbox[2] < -170 and shape.geom_type == "MultiPolygon"


def test_a_grid_that_leaves_the_earth_has_none():
    far = GeoBox((100, 100), Affine(1e6, 0, -5e7, 0, -1e6, 5e7), "+proj=geos +h=35785831 +lon_0=0")
    with pytest.raises(OutputError, match="no place on the Earth"):
        outline(far, "far.json")


def test_from_the_command_line(tmp_path):
    for day in ("20240501", "20240513"):
        command("simulate", f"in_{day}.tif", "--size", 64, "--seed", 3, cwd=tmp_path)
    ask = ("segment", "in_20240501.tif", "-o", "water.tif", "--samples", 2, "--stac")
    assert "wrote water.json" in command(*ask, cwd=tmp_path).stdout
    assert item_of(tmp_path / "water.json")["properties"]["start_datetime"].startswith("2024-05-01")
    assert "already there" in command(*ask, cwd=tmp_path).stdout
    refused = command(*ask[:-1], "--stac", "water.xml", cwd=tmp_path, code=2).stderr
    assert len(refused.strip().splitlines()) == 1 and ".json" in refused
    (tmp_path / "water.tif").unlink()
    many = ("segment", "in_20240501.tif", "in_20240513.tif", "-o", "maps/", "--samples", 2)
    command(*many, "--stac", cwd=tmp_path)
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert {"in_20240501_water.json", "in_20240513_water.json"} <= names
    command(*many, "--stac", "items/", "--overwrite", cwd=tmp_path)
    one = item_of(tmp_path / "items" / "in_20240513_water.json")
    assert one["assets"]["map"]["href"] == "./../maps/in_20240513_water.tif"
    assert not (tmp_path / "maps" / "in_20240513_water.json").exists(), "the one of the map that was overwritten"


def test_the_maps_of_many_scenes_are_a_collection(tmp_path, monkeypatch):
    pystac = pytest.importorskip("pystac")
    from click.testing import CliRunner
    from pystac.validation import validate_dict
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    from geouq.cli.main import geouq as group

    monkeypatch.chdir(tmp_path)
    MODEL.save(tmp_path / "m.safetensors")
    place = {"crs": "EPSG:32633", "nodata": np.nan}
    for day, west in (("20240501", 5e5), ("20240513", 6e5), ("20240525", 5e5)):
        values, transform = scene_values(40, 50), Affine(10, 0, west, 0, -10, 5e6)
        write_raster(tmp_path / f"scenes/s_{day}_db.tif", values, transform=transform, **place)
    options = ["-o", "maps/", "--stac", "items/", "--model", "m.safetensors", "--samples", "2", "-q"]
    two = [f"scenes/s_{day}_db.tif" for day in ("20240501", "20240513")]
    assert CliRunner().invoke(group, ["segment", *two, *options]).exit_code == 0
    first = (tmp_path / "items" / "collection.json").read_bytes()
    assert CliRunner().invoke(group, ["segment", *two, *options]).exit_code == 0, "Items that refer back are this run's"
    assert (tmp_path / "items" / "collection.json").read_bytes() == first
    assert CliRunner().invoke(group, ["segment", "scenes/s_20240525_db.tif", *options]).exit_code == 0
    told = item_of(tmp_path / "items" / "collection.json")
    assert validate_dict(told, validator=JsonSchemaSTACValidator())
    assert told["extent"]["temporal"]["interval"] == [["2024-05-01T00:00:00Z", "2024-05-25T23:59:59Z"]]
    read = pystac.Collection.from_file(str(tmp_path / "items" / "collection.json"))
    items = list(read.get_items())
    assert [item.id for item in items] == [f"s_{day}_db_water" for day in ("20240501", "20240513", "20240525")]
    boxes = np.array([item.bbox for item in items])
    assert told["extent"]["spatial"]["bbox"][0] == [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]
    for item in items:
        assert item.get_collection().id == "items" and Path(item.assets["map"].get_absolute_href()).is_file()
        assert validate_dict(item.to_dict(), extensions=[], validator=JsonSchemaSTACValidator())


def test_a_collection_of_somebody_else_is_not_replaced(tmp_path):
    path = tmp_path / "collection.json"
    for text, says in (
        ('{"type": "Collection", "keywords": []}', "geouq has not made it"),
        ("{", "cannot be read as STAC"),
    ):
        path.write_text(text)
        with pytest.raises(OutputError, match=says):
            write_collection(path, [], "maps")
        assert path.read_text() == text


@pytest.mark.parametrize(
    ("time", "said"), [("2024-05-13", "2024-05-13"), ("2024-05-13T05:16:31", "2024-05-13T05:16:31Z")]
)
def test_the_one_time_of_a_scene_is_when_it_was_taken(tmp_path, time, said):
    """Of dates that were joined each has the attributes of the first."""
    stack = (
        as_scene(scene_values(70, 80)).assign_attrs(acquired=WHEN).expand_dims(time=np.array([time], "datetime64[ns]"))
    )
    summary = geouq.run(stack, MODEL, Outputs(tmp_path / "map.tif", stac=tmp_path / "map.json"), samples=2)
    told = item_of(tmp_path / "map.json")["properties"]
    assert summary["acquired"] == said and said in (told["datetime"], (told.get("start_datetime") or "")[:10])


def test_a_setting_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"geouq.run has no setting 'treshold': it has samples, seed"):
        geouq.run(as_scene(scene_values(20, 20)), MODEL, tmp_path / "m.tif", treshold=0.4)
