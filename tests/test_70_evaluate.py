"""Evaluation: scores against scikit-learn and brute force, one set of pixels for all, a page that stands alone."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn import metrics as sk

from geouq.cli.evaluate import command as evaluate_command
from geouq.errors import GeouqError, InputError, OutputError
from geouq.layers import Legend
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load, load_label, open_chip
from geouq.learning.judging.baselines import CANDIDATES, boxcar, otsu
from geouq.learning.judging.classical import BOXCARS, ThresholdCounts, maps
from geouq.learning.judging.evaluate import Evaluation, _mean_of_chips, chessboard, corrupt, evaluate
from geouq.learning.judging.metrics import ProperScores, RiskCoverage, auroc, average_precision
from geouq.learning.judging.page import page
from geouq.learning.judging.report import write_report
from geouq.learning.judging.summary import summary
from geouq.learning.judging.tally import Canvas
from geouq.scores.confusion import ConfusionMatrix
from geouq.segmentation import job as segmentation
from geouq.segmentation.lazy import segment
from geouq.simulation.simulate import Landscape, simulate_window
from tests.helpers import as_scene, small_model, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
ROI = segmentation.Roi
SIZE = 96


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three simulated chips of two places, with holes and pixels without a label."""
    folder = tmp_path_factory.mktemp("data")
    for i, name in enumerate(("a_1", "a_2", "b_1")):
        whole = ROI(0, SIZE, 0, SIZE)
        pixels, truth = simulate_window((SIZE, SIZE), whole, i + 3, Landscape())
        pixels[:, 10:14, 20:40] = np.nan
        truth[50:60, :30] = 255
        write_raster(folder / "images" / f"{name}.tif", pixels, nodata=np.nan)
        write_raster(folder / "labels" / f"{name}.tif", truth[None])
    return folder


@pytest.fixture(scope="module")
def model():
    model = small_model()
    model.network.head.weight.data *= 10
    return model


@pytest.fixture(scope="module")
def found(data, model):
    return evaluate(model, read_dataset(data), samples=5, seed=2)


def pooled_by_hand(data, model, samples=5):
    """Labels, probabilities and uncertainties of all valid pixels, from ``segment`` itself."""
    parts = []
    for chip in read_dataset(data):
        pixels, label, valid = load(chip, ("VV", "VH"), "dB")
        layers = ("probability", "uncertainty", "mask")
        out = segment(as_scene(pixels, crs=None), model, samples=samples, seed=2, layers=layers)
        parts.append(np.stack([label[valid], *(out[name].values[valid] for name in layers)]))
    return np.concatenate(parts, axis=1)


def test_scores_are_those_of_scikit_learn_on_what_segment_gives(found, data, model):
    label, p, uncertainty, mask = pooled_by_hand(data, model)
    scores = found.scores["pooled"]
    expected = {
        "pixels": label.size,
        "accuracy": sk.accuracy_score(label, mask),
        "precision": sk.precision_score(label, mask),
        "recall": sk.recall_score(label, mask),
        "f1": sk.f1_score(label, mask),
        "iou": sk.jaccard_score(label, mask),
        "miou": sk.jaccard_score(label, mask, average="macro"),
        "brier": sk.brier_score_loss(label, p),
        "nll": sk.log_loss(label, np.clip(p, 1e-7, 1 - 1e-7)),
        "error_auroc": sk.roc_auc_score(mask != label, uncertainty),
        "error_average_precision": sk.average_precision_score(mask != label, uncertainty),
    }
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=2e-3), name
    edges = np.clip((p * 15).astype(int), 0, 14)
    gaps = [abs(p[edges == b].sum() - label[edges == b].sum()) for b in range(15)]
    assert scores["ece_equal_width"] == pytest.approx(sum(gaps) / label.size, abs=1e-3)
    order = np.argsort(uncertainty, kind="stable")
    risk = np.cumsum((mask != label)[order]) / np.arange(1, label.size + 1)
    assert scores["aurc"] == pytest.approx(risk.mean(), rel=5e-3)


def test_classes_in_another_order_are_refused(data, model):
    """They were compared index by index: land with water."""
    chips = read_dataset(data)
    evaluate(model, [replace(chip, class_names=("dry", "water")) for chip in chips], samples=2)
    with pytest.raises(InputError, match="water is class 0, and class 1 of the model"):
        evaluate(model, [replace(chip, class_names=("water", "land")) for chip in chips], samples=2)


def test_places_and_chips_add_up(found):
    scores = found.scores
    assert [(r["place"], r["dataset"]) for r in scores["places"]] == [
        ("a", scores["datasets"][0]["dataset"]),
        ("b", scores["datasets"][0]["dataset"]),
    ]
    total = scores["pooled"]["pixels"]
    assert sum(r["pixels"] for r in scores["places"]) == sum(r["pixels"] for r in scores["chips"]) == total
    assert scores["datasets"][0]["iou"] == scores["pooled"]["iou"]
    assert len(found.pictures) == 3 and found.pictures[0].scene.shape == (2, SIZE, SIZE)


def test_another_tiling_changes_nothing(found, data, model, monkeypatch):
    monkeypatch.setattr(segmentation, "choose_tile", lambda *_: 40)
    again = evaluate(model, read_dataset(data), samples=5, seed=2).scores
    assert again["noise"]["auroc"] == pytest.approx(found.scores["noise"]["auroc"], abs=1e-4)
    for name, value in found.scores["pooled"].items():
        assert again["pooled"][name] == pytest.approx(value, rel=1e-3), name
    for a, b in zip(again["chips"], found.scores["chips"], strict=True):
        assert (a["area"], a["area_low"], a["area_high"]) == pytest.approx((b["area"], b["area_low"], b["area_high"]))


def test_areas_are_those_of_the_samples(found, data, model):
    chip = read_dataset(data)[0]
    pixels, label, valid = load(chip, ("VV", "VH"), "dB")
    votes = segment(as_scene(pixels, crs=None), model, samples=5, seed=2, layers=("votes",)).votes.values[valid]
    areas = [((votes >> np.uint32(s)) & np.uint32(1)).sum() for s in range(5)]
    row = found.scores["chips"][0]
    assert row["area"] == (label[valid] == 1).sum() and row["area_labelled"] == valid.sum()
    np.testing.assert_allclose((row["area_low"], row["area_high"]), np.quantile(areas, (0.05, 0.95)))
    assert row["area_covered"] == (row["area_low"] <= row["area"] <= row["area_high"])
    assert found.scores["areas"]["covered"] == sum(c["area_covered"] for c in found.scores["chips"])


def test_the_classical_methods_see_the_same_pixels(found, data):
    label, below, best = [], [], []
    for chip in read_dataset(data):
        pixels, truth, valid = load(chip, ("VV", "VH"), "dB")
        label.append(truth[valid])
        below.append([(band < otsu(band))[valid] for band in pixels])
        smooth = [boxcar(b, s) if s > 1 else b for b in pixels for s in BOXCARS]
        best.append(max(sk.jaccard_score(truth[valid], b[valid] < t) for b in smooth for t in CANDIDATES[150:450:10]))
    rows = {row["method"]: row for row in found.scores["baselines"]}
    by_band = [sk.jaccard_score(np.concatenate(label), np.concatenate([b[k] for b in below])) for k in range(2)]
    assert (
        rows["Otsu"]["iou"] == pytest.approx(max(by_band))
        and rows["Otsu"]["details"] == ("VV", "VH")[int(np.argmax(by_band))]
    )
    for chip, least in zip(found.scores["chips"], best, strict=True):
        assert least <= chip["best_threshold_iou"] <= least + 0.05
    for method in ("k-means", "region growing", "split and merge", "edge-based", "one threshold, with hindsight"):
        assert 0 < rows[method]["iou"] <= 1 and set(rows[method]["places"]) == {"a", "b"}


def test_thresholds_counted_by_parts_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    bands, label = rng.normal(-15, 5, (2, 30, 30)).astype(np.float32), rng.integers(0, 2, (30, 30))
    bands[0, :3] = np.nan
    valid = np.isfinite(bands).all(0)
    whole = ThresholdCounts(2).add(list(bands), label, valid)
    parts = ThresholdCounts(2)
    for rows in (slice(0, 10), slice(10, 30)):
        only = np.zeros_like(valid)
        only[rows] = valid[rows]
        parts.merge(ThresholdCounts(2).add(list(bands), label, only))
    for name in ("hit", "false", "water", "dry"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    choice = whole.best(slice(0, 1))
    water = bands[choice[0]][valid] < CANDIDATES[choice[2]]
    assert whole.confusion(choice).iou == pytest.approx(sk.jaccard_score(label[valid], water))


def test_classical_methods_find_a_dark_lake_and_survive_nothing():
    y, x = np.mgrid[:128, :128]
    lake = np.hypot(y - 60, x - 60) < 35
    rng = np.random.default_rng(1)
    band = (np.where(lake, -24, -12) + rng.normal(0, 1, lake.shape)).astype(np.float32)
    band[:4] = np.nan
    for method, _, water in maps([band, band - 6], ["VV", "VH"]):
        assert sk.jaccard_score(lake[4:].ravel(), water[4:].ravel()) > 0.75, method
        assert not water[:4].any(), method
    for nothing in (np.full((40, 40), np.nan, np.float32), np.full((40, 40), -12, np.float32)):
        assert not any(water.any() for _, _, water in maps([nothing], ["VV"]))


def test_sums_against_scikit_learn():
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 4, (2, 500))
    matrix = ConfusionMatrix(4).add(predicted[:200], label[:200]).add(predicted[200:], label[200:])
    np.testing.assert_array_equal(matrix.counts, sk.confusion_matrix(label, predicted))
    assert matrix.miou == pytest.approx(sk.jaccard_score(label, predicted, average="macro"))
    assert matrix.one(2).precision == pytest.approx(sk.precision_score(label == 2, predicted == 2))
    p = rng.dirichlet(np.ones(4), 500).T
    proper = ProperScores().add(p, label)
    assert proper.nll == pytest.approx(sk.log_loss(label, p.T))
    assert proper.brier == pytest.approx(((p.T - np.eye(4)[label]) ** 2).sum(1).mean())
    doubt = np.round(rng.random(500), 2) + 0.002  # ties
    wrong = rng.random(500) < doubt
    sums = RiskCoverage().add(doubt, wrong)
    assert auroc(sums) == pytest.approx(sk.roc_auc_score(wrong, doubt))
    assert average_precision(sums) == pytest.approx(sk.average_precision_score(wrong, doubt))


def test_noise_belongs_to_the_place_and_keeps_the_mean():
    values = np.full((2, 256, 256), -12.0, np.float32)
    whole = corrupt(values, "dB", 1, (0, 0))
    np.testing.assert_array_equal(corrupt(values[:, 100:200, 30:99], "dB", 1, (100, 30)), whole[:, 100:200, 30:99])
    white = chessboard((256, 256), (0, 0))
    assert white.mean() == 0.5 and (whole[:, ~white] == -12).all()
    power = 10 ** (whole[:, white] / 10) / 10**-1.2
    assert power.mean() == pytest.approx(1, abs=0.01) and power.var() == pytest.approx(0.5, abs=0.02)
    linear = corrupt(np.ones_like(values), "power", 1, (0, 0))
    np.testing.assert_allclose(linear[:, white], power, rtol=1e-4)
    grey = corrupt(np.full_like(values, 100), "rgb", 4, (0, 0))[:, white]
    assert grey.mean() == pytest.approx(100, abs=0.1) and grey.std() == pytest.approx(4, abs=0.1)


def test_more_classes_and_labels_the_model_has_not(data, tmp_path):
    model = small_model(classes=3)
    scores = evaluate(model, read_dataset(data), samples=2).scores
    assert (
        len(scores["pooled"]["class_iou"]) == len(scores["pooled"]["by_class"]) == 3
        and sum(map(sum, scores["pooled"]["confusion"])) == scores["pooled"]["pixels"]
        and scores["baselines"] == []
        and "class2" in page(evaluate(model, read_dataset(data), samples=2), "x")
    )
    rng = np.random.default_rng(0)
    write_raster(tmp_path / "images" / "a.tif", rng.normal(-12, 3, (2, 32, 32)).astype(np.float32))
    write_raster(tmp_path / "labels" / "a.tif", np.full((1, 32, 32), 7, np.uint8))
    with pytest.raises(InputError, match="holds class 7"):
        evaluate(model, read_dataset(tmp_path), samples=2)
    with pytest.raises(InputError, match=r"images.a\.tif.* is in dB, the model needs rgb"):
        evaluate(model.with_spec(units="rgb"), read_dataset(tmp_path), samples=2)


def test_a_picture_of_a_large_scene_is_every_so_many_pixels_whatever_the_tiles():
    values = np.random.default_rng(0).normal(size=(2, 75, 53)).astype(np.float32)
    label = np.arange(75 * 53).reshape(75, 53).astype(np.int16)
    canvas = Canvas(as_scene(values), most=20)
    for tile in segmentation.Tiling((75, 53), 17, 0, 1):
        part = label[tile.core.slices]
        layers = {"mask": (part % 7).astype(np.uint8), "uncertainty": part / 9.0}
        canvas.add(tile.core, values[:, *tile.core.slices], part, layers)
    picture = canvas.finish("x", "dB")
    assert picture.bands == ("VV", "VH") and picture.label.shape == (19, 14)
    np.testing.assert_array_equal(picture.scene, values[:, ::4, ::4])
    np.testing.assert_array_equal(picture.label, label[::4, ::4])
    np.testing.assert_array_equal(picture.mask, label[::4, ::4] % 7)


def test_chips_are_cut_as_segment_cuts_scenes(data, model):
    chips = read_dataset(data)
    found = evaluate(model, chips, samples=5, seed=2, decide="iou")
    assert found.scores["model"]["decide"] == "iou" and "--decide iou" in summary(found.scores)
    for chip, row in zip(chips, found.scores["chips"], strict=True):
        mask = segment(open_chip(chip), model, samples=5, seed=2, layers=("mask",), decide="iou").mask.values
        label = load_label(chip, ROI(0, SIZE, 0, SIZE))
        keep = (label >= 0) & (mask != 255)
        both = ((mask == 1) & (label == 1))[keep].sum()
        assert row["iou"] == pytest.approx(both / ((mask == 1) | (label == 1))[keep].sum())
    plain = evaluate(model, chips, samples=5, seed=2)
    given = evaluate(model.with_spec(decide="iou"), chips, samples=5, seed=2)
    assert [r["iou"] for r in given.scores["chips"]] == [r["iou"] for r in found.scores["chips"]]
    assert [r["iou"] for r in plain.scores["chips"]] != [r["iou"] for r in found.scores["chips"]]


def test_the_mean_of_chips_lets_every_chip_weigh_the_same(found):
    scores = found.scores
    ious = [row["iou"] for row in scores["chips"] if row["iou"] is not None]
    assert scores["chip_mean"]["iou"] == pytest.approx(np.mean(ious)) != scores["pooled"]["iou"]
    assert scores["chip_mean"]["pixels"] == sum(row["pixels"] for row in scores["chips"]) == scores["pooled"]["pixels"]
    dry = [{"pixels": 4, "iou": float("nan"), "accuracy": 1.0}, {"pixels": 4, "iou": 0.5, "accuracy": 0.5}]
    pooled = {"pixels": 8, "iou": 0.5, "accuracy": 0.75, "confusion": []}
    assert _mean_of_chips(dry, pooled) == {"pixels": 8, "iou": 0.5, "accuracy": 0.75}


def test_without_samples_there_is_one_pass_and_no_interval(data, model):
    scores = evaluate(model, read_dataset(data), samples=0, most_pictures=0).scores
    assert scores["areas"] == {} and scores["pooled"]["nll"] == scores["one_pass"]["nll"]
    assert "one pass" in summary(scores)


def test_a_page_that_needs_no_other_file(found, tmp_path):
    written = write_report(found, tmp_path / "r", "my <data>")
    text = written.read_text()
    outside = r"https?://(?!www\.w3\.org|purl\.org|creativecommons|matplotlib)"
    assert not re.search(rf"<(script|link)|src=[\"'](?!data:)|url\(http|{outside}", text)
    assert "my &lt;data&gt;" in text and "<data>" not in text and "Figure 4" in text and text.count("<section>") == 3
    assert text == page(found, "my <data>"), "the same evaluation, the same bytes"
    worst_first = [row["name"] for row in sorted(found.scores["chips"], key=lambda row: -row["nll"])]
    assert re.findall(r"<section><h3>(\S+)", text) == worst_first
    scores = json.loads((tmp_path / "r" / "evaluation.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert scores == found.scores
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["evaluation.html", "evaluation.json"]
    with pytest.raises(OutputError, match="--overwrite"):
        write_report(found, tmp_path / "r", "x")


def test_names_of_places_classes_and_data_are_text_and_neither_markup_nor_mathematics(found):
    evil = "<img src=x onerror=alert(1)>&$x^{$"
    scores = json.loads(json.dumps(found.scores).replace('"a"', json.dumps(evil)).replace('"water"', json.dumps(evil)))
    for row in (*scores["places"], *scores["datasets"], *scores["baselines"], scores["model"]):
        row |= {key: evil for key in ("dataset", "place", "method", "name", "hash") if key in row}
    pictures = [replace(picture, name=f"{evil}{i}") for i, picture in enumerate(found.pictures)]
    for chip, picture in zip(scores["chips"], pictures, strict=True):
        chip["name"] = picture.name
    text = page(Evaluation(scores, pictures, Legend(("land", evil))), evil)
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;&amp;$x^{$") > 20


def test_the_summary_names_places_methods_and_doubt(found):
    text = summary(found.scores)
    for word in (
        "a ",
        "b ",
        "all, pooled",
        "one pass",
        "mean of chips",
        "Otsu",
        "hindsight",
        "ECE",
        "AUROC",
        "90 % interval",
    ):
        assert word in text, word


def test_the_command(data, model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "geouq.cli.main", "evaluate", "m.safetensors", str(data)]
    command += ["-o", "report", "--samples", "2", "--json", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "report" / "evaluation.json").read_text())
    for arguments, says in (
        ((data, "-o", tmp_path / "report"), "--overwrite"),
        ((tmp_path / "absent",), "no such file"),
        ((data, "--samples", 65), "at most 64"),
        ((data, "-o", tmp_path / "no" / "folder"), "make the folder"),
    ):
        done = CliRunner().invoke(evaluate_command, [str(a) for a in (tmp_path / "m.safetensors", *arguments)])
        assert isinstance(done.exception, GeouqError) and says in str(done.exception), arguments
        assert "\n" not in str(done.exception) and done.exception.exit_code == 2
