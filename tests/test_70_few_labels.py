"""Few labels: rounds of a model's own labels, image-level labels, sparse labels, a teacher that sees something else."""

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner

from geouq.cli.train import command
from geouq.errors import InputError, UnitsError
from geouq.grid import Roi
from geouq.learning.crf import RIGHT, STEPS, WEIGHT, crf_labels
from geouq.learning.data.augment import jitter_backscatter
from geouq.learning.data.dataset import read_dataset, read_unlabelled
from geouq.learning.data.examples import Reading, read_example, read_fitted, read_whole
from geouq.learning.data.loading import open_chip
from geouq.learning.rounds import UNSURE, Labelled, label_chips, train_rounds
from geouq.learning.training.extra import feature_loss, sparse_losses
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.recipe import Rounds, find_recipe
from geouq.learning.training.start import paired
from geouq.networks.model import Model
from tests.helpers import write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
TINY = ["arguments.widths=[6, 8]", "size=24", "batch=4", "epochs=0", "training.every=20", "training.steps=40"]
TINY += ["training.rate=1e-2", "most_positive=1.0"]


def lake(seed: int, wet: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(2, 32, 32) dB and its label: a dark lake somewhere, or none."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    water = wet & (np.hypot(y - rng.integers(8, 24), x - rng.integers(8, 24)) < rng.integers(5, 9))
    level = np.stack([np.where(water, -21, -10), np.where(water, -28, -16)])
    return (level + rng.normal(0, 1.5, level.shape)).astype(np.float32), water.astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders: labelled (4 chips), more (6 without labels, one of a place held out), optical (of all)."""
    folder, rows = tmp_path_factory.mktemp("few"), ["image,label,bands,units"]
    for number in range(10):
        pixels, water = lake(number)
        name = f"{'abcd'[number] if number < 4 else 'a' if number == 9 else f'u{number}'}_{number}"
        radar = folder / ("labelled/images" if number < 4 else "more")
        write_raster(radar / f"{name}.tif", pixels)
        if number < 4:
            write_raster(folder / "labelled" / "labels" / f"{name}.tif", water[None])
            optical = np.stack([np.where(water, 0.02, 0.3), np.where(water, 0.08, 0.1), np.where(water, 0.01, 0.2)])
            write_raster(folder / "optical" / f"{name}.tif", optical.astype(np.float32))
            rows.append(f"{name}.tif,../labelled/labels/{name}.tif,B3;B8;B11,reflectance")
    (folder / "optical" / "manifest.csv").write_text("\n".join(rows))
    return folder


def options(**changes):
    return FitOptions(**{"validation": ("a",), "device": "cpu"} | changes)


# --- rounds


def test_rounds_label_what_is_sure_and_leave_out_places_held_out(data, tmp_path):
    events = []
    recipe = find_recipe("unet-16", [*TINY, "rounds.count=2", "rounds.confidence=0.7", "rounds.share=0.6"])
    path = train_rounds(data / "labelled", recipe, tmp_path, read_unlabelled(data / "more"), options(), events.append)
    rounds = [event for event in events if isinstance(event, Labelled)]
    assert [(row.round, row.chips) for row in rounds] == [(1, 5), (2, 5)] and all(row.accepted > 0 for row in rounds)
    assert not (tmp_path / "labels-1" / "a_9.tif").exists()
    assert Model.load(path).spec.scores["val_iou"] > 0.6
    settings = json.loads((tmp_path / "round-2" / "settings.json").read_text())
    assert len(settings["training"]) == 3 + rounds[1].accepted and settings["validation"] == ["a_0"]
    assert settings["init"].endswith("round-0/unet-16.safetensors")
    assert [row["accepted"] for row in json.loads((tmp_path / "rounds.json").read_text())["rounds"]] == [
        row.accepted for row in rounds
    ]
    scores = json.loads((tmp_path / "rounds.json").read_text())["scores"]
    assert len(scores) == 3 and scores[2] == Model.load(path).spec.scores
    again = train_rounds(
        data / "labelled", recipe, tmp_path, read_unlabelled(data / "more"), options(resume=True), lambda event: None
    )
    assert again == path  # nothing is trained anew


def test_rounds_leave_out_places_kept_for_tests(data, tmp_path):
    """What is mapped there would be trained on, and the test would be no more one."""
    rows = ["image,label,split,place"]
    for split, name in zip(("test", "train", "train", "validation"), ("a_0", "b_1", "c_2", "d_3"), strict=True):
        rows.append(f"{data}/labelled/images/{name}.tif,{data}/labelled/labels/{name}.tif,{split},{name[0]}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    recipe, events = find_recipe("unet-16", [*TINY, "rounds.count=1", "training.steps=1"]), []
    more = read_unlabelled(data / "more")
    train_rounds(tmp_path / "m.csv", recipe, tmp_path / "out", more, options(validation=None), events.append)
    assert [event.chips for event in events if isinstance(event, Labelled)] == [5] and len(more) == 6


def test_images_without_labels_are_read_by_a_manifest_or_refused_before_the_training(data, tmp_path):
    """Units of a folder's images can be unknown, which was found out after round 0; nothing could say them."""
    pixels, _ = lake(4)
    write_raster(tmp_path / "more" / "u_4.tif", np.round(1000 + 10 * pixels).astype(np.uint16))
    write_raster(tmp_path / "more" / "v_5.tif", np.round(1000 + 10 * pixels).astype(np.uint16))
    recipe = find_recipe("unet-16", [*TINY, "rounds.count=1", "rounds.confidence=0.1", "training.steps=1"])
    with pytest.raises(UnitsError, match="nothing says what they measure"):
        train_rounds(data / "labelled", recipe, tmp_path / "out", read_unlabelled(tmp_path / "more"), options())
    assert not (tmp_path / "out").exists()
    (tmp_path / "more" / "manifest.csv").write_text("image,units,factor,offset,split\nu_4.tif,db,0.1,-100,test\n")
    (chip,) = read_unlabelled(tmp_path / "more")
    np.testing.assert_allclose(open_chip(chip).values, pixels, atol=0.051)
    events: list = []
    train_rounds(data / "labelled", recipe, tmp_path / "out", [chip], options(), events.append)
    assert [event.accepted for event in events if isinstance(event, Labelled)] == [1]
    assert "u_4" in json.loads((tmp_path / "out" / "round-1" / "settings.json").read_text())["training"]
    (tmp_path / "more" / "manifest.csv").write_text("image\nu_9.tif\n")
    with pytest.raises(InputError, match=r"u_9.tif: is missing"):
        read_unlabelled(tmp_path / "more" / "manifest.csv")


def test_a_tile_counts_as_a_whole_or_pixel_by_pixel(data, tmp_path):
    model = Model.load(train_model(data / "labelled", find_recipe("unet-16", TINY), tmp_path / "m", options()))
    chips = read_unlabelled(data / "more")
    sure = Rounds(1, confidence=0.6, share=0.0)
    made, row = label_chips(model, chips, tmp_path / "1", sure)
    assert row.accepted == len(made) == 6 and row.pixels == 1
    labels = [rasterio.open(chip.label).read(1) for chip in made]
    assert all(set(np.unique(label)) <= {0, 1} for label in labels)
    _, none = label_chips(model, chips, tmp_path / "2", Rounds(1, confidence=0.999999, share=0.99))
    assert none.accepted == 0
    made, some = label_chips(model, chips, tmp_path / "3", Rounds(1, confidence=0.8, per="pixel"))
    pixels = [rasterio.open(chip.label).read(1) for chip in made]
    assert 0 < some.pixels < 1 and any((label == UNSURE).any() for label in pixels)
    for whole, part in zip(labels, pixels, strict=True):
        assert (part[part != UNSURE] == whole[part != UNSURE]).all()
    truth = np.stack([lake(int(chip.name.rpartition("_")[2]))[1] for chip in made])
    known = np.stack(pixels) != UNSURE
    assert (np.stack(pixels) == truth)[known].mean() > 0.95


def test_labels_of_whole_images_become_labels_of_pixels(tmp_path):
    rows = ["image,throughout,place"]
    for number in range(8):
        pixels, _ = lake(number, wet=number % 2 == 0)
        write_raster(tmp_path / f"c{number}.tif", pixels)
        rows.append(f"c{number}.tif,{1 - number % 2},p{number}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    assert [chip.throughout for chip in read_dataset(tmp_path)][:2] == [1, 0]
    recipe = find_recipe("unet-16", [*TINY, "rounds.count=1", "rounds.labels=images", "training.patience=0"])
    train_rounds(tmp_path, recipe, tmp_path / "out", options=options(validation=("p6", "p7")))
    labels = {path.stem: rasterio.open(path).read(1) for path in (tmp_path / "out" / "labels-1").glob("*.tif")}
    assert set(labels) == {"c0", "c2", "c4"}  # not what is held out, nor what is dry throughout
    for name, label in labels.items():
        truth = lake(int(name[1:]))[1]
        assert label[truth == 1].mean() > 0.9 > 0.5 > label[truth == 0].mean() and label.mean() >= 0.05


def test_the_field_is_the_mean_field_of_its_formula():
    """Against sums over all pairs of pixels, of three classes, with pixels that are not valid."""
    rng, (h, w), classes, sigma = np.random.default_rng(0), (11, 9), 3, 1.5
    labels = np.where(rng.random((h, w)) < 0.7, np.arange(w) // 3, rng.integers(0, classes, (h, w)))
    valid = rng.random((h, w)) < 0.9
    labels = np.where(valid, labels, UNSURE).astype(np.uint8)
    where = np.argwhere(valid)
    k = np.exp(-((where[:, None] - where) ** 2).sum(-1) / (2 * sigma**2))  # (N, N)
    k /= np.sqrt(np.outer(k.sum(1), k.sum(1)))
    unary = np.where(labels[valid][:, None] == np.arange(classes), RIGHT, (1 - RIGHT) / (classes - 1))  # (N, C)
    p = unary
    for _ in range(STEPS):
        p = unary * np.exp(WEIGHT * k @ p)
        p /= p.sum(1, keepdims=True)
    found = crf_labels(labels, classes, valid, sigma)
    assert (found[~valid] == UNSURE).all() and found.dtype == np.uint8
    assert (found[valid] == p.argmax(1)).all() and (found != labels).sum() > 10


def test_the_field_takes_specks_and_keeps_shores():
    truth = np.zeros((80, 80), np.uint8)
    truth[:, 40:] = 1
    noisy = np.where(np.random.default_rng(1).random(truth.shape) < 0.2, 1 - truth, truth)
    found = crf_labels(noisy, 2, np.ones(truth.shape, bool))
    assert (found == truth).mean() > 0.97 > 0.85 > (noisy == truth).mean()


def test_labels_of_rounds_may_be_smoothed(data, tmp_path):
    model = Model.load(train_model(data / "labelled", find_recipe("unet-16", TINY), tmp_path / "m", options()))
    chips, how = read_unlabelled(data / "more"), Rounds(1, confidence=0.6, share=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", rasterio.errors.NotGeoreferencedWarning)  # a user sees no warning of a picture
        for name, crf in (("raw", False), ("smooth", True), ("smooth", True)):
            label_chips(model, chips, tmp_path / name, replace(how, crf=crf))
    changed = 0
    for chip in chips:
        raw, smooth = (rasterio.open(tmp_path / name / f"{chip.name}.tif").read(1) for name in ("raw", "smooth"))
        assert (smooth == crf_labels(raw, 2, raw != UNSURE)).all()
        changed += int((smooth != raw).sum())
    assert changed > 0


def test_rounds_need_something_to_label(data, tmp_path):
    for changes, says in (
        ([], "rounds.count is 0"),
        (["rounds.count=1"], "--unlabelled"),
        (["rounds.count=1", "rounds.labels=images"], "throughout"),
    ):
        with pytest.raises(InputError, match=says):
            train_rounds(data / "labelled", find_recipe("unet-16", [*TINY, *changes]), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    for change, says in (
        ("rounds.per=chip", "tile, pixel"),
        ("rounds.share=1.0", "below 1"),
        ('rounds={labels = "images", crf = true}', "crf is for labels"),
        ("rounds.crf=true", "crf is for rounds, and rounds.count is 0"),
        ("rounds.count=-1", "0 to"),
    ):
        with pytest.raises(InputError, match=says):
            find_recipe("unet-16", [change])
    with pytest.raises(InputError, match="holds no images"):
        read_unlabelled(tmp_path)


def test_the_command_line_of_rounds(data, tmp_path):
    told = [str(data / "labelled"), "--recipe", "unet-16", "--val", "a", "--unlabelled", str(data / "more")]
    told += [part for change in [*TINY, "rounds.count=1", "rounds.per=pixel"] for part in ("--set", change)]
    done = CliRunner().invoke(command, [*told, "-o", str(tmp_path / "out"), "--device", "cpu", "--steps", "2"])
    assert done.exit_code == 0, done.output
    assert "round 1: " in done.output and (tmp_path / "out" / "unet-16.safetensors").exists()


# --- sparse labels


def test_the_losses_of_sparse_labels_by_hand():
    features = torch.tensor([[[[1.0, 1.0, 0.0], [2.0, 0.0, -1.0]], [[0.0, 1.0, 1.0], [0.1, 0.0, 0.0]]]])
    labelled = torch.zeros(1, 2, 3, dtype=torch.bool)
    labelled[0, 0, 0] = True  # (1, 0): its neighbours are (1, 1), (2, .1) and (0, 0)
    measured = torch.ones_like(labelled)
    near = 2 / math.hypot(2, 0.1)
    found = sparse_losses(features, labelled, measured)
    assert found.tolist() == pytest.approx([1 - near, 0.0, 1 - near], abs=1e-6)
    measured[0, 1, 0] = False  # (2, .1) is gone; the farthest, (-1, 0), is on the other side
    assert sparse_losses(features, labelled, measured)[0].item() == pytest.approx(1 - math.sqrt(0.5))
    both = torch.stack([features[0], features[0].abs()])
    two = sparse_losses(both, labelled.expand(2, -1, -1), torch.ones(2, 2, 3, dtype=torch.bool))
    assert two[0].item() == pytest.approx((1 - near + 0) / 2, abs=1e-6)
    nothing = sparse_losses(features.requires_grad_(), labelled & False, measured)
    assert nothing.tolist() == [0, 0, 0]


def test_a_network_learns_from_points_with_the_three_losses(data, tmp_path):
    for folder in ("images", "labels"):
        for path in (data / "labelled" / folder).glob("*.tif"):
            with rasterio.open(path) as file:
                values = file.read()
            if folder == "labels" and not path.stem.startswith("a"):
                kept = np.random.default_rng(0).random(values.shape) < 0.03
                values = np.where(kept, values, 255).astype(np.uint8)
            write_raster(tmp_path / "points" / folder / path.name, values)
    losses = {}
    for weights in ([], [0.3, 0.3, 0.3]):
        recipe = find_recipe("unet-16", [*TINY, f"training.sparse={weights}"])
        path = train_model(tmp_path / "points", recipe, tmp_path / f"m{len(losses)}", options())
        losses[str(weights)] = Model.load(path)
    plain, three = losses.values()
    assert not torch.allclose(three.network.head.weight, plain.network.head.weight)
    assert three.spec.scores["val_iou"] > 0.6
    assert list(three.network.state_dict()) == list(plain.network.state_dict())
    with pytest.raises(InputError, match="three weights"):
        find_recipe("unet-16", ["training.sparse=[1.0]"])
    with pytest.raises(InputError, match="features before the head"):
        train_model(
            tmp_path / "points", find_recipe("linknet", ["training.sparse=[1.0,1.0,1.0]"]), tmp_path / "x", options()
        )


# --- a teacher


def test_the_loss_of_features_by_hand():
    theirs = torch.tensor([[[[1.0, 3.0], [5.0, 99.0]]]])  # 99 is not seen: mean 3, deviation √(8/3)
    measured = torch.ones(1, 1, 4, 4)
    measured[..., 2:, 2:] = 0
    z = [-2 / math.sqrt(8 / 3), 0, 2 / math.sqrt(8 / 3)]
    ours = torch.tensor([[[[0.5, 0.5], [0.5, 7.0]]]])
    assert feature_loss(ours, theirs, measured).item() == pytest.approx(sum((0.5 - v) ** 2 for v in z) / 3, rel=1e-4)
    assert feature_loss(torch.tensor([[[[z[0], z[1]], [z[2], 0.0]]]]), theirs, measured).item() < 1e-6


def test_the_image_beside_is_cut_and_turned_with_the_chip(data):
    chips = paired(read_dataset(data / "labelled"), data / "optical")
    reading = Reading(("VV", "VH"), "dB", 16, beside=Reading(("B3", "B8", "B11"), "reflectance", 16))
    whole = read_whole(chips[0], reading)
    assert whole.pixels.shape == (5, 32, 32)
    assert ((whole.pixels[4] < 0.1) == (whole.label == 1)).all()
    part = read_example(chips[0], reading, Roi(20, 36, 4, 20))
    assert np.array_equal(part.pixels[:, :12], whole.pixels[:, 20:32, 4:20]) and np.isnan(part.pixels[:, 12:]).all()
    assert read_fitted(chips[0], reading).pixels.shape == (5, 16, 16)
    jittered = jitter_backscatter(whole, np.random.default_rng(0), bands=2)
    assert np.array_equal(jittered.pixels[2:], whole.pixels[2:]) and not np.array_equal(jittered.pixels, whole.pixels)
    alone = read_whole(read_dataset(data / "labelled")[0], reading)
    assert np.isnan(alone.pixels[2:]).all() and np.array_equal(alone.pixels[:2], whole.pixels[:2])


def test_a_student_with_a_teacher(data, tmp_path):
    optical = [*TINY, "units=reflectance", "mean=[0.1]", "std=[0.1]", "clip=[0.0,1.0]", "black=-1.0"]
    teacher = train_model(data / "optical", find_recipe("unet-16", optical), tmp_path / "teacher", options())
    guided = [*TINY, f"teacher.model={teacher}", f"teacher.data={data / 'optical'}"]
    whole, plain = tmp_path / "whole", tmp_path / "plain"
    path = train_model(data / "labelled", find_recipe("unet-16", guided), whole, options())
    model = Model.load(path)
    other = Model.load(train_model(data / "labelled", find_recipe("unet-16", TINY), plain, options()))
    assert list(model.network.state_dict()) == list(other.network.state_dict()) and model.hash != other.hash
    assert model.spec.scores["val_iou"] > 0.6 and Model.load(teacher).spec.units == "reflectance"
    before = teacher.read_bytes()
    train_model(data / "labelled", find_recipe("unet-16", guided), tmp_path / "parts", options(steps=20))
    again = train_model(data / "labelled", find_recipe("unet-16", guided), tmp_path / "parts", options(resume=True))
    assert again.read_bytes() == path.read_bytes() and teacher.read_bytes() == before
    with pytest.raises(InputError, match="both model and data"):
        find_recipe("unet-16", ["teacher.model=x"])
    with pytest.raises(InputError, match="none of the names"):
        paired(read_unlabelled(data / "more"), data / "optical")
