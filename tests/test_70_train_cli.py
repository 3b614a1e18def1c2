"""``geouq train`` as a user meets it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from geouq.cli.main import geouq
from geouq.errors import InputError, OutputError
from geouq.networks.model import Model
from tests.helpers import picture, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def run(*arguments):
    return CliRunner().invoke(geouq, ["train", *map(str, arguments)])


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for place in "ABC":
        pixels, label = picture(rng, 20, 24, 2)
        write_raster(tmp_path / "data" / "images" / f"{place}_1.png", pixels)
        write_raster(tmp_path / "data" / "labels" / f"{place}_1.png", label)
    return tmp_path / "data"


def test_train_refuse_and_resume(data, tmp_path):
    common = (data, "--recipe", "unet-16", "-o", tmp_path / "out", "--device", "cpu", "--val", "B")
    done = run(*common, "--steps", 1)
    assert done.exit_code == 0 and str(tmp_path / "out" / "unet-16.safetensors") in done.output
    assert "2 chips of 2 places to train on, 1 of 1 places held out" in done.output and "val iou" in done.output
    assert (tmp_path / "out" / "curves.png").exists()
    refused = run(*common, "--steps", 2)
    assert isinstance(refused.exception, OutputError) and "--resume" in str(refused.exception)
    assert run(*common, "--steps", 2, "--resume", "-q").output == ""
    assert (tmp_path / "out" / "log.csv").read_text().count("\n") == 2  # an unfinished round is judged when it ends
    assert Model.load(tmp_path / "out" / "unet-16.safetensors").spec.name == "unet-16"


def test_more_data_are_trained_on_and_never_held_out(data, tmp_path):
    rng = np.random.default_rng(1)
    for name in ("B_2", "C_2", "D_1"):
        pixels, label = picture(rng, 20, 24, 2)
        write_raster(tmp_path / "more" / "images" / f"{name}.png", pixels)
        write_raster(tmp_path / "more" / "labels" / f"{name}.png", label)
    common = (data, "--recipe", "unet-16", "--device", "cpu", "--val", "B", "--also", tmp_path / "more", "--steps", 1)
    assert run(*common, "-o", tmp_path / "out").exit_code == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["training"] == ["A_1", "C_1", "C_2", "D_1"] and settings["validation"] == ["B_1"]  # B_2: of B
    for wrong, expected in ((data, "A_1"), (tmp_path / "nowhere", "no such file or folder")):
        error = run(*common, "--also", wrong, "-o", tmp_path / "other").exception
        assert isinstance(error, InputError) and expected in str(error) and not (tmp_path / "other").exists()
    (data / "classes.txt").write_text("land\nwater\n")
    (tmp_path / "more" / "classes.txt").write_text("water\nland\n")
    error = run(*common, "-o", tmp_path / "other").exception
    (data / "classes.txt").unlink()
    assert isinstance(error, InputError) and "class 0 is named" in str(error)
    assert not (tmp_path / "other").exists()
    manifest = {
        tmp_path / "tested.csv": ((data, "A_1", "train"), (data, "B_1", "validation"), (data, "C_1", "test")),
        tmp_path / "also.csv": ((tmp_path / "more", "C_2", "train"), (tmp_path / "more", "D_1", "test")),
    }
    for path, rows in manifest.items():
        lines = (f"{d}/images/{n}.png,{d}/labels/{n}.png,{n[0]},{split}\n" for d, n, split in rows)
        path.write_text("image,label,place,split\n" + "".join(lines))
    tested, also = manifest
    told = ("--recipe", "unet-16", "--device", "cpu", "--also", also, "--steps", 1)
    assert run(tested, *told, "-o", tmp_path / "tests").exit_code == 0
    settings = json.loads((tmp_path / "tests" / "settings.json").read_text())
    assert settings["training"] == ["A_1"]  # C_2 is of a place that is tested on, and D_1 a test
    inside = run(*common, "-o", tmp_path / "more" / "labels").exception
    assert isinstance(inside, OutputError) and not (tmp_path / "more" / "labels" / "log.csv").exists()


@pytest.mark.parametrize("kept", ["unet-16.safetensors", "recipe.toml", "settings.json"])
def test_what_is_left_of_a_run_is_not_overwritten_unasked(kept, data, tmp_path):
    """Without its checkpoint, which is not needed, a finished model was replaced, and one's own recipe.toml too."""
    out, told = tmp_path / "out", ("--recipe", "unet-16", "--set", "arguments.widths=[4,6]", "--val", "B", "--steps", 1)
    out.mkdir()
    (out / kept).write_bytes(b"{}")
    error = run(data, *told, "-o", out).exception
    assert isinstance(error, OutputError) and "--resume" in str(error) and [p.name for p in out.iterdir()] == [kept]
    assert (out / kept).read_bytes() == b"{}"


def test_a_run_of_other_settings_without_its_checkpoint_is_not_gone_on_with(data, tmp_path):
    told = (data, "--recipe", "unet-16", "--val", "B", "--steps", 1, "-o", tmp_path / "out")
    assert run(*told).exit_code == 0
    (tmp_path / "out" / "checkpoint.pt").unlink()
    before = (tmp_path / "out" / "unet-16.safetensors").read_bytes()
    assert "other settings (training)" in str(run(*told, "--seed", 1, "--resume").exception)
    assert run(*told, "--resume").exit_code == 0
    assert (tmp_path / "out" / "unet-16.safetensors").read_bytes() == before


def test_places_may_be_numbers(tmp_path):
    """``--val 2`` was refused as a share."""
    rng = np.random.default_rng(0)
    for name in ("1_1", "2_1", "3_1"):
        pixels, label = picture(rng, 20, 24, 2)
        write_raster(tmp_path / "data" / "images" / f"{name}.png", pixels)
        write_raster(tmp_path / "data" / "labels" / f"{name}.png", label)
    done = run(tmp_path / "data", "--recipe", "unet-16", "--steps", 1, "--val", "2", "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["validation"] == ["2_1"]


def test_mistakes_leave_nothing_behind(data, tmp_path):
    for arguments, expected in (
        ((tmp_path / "nowhere", "--recipe", "unet-16"), "no such file or folder"),
        ((data, "--recipe", "unet-99"), "or one of deeplabv3+"),
        ((data, "--recipe", "unet-16", "--val", "Atlantis"), "Atlantis"),
        ((data, "--recipe", "unet-16", "--val", ","), "names no place"),
        ((data, "--recipe", "unet-16", "--classes", "water"), "different names"),
        ((data, "--recipe", "s1-water"), "rgb"),
    ):
        error = run(*arguments, "-o", tmp_path / "out").exception
        assert isinstance(error, InputError) and expected in str(error)
    alone = run(data, "--recipe", "unet-16", "--set", "rounds.count=1", "--only", "1", "-o", tmp_path / "out")
    assert alone.exit_code == 2 and "--only is for --folds" in alone.output
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "geouq.cli.main", "train", str(tmp_path / "nowhere")]
    done = subprocess.run([*command, "--recipe", "unet-16", "-o", "out"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nowhere" in done.stderr
