"""Cross-validation by place with more than two classes: what the page says is what segment's own maps give."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from geouq.alarm import OPEN, expect, measured_alarm
from geouq.cli.main import geouq
from geouq.errors import InputError
from geouq.grid import Roi
from geouq.layers import area_interval, says
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load_label, open_chip
from geouq.learning.folds import FoldOptions, train_folds
from geouq.learning.judging.left_out_judge import judge
from geouq.learning.training.events import Stepped
from geouq.learning.training.fit import FitOptions
from geouq.learning.training.recipe import find_recipe
from geouq.networks.model import Model
from geouq.segmentation.job import Settings
from geouq.segmentation.lazy import segment
from tests.helpers import pairs, picture, small_ssn, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
PLACES, NAMES = "abcde", ("field", "wood", "roof")
CHANGES = ("size=16", "batch=4", "round_steps=10", "validation=0.0", "arguments.widths=[4, 6]", "training.patience=0")
CHANGES += ("training.rate=0.02", "arguments.dropout={bottleneck = 0.3, decoder = 0.3}")


def run(*arguments):
    return CliRunner().invoke(geouq, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five places, two chips of the first, where alone roofs stand."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for place in PLACES:
        for k in range(2 if place == "a" else 1):
            pixels, label = picture(rng, 24, 30, 3 if place == "a" else 2)
            label[0, :2, 20:] = 255
            write_raster(folder / "data" / "images" / f"{place}_{k}.png", pixels)
            write_raster(folder / "data" / "labels" / f"{place}_{k}.png", np.roll(label, k, axis=1))
    return folder / "data"


def command(data, out, *more):
    settings = [word for change in CHANGES for word in ("--set", change)]
    told = ("--steps", 20, "--folds", 2, "--classes", ",".join(NAMES), "--samples", 5, "--device", "cpu", "-o", out)
    return ("train", data, "--recipe", "unet-16", *settings, *told, *more)


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """What the verb leaves: a fold that dies half-way, the other and its judging, and then all of it once more."""
    out = tmp_path_factory.mktemp("made") / "out"

    def die(event):
        if isinstance(event, Stepped) and event.step == 13:
            raise EOFError

    with pytest.raises(EOFError):
        options = FitOptions(steps=20, classes=NAMES, device="cpu")
        train_folds(data, find_recipe("unet-16", CHANGES), out, options, FoldOptions(2, ("2",)), die)
    assert (out / "fold-2" / "checkpoint.pt").exists() and not (out / "fold-2" / "unet-16.safetensors").exists()
    assert run(*command(data, out, "--only", "1,2,judge", "--resume")).exit_code == 0
    judged = (out / "folds.json").read_text()
    assert not (out / "unet-16.safetensors").exists()
    done = run(*command(data, out, "--resume"))
    assert done.exit_code == 0, done.output
    found = json.loads((out / "folds.json").read_text())
    assert {**json.loads(judged), "model": found["model"]} == found
    return out, done.output, found


def maps_of(made, data):
    """Each chip as segment maps it with the model of its fold: its row, label (h, w), and layers."""
    out, _, found = made
    chips = {chip.name: chip for chip in read_dataset(data)}
    for row in found["chips"]:
        model = Model.load(out / f"fold-{row['fold']}" / "unet-16.safetensors")
        model = model.with_spec(**found["fitted_by_fold"][row["fold"] - 1])
        layers = segment(open_chip(chips[row["name"]]), model=model, samples=5, layers=("mask", "uncertainty", "votes"))
        yield row, load_label(chips[row["name"]], Roi(0, 24, 0, 30)), layers.compute()


def test_a_fold_without_the_only_place_of_a_class_has_it_all_the_same(made):
    out, said, found = made
    assert sorted(sum((fold["places"] for fold in found["folds"]), [])) == list(PLACES)
    for name in ("fold-1", "fold-2", "all"):
        assert Model.load(out / name / "unet-16.safetensors").spec.classes == NAMES
    roof = found["classes"][2]
    assert (
        roof["class"] == "roof" and roof["places"] == roof["folds"] == 1 and "roof: in places of one fold alone" in said
    )


def test_scores_and_areas_are_those_of_the_maps_of_segment(made, data):
    found, counts = made[2], np.zeros((3, 3), int)
    for row, label, layers in maps_of(made, data):
        mask, known = layers["mask"].values, label >= 0
        matrix = np.array([[(mask[label == i] == j).sum() for j in range(3)] for i in range(3)])
        counts += matrix
        assert row["wrong"]["accuracy"] == pytest.approx((mask != label)[known].mean(), abs=1e-6)
        assert row["doubt"] == pytest.approx((layers["uncertainty"].values > OPEN).mean(), abs=1e-6)
        assert row["shares"] == pytest.approx({n: (label[known] == i).mean() for i, n in enumerate(NAMES)})
        for number, name in enumerate(NAMES):
            union = matrix[number].sum() + matrix[:, number].sum() - matrix[number, number]
            assert row["iou"][name] == (pytest.approx(matrix[number, number] / union) if union else None)
            votes = layers["votes"].values[number]
            low, high = area_interval(np.array([says(votes, s)[known].sum() for s in range(5)]))
            area = row["areas"][name]
            assert (area["area"], area["area_low"], area["area_high"]) == pytest.approx(
                ((label == number).sum(), low, high)
            )
            assert area["area_covered"] == (low <= (label == number).sum() <= high)
    assert found["pooled"]["confusion"] == counts.tolist()
    assert found["pooled"]["accuracy"] == pytest.approx(np.trace(counts) / counts.sum())


def test_means_are_over_places_of_the_chips_with_the_class(made):
    found = made[2]
    for row in found["classes"]:
        name = row["class"]
        some = [chip for chip in found["chips"] if chip["shares"][name] >= 0.02]
        means = [np.mean([c["iou"][name] for c in some if c["place"] == p]) for p in sorted({c["place"] for c in some})]
        assert row["iou_places"] == pytest.approx(np.mean(means))
        assert row["areas"]["chips"] == len(some)
        assert row["areas"]["covered"] == sum(chip["areas"][name]["area_covered"] for chip in some)
    assert found["miou_places"] == pytest.approx(np.mean([row["iou_places"] for row in found["classes"]]))
    assert found["areas"]["covered"] == sum(row["areas"]["covered"] for row in found["classes"])


def test_the_model_stores_temperature_and_alarm_and_nothing_of_two_classes(made):
    out, _, found = made
    spec, chips = Model.load(out / "unet-16.safetensors").spec, found["chips"]
    wrong = [chip["wrong"]["accuracy"] for chip in chips]
    assert spec.temperature == found["fitted"]["temperature"] != 1
    assert spec.alarm == measured_alarm([c["place"] for c in chips], [c["doubt"] for c in chips], {"accuracy": wrong})
    assert spec.risk is None and spec.place_effect == 0
    assert not {"decide", "decisions", "risk", "strengths"} & set(found)
    for chip in chips[::4]:
        others = [c for c in chips if c["place"] != chip["place"]]
        wrong = {"accuracy": [c["wrong"]["accuracy"] for c in others]}
        told = expect(
            measured_alarm([c["place"] for c in others], [c["doubt"] for c in others], wrong), "accuracy", chip["doubt"]
        )
        assert chip["alarm"] == told.alarm and chip["alarm_line"] == str(told)
    assert spec.scores["left_out"]["miou"] == round(found["miou_places"], 4)


def test_page_card_and_terminal_say_what_folds_json_says(made):
    out, said, found = made
    shown, card = (out / "folds.html").read_text(), (out / "unet-16.md").read_text()
    for row, pooled in zip(found["classes"], found["pooled"]["by_class"], strict=True):
        for value in (row["iou_places"], pooled["iou"], pooled["f1"], pooled["precision"]):
            text = "–" if value is None else f"{value:.3f}"
            assert text in shown and text in card and text in said
        assert f"<td>{row['areas']['covered']} of {row['areas']['chips']}</td>" in shown
    for text in (shown, card, said):
        assert all(name in text for name in NAMES) and "not here, for it is of two classes: a cut" in text
    assert shown.count("<section>") == 5 and "<svg" in shown
    for place in PLACES:
        assert f"| {place} |" in card


def test_an_ssn_of_three_classes_is_judged_by_its_own_samples(tmp_path):
    chips = read_dataset(pairs(tmp_path, ["a_1", "b_1", "c_1"], size=20))
    groups = [(small_ssn(classes=3), chips[:1]), (small_ssn(classes=3), chips[1:])]
    fitted, found = judge(groups, Settings(4, 0, (), device="cpu"))
    assert set(fitted) == {"temperature"} and [row["fold"] for row in found["chips"]] == [1, 2, 2]
    assert found["classes"][2]["places"] == 0 and found["classes"][2]["iou_places"] is None
    assert np.sum(found["pooled"]["confusion"]) == sum(row["pixels"] for row in found["chips"])


def test_a_fold_that_died_went_on_to_the_bytes_of_one_that_did_not(made, data, tmp_path):
    assert run(*command(data, tmp_path / "out", "--only", 2)).exit_code == 0
    for name in ("unet-16.safetensors", "log.csv", "recipe.toml", "settings.json"):
        assert (tmp_path / "out" / "fold-2" / name).read_bytes() == (made[0] / "fold-2" / name).read_bytes()


@pytest.mark.parametrize("init", ["", "all/unet-16.safetensors"])
def test_folds_start_from_weights_whose_encoder_stays(init, made, data, tmp_path):
    told = ("--init", made[0] / init, "--freeze", "encoder", "--only", 1, "--steps", 2)
    done = run(*command(data, tmp_path / "out", *told))
    assert done.exit_code == 0, done.output
    before = Model.load(made[0] / (init or "fold-1/unet-16.safetensors")).network
    after = Model.load(tmp_path / "out" / "fold-1" / "unet-16.safetensors").network
    kept = {name.partition(".")[0]: set() for name in before.state_dict()}
    for name, weight in after.state_dict().items():
        kept[name.partition(".")[0]].add(torch.equal(weight, before.state_dict()[name]))
    for part, same in kept.items():
        assert (same == {True}) == (part in after.encoder), part


def test_labels_that_are_codes_are_refused_before_anything_is_trained(data, tmp_path):
    for chip in read_dataset(data):
        label = load_label(chip, Roi(0, 24, 0, 30))
        write_raster(
            tmp_path / "labels" / f"{chip.name}.png", np.where(label < 0, 255, 10 * label)[None].astype(np.uint8)
        )
    (tmp_path / "images").symlink_to(data / "images")
    error = run("train", tmp_path, "--recipe", "unet-16", "--folds", 2, "-o", tmp_path / "out").exception
    assert isinstance(error, InputError) and "codes of 3 classes" in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("folds", "says"), [(5, "4 places cannot be split in 5"), ("a;e", "of place 'e'")])
def test_a_place_without_a_label_is_no_fold(folds, says, data, tmp_path):
    for chip in read_dataset(data):
        label = np.full((1, 24, 30), 255, np.uint8) if chip.place == "e" else None
        path = tmp_path / "labels" / f"{chip.name}.png"
        write_raster(path, load_label(chip, Roi(0, 24, 0, 30))[None].astype(np.uint8) if label is None else label)
    (tmp_path / "images").symlink_to(data / "images")
    error = run("train", tmp_path, "--recipe", "unet-16", "--folds", folds, "-o", tmp_path / "out").exception
    assert isinstance(error, InputError) and says in str(error)
    assert not (tmp_path / "out").exists()
