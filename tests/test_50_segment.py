"""The lazy step: one function of the scene, whatever the tiles, batches, threads and schedulers."""

import math
import os
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import geouq
from geouq import units
from geouq.errors import InputError, ModelError, SceneError, UnitsError
from geouq.grid import MIRRORED, Roi, Tiling, pixel_areas
from geouq.layers import LAYERS
from geouq.segmentation.job import Settings, check_tiles, prepare
from geouq.segmentation.tile import segment_tile
from tests.helpers import as_scene, scene_values, small_model

MODEL = small_model()
FLOATS = [layer for layer in LAYERS if layer not in ("mask", "votes")]


def same_map(a: xr.Dataset, b: xr.Dataset, threshold: float = 0.5) -> None:
    """Equal up to float rounding; decisions equal wherever they are not within rounding of the threshold."""
    for layer in FLOATS:
        np.testing.assert_allclose(a[layer], b[layer], atol=1e-5, err_msg=layer)
    clear = np.abs(a.probability.values - threshold) > 1e-5
    clear |= np.isnan(a.probability.values)
    assert (a["mask"].values == b["mask"].values)[clear].all()
    assert (a["votes"].values != b["votes"].values).mean() < 1e-3


def whole(values: np.ndarray, **options) -> xr.Dataset:
    options = {"samples": 5, "layers": LAYERS, "tile": 10_000} | options
    return geouq.segment(as_scene(values), MODEL, **options).compute(scheduler="synchronous")


@pytest.mark.parametrize("shape", [(1, 1), (15, 17), (17, 1), (33, 130), (300, 70)])
@pytest.mark.parametrize("tile", [16, 37, 64])
def test_tiled_equals_untiled(shape, tile):
    values = scene_values(*shape)
    same_map(whole(values), whole(values, tile=tile))


@pytest.mark.parametrize("tile", [16, 64, 10_000])
@pytest.mark.parametrize("shape", [(61, 70), (16, 300), (3, 5)])
def test_beyond_its_edges_a_scene_is_mirrored(shape, tile):
    values = scene_values(*shape, holes=False)
    found = geouq.segment(as_scene(values), MODEL, samples=0, layers=("probability",), tile=tile).probability.values
    rows, columns = (-n % MODEL.spec.stride for n in shape)
    seen = np.pad(values, ((0, 0), (MIRRORED, MIRRORED + rows), (MIRRORED, MIRRORED + columns)), "symmetric")
    with torch.inference_mode():
        plain = MODEL.network(torch.from_numpy(MODEL.normalise(seen))[None]).sigmoid()[0, 0].numpy()
    inside = slice(MIRRORED, MIRRORED + shape[0]), slice(MIRRORED, MIRRORED + shape[1])
    np.testing.assert_allclose(found, plain[inside], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(5, 100),
    st.integers(1, 4),
    st.sampled_from([1, 2]),
    st.sampled_from(["synchronous", "threads"]),
    st.integers(3, 60),
)
def test_no_schedule_shows_in_the_map(rows, columns, tile, batch, threads, scheduler, chunk):
    values = scene_values(rows, columns, seed=rows)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        scene = as_scene(values, chunks={"band": 1, "y": chunk, "x": chunk + 1})
        lazy = geouq.segment(scene, MODEL, samples=5, layers=LAYERS, tile=tile, batch=batch)
        same_map(whole(values), lazy.compute(scheduler=scheduler, num_workers=3))
    finally:
        torch.set_num_threads(before)


def test_same_settings_same_bytes():
    values = scene_values(70, 90)
    first, second = whole(values, tile=32), whole(values, tile=32)
    assert all(first[layer].values.tobytes() == second[layer].values.tobytes() for layer in LAYERS)
    assert whole(values, tile=32, seed=1).probability.values.tobytes() != first.probability.values.tobytes()


@pytest.mark.parametrize("tile", [256, 512, 1024])
def test_usual_tiles_and_odd_sizes(tile):
    for shape in ((513, 300), (1000, 230)):
        values = scene_values(*shape)
        same_map(whole(values, samples=2), whole(values, samples=2, tile=tile, batch=2))


@pytest.mark.slow
def test_long_strip():
    values = scene_values(3000, 700)
    reference = whole(values, samples=3)
    for tile in (256, 512, 1024):
        for batch in (1, 4):
            same_map(reference, whole(values, samples=3, tile=tile, batch=batch))


def test_distributed_gives_the_same(tmp_path):
    distributed = pytest.importorskip("distributed")
    values = scene_values(60, 50)
    with distributed.LocalCluster(1, threads_per_worker=2, processes=True, dashboard_address=None) as cluster:
        with distributed.Client(cluster):
            lazy = geouq.segment(as_scene(values, chunks={"y": 20}), MODEL, samples=5, layers=LAYERS, tile=24)
            same_map(whole(values), lazy.compute())


def test_bounds_give_the_pixels_of_the_full_run():
    values = scene_values(100, 90)
    full = whole(values, tile=32)
    # rows 41..70, columns 7..61 of a 10 m grid whose upper left is (500000, 5000000)
    part = whole(values, tile=32, bounds=(500_070, 4_999_290, 500_620, 4_999_590))
    assert part.sizes["y"] == 30 and part.sizes["x"] == 55
    for layer in LAYERS:
        expected = full[layer].isel(y=slice(41, 71), x=slice(7, 62))
        assert expected.values.tobytes() == part[layer].values.tobytes()
        np.testing.assert_array_equal(part.y, expected.y)
    with pytest.raises(InputError, match="do not meet the scene"):
        whole(values, bounds=(0, 0, 10, 10))


def test_nothing_is_computed_until_asked():
    def explode(block):
        raise AssertionError("computed")

    scene = as_scene(scene_values(40, 40), chunks={"y": 20})
    scene = scene.copy(data=scene.data.map_blocks(explode, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)))
    lazy = geouq.segment(scene, MODEL, samples=3, layers=LAYERS, tile=16)
    assert all(dask.is_dask_collection(lazy[layer].data) for layer in LAYERS)
    with pytest.raises(AssertionError, match="computed"):
        lazy["mask"].compute(scheduler="synchronous")


def test_coordinates_grid_and_types_are_kept():
    scene = as_scene(scene_values(40, 30)).assign_coords(time=np.datetime64("2024-05-01"))
    out = geouq.segment(scene, MODEL, samples=3, layers=LAYERS)
    assert out.rio.crs.to_epsg() == 32633 and out.rio.transform() == scene.rio.transform()
    assert out.odc.geobox == scene.odc.geobox and "time" in out.coords
    np.testing.assert_array_equal(out.x, scene.x)
    computed = out.compute()
    assert all(computed[layer].dtype == out[layer].dtype for layer in LAYERS)
    assert out.attrs["seams"] == "exact" and out.attrs["samples"] == 3
    assert out["probabilities"].dims == ("class", "y", "x")


def test_invalid_in_not_classified_out():
    values = scene_values(50, 40)
    bad = ~np.isfinite(values).all(0)
    out = whole(values)
    assert bad.any() and (out["mask"].values[bad] == 255).all() and (out["mask"].values[~bad] < 2).all()
    assert np.isnan(out.probability.values[bad]).all() and np.isfinite(out.probability.values[~bad]).all()
    assert (out["votes"].values[bad] == 0).all()
    holes = values.copy()
    holes[:, bad] = 1e6  # what stands in invalid pixels must not matter
    masked = as_scene(np.where(bad, -9999, holes).astype(np.float32))
    masked.attrs["_FillValue"] = -9999.0
    again = geouq.segment(masked, MODEL, samples=5, layers=LAYERS, tile=10_000).compute()
    assert all(again[layer].values.tobytes() == out[layer].values.tobytes() for layer in LAYERS)


def test_all_invalid_scene():
    out = whole(np.full((2, 20, 30), np.nan, np.float32))
    assert (out["mask"].values == 255).all() and np.isnan(out.uncertainty.values).all()


@pytest.mark.parametrize(("unit", "decibels"), [("power", 10), ("amplitude", 20)])
def test_units_that_convert_exactly(unit, decibels):
    values = scene_values(30, 30)
    with np.errstate(over="ignore"):
        converted = (10 ** (values.astype(np.float64) / decibels)).astype(np.float32)
    out = geouq.segment(as_scene(converted, unit), MODEL, samples=4, layers=("probability",)).compute()
    np.testing.assert_allclose(out.probability, whole(values, samples=4).probability, atol=2e-4)


def test_refusals_say_what_to_do():
    values = scene_values(20, 20)
    with pytest.raises(UnitsError, match="calibrate it"):
        geouq.segment(as_scene(values, "dn"), MODEL)
    with pytest.raises(UnitsError, match="attrs\\['units'\\]"):
        geouq.segment(as_scene(values, "furlongs"), MODEL)
    with pytest.raises(ModelError, match="needs bands VV, VH; the scene has VV"):
        geouq.segment(as_scene(values[:1]), MODEL)
    with pytest.raises(ModelError, match="needs bands VV, VH; the scene has VV"):
        geouq.segment(as_scene(values).isel(band=0), MODEL)
    with pytest.raises(SceneError, match="complex"):
        geouq.segment(as_scene(values) + 0j, MODEL)
    with pytest.raises(SceneError, match="packed values \\(scale_factor 0.01"):
        geouq.segment(as_scene(values).assign_attrs(scale_factor=0.01), MODEL)
    with pytest.raises(InputError, match="finite"):
        geouq.segment(as_scene(values), MODEL, bounds=(np.nan,) * 4)
    with pytest.raises(InputError, match="tile size 0"):
        geouq.segment(as_scene(values), MODEL, tile=0)
    with pytest.raises(SceneError, match="empty"):
        geouq.segment(as_scene(values).isel(y=slice(0, 0)), MODEL)
    with pytest.raises(InputError, match="between 0 and 1"):
        geouq.segment(as_scene(values), MODEL, threshold=2)
    with pytest.raises(InputError, match="cannot be used"):
        geouq.segment(as_scene(values), MODEL, device="cuda:77")
    with pytest.raises(ModelError, match="no model"):
        geouq.segment(as_scene(values), "nowhere.safetensors")


def test_bands_by_name_order_and_absence():
    values = scene_values(24, 24)
    scene = as_scene(values)
    reference = whole(values).probability.values
    swapped = geouq.segment(scene.isel(band=[1, 0]), MODEL, samples=5, layers=("probability",)).compute()
    np.testing.assert_array_equal(swapped.probability, reference)
    nameless = scene.assign_coords(band=[1, 2])
    np.testing.assert_array_equal(
        geouq.segment(nameless, MODEL, samples=5, layers=("probability",)).compute().probability, reference
    )
    from_rioxarray = scene.isel(band=[1, 0]).assign_coords(band=[1, 2])
    from_rioxarray.attrs |= {"long_name": ("VH", "VV"), "units": ("dB", "dB"), "scale_factor": 1.0, "add_offset": 0.0}
    np.testing.assert_array_equal(
        geouq.segment(from_rioxarray, MODEL, samples=5, layers=("probability",)).compute().probability, reference
    )
    alone = MODEL.with_spec(missing_bands="zero")
    vv = geouq.segment(scene.isel(band=[0]), alone, samples=5, layers=("mask",)).compute()
    assert (vv["mask"].values < 2).sum() > 500


def test_probabilities_say_which_class_is_which():
    scene = as_scene(scene_values(24, 24))
    out = geouq.segment(scene, MODEL, samples=2, layers=("probability", "probabilities")).compute()
    assert list(out["class"].values) == ["land", "water"]
    water = out.probabilities.sel({"class": "water"})
    np.testing.assert_array_equal(water.values, out.probability.values)


def test_areas_of_the_samples_are_those_of_their_votes():
    values = scene_values(60, 50)
    scene = as_scene(values)
    job = prepare(scene, MODEL, Settings(samples=9, layers=("votes", "mask"), tile=32))
    results = [segment_tile(job, values[:, *t.window.intersect(job.region).slices], t) for t in job.tiling]
    areas = np.sum([r.areas for r in results], 0)
    out = geouq.segment(scene, MODEL, samples=9, layers=("votes",), tile=32).compute()
    per_pixel = np.broadcast_to(pixel_areas(job.geobox, job.region), job.region.shape)
    expected = [(per_pixel * (out.votes.values >> s & 1)).sum() for s in range(9)]
    np.testing.assert_allclose(areas, expected, rtol=1e-7)


def test_approximate_seams_are_said_so():
    class Pools(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_model().network

        def forward(self, x):
            return self.inner(x) + x.mean((1, 2, 3), keepdim=True)

    model = geouq.Model(Pools(), MODEL.with_spec(architecture="custom").spec)
    out = geouq.segment(as_scene(scene_values(40, 40)), model, samples=3)
    assert out.attrs["seams"].startswith("approximate")


@pytest.mark.parametrize("samples", [2.5, math.nan, -math.inf])
def test_a_number_of_samples_is_whole_or_infinite(samples):
    with pytest.raises(InputError, match="whole number"):
        geouq.segment(as_scene(scene_values(60, 50)), MODEL, samples=samples)


def test_a_run_without_end_is_refused_before_its_tiles_are_listed():
    with pytest.raises(InputError, match="1e\\+12 tiles"):
        check_tiles(Tiling((1_000_000, 1_000_000), 1, 96, 16))
    check_tiles(Tiling((1_000_000, 1_000_000), 1, 96, 16, Roi(0, 100, 0, 100)))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seed": None}, "seed=None: give a whole number"),
        ({"seed": 1.5}, "seed=1.5: give a whole number"),
        ({"tile": "256"}, "tile='256': give a whole number"),
        ({"batch": 2.5}, "batch=2.5: give a whole number"),
        ({"samples": "4"}, "samples='4': give a whole number"),
        ({"threshold": "0.5"}, "threshold='0.5': give a number"),
        ({"bounds": 5}, "give left, bottom, right and top"),
        ({"bounds": ("a", 1, 2, 3)}, "bounds=('a', 1, 2, 3): give left, bottom, right and top, four numbers"),
        ({"bounds": (500_100, 4_999_900, 500_000, 5_000_000)}, "are reversed: give left, bottom, right and top"),
        ({"bounds": (500_000, 5_000_000, 500_100, 4_999_900)}, "are reversed: give left, bottom, right and top"),
        ({"samples": True}, "samples=True: give a whole number"),
        ({"seed": True}, "seed=True: give a whole number"),
        ({"threshold": True}, "threshold=True: give a number"),
        ({"batch": 0}, "batch=0: give 1 or more"),
        ({"weights": None}, "weights=None: give geouq.sampling.deviations.Weights()"),
        ({"layers": None}, "layers=None: give names"),
        ({"layers": ("mask", 1)}, "layers=('mask', 1): give names"),
        ({"layers": ()}, "no layer is asked for: name one at least"),
        ({"sites": 5}, "sites=5: give names"),
        ({"model": torch.nn.Conv2d(2, 1, 1)}, "a Conv2d is no model: give geouq.Model"),
    ],
    ids=str,
)
def test_what_is_no_number_or_model_is_refused_in_one_line(given, says):
    with pytest.raises(InputError) as refused:
        geouq.segment(as_scene(scene_values(20, 20)), **({"model": small_model(), "samples": 2} | given))
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_bounds_may_be_an_array():
    scene, bounds = as_scene(scene_values(20, 20)), (500_000.0, 4_999_900.0, 500_100.0, 5_000_000.0)
    ours, theirs = (geouq.segment(scene, MODEL, samples=2, bounds=b) for b in (np.array(bounds), bounds))
    assert ours.identical(theirs) and ours["mask"].shape == (10, 10)


@pytest.mark.parametrize("chunks", [None, {"y": 20, "x": 20}])
def test_power_that_is_labelled_decibels_is_refused(chunks):
    """They are land throughout; the command line refuses the same file."""
    power = (10 ** (scene_values(60, 50) / 10)).astype(np.float32)
    with pytest.raises(UnitsError, match=r"float32 values run .* which cannot be dB: set attrs\['units'\]"):
        geouq.segment(as_scene(power, "dB", chunks=chunks), MODEL, samples=2).compute()
    assert (geouq.segment(as_scene(power, "power", chunks=chunks), MODEL, samples=2).compute()["mask"] < 2).any()


@pytest.mark.parametrize(("name", "unit"), [("linear", "power"), ("intensity", "power"), ("decibel", "dB")])
def test_a_units_other_names(name, unit):
    scene = as_scene(scene_values(20, 20))
    scene = scene.copy(data=units.convert(scene.data, "dB", unit))
    one, other = scene.assign_attrs(units=name), scene.assign_attrs(units=unit)
    ours, theirs = (geouq.segment(s, small_model(), samples=2, device=torch.device("cpu")) for s in (one, other))
    assert ours.identical(theirs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_its_parents_threads():
    """After the parent has computed: dask's pool and the cores are the parent's."""
    code = """
import os, signal, sys, threading
import geouq
from tests.helpers import as_scene, scene_values, small_model
layers = geouq.segment(as_scene(scene_values(60, 60)), small_model(), samples=2, tile=32)
layers.compute()
child = os.fork()
if child == 0:
    signal.alarm(60)
    layers.compute()
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_numbers_of_bands_choose_their_labels_and_no_name_stands_twice():
    values = scene_values(48, 48)
    scene = as_scene(values)
    numbered = scene.assign_coords(band=[1, 2])
    numbered.attrs["long_name"] = ("VV", "VH")
    expected = geouq.segment(scene, MODEL, samples=2, layers=("probability",)).probability.values
    for order in ([0, 1], [1, 0]):
        turned = numbered.isel(band=order)  # xarray turns the numbers, and leaves the labels as they were
        found = geouq.segment(turned, MODEL, samples=2, layers=("probability",)).probability.values
        np.testing.assert_array_equal(found, expected)
    for twice in (numbered.isel(band=[0, 0]), scene.assign_coords(band=["VV", "vv"])):
        with pytest.raises(ModelError, match="several bands called VV"):
            geouq.segment(twice, MODEL, samples=2)
