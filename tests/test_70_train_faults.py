"""What users' labelled data bring that training must not take without a word."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from geouq.cli.train import command
from geouq.errors import GeouqError, InputError, ModelError, OutputError, UnitsError
from geouq.grid import Roi
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.examples import Reading, read_example
from geouq.learning.data.loading import load, opacity_note, open_chip
from geouq.learning.data.splits import split_by_place
from geouq.learning.judging.evaluate import evaluate
from geouq.learning.training.batches import training_examples
from geouq.learning.training.events import Prepared
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.recipe import find_recipe, recipe_names
from geouq.learning.training.settle import settle
from geouq.learning.training.train import Judge, TrainConfig, train
from geouq.networks.model import Model
from geouq.segmentation.lazy import segment
from tests.helpers import pairs, picture, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
TINY = ["arguments.widths=[4, 6]", "size=16", "batch=2", "round_steps=2"]


def pictures(folder, names, classes=2, size=40):
    for i, name in enumerate(names):
        pixels, label = picture(np.random.default_rng(i), size, size, classes)
        write_raster(folder / "images" / f"{name}.png", pixels)
        write_raster(folder / "labels" / f"{name}.png", label)
    return folder


def test_examples_are_as_large_as_maps_will_see_the_world(tmp_path):
    """A15: chips were shrunk to 128 pixels, and segment works at a scene's own resolution."""
    assert {find_recipe(name).view for name in recipe_names()} == {"window", "crop"}
    chips = read_dataset(pictures(tmp_path, ["a_1", "b_1"], size=300))
    recipe = settle(find_recipe("unet-16", ["batch=4", "augment=none"]), chips, 2, None, 0)
    reading = Reading(recipe.bands, recipe.units, recipe.size, recipe.view)
    whole = [load(chip, recipe.bands, recipe.units)[0] for chip in chips]
    for example in training_examples(recipe, reading, chips)(0):
        windows = (np.lib.stride_tricks.sliding_window_view(w[0], (128, 128)) for w in whole)
        assert any((found == example.pixels[0]).all((2, 3)).any() for found in windows)


def test_resized_chips_are_told(tmp_path):
    events = []
    recipe = find_recipe("unet-16", [*TINY, "view=fit"])
    train_model(pictures(tmp_path / "d", ["a_1", "b_1"]), recipe, tmp_path / "o", FitOptions(steps=1), events.append)
    assert isinstance(events[0], Prepared) and "resized to 16 pixels" in events[0].notes[0]


def test_few_chips_train_for_a_floor_of_steps(tmp_path):
    """A16: 11 chips made a pass of one step, 18 passes of 18, and the first was kept."""
    chips = read_dataset(pictures(tmp_path, [f"{c}_1" for c in "abcdefghijk"]))
    recipe = settle(find_recipe("unet-16"), chips, 2, None, 0)
    assert recipe.training.every == 25 and recipe.training.steps == 300


def test_patience_waits_for_the_floor():
    config = TrainConfig(steps=40, every=1, warmup=0, loss="bce", patience=2, floor=7)
    rows = []
    judge = Judge(lambda network: {"val_loss": 1.0}, lambda so_far: rows.append(so_far[-1]))
    batch = np.zeros((1, 1, 4, 4), np.float32), np.zeros((1, 4, 4)), np.ones((1, 4, 4), bool)
    train(torch.nn.Conv2d(1, 1, 1), lambda step: batch, config, judge=judge)
    assert len(rows) == 7


def test_a_part_that_the_network_has_not_is_refused_before_anything_is_written(tmp_path):
    data = pictures(tmp_path / "d", ["a_1", "b_1"])
    init = train_model(data, find_recipe("unet-16", TINY), tmp_path / "base", FitOptions(steps=1))
    recipe = find_recipe("unet-16", [*TINY, "training.freeze=['decoder']"])
    with pytest.raises(InputError, match="freeze 'decoder': the network has no such part: it has encoder, stem"):
        train_model(data, recipe, tmp_path / "o", FitOptions(steps=1, init=init))
    assert not (tmp_path / "o").exists()


def test_a_run_that_ended_early_stays_ended_with_the_same_weights(tmp_path):
    config = TrainConfig(steps=40, every=2, warmup=0, loss="bce", patience=2, floor=7)
    batch = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 4, 4)), np.ones((1, 4, 4), bool)
    taken, found = [], []
    for _ in range(2):
        losses = iter((0.5, 0.4, 0.6, 0.7, 0.8))
        judge = Judge(lambda network, losses=losses: {"val_loss": next(losses)}, lambda rows: None)
        torch.manual_seed(0)
        network = train(
            torch.nn.Conv2d(1, 1, 1),
            lambda step: batch,
            config,
            tmp_path / "checkpoint.pt",
            lambda step, loss: taken.append(step),
            judge,
        )
        found.append(network.state_dict())
    assert taken == list(range(8))  # the second time none
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_an_early_end_is_told(tmp_path):
    data = pictures(tmp_path / "d", ["a_1", "b_1"])
    changes = ["epochs=0", "training.steps=40", "training.every=1", "training.patience=1", "training.floor=1"]
    settings = [word for change in (*TINY, *changes, "training.rate=0.0") for word in ("--set", change)]
    done = CliRunner().invoke(command, [str(data), "--recipe", "unet-16", "-o", str(tmp_path / "o"), *settings])
    assert done.exit_code == 0, done.output
    assert "ended at step" in done.output and "of 40: 1 rounds brought no lower loss" in done.output
    assert "kept the weights of step" in done.output


def test_black_padding_is_valid_nowhere(tmp_path):
    """A17: it was left out of training, and counted in scores and maps."""
    folder = pictures(tmp_path / "d", ["a_1", "b_1"])
    for name in ("a_1", "b_1"):
        pixels, _ = picture(np.random.default_rng(0), 40, 40, 2)
        pixels[:, :, :10] = 5  # land or water, by its label; JPEG leaves so much of black
        pixels[1, 5, 5] = 60
        write_raster(folder / "images" / f"{name}.png", pixels)
    path = train_model(folder, find_recipe("unet-16", TINY), tmp_path / "o", FitOptions(steps=1))
    model, chips = Model.load(path), read_dataset(folder)
    maps = segment(open_chip(chips[0]), model=model, samples=0, tile=16).compute()
    expected = np.ones((40, 40), bool)
    expected[:, :10] = False
    expected[5, 5] = True
    np.testing.assert_array_equal(maps["mask"].values != 255, expected)
    assert evaluate(model, chips, samples=0, most_pictures=0).scores["pooled"]["pixels"] == 2 * expected.sum()
    reading = Reading(model.spec.bands, "rgb", 40, black=model.spec.black)
    np.testing.assert_array_equal(read_example(chips[0], reading, Roi(0, 40, 0, 40)).valid, expected)
    with pytest.raises(ModelError, match="black is for rgb"):
        model.with_spec(units="dB")
    assert "black" not in Model.load("s1-water").spec.to_json()


@pytest.mark.parametrize("side", ["a", "b"])
def test_data_without_a_valid_pixel_are_refused(side, tmp_path):
    """A18: they trained «successfully», with a loss of 0 and scores of nan."""
    folder = pairs(tmp_path / "d", ["a_1", "b_1"])
    write_raster(folder / "images" / f"{side}_1.tif", np.full((2, 20, 20), np.nan, np.float32), nodata=np.nan)
    recipe = find_recipe("s1-water", [*TINY, "simulated=1"])
    with pytest.raises(InputError, match="not one pixel of the 1 chips"):
        train_model(folder, recipe, tmp_path / "o", FitOptions(steps=1, validation=("b",)))
    assert not (tmp_path / "o").exists()


def label_throughout(folder, name, number):
    """Label a chip of one class, and leave a few pixels of water without a label."""
    label = np.full((1, 20, 20), number, np.uint8)
    label[0, 0, :3] = 255 if number else 0
    write_raster(folder / "labels" / f"{name}.png", label)


@pytest.mark.parametrize("number", [0, 1])
def test_labels_of_one_class_alone_are_refused(number, tmp_path):
    """A sister of A18: they trained «successfully»."""
    folder = pairs(tmp_path / "d", ["a_1", "b_1"])
    for name in ("a_1", "b_1"):
        label_throughout(folder, name, number)
    with pytest.raises(InputError) as caught:
        train_model(folder, find_recipe("unet-16", [*TINY, "most_positive=1.0"]), tmp_path / "o", FitOptions(steps=1))
    said = f"{folder}: the measured pixels are labelled class {number} ({('land', 'water')[number]}) alone"
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_a_second_class_among_pixels_without_a_measurement_does_not_count(tmp_path):
    folder = pairs(tmp_path / "d", ["a_1", "b_1"])
    for name in ("a_1", "b_1"):
        label_throughout(folder, name, 1)
        with rasterio.open(folder / "images" / f"{name}.tif", "r+") as image:
            image.write(np.full((2, 4, 20), np.nan, np.float32), window=Window(0, 0, 20, 4))
        with rasterio.open(folder / "labels" / f"{name}.png") as file:
            label = file.read()
        label[0, :4] = 0
        write_raster(folder / "labels" / f"{name}.png", label)
    with pytest.raises(InputError, match=r"labelled class 1 \(water\) alone"):
        train_model(folder, find_recipe("unet-16", TINY), tmp_path / "o", FitOptions(steps=1))


def test_one_class_to_train_on_is_told_where_the_held_out_chips_have_two(tmp_path):
    folder, events = pairs(tmp_path / "d", ["a_1", "b_1"]), []
    label_throughout(folder, "a_1", 0)
    options = FitOptions(steps=1, validation=("b",))
    train_model(folder, find_recipe("unet-16", TINY), tmp_path / "o", options, events.append)
    assert "the chips to train on are labelled class 0 (land) alone" in events[0].notes[0]


@pytest.mark.parametrize("inside", ["images", "labels", "images/../labels"])
def test_nothing_is_written_among_images_or_labels(inside, tmp_path):
    """curves.png was an image without a label: the data could not be read any more."""
    folder = pairs(tmp_path / "d", ["a_1", "b_1"])
    before = sorted(folder.rglob("*"))
    with pytest.raises(OutputError, match="holds images or labels of"):
        train_model(folder, find_recipe("unet-16", TINY), folder / inside, FitOptions(steps=1))
    assert sorted(folder.rglob("*")) == before
    assert train_model(folder, find_recipe("unet-16", TINY), folder / "run", FitOptions(steps=1)).exists()


def test_label_codes_are_not_class_indices(tmp_path):
    """A19: 10, 20, 30 made a network of 31 classes."""
    folder = pictures(tmp_path / "d", ["a_1", "b_1"], classes=3)
    for name in ("a_1", "b_1"):
        _, label = picture(np.random.default_rng(0), 40, 40, 3)
        write_raster(folder / "labels" / f"{name}.png", 10 * label + 10)
    with pytest.raises(InputError, match=r"codes of 3 classes, or 31 classes\? Say classes: 10;20;30 in a manifest"):
        train_model(folder, find_recipe("unet-34m"), tmp_path / "o")
    rows = [{"image": f"images/{n}.png", "label": f"labels/{n}.png", "classes": [10, 20, 30]} for n in ("a_1", "b_1")]
    (folder / "manifest.json").write_text(json.dumps(rows))
    events = []
    recipe = find_recipe("unet-16", TINY)
    train_model(folder, recipe, tmp_path / "o", FitOptions(steps=1), events.append)
    assert events[0].recipe.arguments["classes"] == 3


def test_a_label_of_three_bands_is_refused(tmp_path):
    folder = pictures(tmp_path, ["a_1"])
    write_raster(folder / "labels" / "a_1.png", np.ones((3, 40, 40), np.uint8))
    with pytest.raises(InputError, match="has 3 bands, and a label has one"):
        load(read_dataset(folder)[0])


@pytest.mark.parametrize("kind", ["infrared", "alpha"])
def test_near_infrared_that_is_marked_as_alpha_is_told(kind, tmp_path):
    folder = pictures(tmp_path, ["a_1"])
    pixels = np.random.default_rng(0).integers(1, 255, (4, 40, 40)).astype(np.uint8)
    pixels[3] = np.where(pixels[3] > 100, 255, 0) if kind == "alpha" else pixels[3]
    (folder / "images" / "a_1.png").unlink()
    write_raster(folder / "images" / "a_1.tif", pixels)
    with rasterio.open(folder / "images" / "a_1.tif", "r+") as file:
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    (chip,) = read_dataset(folder)
    assert ("band 4 is marked as alpha" in opacity_note(chip)) == (kind == "infrared")
    with pytest.raises(InputError, match=r"has 3 bands \(band 4 is marked as alpha: gdal_edit"):
        open_chip(replace(chip, bands=("R", "G", "B", "NIR")))


def test_unknown_units_are_said_in_a_manifest_not_with_a_flag_that_is_not_there(tmp_path):
    """B17."""
    write_raster(tmp_path / "images" / "a_1.tif", np.full((1, 20, 20), 0.3, np.float32))
    write_raster(tmp_path / "labels" / "a_1.png", np.ones((1, 20, 20), np.uint8))
    with pytest.raises(UnitsError) as caught:
        load(read_dataset(tmp_path)[0])
    assert "say in a manifest (units)" in str(caught.value) and "--scale" not in str(caught.value)


def test_two_bands_of_one_name_are_refused(tmp_path):
    """B30: the last was taken."""
    (chip,) = read_dataset(pairs(tmp_path, ["a"]))
    with pytest.raises(InputError, match="two bands are called VV"):
        load(replace(chip, bands=("VV", "VV")), ("VV", "VH"), "dB")


def test_names_that_begin_alike_tell_no_places(tmp_path):
    """B32: all water_body_N.jpg were one place, and one place cannot be split."""
    names = [f"water_body_{i}" for i in range(5)]
    chips = read_dataset(pictures(tmp_path / "d", names))
    assert [chip.place for chip in chips] == sorted(names)
    assert [len(side) for side in split_by_place(chips)] == [4, 1]
    events = []
    train_model(tmp_path / "d", find_recipe("unet-16", TINY), tmp_path / "o", FitOptions(steps=1), events.append)
    assert events[0].places == (4, 1)
    told = read_dataset(pictures(tmp_path / "e", ["Ulm_1", "Ulm_2", "Bonn_1"]))
    assert [chip.place for chip in told] == ["Bonn", "Ulm", "Ulm"]


@pytest.mark.parametrize("kind", ["field", "nested", "bytes", "split", "empty"])
def test_damaged_manifests_are_one_line(kind, tmp_path):
    """E13: a field above csv's limit and JSON nested too deep ended in tracebacks."""
    folder = pictures(tmp_path, ["a_1"])
    row = {"image": "images/a_1.png", "label": "labels/a_1.png"}
    if kind == "nested":
        (folder / "manifest.json").write_text("[" * 100_000)
    elif kind == "bytes":
        (folder / "manifest.csv").write_bytes(b"image,label\n\xff\xfe,x\n")
    else:
        row |= {"field": {"name": "x" * 140_000}, "split": {"split": "dev"}, "empty": {"label": ";"}}[kind]
        with open(folder / "manifest.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)
    with pytest.raises(GeouqError) as caught:
        read_dataset(folder)
    assert "manifest" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("view", ["window", "crop"])
def test_the_class_that_is_painted_may_be_class_0(view, tmp_path):
    """A1: outlines, ill-posed chips and scores were those of class 1, whatever was positive."""
    folder = pairs(tmp_path / "d", ["a_1", "b_1"], size=40)
    chips, flipped = read_dataset(folder), [replace(c, classes=(1, 0)) for c in read_dataset(folder)]
    recipe = settle(find_recipe("s1-water", [*TINY, "size=32", "simulated=1", f"view={view}"]), chips, 2, None, 0)
    reading = Reading(recipe.bands, recipe.units, recipe.size, recipe.view)
    draws = [training_examples(recipe, reading, c, (), p)(3) for c, p in ((chips, 1), (flipped, 0))]
    for one, other in zip(*draws, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.label[one.valid], 1 - other.label[other.valid])
    assert any((example.label[example.valid] == 1).any() for example in draws[0])


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_seeds_that_are_none_are_refused(seed):
    with pytest.raises(InputError, match="0 to 4294967295"):
        FitOptions(seed=seed)
    with pytest.raises(InputError, match="0 to 4294967295"):
        TrainConfig(seed=seed)


def test_a_run_goes_on_with_the_same_names_readings_and_steps_alone(tmp_path):
    """Other class names, or a manifest that says otherwise what labels mean, were taken on resuming without a word."""
    data, out, options = (
        pictures(tmp_path / "d", ["a_1", "b_1", "c_1"]),
        tmp_path / "o",
        FitOptions(validation=("c",)),
    )
    rows = [{"image": f"images/{n}_1.png", "label": f"labels/{n}_1.png", "classes": [0, 1]} for n in "abc"]
    recipe = find_recipe("unet-16", [*TINY, "training.schedule=cosine", "epochs=0"])

    def go_on(told=rows, **changes):
        (data / "manifest.json").write_text(json.dumps(told))
        return train_model(data, recipe, out, replace(options, **{"steps": 2, "resume": True, **changes}))

    go_on()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    turned = [row | {"classes": [1, 0]} for row in rows]
    for changes, what in (
        ({"classes": ("a", "b")}, "classes"),
        ({"told": turned}, "how the chips are read"),
        ({"told": rows[:2], "validation": ("b",)}, "the chips"),
    ):
        with pytest.raises(OutputError, match=rf"other settings \({what}"):
            go_on(**changes)
    with pytest.raises(OutputError, match=r"other settings \(steps"):
        go_on(steps=4)  # a cosine follows them
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    go_on()
    settings = json.loads(before["settings.json"])
    older = {key: settings[key] for key in ("recipe", "training", "validation", "init")}
    (out / "settings.json").write_text(json.dumps(older))  # of before these were held: what it says is compared
    go_on()


@pytest.mark.parametrize("bands", [(3, 3, 2), (2, 3, 3)])
def test_chips_of_different_bands_are_refused(bands, tmp_path):
    """What a chip lacked was 0 in it, what it had more was not seen, though the recipe refuses missing bands."""
    rows = []
    for name, count in zip("abc", bands, strict=True):
        pixels, label = picture(np.random.default_rng(0), 20, 20, 2)
        write_raster(tmp_path / "images" / f"{name}_1.tif", pixels[:count].astype(np.uint16))
        write_raster(tmp_path / "labels" / f"{name}_1.tif", label)
        rows.append({"image": f"images/{name}_1.tif", "label": f"labels/{name}_1.tif", "units": "dn"})
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    options = FitOptions(steps=1, validation=("c",))
    with pytest.raises(InputError, match="give all chips the same, or name those that all have"):
        train_model(tmp_path, find_recipe("unet-16", TINY), tmp_path / "o", options)
    assert not (tmp_path / "o").exists()
    train_model(tmp_path, find_recipe("unet-16", [*TINY, "bands=['band2']"]), tmp_path / "o", options)
    if bands[0] == 3:
        train_model(
            tmp_path,
            find_recipe("unet-16", [*TINY, "missing_bands=zero", "bands=['band1','band3']"]),
            tmp_path / "p",
            options,
        )


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("unet-16", ["size=40"], "multiples of 16: give 32 or 48"),
        ("linknet", ["size=16"], "multiples of 32: give 32"),
        ("unet-16", ["size=16", "batch=1"], "give a batch of 2 or more, or a size of 32"),
    ],
)
def test_a_size_that_the_network_cannot_be_trained_on_is_refused(name, changes, says, tmp_path):
    """``--set size=100`` for chips of 100 pixels ended in a traceback."""
    data = pictures(tmp_path / "d", ["a_1", "b_1"])
    with pytest.raises(InputError, match=says):
        train_model(data, find_recipe(name, changes), tmp_path / "o", FitOptions(steps=1))
    assert not (tmp_path / "o").exists()


def test_weights_of_a_model_that_orders_its_classes_otherwise_are_no_start(tmp_path):
    data, recipe = pictures(tmp_path / "d", ["a_1", "b_1"]), find_recipe("unet-16", TINY)
    first = train_model(data, recipe, tmp_path / "1", FitOptions(steps=1, classes=("land", "water")))
    told = FitOptions(steps=1, init=first)
    train_model(data, recipe, tmp_path / "2", replace(told, classes=("dry", "water")))
    with pytest.raises(InputError, match=r"its classes are land, water, and here land is class 1"):
        train_model(data, recipe, tmp_path / "3", replace(told, classes=("water", "land")))
