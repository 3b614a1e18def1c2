"""Stopping early: never further from the full run than promised, and nothing told of samples that were not drawn."""

import json

import geopandas
import numpy as np
import pytest
import rasterio

import geouq
from geouq.errors import InputError
from geouq.sampling.dropout import Dropout
from geouq.segmentation.events import BatchHalved
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run
from geouq.segmentation.tile import segment_tile
from tests.helpers import as_scene, scene_values, small_model

MODEL = small_model()


@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("classes", [1, 3])
def test_never_further_than_the_tolerance(tolerance, classes):
    model = small_model(classes=classes)
    scene = as_scene(scene_values(70, 60))
    layers = ("probabilities", "confidence")
    full = geouq.segment(scene, model, samples=20, layers=layers, tile=32).compute()
    early = geouq.segment(scene, model, samples=20, layers=layers, tile=32, tolerance=tolerance).compute()
    moved = max(float(np.abs(full[layer] - early[layer]).max()) for layer in layers)
    assert moved <= tolerance + 1e-6
    assert (moved > 0) is (tolerance >= 0.1), "one sample in twenty can move it by .05"


def test_a_tile_that_agrees_stops_no_sooner_than_certain():
    job = prepare(as_scene(scene_values(40, 40)), MODEL, Settings(samples=50, tolerance=0.2, layers=("probability",)))
    (tile,) = job.tiling
    result = segment_tile(job, scene_values(40, 40), tile)
    assert 30 <= result.drawn <= 41 and len(result.areas) == result.drawn


def test_a_run_says_what_it_saved_and_gives_no_interval(tmp_path):
    scene = as_scene(scene_values(90, 80))
    outputs = Outputs(tmp_path / "map.tif", tmp_path / "map.gpkg", tmp_path / "map.png")
    summary = run(scene, prepare(scene, MODEL, Settings(samples=10, tile=32, tolerance=0.25)), outputs)
    assert 10 <= summary["samples_saved_percent"] <= 50 and summary["tolerance"] == 0.25
    assert summary["area_m2_p05"] is None and summary["area_m2_p95"] is None and summary["area_m2"] > 0
    assert geopandas.read_file(tmp_path / "map.gpkg").area_m2_p05.isna().all()
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.tags()["GEOUQ_TOLERANCE"] == "0.25" and file.tags()["GEOUQ_SAMPLES"] == "10"
    json.dumps(summary)


def test_what_a_tolerance_cannot_bound_is_refused():
    scene = as_scene(scene_values(20, 20))
    for layer in ("votes", "std", "aleatoric", "epistemic"):
        with pytest.raises(InputError, match=f"not {layer}"):
            geouq.segment(scene, MODEL, layers=("mask", layer), tolerance=0.1)
    for tolerance in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="below 1"):
            geouq.segment(scene, MODEL, tolerance=tolerance)


def test_devices_take_tiles_in_turn_and_do_not_show(tmp_path, monkeypatch):
    values = scene_values(80, 70)
    scene = as_scene(values)
    used = []
    original = Dropout.draw
    monkeypatch.setattr(Dropout, "draw", lambda s, window: used.append(s.device) or original(s, window))
    files = {}
    for device in ("cpu", "cpu,cpu:0"):
        path = tmp_path / f"{len(files)}.tif"
        run(scene, prepare(scene, MODEL, Settings(samples=3, tile=32, device=device)), Outputs(path))
        files[device] = path.read_bytes()
    assert files["cpu"] == files["cpu,cpu:0"] and set(used) == {"cpu", "cpu:0"}
    assert used[9:].count("cpu") == 5 and used.count("cpu:0") == 4


def test_a_halved_batch_is_an_event(tmp_path, monkeypatch):
    monkeypatch.setattr("geouq.sampling.engine.batch_that_fits", lambda device, batch: 1)
    scene = as_scene(scene_values(40, 40))
    events = []
    job = prepare(scene, MODEL, Settings(samples=4, batch=4))
    run(scene, job, Outputs(tmp_path / "map.tif"), on_event=events.append)
    assert BatchHalved(1, 4) in events
