"""Cross-validation by place: places stay whole, each is judged once and unseen, and the model stores what was found."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from geouq.cli.main import geouq
from geouq.decisions import LEVELS
from geouq.grid import Roi
from geouq.networks.model import Model
from geouq.simulation.simulate import random_landscape, simulate_window
from tests.helpers import write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RECIPE = """
name = "tiny"
architecture = "unet"
arguments = {widths = [4, 6, 8], dropout = {bottleneck = 0.3, decoder = 0.3}}
size = 32
view = "crop"
batch = 4
bands = ["VV", "VH"]
units = "dB"
mean = [-12.0, -19.0]
std = [5.0, 6.0]
clip = [-50.0, 20.0]
augment = "none"
validation = 0.0

[training]
steps = 24
every = 12
warmup = 4
rate = 1e-2
average = 0.8
"""
PLACES = "abcdefgh"


def run(*arguments):
    return CliRunner().invoke(geouq, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight places, two chips of each: ground of every kind, and all dry in three."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny.toml").write_text(RECIPE)
    for number, place in enumerate(PLACES):
        pixels, truth = simulate_window((256, 256), Roi(0, 256, 0, 256), number, random_landscape(number))
        share = np.lib.stride_tricks.sliding_window_view(truth, (64, 64))[::64, ::64].mean((2, 3))  # beyond: 255
        order = np.argsort(np.abs(share - (0 if place in "abc" else 0.4)), axis=None)[:2]
        for k, (row, column) in enumerate(zip(*np.unravel_index(order, share.shape), strict=True)):
            part = (slice(64 * row, 64 * row + 64), slice(64 * column, 64 * column + 64))
            write_raster(folder / "data" / "images" / f"{place}_{k}.tif", pixels[:, *part], nodata=np.nan)
            write_raster(folder / "data" / "labels" / f"{place}_{k}.png", truth[None, *part])
    return folder


@pytest.fixture(scope="module")
def made(data):
    """What the verb leaves, run in two steps as if side by side."""
    common = (data / "data", "--recipe", data / "tiny.toml", "-o", data / "out", "--device", "cpu", "--samples", 6)
    assert run(*common, "--folds", 3, "--only", "2,all").exit_code == 0
    assert not (data / "out" / "folds.json").exists() and not (data / "out" / "fold-1").exists()
    done = run(*common, "--folds", 3, "--resume")
    assert done.exit_code == 0, done.output
    return data / "out", done.output


def test_places_are_whole_and_left_out_once(made):
    out, said = made
    found = json.loads((out / "folds.json").read_text())
    left = [fold["places"] for fold in found["folds"]]
    assert sorted(sum(left, [])) == list(PLACES) and len(left) == 3
    for fold in found["folds"]:
        settings = json.loads((out / f"fold-{fold['number']}" / "settings.json").read_text())
        seen = {name[0] for name in settings["training"] + settings["validation"]}
        assert seen == set(PLACES) - set(fold["places"])
        assert {c["place"] for c in found["chips"] if c["group"] == fold["number"]} == set(fold["places"])
    assert sorted(c["name"] for c in found["chips"]) == sorted(f"{p}_{k}" for p in PLACES for k in (0, 1))
    assert "decide" in said and "worst chip" in said


def test_the_model_stores_what_folds_json_says(made):
    out, _ = made
    found, spec = json.loads((out / "folds.json").read_text()), Model.load(out / "tiny.safetensors").spec
    decisions = {row["decide"]: row for row in found["decisions"]}
    for rule, row in decisions.items():
        wet = [p["iou"][rule] for p in found["places"] if p["iou"][rule] is not None]
        dry = [p["false_positive"][rule] for p in found["places"] if p["false_positive"][rule] is not None]
        assert row["iou"] == pytest.approx(np.mean(wet)) and row["false_positive"] == pytest.approx(np.mean(dry))
    most = max(0.005, decisions["accuracy"]["false_positive"])
    allowed = {rule: row["iou"] for rule, row in decisions.items() if row["false_positive"] <= most}
    assert spec.decide == found["decide"] and allowed[spec.decide] == max(allowed.values())
    assert spec.temperature == found["fitted"]["temperature"] and spec.place_effect == found["fitted"]["place_effect"]
    assert spec.alarm["place"] == [c["place"] for c in found["chips"]]
    assert spec.alarm["doubt"] == [c["doubt"] for c in found["chips"]]
    assert spec.risk["places"] == 8 and spec.risk["level"] == list(LEVELS)
    for rule in (spec.decide, "accuracy", "iou", "area"):
        assert spec.alarm["wrong"][rule] == [c["wrong"][rule] for c in found["chips"]]
        loss = np.mean([p["loss"][rule] for p in found["places"]], axis=0)
        assert spec.risk["loss"][rule] == pytest.approx(loss, rel=1e-5)
        by_chip = [np.mean([c["wrong"][rule] for c in found["chips"] if c["place"] == p]) for p in PLACES]
        assert loss[0] == pytest.approx(np.mean(by_chip), abs=1e-5)
