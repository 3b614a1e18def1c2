"""Cross-validation by place with more than two classes: what the page says is what segment's own maps give."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from geouq.alarm import OPEN, expect, measured_alarm
from geouq.cli.main import geouq
from geouq.errors import InputError
from geouq.grid import Roi
from geouq.layers import area_interval, says
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load_label, open_chip
from geouq.networks.model import Model
from geouq.segmentation.lazy import segment
from tests.helpers import picture, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
PLACES, NAMES = "abcdef", ("field", "wood", "roof")
CHANGES = ("size=16", "batch=4", "round_steps=10", "validation=0.0", "arguments.widths=[4, 6]", "training.patience=0")
CHANGES += ("training.rate=0.02", "arguments.dropout={bottleneck = 0.3, decoder = 0.3}")


def run(*arguments):
    return CliRunner().invoke(geouq, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six places, two chips of each; roofs stand in the first alone."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for place in PLACES:
        for k in range(2):
            pixels, label = picture(rng, 24, 30, 3 if place == "a" else 2)
            label[0, :2, 20:] = 255
            write_raster(folder / "data" / "images" / f"{place}_{k}.png", pixels)
            write_raster(folder / "data" / "labels" / f"{place}_{k}.png", np.roll(label, k, axis=1))
    return folder / "data"


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    settings = [word for change in CHANGES for word in ("--set", change)]
    common = (
        "train",
        data,
        "--recipe",
        "unet-16",
        *settings,
        "--steps",
        20,
        "--folds",
        3,
        "--classes",
        ",".join(NAMES),
    )
    done = run(*common, "--samples", 5, "--device", "cpu", "-o", out)
    assert done.exit_code == 0, done.output
    return out, done.output, json.loads((out / "folds.json").read_text()), common


def maps_of(made, data):
    """Each chip as segment maps it with the model of its fold: its row, label (h, w), and layers."""
    out, _, found, _ = made
    chips = {chip.name: chip for chip in read_dataset(data)}
    for row in found["chips"]:
        model = Model.load(out / f"fold-{row['fold']}" / "unet-16.safetensors")
        model = model.with_spec(**found["fitted_by_fold"][row["fold"] - 1])
        layers = segment(open_chip(chips[row["name"]]), model=model, samples=5, layers=("mask", "uncertainty", "votes"))
        yield row, load_label(chips[row["name"]], Roi(0, 24, 0, 30)), layers.compute()


def test_a_fold_without_the_only_place_of_a_class_has_it_all_the_same(made):
    out, said, found, _ = made
    assert sorted(sum((fold["places"] for fold in found["folds"]), [])) == list(PLACES)
    for name in ("fold-1", "fold-2", "fold-3", "all"):
        assert Model.load(out / name / "unet-16.safetensors").spec.classes == NAMES
    roof = found["classes"][2]
    assert roof["class"] == "roof" and roof["places"] == 1 and "roof: in one place alone" in said


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
    out, _, found, _ = made
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
    out, said, found, _ = made
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


def test_the_same_command_leaves_the_same_bytes_and_judging_alone_the_same_numbers(made, tmp_path):
    out, _, found, common = made
    common = (*common, "--samples", 5, "--device", "cpu", "-q")
    assert run(*common, "--only", "2,3", "-o", tmp_path / "again").exit_code == 0
    assert run(*common, "--only", "1,judge", "-o", tmp_path / "again").exit_code == 0
    judged = json.loads((tmp_path / "again" / "folds.json").read_text())
    assert judged["chips"] == found["chips"] and judged["fitted"] == found["fitted"]
    assert run(*common, "--resume", "-o", tmp_path / "again").exit_code == 0
    for name in ("folds.json", "folds.html", "unet-16.md", "unet-16.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_labels_that_are_codes_are_refused_before_anything_is_trained(data, tmp_path):
    for chip in read_dataset(data):
        label = load_label(replace(chip), Roi(0, 24, 0, 30))
        write_raster(
            tmp_path / "labels" / f"{chip.name}.png", np.where(label < 0, 255, 10 * label)[None].astype(np.uint8)
        )
    (tmp_path / "images").symlink_to(data / "images")
    error = run("train", tmp_path, "--recipe", "unet-16", "--folds", 2, "-o", tmp_path / "out").exception
    assert isinstance(error, InputError) and "codes of 3 classes" in str(error)
    assert not (tmp_path / "out").exists()
