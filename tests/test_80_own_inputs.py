"""Through the command line: no verb replaces what it reads, however it is named, with or without --overwrite."""

import shutil
import sys

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from geouq.cli import main
from geouq.networks.model import Model


def call(monkeypatch, capsys, *args):
    """Run the command line in this process and return its exit code and what it said on stderr."""
    monkeypatch.setattr(sys, "argv", ["geouq", *map(str, args)])
    monkeypatch.setattr(main, "prepare_process", lambda: None)
    code = 0
    try:
        main.main()
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


def raster(path, values, dtype="float32"):
    values = np.asarray(values, dtype)
    profile = {"driver": "GTiff", "count": len(values), "dtype": dtype, "crs": "EPSG:32633"}
    profile |= {"width": values.shape[2], "height": values.shape[1], "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
    return path


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "ds"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["image,label,place,split,units"]
    for name, split in (("a", "train"), ("b", "validation"), ("c", "test")):
        wet = rng.integers(0, 2, (1, 64, 64))
        raster(folder / f"{name}.tif", np.concatenate([-8 - 10.0 * wet, -15 - 10.0 * wet]))
        raster(folder / f"{name}_label.tif", wet, "uint8")
        rows.append(f"{name}.tif,{name}_label.tif,{name},{split},db")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_segment_replaces_neither_scene_nor_model(tmp_path, data, monkeypatch, capsys):
    scene = data / "a.tif"
    before = scene.read_bytes()
    model = tmp_path / "m.tif"
    Model.load("s1-water-fast").save(model)
    weights = model.read_bytes()
    for name in (f"file://{scene}", f"vrt://{scene}?bands=1,2"):
        code, said = call(monkeypatch, capsys, "segment", name, "--scale", "db", "-o", scene, "--overwrite")
        assert code == 2 and f"{scene} is the scene itself" in said and scene.read_bytes() == before
    code, said = call(monkeypatch, capsys, "segment", scene, "--model", model, "-o", model, "--overwrite")
    assert code == 2 and f"{model} is the model" in said and model.read_bytes() == weights
    assert not list(tmp_path.rglob(".*"))


def test_vectors_replace_neither_map_nor_places(tmp_path, monkeypatch, capsys):
    path = raster(tmp_path / "mask.tif", np.eye(8)[None], "uint8")
    shutil.copy(path, tmp_path / "m.gpkg")
    code, said = call(monkeypatch, capsys, "vectorize", tmp_path / "m.gpkg", tmp_path / "m.gpkg", "--overwrite")
    assert code == 2 and "is what is to be read" in said and (tmp_path / "m.gpkg").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("manifest", "verb"), [("evaluation.json", "evaluate"), ("manifest.csv", "calibrate")])
def test_reports_and_models_do_not_replace_data(data, monkeypatch, capsys, manifest, verb):
    text = (data / "manifest.csv").read_text()
    if manifest.endswith(".json"):
        keys, *rows = (line.split(",") for line in text.split())
        text = __import__("json").dumps([dict(zip(keys, row, strict=True)) for row in rows])
    (data / manifest).write_text(text)
    out = data if verb == "evaluate" else data / manifest
    extra = ["--overwrite"] if verb == "calibrate" else []
    code, said = call(monkeypatch, capsys, verb, "s1-water-fast", data / manifest, "-o", out, *extra)
    assert code == 2 and "is what is to be read" in said and (data / manifest).read_text() == text


def test_the_manifest_of_a_folder_is_data_too(data, monkeypatch, capsys):
    out = data / "manifest.csv"
    text = out.read_text()
    code, said = call(monkeypatch, capsys, "calibrate", "s1-water-fast", data, "-o", out, "--overwrite")
    assert code == 2 and "is what is to be read" in said and out.read_text() == text


def test_training_does_not_replace_data(data, monkeypatch, capsys):
    log = (data / "manifest.csv").rename(data / "log.csv")
    text = log.read_text()
    code, said = call(monkeypatch, capsys, "train", log, "--recipe", "unet-16", "-o", data, "--steps", 1)
    assert code == 2 and "is part of the data" in said and log.read_text() == text


def test_zonal_replaces_no_places_named_by_a_url(tmp_path, monkeypatch, capsys):
    places = tmp_path / "p.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.box(5e5, 5e6 - 50, 5e5 + 50, 5e6)], crs="EPSG:32633").to_file(places)
    before = places.read_bytes()
    votes = tmp_path / "w_samples.tif"
    raster(votes, np.ones((1, 8, 8)), "uint32")
    with rasterio.open(votes, "r+") as file:
        file.descriptions = ("votes",)
        file.update_tags(GEOUQ_SAMPLES="4")
    code, said = call(monkeypatch, capsys, "zonal", votes, f"file://{places}", "-o", places, "--overwrite")
    assert code == 2 and "is what is to be read" in said and places.read_bytes() == before
