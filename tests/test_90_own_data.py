"""The way from own labels to a map: the commands of docs/own_data.md as they stand there, and the example, quickly."""

import re
import runpy
import shlex
from pathlib import Path

import geopandas
import pytest
import rasterio
from click.testing import CliRunner

from geouq.cli.main import geouq
from geouq.networks.model import Model

ROOT = Path(__file__).parents[1]
#: so that it takes seconds: what each command gets beside what the page says
QUICK = {
    "train": ["--steps", "3", "--set", "arguments.widths=[4,6]", "--set", "round_steps=3"],
    "calibrate": ["--samples", "2"],
    "evaluate": ["--samples", "2"],
    "segment": ["--samples", "3"],
}
CLASSES = ("water", "built-up", "forest", "crops", "grass")


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(ROOT / "examples" / "land_cover.py"))


def test_the_five_commands_of_the_page(example, tmp_path, monkeypatch):
    example["make_chips"](tmp_path / "chips", of_place=1, size=32)
    example["make_scene"](tmp_path, size=64)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ geouq (.*)$", (ROOT / "docs" / "own_data.md").read_text(), re.M)
    assert [words.split()[0] for words in commands] == ["train", "calibrate", "evaluate", "segment", "zonal"]
    for words in commands:
        verb, *rest = shlex.split(words)
        done = CliRunner().invoke(geouq, [verb, *rest, *QUICK.get(verb, [])])
        assert done.exit_code == 0, f"{words}\n{done.output}\n{done.exception!r}"
        if verb == "evaluate":
            assert all(f"\n{name} " in done.output for name in CLASSES)
        if verb == "segment":
            assert all(f"{name}: " in done.output for name in CLASSES)
    model = Model.load("cover.safetensors")
    assert model.spec.classes == CLASSES and model.spec.units == "reflectance" and model.spec.alarm
    assert model.spec.bands == ("B02", "B03", "B04", "B08")
    assert Path("report/evaluation.html").exists()
    with rasterio.open("cover.tif") as file:
        assert file.tags()["GEOUQ_CLASSES"] == ",".join(CLASSES) and file.shape == (64, 64)
    shapes, answers = geopandas.read_file("cover.gpkg", layer="classes"), geopandas.read_file("answers.gpkg")
    assert shapes["area_m2"].sum() == pytest.approx(640 * 640, rel=1e-2)
    assert {f"{name}_area_m2" for name in ("water", "built_up", "forest", "crops", "grass")} <= set(answers.columns)


def test_the_example(example, tmp_path, monkeypatch, capsys):
    small = example["make_chips"], example["make_scene"]
    globals_of_main = example["main"].__globals__
    monkeypatch.setitem(globals_of_main, "make_chips", lambda folder: small[0](folder, of_place=1, size=32))
    monkeypatch.setitem(globals_of_main, "make_scene", lambda folder: small[1](folder, size=64))
    example["main"](str(tmp_path), 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("temperature ") and [line.split(":")[0] for line in lines[1:6]] == list(CLASSES)
    assert [line.split(":")[0] for line in lines[6:8]] == ["west", "east"] and "of every class" in lines[8]
