"""Cross-validation by place: places stay whole, each is judged once and unseen, and the model stores what was found."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from geouq.alarm import OPEN, expect, measured_alarm
from geouq.cli.calibrate import decided
from geouq.cli.main import geouq
from geouq.decisions import LEVELS
from geouq.errors import InputError, OutputError
from geouq.grid import Roi
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.splits import balanced_folds
from geouq.learning.judging.calibrate import calibrate
from geouq.learning.judging.decide import FEWEST, best
from geouq.learning.judging.left_out import LAYERS, map_chip
from geouq.learning.judging.left_out_card import card
from geouq.learning.judging.left_out_text import decisions, expectation
from geouq.learning.judging.strength import STRENGTHS, Shaken, fit_strength, shake, strength_field
from geouq.networks.model import Model
from geouq.segmentation.job import Settings
from geouq.segmentation.lazy import segment
from geouq.simulation.simulate import random_landscape, simulate_window
from tests.helpers import as_scene, pairs, scene_values, small_model, small_ssn, write_raster

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
    refused = run(*common, "--folds", 3, "--only", "judge").exception
    assert isinstance(refused, InputError) and "no finished training of fold-1" in str(refused)
    assert run(*common, "--folds", 3, "--only", "1,3,judge").exit_code == 0
    judged = json.loads((data / "out" / "folds.json").read_text())
    assert not (data / "out" / "tiny.safetensors").exists()
    done = run(*common, "--folds", 3, "--resume")
    assert done.exit_code == 0, done.output
    again = json.loads((data / "out" / "folds.json").read_text())
    assert again["decisions"] == judged["decisions"] and again["chips"] == judged["chips"]
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
        assert {c["place"] for c in found["chips"] if c["fold"] == fold["number"]} == set(fold["places"])
    assert sorted(c["name"] for c in found["chips"]) == sorted(f"{p}_{k}" for p in PLACES for k in (0, 1))
    assert "decide" in said and "worst chip" in said


def test_the_alarm_of_a_chip_is_made_from_the_other_places(made):
    found = json.loads((made[0] / "folds.json").read_text())
    rule, chips = found["decide"], found["chips"]
    for chip in chips[::5]:
        others = [c for c in chips if c["place"] != chip["place"]]
        alarm = measured_alarm(
            [c["place"] for c in others], [c["doubt"] for c in others], {rule: [c["wrong"][rule] for c in others]}
        )
        told = expect(alarm, rule, chip["doubt"])
        assert chip["alarm"] == told.alarm and chip["alarm_line"] == str(told)
    bad = [c for c in chips if c["wrong"][rule] > 0.1]
    assert found["alarm"]["bad"] == len(bad) and found["alarm"]["announced"] == sum(c["alarm"] for c in bad)


def test_the_model_stores_what_folds_json_says(made):
    out, _ = made
    found, spec = json.loads((out / "folds.json").read_text()), Model.load(out / "tiny.safetensors").spec
    decisions = {row["decide"]: row for row in found["decisions"]}
    for rule, row in decisions.items():
        wet = [p["iou"][rule] for p in found["places"] if p["iou"][rule] is not None]
        dry = [p["false_positive_rate"][rule] for p in found["places"] if p["false_positive_rate"][rule] is not None]
        assert row["iou"] == pytest.approx(np.mean(wet)) and row["false_positive_rate"] == pytest.approx(np.mean(dry))
    most = max(0.005, decisions["accuracy"]["false_positive_rate"])
    allowed = {rule: row["iou"] for rule, row in decisions.items() if row["false_positive_rate"] <= most}
    assert spec.decide == found["decide"] and allowed[spec.decide] == max(allowed.values())
    assert spec.temperature == found["fitted"]["temperature"] and spec.place_effect == found["fitted"]["place_effect"]
    assert spec.alarm["place"] == [c["place"] for c in found["chips"]]
    assert spec.alarm["open"] == [c["doubt"] for c in found["chips"]]
    assert spec.risk["places"] == 8 and spec.risk["level"] == list(LEVELS)
    for rule in (spec.decide, "accuracy", "iou", "area"):
        assert spec.alarm["wrong"][rule] == [c["wrong"][rule] for c in found["chips"]]
        loss = np.mean([p["loss"][rule] for p in found["places"]], axis=0)
        assert spec.risk["loss"][rule] == pytest.approx(loss, rel=1e-5)
        by_chip = [np.mean([c["wrong"][rule] for c in found["chips"] if c["place"] == p]) for p in PLACES]
        assert loss[0] == pytest.approx(np.mean(by_chip), abs=1e-5)


def test_a_finished_model_follows_a_later_judging(made, data, tmp_path):
    shutil.copytree(made[0], tmp_path / "out")
    common = (data / "data", "--recipe", data / "tiny.toml", "-o", tmp_path / "out", "--device", "cpu", "--folds", 3)
    done = run(*common, "--only", "judge", "--samples", 9, "--resume")
    assert done.exit_code == 0 and "wrote" in done.output
    found = json.loads((tmp_path / "out" / "folds.json").read_text())
    spec = Model.load(tmp_path / "out" / "tiny.safetensors").spec
    assert found["samples"] == 9 and spec.alarm["open"] == [c["doubt"] for c in found["chips"]]
    assert spec.alarm != Model.load(made[0] / "tiny.safetensors").spec.alarm


def test_page_and_card_say_what_folds_json_says(made):
    out, _ = made
    found, shown = json.loads((out / "folds.json").read_text()), (out / "folds.html").read_text()
    told = (out / "tiny.md").read_text()
    worst = sorted(found["chips"], key=lambda c: -c["wrong"][found["decide"]])[:5]
    assert shown.count("<section>") == 5 and all(chip["name"] in shown for chip in worst)
    for row in found["decisions"]:
        assert f"{row['iou']:.3f}" in shown and f"{row['iou']:.3f}" in told
    for place in PLACES:
        assert f"| {place} |" in told
    assert told == card(found) and card(found, f"before{told}after") == f"before{told}after"
    assert card(found | {"samples": 7}, f"mine\n{told}").startswith("mine\n# tiny")


def test_the_same_command_leaves_the_same_bytes(data, made, tmp_path):
    out, _ = made
    common = (data / "data", "--recipe", data / "tiny.toml", "--device", "cpu", "--samples", 6, "--folds", 3, "-q")
    assert json.loads(run(*common, "-o", tmp_path / "again", "--json").output)["decide"]
    for name in ("folds.json", "folds.html", "tiny.md", "tiny.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    before = (out / "tiny.safetensors").read_bytes()
    refused = run(*common, "-o", out).exception
    assert isinstance(refused, OutputError) and "--resume" in str(refused)
    assert (out / "tiny.safetensors").read_bytes() == before


def test_a_fold_starts_from_weights_that_have_not_seen_its_places(data, made, tmp_path):
    out, _ = made
    common = (data / "data", "--recipe", data / "tiny.toml", "--device", "cpu", "--init", out, "-q", "--steps", 2)
    assert run(*common, "--folds", 3, "--only", 1, "-o", tmp_path / "on").exit_code == 0
    refused = run(*common, "--folds", "e,f;a,b", "--only", 1, "-o", tmp_path / "other").exception
    assert isinstance(refused, InputError) and "has seen" in str(refused)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--folds", 1), "8 places cannot be split in 1 folds"),
        (("--folds", 9), "8 places cannot be split in 9 folds"),
        (("--folds", "a,b"), "two groups"),
        (("--folds", "a,b;b,c"), "'b' is in two folds"),
        (("--folds", "a;Atlantis"), "'Atlantis'"),
        (("--folds", 3, "--only", "4"), "there are 1, 2, 3, all and judge"),
        (("--folds", 3, "--val", "a,b,c,d,e,f,g,h"), "no chip can be left out"),
    ],
)
def test_folds_that_are_none_are_refused(data, tmp_path, more, expected):
    error = run(data / "data", "--recipe", data / "tiny.toml", "-o", tmp_path / "out", *more).exception
    assert isinstance(error, InputError) and expected in str(error) and "\n" not in str(error)
    assert not (tmp_path / "out").exists()


def test_folds_are_balanced_and_the_seeds_own():
    kinds = {f"p{i:02}": "dry" if i < 13 else "wet" for i in range(20)}
    pixels = {place: 10 + 3 * int(place[1:]) for place in kinds}
    folds = balanced_folds(kinds, pixels, 5, 1)
    assert sorted(sum(folds, [])) == sorted(kinds) and folds == balanced_folds(kinds, pixels, 5, 1)
    for kind, most in (("dry", 3), ("wet", 2)):
        assert {sum(kinds[p] == kind for p in fold) for fold in folds} <= {most, most - 1}
    sizes = [sum(pixels[p] for p in fold) for fold in folds]
    assert max(sizes) < 1.4 * min(sizes)
    even = {place: 10 for place in kinds}
    assert balanced_folds(kinds, even, 5, 1) != balanced_folds(kinds, even, 5, 2)


def one_chip(folder, label_seed=0):
    chips = read_dataset(pairs(folder, ["a_1"], size=40))
    return chips[0], scene_values(40, 40, seed=label_seed)


def test_too_few_other_places_are_said_on_the_page():
    assert "None" not in expectation({"alarm_line": None}) and "too few" in expectation({"alarm_line": None})
    assert expectation({"alarm_line": "expected share of wrong pixels: 3 %"}).endswith("3 %")


def test_easy_chips_of_one_kind_do_not_make_up_for_the_other():
    """Ninety wet chips are covered by any strength; the ten dry ones need an effect of at least 1."""
    strengths = np.array(STRENGTHS["place_effect"])

    def chip(truth: float, least: float) -> Shaken:
        areas = np.where(strengths[:, None] >= least, truth, truth + 50) * np.ones(20)
        return Shaken(None, None, areas, truth, 100.0)

    chips = [chip(60.0, 0.0) for _ in range(90)] + [chip(0.0, 1.0) for _ in range(10)]
    assert fit_strength(chips, "place_effect") == 1.0
    assert fit_strength(chips[:90], "place_effect") == 0.0  # one kind alone
    assert fit_strength(chips[90:], "place_effect") == 1.0


@pytest.mark.parametrize("kind", ["dropout", "ssn", "two logits", "positive first", "no dropout"])
def test_one_drawing_says_what_every_strength_would_give(kind, tmp_path):
    model = {
        "ssn": small_ssn,
        "two logits": lambda: small_model(classes=2),
        "no dropout": lambda: small_model(dropout={}),
    }.get(kind, small_model)()
    if kind == "positive first":
        model = model.with_spec(positive="land")
    (chip, _), field = one_chip(tmp_path), strength_field(model.spec)
    settings = Settings(6, 3, LAYERS, device="cpu")
    shaken = shake(model, chip, settings, 1.0)
    for k in (1, 5):
        strength = STRENGTHS[field][k]
        other = shake(model.with_spec(**{field: strength}), chip, settings, 1.0)
        assert np.array_equal(other.areas, shaken.areas)  # whatever strength the model had before
        mapped = map_chip(model.with_spec(**{field: strength}), chip, settings)
        assert shaken.areas[k] == pytest.approx(mapped.areas, abs=2) and shaken.total == mapped.total
        p = 1 / (1 + np.exp(-_log_odds(shaken.at(strength, model.spec.legend.positive), model)))
        assert p.mean(0).mean() == pytest.approx(
            (mapped.dry.expected.sum() + mapped.wet.expected.sum()) / mapped.total, abs=1e-4
        )


def _log_odds(part, model):
    positive, logits = model.spec.legend.positive, part.logits.astype(np.float64)
    if logits.shape[1] == 2:
        return logits[:, positive] - logits[:, 1 - positive]
    return logits[:, 0] if positive else -logits[:, 0]


def test_a_chip_left_out_is_mapped_as_segment_maps_it(tmp_path):
    model = small_model().with_spec(temperature=1.3, place_effect=0.5)
    chip, values = one_chip(tmp_path)
    mapped = map_chip(model, chip, Settings(5, 0, LAYERS, device="cpu"))
    layers = ("mask", "probability", "uncertainty", "votes")
    found = segment(as_scene(values, crs=None), model, samples=5, layers=layers).compute()
    p, label = found.probability.values, _label(chip)
    known = np.isfinite(p)
    assert mapped.doubt == pytest.approx((found.uncertainty.values[known] > OPEN).mean(), abs=1e-5)
    assert mapped.pixels == (known & (label >= 0)).sum()
    for rule, at in (("accuracy", 0.5), ("0.25", 0.25)):
        tp, fp = (((p >= at) & known & (label == value)).sum() for value in (1, 0))
        counts = mapped.confusion(rule)
        assert (counts.tp, counts.fp) == (tp, fp) and counts.tp + counts.fn == (known & (label == 1)).sum()
        wrong = (fp + counts.fn) / mapped.pixels
        assert mapped.losses(rule)[0] == pytest.approx(wrong)
    for rule in ("iou", "area"):
        mask = segment(as_scene(values, crs=None), model, samples=5, layers=("mask",), decide=rule).mask.values
        assert mapped.cut(rule) != 0.5 and np.array_equal(mask[known] == 1, p[known] >= mapped.cut(rule))


def _label(chip):
    from geouq.learning.data.loading import load_label

    return load_label(chip, Roi(0, 40, 0, 40))


def test_the_best_decision_finds_water_and_leaves_dry_ground_alone():
    def row(rule, iou, false):
        return {"decide": rule, "iou": iou, "false_positive_rate": false}

    usual = row("accuracy", 0.7, 0.001)
    assert best([usual, row("iou", 0.8, 0.004), row("0.2", 0.9, 0.006)]) == "iou"
    assert best([row("accuracy", 0.7, 0.02), row("0.2", 0.9, 0.021), row("0.4", 0.8, 0.02)]) == "0.4"
    assert best([usual, row("iou", 0.7, 0.0)]) == "accuracy"  # as good: the first
    assert best([row("accuracy", float("nan"), 0.0), row("iou", float("nan"), 0.0)]) == "accuracy"  # nothing wet
    assert best([row("accuracy", 0.7, None), row("iou", 0.8, None)]) == "iou"  # nothing dry


def test_calibrate_stores_what_its_places_decide(data, made):
    chips = read_dataset(data / "data")
    model, fit = calibrate(Model.load(made[0] / "all" / "tiny.safetensors"), chips, samples=4, device="cpu")
    found = fit.left_out
    assert model.spec.decide == found["decide"] and len(found["places"]) == len(PLACES) >= FEWEST
    assert model.spec.alarm["open"] == [c["doubt"] for c in found["chips"]] and model.spec.risk["places"] == 8
    few = [replace(c, place=c.place if c.place in "ab" else "c") for c in chips]
    model, fit = calibrate(model, few, samples=4, device="cpu")
    assert model.spec.alarm is None and model.spec.risk is None and fit.left_out["decisions"]
    alone = [replace(c, place="a") for c in chips]
    _, fit = calibrate(model, alone, samples=4, device="cpu")
    assert fit.left_out["decisions"] and all(row["found"] is None for row in fit.left_out["risk"])
    assert all(chip["alarm"] is None for chip in fit.left_out["chips"])
    assert "need 5 places" in decided(fit, "water") and "risk 0.05: cannot" in decisions(fit.left_out, "water")
