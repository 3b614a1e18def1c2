"""Recipes: each trains on tiny data, resumes to the bit, reloads, segments and exports; examples and the loop beneath.

``pytest -s`` prints a table of what came of each recipe.
"""

import json
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.transform import from_origin

from geouq.errors import InputError, OutputError
from geouq.grid import Roi
from geouq.learning.data.augment import jitter_backscatter, turn
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.examples import (
    Example,
    Reading,
    draw_window,
    read_example,
    read_fitted,
    take_census,
)
from geouq.learning.training.events import Ended, Judged, Prepared, Stepped
from geouq.learning.training.fit import FitOptions, score, train_model
from geouq.learning.training.recipe import find_recipe, recipe_names
from geouq.learning.training.settle import class_names, positive_name, settle
from geouq.learning.training.train import Judge, TrainConfig
from geouq.learning.training.train import train as train_network
from geouq.networks.export import export_model
from geouq.networks.model import Model
from geouq.segmentation.lazy import segment
from tests.helpers import picture, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
NARROW = {
    "mc-dropout-unet": {"down": [[4, 4], [6, 6], [6, 8], [8, 8]], "up": [[8, 8], [6, 6], [4, 4]]},
    "unet-16": {"widths": [4, 6, 8]},
    "unet-34m": {"widths": [4, 6, 8, 8, 10]},
    "s1-water": {"widths": [4, 6, 8]},
    "s1-water-fast": {"widths": [4, 6, 8]},
    "s1-water-small": {"widths": [4, 6, 8]},
    "s1-water-ssn": {"widths": [4, 6, 8], "rank": 3},
    "ssn": {"widths": [4, 6, 8], "rank": 3},
    **{f"fcn-{s}s": {"widths": [4, 4, 4, 6, 6], "dense": 8, "kernel": 1} for s in (32, 16, 8)},
    "linknet": {"widths": [4, 8], "depth": 1},
    "pspnet": {"widths": [4, 4, 4, 8], "depth": 1},
    "deeplabv3+": {"widths": [4, 4, 6, 8], "middle": 0, "rates": [1], "features": 4, "low": 4},
}
#: changes to recipes by steps, not by passes over the chips; here of a few steps each
FEW = {name: {"every": 2, "steps": 4} for name in NARROW if name.startswith("s1-water")}
FEW |= {"ssn": {"every": 2, "steps": 4, "mean_steps": 1}}


def write(path, values):
    placed = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    return write_raster(path, values, **(placed if path.suffix == ".tif" else {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders rgb (two classes), street (four classes, one ignored), radar (dB)."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for place in "ABCDE":
        pixels, label = picture(rng, 30, 44, 2)
        write(folder / "rgb" / "images" / f"{place}_1.png", pixels)
        write(folder / "rgb" / "masks" / f"{place}_1.png", label)
        pixels, label = picture(rng, 24, 40, 4)
        write(folder / "street" / "images" / f"{place}_1.png", pixels)
        write(folder / "street" / "labels" / f"{place}_1.png", np.where(label == 3, 255, label).astype(np.uint8))
        water = np.zeros((80, 90), bool)
        water[20:50, 10:70] = True
        decibels = np.stack([np.where(water, -21, -10), np.where(water, -28, -16)]) + rng.normal(0, 1.5, (2, 80, 90))
        write(folder / "radar" / "images" / f"{place}_1.tif", decibels.astype(np.float32))
        write(folder / "radar" / "labels" / f"{place}_1.tif", water[None].astype(np.uint8))
    write(folder / "rgb" / "images" / "F_1.png", np.full((3, 20, 20), 99, np.uint8))  # ill-posed: all water
    write(folder / "rgb" / "masks" / "F_1.png", np.ones((1, 20, 20), np.uint8))
    return folder


FOLDERS = {"mc-dropout-unet": "rgb", "unet-16": "rgb", "unet-34m": "street", "linknet": "street", "fcn-8s": "rgb"}


def small(name, **changes):
    recipe = find_recipe(name)
    arguments = {**recipe.arguments, **NARROW[name]}
    tiny = {"size": 32, "batch": 2, "simulated": 0, "arguments": arguments, "round_steps": 2}
    every = {"training": replace(recipe.training, **FEW[name])} if name in FEW else {}
    return replace(recipe, **tiny | every | changes)


def options(**changes):
    return FitOptions(**{"steps": 4, "validation": ("A",), "device": "cpu"} | changes)


def train(data, name, out, **changes):
    return train_model(data / FOLDERS.get(name, "radar"), small(name), out, options(**changes))


@pytest.mark.parametrize("view", ["fit", "stretch", "crop"])
def test_other_views_train_too(view, data, tmp_path):
    path = train_model(data / "street", small("unet-34m", view=view), tmp_path, options(steps=2))
    assert 0 <= Model.load(path).spec.scores["val_iou"] <= 1


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A recipe's name → its model after four steps, trained once."""
    folder = tmp_path_factory.mktemp("trained")
    return cache(lambda name: train(data, name, folder / name))


@pytest.fixture(scope="module")
def table():
    """Recipe → what came of it, printed when all have passed."""
    rows = {name: {} for name in recipe_names()}
    columns = ("trained", "resumed", "reloaded", "torch.export", "ONNX")
    yield rows
    print("\n| recipe | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for name, row in rows.items():
        print(f"| `{name}` | " + " | ".join(row.get(column, "not run") for column in columns) + " |")


@pytest.mark.parametrize("name", recipe_names())
def test_trains_resumes_to_the_bit_reloads_and_segments(name, data, trained, table, tmp_path):
    whole = trained(name).read_bytes()

    class Stop(Exception):
        pass

    def stop(event):
        if isinstance(event, Stepped) and event.step == 3:
            raise Stop

    with pytest.raises(Stop):
        train_model(data / FOLDERS.get(name, "radar"), small(name), tmp_path / "broken", options(), stop)
    assert not list((tmp_path / "broken").glob("*.safetensors"))
    path = train(data, name, tmp_path / "broken", resume=True)
    assert path.read_bytes() == whole
    assert (tmp_path / "broken" / "log.csv").read_text() == trained(name).with_name("log.csv").read_text()
    model = Model.load(path)
    model.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == whole
    check_segments(model)
    table[name] |= {"trained": "4 steps", "resumed": "same bytes", "reloaded": "same bytes"}


@pytest.mark.parametrize("name", recipe_names())
def test_exports_to_torch(name, trained, table, tmp_path):
    made = export_model(Model.load(trained(name)), tmp_path / "m.pt2", "torch")
    assert made.dynamic and made.difference <= 1e-6
    table[name]["torch.export"] = f"{made.difference:.0e}, any size"


@pytest.mark.skipif(find_spec("onnxscript") is None, reason="ONNX is not tried: pip install 'geouq[export]'")
@pytest.mark.parametrize("name", recipe_names())
def test_exports_to_onnx(name, trained, table, tmp_path):
    made = export_model(Model.load(trained(name)), tmp_path / "m.onnx", "onnx")
    assert made.difference <= 1e-5 and made.size == (256 if name == "pspnet" else None)
    table[name]["ONNX"] = f"{made.difference:.0e}, " + ("any size" if made.dynamic else f"{made.size}² alone")


def check_segments(model):
    colour = model.spec.units == "rgb"
    values = np.random.default_rng(0).uniform(*((0, 255) if colour else (-25, -8)), (len(model.spec.bands), 40, 56))
    coords = {"band": list(model.spec.bands), **xr_coords(GeoBox((40, 56), from_origin(0, 0, 10, 10), "EPSG:32633"))}
    attrs = {"units": model.spec.units}
    scene = xr.DataArray(values.astype(np.float32), dims=("band", "y", "x"), coords=coords, attrs=attrs)
    maps = segment(scene, model=model, samples=2).compute()
    assert maps["mask"].shape == (40, 56) and int(maps["mask"].max()) < len(model.spec.classes)
    assert np.isfinite(maps["uncertainty"].values).all()


@pytest.mark.parametrize("name", ["mc-dropout-unet", "unet-34m"])
def test_n_steps_and_n_more_are_2n_steps(name, data, tmp_path):
    whole = train(data, name, tmp_path / "whole", steps=6).read_bytes()
    train(data, name, tmp_path / "parts", steps=3)
    assert train(data, name, tmp_path / "parts", steps=6, resume=True).read_bytes() == whole


def test_the_seed_decides(data, tmp_path):
    one, two, other = (train(data, "unet-16", tmp_path / str(i), steps=2, seed=i // 2) for i in range(3))
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()


def test_the_full_unet_34m_takes_a_step(data, tmp_path):
    recipe = small("unet-34m", arguments=find_recipe("unet-34m").arguments, batch=1)
    names = tuple(f"c{i}" for i in range(12))
    path = train_model(data / "street", recipe, tmp_path, options(steps=1, classes=names))
    assert sum(p.numel() for p in Model.load(path).network.parameters()) == 34_514_060


def test_a_model_learns_the_lake_and_says_what_it_is(data, tmp_path):
    events = []
    recipe = small("unet-16", training=replace(find_recipe("unet-16").training, rate=5e-3))
    path = train_model(data / "rgb", recipe, tmp_path, options(steps=40), events.append)
    prepared, rows = events[0], [e.row for e in events if isinstance(e, Judged)]
    assert isinstance(prepared, Prepared) and prepared.left_out == 1 and prepared.training == 4
    assert len([e for e in events if isinstance(e, Stepped)]) == 40
    assert rows[-1]["val_iou"] > 0.8 > rows[0]["val_iou"]
    spec = Model.load(path).spec
    assert spec.scores["val_iou"] > 0.8 and spec.units == "rgb" and spec.classes == ("land", "water")
    assert "held out: A" in spec.training
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert len((tmp_path / "log.csv").read_text().splitlines()) == len(rows) + 1


def test_refusals(data, tmp_path):
    train(data, "unet-16", tmp_path, steps=1)
    with pytest.raises(OutputError, match="--resume"):
        train(data, "unet-16", tmp_path, steps=2)
    with pytest.raises(OutputError, match="other settings"):
        train(data, "unet-16", tmp_path, steps=2, seed=5, resume=True)
    settings = (tmp_path / "settings.json").read_bytes()
    for damaged in (b"", b"\xff", b"[]", b'{"recipe": 1}', b"[" * 100_000):
        (tmp_path / "settings.json").write_bytes(damaged)
        with pytest.raises(OutputError, match="other settings"):
            train(data, "unet-16", tmp_path, steps=2, resume=True)
    (tmp_path / "settings.json").write_bytes(settings)
    (tmp_path / "checkpoint.pt").write_bytes(b"junk")
    with pytest.raises(InputError, match="no readable checkpoint"):
        train(data, "unet-16", tmp_path, steps=2, resume=True)
    with pytest.raises(InputError, match="mc-dropout-unet"):
        find_recipe("unet-17")
    with pytest.raises(InputError, match="hold 3"):
        train_model(data / "street", small("unet-34m"), tmp_path / "x", options(classes=("a", "b")))
    with pytest.raises(InputError):
        train_model(data / "rgb", small("s1-water"), tmp_path / "x", options())
    assert not (tmp_path / "x").exists()


def test_early_stopping_keeps_the_best(data, tmp_path):
    training = replace(find_recipe("unet-16").training, rate=0.3, patience=2, floor=1)
    events, recipe = [], small("unet-16", training=training, epochs=30)
    path = train_model(data / "rgb", recipe, tmp_path, options(steps=None), events.append)
    lines = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    losses = [float(line[3]) for line in lines]
    assert len(losses) < 30 and min(losses) == losses[-3]
    assert events[-1] == Ended(2 * len(losses), 60, 2 * len(losses) - 4, 2)
    assert Model.load(path).spec.scores["val_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_a_plateau_lowers_the_rate():
    rows = []
    config = TrainConfig(steps=9, warmup=0, every=1, loss="bce", optimiser="nadam", schedule="plateau", rate=1e-3)
    judge = Judge(lambda network: {"val_loss": 1.0}, lambda so_far: rows.extend(so_far[-1:]))
    batch = np.zeros((1, 1, 4, 4), np.float32), np.zeros((1, 4, 4)), np.ones((1, 4, 4), bool)
    train_network(torch.nn.Conv2d(1, 1, 1), lambda step: batch, config, judge=judge)
    assert [row["rate"] for row in rows] == pytest.approx([1e-3] * 4 + [3e-4] * 3 + [9e-5] * 2)


def test_settings_that_do_not_exist_are_named():
    with pytest.raises(InputError, match="nadam"):
        TrainConfig(optimiser="sgd")
    with pytest.raises(InputError, match="1 or more"):
        TrainConfig(steps=0)


# --- settling


def test_recipes_adapt_to_bands_units_and_classes(data):
    chips = read_dataset(data / "radar")
    recipe = settle(find_recipe("unet-16"), chips, 3, None, 7)
    assert recipe.units == "dB" and len(recipe.mean) == len(recipe.bands) == 2 and recipe.augment == "backscatter"
    assert -20 < recipe.mean[0] < -10 and 2 < recipe.std[0] < 8 and recipe.clip[0] < -25
    assert recipe.training.loss == "cross_entropy" and recipe.arguments["classes"] == 3
    assert recipe.training.seed == 7 and settle(recipe, chips, 3, None, 7) == recipe
    rgb = settle(find_recipe("unet-34m"), read_dataset(data / "street"), 12, 5, 0)
    assert rgb.mean == rgb.std == (127.5,) * 3 and rgb.training.steps == 5 and rgb.arguments["classes"] == 12
    json.dumps(dict(rgb.arguments))


def test_balanced_class_weights_are_counted_in_the_labels(data, tmp_path):
    chips = read_dataset(data / "radar")  # 1800 of 7200 pixels of each chip are water
    weighted = find_recipe("unet-16", ["training.class_weights=balanced", "training.loss=bce + dice"])
    recipe = settle(weighted, chips, 2, None, 0)
    assert recipe.training.class_weights == pytest.approx((7200 / (2 * 5400), 7200 / (2 * 1800)), rel=1e-5)
    assert (
        settle(recipe, chips, 2, None, 0) == recipe
        and settle(weighted, chips, 3, None, 0).training.class_weights[2] == 1
    )
    assert settle(weighted, chips, 3, None, 0).training.loss == "cross_entropy + dice"
    with pytest.raises(InputError, match="class_weights are 2"):
        settle(recipe, chips, 3, None, 0)
    small_one = small("unet-16", training=replace(weighted.training, every=2))
    path = train_model(data / "radar", small_one, tmp_path, options(steps=2))
    assert Model.load(path).spec.scores["val_loss"] > 0
    assert find_recipe(tmp_path / "recipe.toml").training.class_weights == recipe.training.class_weights


def test_scenes_are_cut_not_shrunk(tmp_path):
    for place in "ab":
        write(tmp_path / "images" / f"{place}_1.tif", np.full((2, 200, 1100), 0.1, np.float32))
        write(tmp_path / "labels" / f"{place}_1.tif", np.ones((1, 200, 1100), np.uint8))
    chips = [replace(chip, scale="power") for chip in read_dataset(tmp_path)]
    recipe = settle(find_recipe("unet-16"), chips, 2, None, 0)
    assert recipe.view == "window"
    batch = replace(find_recipe("unet-16"), batch=1)  # a pass: 2 · 9 · 2 windows of 128
    assert settle(batch, chips, 2, None, 0).training.every == 36
    assert recipe.units == "dB" and recipe.mean == pytest.approx((-10, -10), abs=1e-4)


def test_water_is_the_positive_class_whatever_its_letters_case():
    assert positive_name(("Water", "Land")) == "Water" and positive_name(("a", "b", "WATER")) == "WATER"
    assert positive_name(("open water", "crops")) == "crops"


def test_class_names():
    recipe = find_recipe("unet-16")
    assert class_names(recipe, [0], None) == class_names(recipe, [1], None) == ("land", "water")
    assert class_names(recipe, [0, 1, 2], None) == ("class0", "class1", "class2")
    assert class_names(recipe, [0, 2], ("a", "b", "c")) == ("a", "b", "c")
    with pytest.raises(InputError, match="different names"):
        class_names(recipe, [0, 1], ("a", "a"))
    with pytest.raises(InputError, match="10;20;30 in a manifest"):
        class_names(recipe, [10, 20, 30], None)


# --- examples


def test_padding_is_not_valid_and_not_water(data):
    chip = read_dataset(data / "rgb")[0]
    pixels, label, valid = read_fitted(chip, Reading(("red", "green", "blue"), "rgb", 32, "fit", soft=True))
    assert pixels.shape == (3, 32, 32) and label.dtype.kind == "f"
    assert valid[5:27].all() and not valid[:5].any() and not valid[27:].any()
    assert np.isnan(pixels[:, :5]).all() and np.isfinite(pixels[:, 5:27]).all()
    assert 0 <= label[valid].min() and 0 < np.mean((label[valid] > 0.02) & (label[valid] < 0.98)) < 0.2
    _, hard, _ = read_fitted(chip, Reading(("red", "green", "blue"), "rgb", 32, "stretch"))
    assert set(np.unique(hard)) == {0, 1} and hard.mean() == pytest.approx(0.5, abs=0.04)


def test_windows_are_balanced_by_class(tmp_path):
    label = np.zeros((1, 400, 400), np.uint8)
    label[:, 352:384, 352:384] = 1  # 0.6 % of the pixels
    write(tmp_path / "images" / "a_1.tif", np.full((1, 400, 400), -12.5, np.float32))
    write(tmp_path / "labels" / "a_1.tif", label)
    census = take_census(read_dataset(tmp_path), 32)
    assert census.classes == 2 and census.counts.sum() == 400**2
    reading = Reading(("band 1",), "dB", 32)
    rng, seen = np.random.default_rng(0), 0
    for _ in range(200):
        chip, window = draw_window(census, rng)
        assert window.shape == (32, 32) and 0 <= window.y0 and window.x1 <= 400
        seen += (read_example(chip, reading, window)[1] == 1).any()
    assert 30 < seen < 90  # a quarter, where chance alone would give 2 %


def test_a_window_over_the_edge_is_padded(data):
    chip = read_dataset(data / "radar")[0]
    pixels, label, valid = read_example(chip, Reading(("VV", "VH"), "dB", 64), Roi(48, 112, 64, 128))
    assert pixels.shape == (2, 64, 64) and valid[:32, :26].all() and valid.sum() == 32 * 26
    assert (label[~valid] == -1).all() and np.isnan(pixels[:, ~valid]).all()


def test_turns_move_label_with_pixels_and_jitter_keeps_labels():
    rng = np.random.default_rng(0)
    label = np.arange(16).reshape(4, 4)
    example = Example(np.stack([label, label + 1]).astype(np.float32), label, label > 3)
    seen = set()
    for _ in range(60):
        pixels, turned, valid = turn(example, rng)
        assert np.array_equal(pixels[0], turned) and np.array_equal(valid, turned > 3)
        seen.add(turned.tobytes())
        jittered, kept, _ = jitter_backscatter(example, rng)
        assert jittered.dtype == np.float32 and kept is label and abs(np.mean(jittered - example.pixels)) < 3
    assert len(seen) == 8


def test_scores_count_valid_pixels_only():
    network = torch.nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        network.weight[:], network.bias[:] = 1, 0
    pixels = np.array([[[[5.0, 5.0, -5.0, 5.0]]]], np.float32)
    label, valid = np.array([[[1, 0, 1, -1]]]), np.array([[[True, True, True, False]]])
    row = score(network, iter([(pixels, label, valid)]), TrainConfig(loss="cross_entropy"))
    assert row["val_accuracy"] == pytest.approx(1 / 3) and row["val_iou"] == pytest.approx(1 / 3)
    assert row["val_loss"] == pytest.approx((0.0067 + 5.0067 + 5.0067) / 3, abs=1e-3)
