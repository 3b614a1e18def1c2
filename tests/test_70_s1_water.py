"""The shipped model: it loads, says what it is, and finds water it must find. Honest scores are in its card."""

import numpy as np
import pytest
import torch

from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.examples import simulate_examples
from geouq.learning.data.loading import load
from geouq.networks.model import WEIGHTS, Model
from geouq.scores.confusion import Confusion
from tests.shared import SHARED

DATA = SHARED / "s1"


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return Model.load("s1-water")


def water(model, pixels):
    with torch.inference_mode():
        logits = model.network(torch.from_numpy(model.normalise(pixels))[None])[0, 0]
    return (logits / model.spec.temperature).sigmoid().numpy() >= model.spec.threshold


def test_it_says_what_it_expects_and_what_it_was_made_of(model):
    spec = model.spec
    assert spec.bands == ("VV", "VH") and spec.units == "dB" and spec.missing_bands == "zero"
    assert 0.2 < spec.temperature < 5 and model.active_sites() and model.halo and model.halo < 256
    assert spec.decide == "accuracy" and spec.scores["left_out"]["places"] == spec.risk["places"] == 41
    assert len(spec.alarm["open"]) == spec.scores["left_out"]["chips"] == 170
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 15e6


def test_its_card_names_sources_scores_and_limits():
    card = (WEIGHTS / "s1-water.md").read_text()
    for word in ("Copernicus Sentinel", "Sen1Floods11", "BigEarthNet", "held out", "## Limits", "--recipe s1-water"):
        assert word in card, word


def test_it_finds_water_in_a_simulated_scene_it_was_not_trained_on(model):
    count = Confusion()
    for chip in simulate_examples(6, seed=9000, size=256):
        count.add(water(model, chip.pixels), chip.label, chip.valid)
    assert count.iou > 0.6 and count.false_water < 0.06


def test_it_copes_with_what_it_was_never_given(model):
    extreme = np.full((2, 64, 64), np.nan, np.float32)
    extreme[:, :8], extreme[:, 8:16], extreme[:, 16:24] = 90, -300, np.inf
    with torch.inference_mode():
        assert torch.isfinite(model.network(torch.from_numpy(model.normalise(extreme))[None])).all()


@pytest.mark.parametrize(
    "vv, vh, wet", [(-13, -22, False), (-16, -22, False), (-10, -20, False), (-13, -26, True), (-20, -28, True)]
)
def test_it_tells_a_plain_from_the_sea_by_what_vh_is(model, vv, vh, wet):
    """Ground without any structure: dry grassland is as dark in VV as windy sea, and 4 dB brighter in VH."""
    speckle = 10 * np.log10(np.random.default_rng(0).gamma(5, 1 / 5, (2, 256, 256)))
    share = water(model, (np.array([vv, vh])[:, None, None] + speckle).astype(np.float32)).mean()
    assert share > 0.99 if wet else share < 0.05


@pytest.mark.skipif(not DATA.exists(), reason="labelled chips (../shared/data/s1) are not here")
def test_it_fits_the_chips_it_was_trained_on(model):
    chips = {c.name: c for c in read_dataset(DATA)}
    for name, least in {"India_900498": 0.75, "Spain_7370579": 0.58, "USA_905409": 0.7, "jja10": 0.62}.items():
        pixels, label, valid = load(chips[name], ("VV", "VH"), "dB")
        assert Confusion().add(water(model, pixels), label == 1, valid).iou > least, name
    for name in ("Ghana_53713", "awc00"):
        pixels, label, valid = load(chips[name], ("VV", "VH"), "dB")
        assert Confusion().add(water(model, pixels), label == 1, valid).false_water < 0.005, name
