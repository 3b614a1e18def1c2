"""The command line as a user meets it: real processes, exit codes, one line for each mistake."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geouq.cli import main
from tests.helpers import geouq, scene_values, small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    geouq("simulate", path / "scene.tif", "--size", 200, "--seed", 3, "--truth", path / "truth.tif")
    small_model().save(path / "m.safetensors")
    return path


def test_help_and_import_are_instant():
    for command in (["-m", "geouq.cli.main", "--help"], ["-c", "import geouq"]):
        best = min(_seconds([sys.executable, *command]) for _ in range(3))
        bare = min(_seconds([sys.executable, "-c", "pass"]) for _ in range(3))
        assert best - bare < 0.5


def _seconds(command):
    """Processor seconds: what a command takes on a machine that has nothing else to do."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime - began.ru_utime + ended.ru_stime - began.ru_stime


def test_help_imports_no_library():
    code = "import sys; sys.argv = ['geouq', '--help']\nfrom geouq.cli.main import geouq\n"
    code += "geouq(standalone_mode=False)\nassert not {'torch', 'numpy', 'rasterio', 'xarray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("verb", ["segment", "vectorize", "info", "models", "preprocess", "simulate"])
def test_every_verb_has_help(verb):
    assert "Usage" in geouq(verb, "--help").stdout


def test_segment_with_the_shipped_model(folder):
    out = folder / "out"
    out.mkdir()
    done = geouq(
        "segment", folder / "scene.tif", "--samples", 3, "--vector", "w.gpkg", "--preview", "w.png", "--json", cwd=out
    )
    summary = json.loads(done.stdout)
    assert {p.name for p in out.iterdir()} == {"scene_water.tif", "scene_water.qml", "w.gpkg", "w.png"}
    assert summary["model"] == "s1-water" and summary["samples"] == 3 and "megapixels" in done.stderr
    with rasterio.open(out / "scene_water.tif") as a, rasterio.open(folder / "truth.tif") as b:
        mask, truth = a.read(1), b.read(1)
    assert ((mask == 255) == (truth == 255)).all()
    known = truth != 255
    assert (mask == truth)[known].mean() > 0.9
    again = geouq("segment", folder / "scene.tif", "--samples", 3, cwd=out)
    assert again.stdout.count("already there, made by this very run: scene_water") == 2 and "tiles" not in again.stderr
    again = geouq("segment", folder / "scene.tif", "--samples", 3, "--seed", 1, cwd=out, code=2)
    assert again.stderr.count("\n") == 1 and "--overwrite" in again.stderr


def test_vectorize_from_the_map_alone(folder, tmp_path):
    geouq("segment", folder / "scene.tif", "-o", tmp_path / "m.tif", "--samples", 2, "-q")
    geouq("vectorize", tmp_path / "m.tif", tmp_path / "m.gpkg", "--min-area", 500)
    assert (tmp_path / "m.gpkg").exists()
    assert "exists" in geouq("vectorize", tmp_path / "m.tif", tmp_path / "m.gpkg", code=2).stderr


def test_info_and_models(folder):
    info = json.loads(geouq("info", folder / "scene.tif", "--json").stdout)
    assert info["units"] == "dB"
    assert "dB" in geouq("info", folder / "scene.tif").stdout
    assert "s1-water" in geouq("models").stdout
    assert "once a sample" in geouq("models", "show", "s1-water").stdout


def write(path: Path, values: np.ndarray, **profile) -> Path:
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **profile) as file:
        file.write(values)
    return path


def within(args, monkeypatch, capsys):
    """Run the command in this process, which spares seconds of imports; return its exit code and what it said."""
    monkeypatch.setattr(main, "prepare_process", lambda: None)
    monkeypatch.setattr(sys, "argv", ["geouq", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code, capsys.readouterr().err


def test_mistakes_get_one_line_and_exit_2(folder, tmp_path, monkeypatch, capsys):
    values = scene_values(30, 30, holes=False)
    dn = write(tmp_path / "dn.tif", (200 + values * 3).astype(np.uint16), crs="EPSG:32633")
    wide = write(tmp_path / "five.tif", np.tile(values, (2, 1, 1)), crs="EPSG:32633")
    model = folder / "m.safetensors"
    scene = folder / "scene.tif"
    mistakes = [
        (["segment", tmp_path / "absent.tif"], "absent.tif"),
        (["segment"], "no scene given"),
        (["segment", scene, "--model", "nope"], "no model 'nope'"),
        (["segment", scene, "--model", scene], "safetensors"),
        (["segment", dn, "--scale", "dn"], "calibrate"),
        (["segment", wide, "--scale", "db"], "--bidx"),
        (["segment", scene, "--bidx", "1,x"], "--bidx"),
        (["segment", scene, "--bidx", "1,9"], "9"),
        (["segment", scene, "--layers", "maks"], "choose among"),
        (["segment", scene, "--co", "LEVEL"], "NAME=VALUE"),
        (["segment", scene, "--co", "BLOCKSIZE=100"], "multiple of 16"),
        (["segment", scene, "--co", "BLOCKSIZE=" + 5000 * "9"], "multiple of 16"),
        (["segment", scene, "--co", "LEVEL=" + 5000 * "9"], "LEVEL"),
        (["segment", scene, "--device", "meta"], "--device cpu"),
        (["train", folder, "--recipe", folder, "-o", "t"], "is not a file"),
        (["segment", scene, "--co", "BIGTIFF=MAYBE"], "IF_SAFER"),
        (["segment", scene, "--bounds", 0, 0, 1, 1], "do not meet"),
        (["segment", scene, "--threshold", 7], "between 0 and 1"),
        (["segment", scene, "--samples", 65, "--layers", "votes"], "at most 64"),
        (["segment", scene, "--samples", 5, "--sites", "none", "--model", model], "--samples 0"),
        (["segment", scene, "--vv", scene], "not both"),
        (["segment", scene, "-o", tmp_path / "no" / "m.tif"], "make it first"),
        (["segment", scene, "--vector", tmp_path / "w.docx"], "w.docx"),
        (["segment", scene, "--bounds", "nan", 0, 1, 1], "finite"),
        (["segment", scene, "--tile", 0], "1 or more"),
        (["segment", scene, "--min-area", "nan"], "--min-area"),
        (["vectorize", tmp_path / "absent.tif", tmp_path / "o.gpkg"], "absent.tif"),
        (["info", tmp_path / "absent.tif"], "absent.tif"),
        (["simulate", scene], "exist"),
        (["models", "show", "nope"], "no model"),
    ]
    before = sorted(p.name for p in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    for number, (args, says) in enumerate(mistakes):
        if number < 3:
            code, said = 2, geouq(*args, cwd=tmp_path, code=2).stderr
        else:
            code, said = within(args, monkeypatch, capsys)
        assert code == 2 and says in said and said.strip().count("\n") == 0, (args, said)
        assert sorted(p.name for p in tmp_path.iterdir()) == before, args


@pytest.mark.parametrize("verb", (["info"], ["vectorize"], ["samples"]))
def test_text_that_is_not_utf8_is_one_line(verb, tmp_path):
    """GDAL repeats a file's bytes in its message, which rasterio then could neither log nor raise."""
    (tmp_path / "bad.vrt").write_bytes(b'<VRTDataset rasterXSize="4" rasterYSize="4"><\xe0\xff<a></VRTDataset>')
    done = geouq(*verb, "bad.vrt", *(["out.gpkg"] if verb == ["vectorize"] else []), cwd=tmp_path, code=2)
    assert done.stderr.count("\n") == 1 and "not UTF-8" in done.stderr


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("segment", "; the same command continues"),
        ("train", "; --resume"),
        ("zonal", "; no output is left"),
        ("info", "\n"),
    ],
)
def test_an_interrupted_verb_says_what_is_next_and_does_not_wait_for_its_tiles(verb, words):
    script = f"""
import sys, time
from concurrent.futures import ThreadPoolExecutor
from geouq.cli import main

def interrupted(**options):
    ThreadPoolExecutor().submit(time.sleep, 60)
    raise KeyboardInterrupt

main.geouq.main = interrupted
sys.argv = ["geouq", {verb!r}, "a.tif"]
main.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 130 and done.stderr.startswith("geouq: interrupted" + words[:1])
    assert words in done.stderr and done.stderr.count("\n") == 1


def test_an_all_nan_scene_ends_well(tmp_path):
    write(tmp_path / "nan.tif", np.full((2, 40, 40), np.nan, np.float32), crs="EPSG:32633", nodata=np.nan)
    summary = json.loads(geouq("segment", "nan.tif", "--json", "--samples", 2, cwd=tmp_path).stdout)
    assert summary["not_classified_percent"] == 100


def test_two_files(folder, tmp_path):
    with rasterio.open(folder / "scene.tif") as file:
        values, profile = file.read(), {"crs": file.crs, "transform": file.transform, "nodata": np.nan}
    write(tmp_path / "a.tif", values[:1], **profile)
    write(tmp_path / "b.tif", values[1:], **profile)
    geouq(
        "segment",
        "--vv",
        "a.tif",
        "--vh",
        "b.tif",
        "-o",
        "two.tif",
        "--samples",
        2,
        "-q",
        "--scale",
        "db",
        cwd=tmp_path,
    )
    geouq("segment", folder / "scene.tif", "-o", tmp_path / "one.tif", "--samples", 2, "-q")
    with rasterio.open(tmp_path / "one.tif") as a, rasterio.open(tmp_path / "two.tif") as b:
        np.testing.assert_array_equal(a.read(), b.read())
