"""A model knows the names of the chips that it was trained on, and says so where it is judged on them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from geouq.cli.main import geouq
from geouq.errors import ModelError
from geouq.learning.data.chip import mark_of
from geouq.learning.data.dataset import read_dataset
from geouq.learning.judging.labelled import trained_on
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.recipe import find_recipe
from geouq.networks.combine import combined
from geouq.networks.model import Model
from tests.helpers import small_model, write_raster

TINY = ["arguments.widths=[4, 6]", "size=16", "batch=2", "epochs=0", "training.steps=1", "training.every=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("seen"), np.random.default_rng(0)
    for name in ("a_1", "b_1", "c_1", "d_1"):
        water = np.zeros((24, 24), np.uint8)
        water[:, rng.integers(6, 18) :] = 1
        levels = np.where(water, -20, -10) + rng.normal(0, 1, (2, 24, 24)) - [[[0]], [[6]]]
        write_raster(folder / "images" / f"{name}.tif", levels.astype(np.float32))
        write_raster(folder / "labels" / f"{name}.tif", water[None])
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    options = FitOptions(validation=("d",), device="cpu")
    return train_model(data, find_recipe("unet-16", TINY), tmp_path_factory.mktemp("out") / "run", options)


def test_judging_says_what_was_trained_on(data, trained, tmp_path):
    assert Model.load(trained).spec.trained_on == tuple(sorted(map(mark_of, ("a_1", "b_1", "c_1"))))
    done = CliRunner().invoke(geouq, ["evaluate", str(trained), str(data), "-q", "-o", str(tmp_path / "report")])
    assert "3 of 4 chips bear names that the model was trained on" in done.output
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["trained_on"] == 3
    assert "3 of 4 chips bear names" in (tmp_path / "report" / "evaluation.html").read_text()
    done = CliRunner().invoke(
        geouq, ["calibrate", str(trained), str(data), "-q", "-o", str(tmp_path / "c.safetensors")]
    )
    assert done.exit_code == 0 and "geouq: 3 of 4 chips bear names" in done.output
    rows = [f"{data}/images/{n}.tif,{data}/labels/{n}.tif,{'test' if n == 'd_1' else 'train'}" for n in ("a_1", "d_1")]
    (tmp_path / "m.csv").write_text("\n".join(["image,label,split", *rows]))
    done = CliRunner().invoke(geouq, ["evaluate", str(trained), str(tmp_path / "m.csv"), "-q"])
    assert done.exit_code == 0 and "bear names" not in done.output


def test_chips_that_are_no_radar_are_told(data, tmp_path):
    """Labels beside swapped bands teach a model that is wrong on every image whose bands are not."""
    header = "image,label,place,bands"
    for bands, told in (("VV;VH", False), ("VH;VV", True)):
        rows = [f"{data}/images/{n}_1.tif,{data}/labels/{n}_1.tif,{n},{bands}" for n in "abcd"]
        (tmp_path / "m.csv").write_text("\n".join([header, *rows]))
        out = tmp_path / bands[:2]
        asked = [
            "train",
            str(tmp_path / "m.csv"),
            "--recipe",
            "unet-16",
            "-o",
            str(out),
            "--val",
            "d",
            "--device",
            "cpu",
        ]
        done = CliRunner().invoke(geouq, [*asked, *(word for change in TINY for word in ("--set", change))])
        assert done.exit_code == 0, done.output
        assert ("4 of 4 chips looked at do not look like" in done.output) == told
        done = CliRunner().invoke(geouq, ["evaluate", str(out / "unet-16.safetensors"), str(tmp_path / "m.csv"), "-q"])
        assert done.exit_code == 0 and ("lies above VV" in done.output) == told


def test_what_a_model_started_from_and_is_made_of_counts(data, trained, tmp_path):
    options = FitOptions(validation=("a", "b", "c"), device="cpu", init=trained)
    on = Model.load(train_model(data, find_recipe("unet-16", TINY), tmp_path / "on", options))
    assert trained_on([on], ("a_1", "b_1", "c_1", "d_1", "e_1")) == 4
    both = combined([Model.load(trained), on], "both")
    assert trained_on([both], [chip.name for chip in read_dataset(data)]) == 4
    assert trained_on([small_model()], ("a_1",)) == 0 and small_model().spec.trained_on is None
    assert "trained_on" not in small_model().spec.to_dict()
    with pytest.raises(ModelError, match="trained_on"):
        replace(on.spec, trained_on="abc")
