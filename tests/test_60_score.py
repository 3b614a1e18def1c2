"""geouq score: two rasters of classes, by brute force and by the course's exercise; what is left out; refusals."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner

import geouq
from geouq.cli.score import command
from geouq.errors import InputError, SceneError
from geouq.scores.picture import KINDS, kinds
from geouq.scores.score import score
from tests.helpers import geouq as run
from tests.helpers import write_raster

PLACE = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}


@pytest.fixture
def ships(tmp_path):
    """The course's exercise: a sea with 5 % ships, and a map that finds none of them."""
    label = np.zeros((1, 20, 20), np.uint8)
    label[0, :4, :5] = 1
    return write_raster(tmp_path / "map.tif", np.zeros_like(label)), write_raster(tmp_path / "label.png", label)


def test_the_exercise_with_the_ships(ships):
    told = json.loads(run("score", *ships, "--json", "--classes", "sea,ships").stdout)
    sea, boats = told["classes"]
    assert [told["accuracy"], boats["iou"], sea["iou"], told["miou"]] == [0.95, 0.0, 0.95, 0.475]
    assert sea["dice"] == pytest.approx(2 * 0.95 / 1.95) and boats["recall"] == 0 and boats["precision"] is None
    assert told["confusion"] == [[380, 0], [20, 0]] and boats["name"] == "ships"
    tables = run("score", *ships).stdout
    assert "accuracy 0.9500  mIoU 0.4750" in tables and "400 pixels count" in tables


def test_many_classes_and_windows_are_counted_as_by_hand(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    said, truth = rng.integers(0, 5, (2, 1, 83, 147)).astype(np.uint8)
    said[0, :9, :9], said[0, 9:12], said[0, 40, 3:7], truth[0, 70:, 100:] = 255, 254, 99, 255
    monkeypatch.setattr("geouq.scores.score._CHUNK", 32)
    tiled = {"tiled": True, "blockxsize": 32, "blockysize": 16}
    paths = (
        write_raster(tmp_path / "m.tif", said, **PLACE, nodata=99, **tiled),
        write_raster(tmp_path / "t.tif", truth, **PLACE),
    )
    found = score(*paths)
    here = (said < 5) & (truth < 5)
    expected = [[int((here & (said == m) & (truth == t)).sum()) for m in range(5)] for t in range(5)]
    assert found.to_dict()["confusion"] == expected and found.names == tuple("01234")
    assert found.left_out["undecided"] == int((said == 254).sum())
    assert found.left_out["not_classified"] == int(np.isin(said, (99, 255)).sum())
    assert found.pixels + sum(found.left_out.values()) == said.size
    third = found.to_dict()["classes"][2]
    union = here & ((said == 2) | (truth == 2))
    assert third["iou"] == (here & (said == 2) & (truth == 2)).sum() / union.sum()
    assert score(*paths, ignore=[4]).to_dict()["classes"][-1]["class"] == 3


def test_a_label_whose_nodata_is_its_class_0(tmp_path):
    values = np.array([[[0, 1, 1, 0]]], np.uint8)
    label = write_raster(tmp_path / "t.tif", values, **PLACE, nodata=0)
    assert score(write_raster(tmp_path / "m.tif", values, **PLACE), label).pixels == 4


def test_a_black_and_white_label(tmp_path):
    said = np.array([[[0, 1, 1, 0]]], np.uint8)
    paths = write_raster(tmp_path / "m.tif", said), write_raster(tmp_path / "t.png", said * 255)
    told = json.loads(run("score", *paths, "--json", "--label-values", "0,255").stdout)
    assert told["confusion"] == [[2, 0], [0, 2]] and told["accuracy"] == 1
    assert "255" in run("score", *paths).stderr  # all white was left out: said
    assert "none of the label's values" in run("score", *paths, "--label-values", "1,255", code=2).stderr


def test_names_come_from_a_maps_tags(tmp_path):
    values = np.array([[[0, 1, 2, 2]]], np.uint8)
    paths = [write_raster(tmp_path / name, values, **PLACE) for name in ("m.tif", "t.tif")]
    with rasterio.open(paths[0], "r+") as file:
        file.update_tags(GEOUQ_CLASSES="water,ice,land", GEOUQ_POSITIVE_CLASS="0")
    found = score(*paths)
    assert found.names == ("water", "ice", "land") and found.positive == 0


def test_a_class_named_at_two_indices_is_refused(tmp_path):
    """Maps of two models were compared index by index, land with water."""
    values = np.array([[[0, 1, 2, 2]]], np.uint8)
    maps = [write_raster(tmp_path / name, values, **PLACE) for name in ("m.tif", "t.tif")]
    for path, names in zip(maps, ("water,ice,land", "land,ice,water"), strict=True):
        with rasterio.open(path, "r+") as file:
            file.update_tags(GEOUQ_CLASSES=names)
    with pytest.raises(InputError, match=r"t.tif: land is class 0, and class 2 in .*m.tif"):
        score(*maps)
    assert score(*maps, label_values=[2, 1, 0]).counts.counts[2, 0] == 1  # the label's own order is told
    with pytest.raises(InputError, match="names given: land is class 0"):
        score(*maps, label_values=[2, 1, 0], names=["land", "water", "ice"])
    assert score(*maps, label_values=[2, 1, 0], names=["eau", "glace", "terre"]).names[0] == "eau"


def test_a_label_value_is_a_class_though_the_file_calls_it_missing(tmp_path):
    said = np.array([[[0, 1, 1, 0]]], np.uint8)
    label = write_raster(tmp_path / "t.tif", said * 255, **PLACE, nodata=255)
    assert score(write_raster(tmp_path / "m.tif", said, **PLACE), label, label_values=[0, 255]).pixels == 4


def test_refusals_are_one_line(tmp_path, ships):
    shifted = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5 + 10, 0, -10, 5e6)}
    zeros = np.zeros((1, 20, 20), np.uint8)
    here, there = write_raster(tmp_path / "a.tif", zeros, **PLACE), write_raster(tmp_path / "b.tif", zeros, **shifted)
    grid = lambda name, place: write_raster(tmp_path / name, zeros, transform=place["transform"])  # noqa: E731
    votes = write_raster(tmp_path / "v.tif", zeros + 3, **PLACE)
    with rasterio.open(votes, "r+") as file:
        file.set_band_description(1, "votes")
    for args, words in (
        ((here, there), "lies elsewhere"),
        ((grid("g.tif", PLACE), grid("h.tif", shifted)), "lies elsewhere"),
        ((here, write_raster(tmp_path / "c.tif", zeros[:, 1:], **PLACE)), "differs in size"),
        ((here, write_raster(tmp_path / "d.tif", np.full((1, 20, 20), 0.5, "f4"), **PLACE)), "0.5, which is no class"),
        ((here, write_raster(tmp_path / "e.tif", np.zeros((3, 20, 20), "u1"), **PLACE)), "3 bands, none called mask"),
        ((here, write_raster(tmp_path / "f.tif", zeros + 255, **PLACE)), "nothing can be scored"),
        ((here, tmp_path / "absent.tif"), "absent.tif"),
        ((votes, here), "holds the layer votes of a map, and no classes"),
        ((*ships, "--picture", ships[0]), "give the output another name"),
        ((*ships, "--ignore", "a"), "is not numbers"),
    ):
        error = run("score", *args, code=2).stderr
        assert words in error and error.count("\n") == 1, error
    with pytest.raises(SceneError):
        score(here, tmp_path / "e.tif")
    with pytest.raises(InputError):
        geouq.score(here, here, names=["one"])


def test_picture(tmp_path, ships):
    out = tmp_path / "errors.png"
    done = CliRunner().invoke(command, [*map(str, ships), "--picture", str(out)])
    assert done.exit_code == 0, done.output
    with rasterio.open(out) as file:
        colours = file.read().reshape(file.count, -1).T[:, :3]
    wanted = [int(KINDS[i][1][k : k + 2], 16) for i in (0, 3) for k in (1, 3, 5)]
    for colour in (wanted[:3], wanted[3:]):  # right, missed
        assert (np.abs(colours.astype(int) - colour).max(1) <= 1).sum() > 1000
    assert "exists" in run("score", *ships, "--picture", out, code=2).stderr


def test_kinds_of_pixels():
    found, truth = np.array([[0, 1, 1, 0, 2, -1]]), np.array([[0, 1, 0, 1, 0, -1]])
    assert kinds(found, truth, 1).tolist() == [[0, 1, 2, 3, 4, -1]]


def test_no_torch(ships):
    code = "import sys, geouq.cli.score as s; s.score(*sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, *map(str, ships)], check=True, timeout=120)
