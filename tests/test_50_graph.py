"""The dask graph of a map: tasks in proportion to tiles, keys by what is computed, names and annotations by kind."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from affine import Affine
from dask.utils import key_split
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import geouq
from geouq.segmentation.job import load_models
from tests.helpers import as_scene, scene_values, small_model

MODEL = small_model()
OURS = {"geouq-read", "geouq-sample", "geouq-layers", "geouq-job", "geouq-scene", "geouq-first", "geouq-look"}
ASK = {"samples": 2, "tile": 32, "layers": ("mask", "uncertainty", "probabilities", "votes")}


def segment(scene: xr.DataArray, model: geouq.Model = MODEL, **options) -> xr.Dataset:
    return geouq.segment(scene, model, **(ASK | options))


def tasks(layers: xr.Dataset) -> dict:
    (optimised,) = dask.optimize(layers)
    return dict(optimised.__dask_graph__())


def large(chunk: int) -> xr.DataArray:
    """25 000 columns by 17 000 rows, nothing of which is in memory."""
    geobox = GeoBox((17_000, 25_000), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")
    data = da.full((2, *geobox.shape), np.float32(-15), chunks=(1, chunk, chunk))
    coords = {"band": ["VV", "VH"], **xr_coords(geobox)}
    return xr.DataArray(data, dims=("band", "y", "x"), coords=coords, attrs={"units": "dB"})


@pytest.mark.parametrize("chunk", [128, 250, 512, 1024, 4096, 25_000])
def test_there_are_as_many_tasks_as_tiles_ask_for(chunk):
    geouq.segment(large(25_000))  # loads the model
    scene, started = large(chunk), time.thread_time()  # not of other processes
    layers = geouq.segment(scene)
    assert time.thread_time() - started < 2 and len(tasks(layers)) < 10_000


def test_tasks_of_the_input_are_not_made_to_see_whether_a_cluster_holds_them():
    """Else, wherever distributed is imported, a graph takes as long as the input has chunks."""
    pytest.importorskip("distributed")
    scene = large(128)
    geouq.segment(scene)
    assert not any(layer.is_materialized() for layer in scene.data.dask.layers.values())


def same(one: xr.Dataset, other: xr.Dataset) -> None:
    assert all(one[layer].values.tobytes() == other[layer].values.tobytes() for layer in ASK["layers"])


@pytest.mark.parametrize("bounds", [None, (500_070, 4_999_190, 500_720, 4_999_890)])
@pytest.mark.parametrize("chunks", [{"y": 5, "x": 4}, {"band": 1, "y": 7, "x": 13}, {"y": 37, "x": 53}, {}, {"y": 1}])
def test_chunks_do_not_show(chunks, bounds):
    values = scene_values(100, 90)
    expected = segment(as_scene(values), bounds=bounds).compute(scheduler="synchronous")
    same(expected, segment(as_scene(values, chunks=chunks), bounds=bounds).compute())


def test_large_chunks_are_sent_in_part(monkeypatch):
    monkeypatch.setattr("geouq.segmentation.graph._LARGE", 100)
    values = scene_values(70, 80)
    same(segment(as_scene(values)).compute(), segment(as_scene(values, chunks={"y": 35, "x": 80})).compute())


def counted(values: np.ndarray, chunk: int) -> tuple[xr.DataArray, Counter]:
    """A scene in small chunks, and how often each is computed."""
    scene, seen = as_scene(values, chunks={"y": chunk, "x": chunk}), Counter()

    def count(block, block_info=None):
        seen[tuple(block_info[0]["chunk-location"])] += 1
        return block

    return scene.copy(data=scene.data.map_blocks(count, meta=np.empty((0, 0, 0), np.float32))), seen


def test_what_the_whole_scene_enters_is_computed_once():
    values = scene_values(200, 200, holes=False)
    scene, seen = counted(values, 10)
    with xr.set_options(keep_attrs=True):
        centred = scene - scene.mean()
    segment(centred).compute(scheduler="synchronous")
    assert set(seen.values()) == {1}


def test_small_chunks_are_computed_a_few_times_at_most():
    scene, seen = counted(scene_values(400, 400), 10)
    layers = segment(scene, tile=100)
    assert len(tasks(layers)) < 200
    layers.compute(scheduler="synchronous")
    assert sum(seen.values()) <= 4 * len(seen)  # three, and what is looked at first


def sampling(layers: xr.Dataset) -> set:
    """The keys of what a model enters."""
    return {key for key in layers.__dask_graph__() if key_split(key) in ("geouq-sample", "geouq-layers")}


def test_equal_calls_share_all_keys_and_others_none():
    values = scene_values(60, 50)
    first = segment(as_scene(values))
    again = segment(as_scene(values.copy()), small_model())
    assert set(first.__dask_graph__()) == set(again.__dask_graph__())
    changed = values.copy()
    changed[0, 5, 5] += 1
    others = [
        segment(as_scene(changed)),
        segment(as_scene(values), seed=1),
        segment(as_scene(values), threshold=0.4),
        segment(as_scene(values), batch=2),
        segment(as_scene(values), tile=48),
        segment(as_scene(values), MODEL.with_spec(temperature=2.0)),
        segment(as_scene(values.astype(np.float64))),
    ]
    for one in others:
        assert not sampling(first) & sampling(one)


def test_keys_are_the_same_in_another_process():
    code = """
from tests.test_50_graph import *
print(*sorted(map(str, segment(as_scene(scene_values(60, 50))).__dask_graph__())))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    ours = " ".join(sorted(map(str, segment(as_scene(scene_values(60, 50))).__dask_graph__())))
    assert done.stdout.strip() == ours, done.stderr


def test_a_network_of_ones_own_code_is_known_by_itself():
    """It may do something else with the same weights."""

    def network(factor: float) -> torch.nn.Module:
        class Own(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = small_model().network

            def forward(self, x):
                return factor * self.inner(x)

        return Own()

    scene, spec = as_scene(scene_values(60, 50)), MODEL.with_spec(architecture="custom").spec
    one, other = geouq.Model(network(1.0), spec), geouq.Model(network(-1.0), spec)
    assert sampling(segment(scene, one)) == sampling(segment(scene, one))
    assert not sampling(segment(scene, one)) & sampling(segment(scene, other))


@pytest.mark.parametrize("chunks", [{"y": 4, "x": 4}, {"y": 40}])
def test_the_dashboard_shows_what_a_task_does(chunks):
    names = {key_split(key) for key in tasks(segment(as_scene(scene_values(60, 50), chunks=chunks)))}
    assert {"geouq-read", "geouq-sample", "geouq-layers"} <= names
    assert {name for name in names if name.startswith("geouq")} <= OURS


def test_inference_alone_asks_for_resources():
    distributed = pytest.importorskip("distributed")
    scene = as_scene(scene_values(60, 50), chunks={"y": 20})
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options, resources={"GPU": 1}) as cluster, distributed.Client(cluster) as client:
        with dask.annotate(resources={"GPU": 1}, priority=3):
            layers = segment(scene, bounds=(500_070, 4_999_490, 500_420, 4_999_890))
        kept = client.persist(layers, optimize_graph=False)  # dask forgets annotations where it fuses tasks
        distributed.wait(kept)
        asked = {key_split(key) for key, task in cluster.scheduler.tasks.items() if task.resource_restrictions}
        first = {key_split(key) for key, task in cluster.scheduler.tasks.items() if task.priority[0] == -3}
        assert asked == {"geouq-sample"} and {"geouq-read", "geouq-layers"} <= first
        same(segment(as_scene(scene_values(60, 50)), bounds=(500_070, 4_999_490, 500_420, 4_999_890)), kept.compute())


def test_what_lies_on_a_cluster_is_taken_from_there():
    distributed = pytest.importorskip("distributed")
    scene = as_scene(scene_values(60, 50), chunks={"y": 2, "x": 5})
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        same(segment(as_scene(scene_values(60, 50))), segment(scene.persist()).compute())


def test_a_models_halo_is_measured_once(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr("geouq.networks.model.measure_halo", lambda *given: measured.append(1) or 24)
    path = tmp_path / "m.safetensors"
    MODEL.save(path)
    scene = as_scene(scene_values(40, 40))
    for _ in range(3):
        geouq.segment(scene, path, samples=2)
    assert len(measured) == 1
    MODEL.with_spec(threshold=0.25).save(path)  # another model under the same name
    assert geouq.segment(scene, path, samples=2).attrs["threshold"] == 0.25
    assert load_models("s1-water")[0] is load_models("s1-water")[0]
