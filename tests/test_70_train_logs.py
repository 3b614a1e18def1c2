"""What a training says while it runs: curves for TensorBoard, and which training of how many is at work."""

import csv
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from geouq.cli import train as verb
from geouq.cli.main import geouq
from geouq.errors import InputError, OutputError
from geouq.learning.training import event_files
from tests.helpers import picture, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
CHANGES = ("size=16", "batch=2", "round_steps=2", "epochs=0", "training.every=2", "arguments.widths=[4, 6]")


def run(*arguments):
    return CliRunner().invoke(geouq, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for place in "abc":
        pixels, label = picture(rng, 20, 24, 2)
        write_raster(folder / "images" / f"{place}_1.png", pixels)
        write_raster(folder / "labels" / f"{place}_1.png", label)
    return folder


def common(data, *more):
    settings = [word for change in CHANGES for word in ("--set", change)]
    return (data, "--recipe", "unet-16", *settings, "--val", "c", "--device", "cpu", *more)


def scalars(folder):
    """All numbers in a folder's event files, as they lie there: (name, step) → values."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found = {}
    for path in sorted(folder.glob("*tfevents*")):
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(value.simple_value)
    return found


def logged(out):
    with open(out / "log.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {(name, row["step"]): row[name] for row in rows for name in row if name != "step"}


def test_curves_are_the_log_each_step_once_wherever_the_run_was_broken_off(data, tmp_path):
    pytest.importorskip("tensorboard")
    told = common(data, "-o", tmp_path / "out", "--tensorboard", tmp_path / "runs")
    assert run(*told, "--steps", 4).exit_code == 0
    first = logged(tmp_path / "out")
    assert {name for name, _ in first} == {"loss", "rate", "val_loss", "val_accuracy", "val_iou"}
    assert run(*told, "--steps", 8, "--resume").exit_code == 0
    (tmp_path / "runs" / "events.out.tfevents.9.cut").write_bytes(b"\x18\x00\x00")  # as a killed writer leaves it
    assert run(*told, "--steps", 10, "--resume").exit_code == 0
    found, told_by_log = scalars(tmp_path / "runs"), logged(tmp_path / "out")
    assert set(found) == set(told_by_log) and max(step for _, step in found) == 10
    assert all(len(values) == 1 for values in found.values())
    assert {key: values[0] for key, values in found.items()} == pytest.approx(told_by_log, rel=1e-4)


def test_a_run_that_was_begun_without_curves_gets_them_all(data, tmp_path):
    pytest.importorskip("tensorboard")
    assert run(*common(data, "-o", tmp_path / "out"), "--steps", 4).exit_code == 0
    told = common(data, "-o", tmp_path / "out", "--tensorboard", tmp_path / "runs")
    assert run(*told, "--steps", 6, "--resume").exit_code == 0
    assert set(scalars(tmp_path / "runs")) == set(logged(tmp_path / "out"))


def test_the_curves_of_another_run_stay_its_own(data, tmp_path):
    pytest.importorskip("tensorboard")
    told = common(data, "--tensorboard", tmp_path / "runs", "--steps", 2)
    assert run(*told, "-o", tmp_path / "one").exit_code == 0
    before = scalars(tmp_path / "runs")
    for more in ((), ("--resume",)):
        error = run(*told, "-o", tmp_path / "other", *more).exception
        assert isinstance(error, OutputError) and "curves of another run" in str(error)
    assert not (tmp_path / "other").exists() and scalars(tmp_path / "runs") == before


def test_folds_have_a_folder_each(data, tmp_path):
    pytest.importorskip("tensorboard")
    told = common(data, "-o", tmp_path / "out", "--tensorboard", tmp_path / "runs", "--steps", 2, "--folds", "a;b")
    assert run(*told, "--only", "1,2").exit_code == 0
    for name in ("fold-1", "fold-2"):
        assert set(scalars(tmp_path / "runs" / name)) == set(logged(tmp_path / "out" / name))
    assert not list((tmp_path / "runs").glob("*tfevents*"))
    error = run(*told, "-o", tmp_path / "other").exception
    assert isinstance(error, OutputError) and "fold-1 holds curves of another run" in str(error)
    assert not (tmp_path / "other").exists()


def test_a_folder_below_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "find_spec", lambda name: True)
    (tmp_path / "notes.txt").touch()
    for folder in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "curves"):
        with pytest.raises(OutputError, match="notes.txt is a file"):
            event_files.check_event_files(folder, False)


@pytest.mark.parametrize("folds", [(), ("--folds", "a;b")])
def test_without_tensorboard_one_line_says_what_to_install_and_nothing_is_begun(folds, data, tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "find_spec", lambda name: None)
    error = run(*common(data, "-o", tmp_path / "out", "--tensorboard", tmp_path / "runs"), *folds).exception
    assert isinstance(error, InputError) and error.exit_code == 2
    assert str(error).endswith("pip install 'geouq[tensorboard]'") and "\n" not in str(error)
    assert not list(tmp_path.iterdir())


def test_tensorboard_is_imported_only_when_asked(data, tmp_path):
    before = set(sys.modules)
    assert run(*common(data, "-o", tmp_path / "out", "--steps", 1)).exit_code == 0
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] == "tensorboard"}


def test_rounds_say_which_training_is_at_work_and_what_is_labelled(data, tmp_path, monkeypatch):
    (tmp_path / "more").mkdir()
    for name in "xy":
        write_raster(tmp_path / "more" / f"{name}.png", picture(np.random.default_rng(1), 20, 24, 2)[0])
    monkeypatch.setattr(verb, "INTERVAL", 0.0)
    settings = ("--set", "rounds.count=1", "--set", "rounds.share=0.0", "--set", "rounds.confidence=0.0", "--steps", 2)
    done = run(*common(data, "-o", tmp_path / "out", "--unlabelled", tmp_path / "more"), *settings)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("geouq: ")]
    order = [
        "geouq: training 1 of 2, round-0",
        "geouq: training 2 of 2, round-1",
        "geouq: 1 of 2: x",
        "geouq: 2 of 2: y",
    ]
    assert [line for line in lines if line in order] == order
    assert any("loss" in line and line.endswith("round-1, 2 of 2") for line in lines)


def test_folds_say_which_training_is_at_work_beside_the_loss(data, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "INTERVAL", 0.0)
    done = run(*common(data, "-o", tmp_path / "out", "--folds", "a;b", "--steps", 2, "--samples", 2))
    assert done.exit_code == 0, done.output
    assert "geouq: training 2 of 3, fold-2, without b" in done.output
    assert any("loss" in line and line.endswith("fold-2, 2 of 3") for line in done.output.splitlines())
    assert done.output.count("geouq: 1 of 2: a_1") == 2  # two passes: what is fitted, and how it maps
