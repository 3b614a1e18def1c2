"""Calibration: a temperature that is known comes back, held-out places judge it, and what cannot be is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from geouq.cli.calibrate import describe
from geouq.errors import InputError
from geouq.learning.data.dataset import read_dataset
from geouq.learning.judging.calibrate import Fit, calibrate, fit_places
from geouq.learning.judging.temperature import Part, fit_temperature, mean_probabilities
from geouq.networks.model import Model
from geouq.segmentation.lazy import segment
from tests.helpers import as_scene, pairs, scene_values, small_model, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def logits(count: int, seed: int = 0, samples: int = 6, classes: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 2.5, (1, classes, count))
    return (common + rng.normal(0, 1.0, (samples, classes, count))).astype(np.float32)


def draw(z: np.ndarray, temperature: float, seed: int) -> np.ndarray:
    """Labels that come true as often as the mean of the samples at ``temperature`` says."""
    p = mean_probabilities(z, temperature)
    return (np.random.default_rng(seed).random(p.shape[1]) > np.cumsum(p, 0)[:-1]).sum(0).astype(np.int16)


@pytest.mark.parametrize(("temperature", "classes"), [(0.5, 1), (1.0, 1), (2.0, 1), (1.7, 3)])
def test_a_known_temperature_comes_back(temperature, classes):
    z = logits(40_000, classes=classes)
    found = fit_temperature([Part("a", z, draw(z, temperature, 1))])
    assert abs(found / temperature - 1) < 0.05


def test_places_are_judged_by_temperatures_of_other_places():
    parts = [Part(p, z, draw(z, 2.0, i)) for i, p in enumerate("aabbc") for z in [logits(8000, i)]]
    fit = fit_places(parts, small_model())
    assert fit.held_out and fit.places == 3 and len(fit.fold_temperatures) == 3 and not fit.kept
    assert abs(fit.temperature - 2) < 0.15 and fit.scores_after["nll"] < fit.scores_before["nll"]
    assert fit.scores_after["ece"] < 0.02 < fit.scores_before["ece"]
    # Places that disagree: what one says does not help the other, and the old temperature stays.
    apart = [Part(p, z, draw(z, t, i)) for i, (p, t) in enumerate((("a", 0.4), ("b", 2.2))) for z in [logits(8000, i)]]
    assert fit_places(apart, small_model()).kept


def test_what_no_temperature_can_fit_is_refused():
    z = logits(2000)
    with pytest.raises(InputError, match=r"0\.2 and 5"):
        fit_temperature([Part("a", z, 1 - draw(z, 0.5, 0))])
    with pytest.raises(InputError):
        fit_temperature([Part("a", z - 20, np.zeros(2000, np.int16))])


def test_the_logits_are_those_that_segment_sees(tmp_path):
    """The mean of what is collected, at the model's temperature, is the probability that ``segment`` gives."""
    model = small_model().with_spec(temperature=1.3)
    folder, size = tmp_path, 40
    write_raster(folder / "images" / "a.tif", scene_values(size, size), nodata=np.nan)
    write_raster(folder / "labels" / "a.png", np.ones((1, size, size), np.uint8))
    seen = []

    def spy(parts, *_):
        seen.extend(parts)
        raise InputError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geouq.learning.judging.calibrate.fit_places", spy)
        with pytest.raises(InputError, match="enough"):
            calibrate(model, read_dataset(folder), samples=4, most_pixels=10**9)
    p = segment(as_scene(scene_values(size, size)), model, samples=4, layers=("probability",)).probability.values
    np.testing.assert_allclose(mean_probabilities(seen[0].logits, 1.3)[1], p[np.isfinite(p)], atol=1e-6)


def test_the_command_writes_a_model_that_has_it(tmp_path):
    model, data = small_model(), tmp_path / "data"
    model.network.head.weight.data *= 10  # sure enough for a temperature to matter
    for i, name in enumerate(("a_1", "b_1", "c_1")):
        values = scene_values(64, 64, seed=i, holes=False)
        write_raster(data / "images" / f"{name}.tif", values)
        chosen = segment(as_scene(values), model.with_spec(temperature=1.8), samples=5, layers=("probability",))
        p = chosen.probability.values
        write_raster(
            data / "labels" / f"{name}.png", (np.random.default_rng(i).random(p.shape) < p)[None].astype(np.uint8)
        )
    model.save(tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "geouq.cli.main", "calibrate", "m.safetensors", "data", "-o", "n.safetensors"]

    def run(*more):
        return subprocess.run([*command, "--samples", "5", *more], capture_output=True, text=True, cwd=tmp_path)

    done = run("--json", "-q")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    new = Model.load(tmp_path / "n.safetensors")
    assert new.spec.temperature == found["temperature"] and abs(found["temperature"] - 1.8) < 0.3
    assert new.spec.scores["calibration"]["after"] == found["scores_after"]
    assert found["pixels"] == 3 * 64 * 64 and found["held_out"]
    again = run()
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "--overwrite" in again.stderr
    before = (tmp_path / "n.safetensors").read_bytes()
    own = [*command[: command.index("calibrate") + 1], "n.safetensors", *command[command.index("calibrate") + 2 :]]
    own = subprocess.run([*own, "--overwrite"], capture_output=True, text=True, cwd=tmp_path)
    assert own.returncode == 2 and "n.safetensors is what is to be read" in own.stderr
    assert (tmp_path / "n.safetensors").read_bytes() == before
    plain = found | {"fold_temperatures": tuple(found["fold_temperatures"])}
    assert f"temperature 1 -> {found['temperature']:.4g}" in describe(Fit(**plain))


def test_all_of_the_split_train_is_refused(tmp_path):
    chips = [c.__class__(**{**vars(c), "split": "train"}) for c in read_dataset(pairs(tmp_path, ["a"]))]
    with pytest.raises(InputError, match="split train"):
        calibrate(small_model(), chips)
