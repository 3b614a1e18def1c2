"""``--decide``, ``--risk`` and the alarm as a user meets them: one scene, one map, all that is told of it."""

import json

import geopandas
import pytest
import shapely

from geouq.networks.model import Model
from tests.helpers import geouq, scene_values, write_raster
from tests.maps import write_places
from tests.test_50_decide import ALARM, MODEL, RISK

LAYERS = "mask,uncertainty,confidence,votes"
GRID = {"crs": "EPSG:32633", "transform": (10, 0, 500_000, 0, -10, 5_000_000), "nodata": float("nan")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from affine import Affine

    path = tmp_path_factory.mktemp("decide")
    write_raster(path / "scene.tif", scene_values(120, 140), **GRID | {"transform": Affine(*GRID["transform"])})
    MODEL.with_spec(risk=RISK, alarm=ALARM, decide="iou").save(path / "knows.safetensors")
    MODEL.save(path / "knows-nothing.safetensors")
    write_places(path / "places.gpkg", [shapely.box(500_100, 4_999_000, 500_900, 4_999_900)])
    return path


def test_one_map_says_how_it_was_decided_everywhere(folder):
    outputs = ["-o", "water.tif", "--preview", "water.png", "--vector", "water.gpkg", "--layers", LAYERS]
    command = ["segment", "scene.tif", "--scale", "db", "--model", "knows.safetensors", "--samples", 4, *outputs]
    done = geouq(*command, "--risk", 0.1, cwd=folder)
    assert "geouq: WARNING: do not trust this map: of " in done.stderr
    assert "cut: 0." in done.stdout and "(--decide iou)" in done.stdout and "undecided: " in done.stdout
    assert "at most 10 % of the pixels are expected to be decided and wrong" in done.stdout
    told = geouq("info", "water.tif", cwd=folder).stdout
    for words in ("decide", "iou", "cut", "risk", "do not trust this map", "undecided area m2"):
        assert words in told, words
    style = (folder / "water.qml").read_text()
    assert 'userNotes value="do not trust this map' in style and 'label="undecided"' in style
    polygons = geouq("vectorize", "water.tif", "again.gpkg", cwd=folder).stdout
    assert "; undecided " in polygons
    zonal = geouq("zonal", "water.tif", "places.gpkg", "-o", "z.gpkg", "--json", cwd=folder)
    summary = json.loads(zonal.stdout)
    assert summary["expectation"].startswith("do not trust this map") and summary["undecided_area_m2"] > 0
    place = geopandas.read_file(folder / "z.gpkg", layer="places").iloc[0]
    assert 0 < place["undecided_area_m2"] < place["valid_area_m2"]
    assert place["undecided_area_m2"] + place["mask_area_m2"] < place["valid_area_m2"]
    said = geouq("zonal", "water.tif", "places.gpkg", "-o", "y.gpkg", cwd=folder).stdout
    assert "of the whole map: do not trust" in said


def test_a_sample_was_not_decided_so(folder):
    layers = ["--layers", LAYERS, "--risk", 0.1, "--samples", 4, "-o", "votes.tif"]
    geouq("segment", "scene.tif", "--scale", "db", "--model", "knows.safetensors", *layers, cwd=folder)
    geouq("samples", "votes_samples.tif", "-o", "s.tif", "--sample", 1, cwd=folder)
    told = json.loads(geouq("info", "s.tif", "--json", cwd=folder).stdout)
    assert not {"undecided", "decide", "cut", "risk", "expectation", "undecided_area_m2"} & set(told)


def test_a_map_to_be_trusted_says_what_to_expect(folder):
    command = ["segment", "scene.tif", "--scale", "db", "--model", "knows.safetensors", "--samples", 4, "-o", "b.tif"]
    done = geouq(*command, "--decide", "accuracy", "--json", cwd=folder)
    found = json.loads(done.stdout)
    assert found["warnings"] == [] and "geouq: expected share of wrong pixels: 1 % (1–1 %)" in done.stderr
    assert found["expected_wrong"] == 0.01 and found["decide"] == "accuracy" and found["cut"] == 0.5


def test_models_are_described_without_their_tables(folder):
    told = geouq("info", "knows.safetensors", cwd=folder).stdout
    assert "from 30 maps of 30 places left out, with --decide accuracy, iou" in told and len(told) < 4000
    assert json.loads(geouq("info", "knows.safetensors", "--json", cwd=folder).stdout)["alarm"] == ALARM
    assert Model.load(folder / "knows.safetensors").spec.risk == RISK


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--risk", 0.1], "model 'small' has no risk measured on places left out: leave --risk out"),
        (["--decide", "best"], "decide 'best' is none of accuracy, iou, area, nor a probability from 0 to 1"),
        (["--decide", "2"], "decide '2' is none of"),
    ],
)
def test_refusals_are_one_line(folder, options, words):
    command = ["segment", "scene.tif", "--scale", "db", "--model", "knows-nothing.safetensors", "-o", "no.tif"]
    done = geouq(*command, *options, cwd=folder, code=2)
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1 and not (folder / "no.tif").exists()


def test_less_risk_than_places_allow_is_refused(folder):
    command = ["segment", "scene.tif", "--scale", "db", "--model", "knows.safetensors", "-o", "no.tif"]
    done = geouq(*command, "--risk", 0.01, cwd=folder, code=2)
    assert "risk 0.01 cannot be promised from 40 places: give --risk 0.025 or more" in done.stderr
