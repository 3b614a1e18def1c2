"""The positive class may stand at any index: a model with its classes in another order gives the same answers.

The same network with its head's channels in another order (its one logit with the other sign) and its class names
likewise is the same model. Mask values are class indices, so they change places; nothing else may.
"""

from dataclasses import replace
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from geopandas.testing import assert_geodataframe_equal
from shapely import box

import geouq
from geouq.errors import ModelError
from geouq.layers import LAYERS, Legend
from geouq.learning.data.dataset import read_dataset
from geouq.learning.judging.calibrate import calibrate
from geouq.learning.judging.evaluate import evaluate
from geouq.learning.training.fit import FitOptions, score, train_model
from geouq.learning.training.recipe import find_recipe
from geouq.learning.training.train import TrainConfig
from geouq.maps.bands import map_bands
from geouq.maps.styles import LAND, WATER, colour_table
from geouq.networks.model import Model
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.run import Outputs, run
from tests.helpers import as_scene, picture, scene_values, small_model, write_raster
from tests.maps import write_places

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIZE = 96
#: logits, and what stands where: class i of the reordered model is class ORDER[i] of the first; class 1 is water
ORDERS = [(1, (1, 0)), (2, (1, 0)), (3, (1, 0, 2)), (3, (0, 2, 1)), (3, (2, 1, 0))]
NAMES = ("land", "water", "ice")


def reordered(model: Model, order: tuple[int, ...]) -> Model:
    """Return the same model with class i where class ``order[i]`` was."""
    found = small_model(**{"classes": model.logits, "dropout": model.network.config.dropout})
    found.network.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        for part in (found.network.head.weight, found.network.head.bias):
            part.copy_(-part if model.logits == 1 else part[list(order)])
    return Model(found.network, replace(model.spec, classes=tuple(model.spec.classes[i] for i in order)))


def make(logits: int, **changes) -> Model:
    """Return a model whose logits are 0 on average and vary alike, so that each class has its share of a map."""
    model = small_model(classes=logits, **changes)
    pixels = model.normalise(scene_values(SIZE, SIZE, holes=False))
    with torch.no_grad():
        found = model.network(torch.from_numpy(pixels)[None])
        scale = 2 / found.std((0, 2, 3))
        model.network.head.bias.sub_(found.mean((0, 2, 3))).mul_(scale)
        model.network.head.weight *= scale[:, None, None, None]
    return model.with_spec(classes=NAMES[: max(logits, 2)], positive="water", place_effect=0.5, temperature=1.3)


@pytest.fixture(params=ORDERS, ids=lambda case: f"{case[0]} logits, order {case[1]}")
def both(request):
    """A model, the same in another order, and that order."""
    logits, order = request.param
    model = make(logits)
    return model, reordered(model, order), np.array(order)


def moved(mask: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the indices that classes have in the new order; 255 stays."""
    table = np.full(256, 255, np.uint8)
    table[order] = np.arange(len(order))
    return table[mask]


def assert_same_layers(first, second, order):
    for name, layer in LAYERS.items():
        a, b = first[name].values, second[name].values
        if layer.kind == "class":
            assert (a == second.attrs["positive_class"]).sum() < a.size
            np.testing.assert_array_equal(moved(a, order), b, err_msg=name)
        elif layer.planes(first.attrs["classes"].split(",")):
            np.testing.assert_allclose(a[order], b, atol=1e-6, err_msg=name)
        elif layer.kind == "votes":
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)


def test_layers_are_the_same(both):
    first, second, order = both
    scene = as_scene(scene_values(SIZE, SIZE))
    maps = [geouq.segment(scene, model, samples=6, layers=tuple(LAYERS)).compute() for model in (first, second)]
    assert maps[1].attrs["positive_class"] == list(order).index(1)
    assert 0.01 < (maps[0]["mask"] == 1).mean() < 0.95
    assert_same_layers(*maps, order)


def test_ensembles_are_the_same_whichever_member_comes_first(both):
    first, second, order = both
    others = [make(first.logits, dropout={"bottleneck": 0.5}) for _ in range(1)]
    scene = as_scene(scene_values(SIZE, SIZE))
    turned = [reordered(other, tuple(order)) for other in others]
    pairs = [([first, *others], [second, *turned]), ([*others, first], [*turned, second])]
    for ours, theirs in pairs:
        maps = [geouq.segment(scene, models, samples=6, layers=tuple(LAYERS)).compute() for models in (ours, theirs)]
        assert_same_layers(*maps, order)
    with pytest.raises(ModelError, match="classes are"):
        geouq.segment(scene, [first, *turned], samples=6)


def test_the_closed_form_is_the_same():
    first = make(1, dropout={"head": 0.3})
    second = reordered(first, (1, 0))
    scene = as_scene(scene_values(SIZE, SIZE))
    layers = tuple(name for name, layer in LAYERS.items() if layer.kind == "percent" and "counts" not in layer.needs)
    maps = [geouq.segment(scene, m, samples=np.inf, layers=("mask", *layers)).compute() for m in (first, second)]
    np.testing.assert_array_equal(moved(maps[0]["mask"].values, np.array([1, 0])), maps[1]["mask"].values)
    for name in layers:
        a, b = maps[0][name].values, maps[1][name].values
        np.testing.assert_allclose(a[::-1] if LAYERS[name].plane else a, b, atol=1e-6, err_msg=name)


def test_files_and_answers_are_the_same(both, tmp_path):
    first, second, order = both
    scene = as_scene(scene_values(SIZE, SIZE))
    left, top = 500_000, 5_000_000
    shapes = [box(left + 50, top - 900, left + 700, top - 100), box(left, top - 400, left + 960, top)]
    places = write_places(tmp_path / "places.gpkg", shapes)
    summaries, polygons, answers, samples, exported = [], [], [], [], []
    for name, model in (("a", first), ("b", second)):
        path = tmp_path / name / "map.tif"
        path.parent.mkdir()
        layers = ("mask", "uncertainty", "confidence", "probability", "votes")
        job = prepare(scene, model, Settings(samples=6, layers=layers, tile=48))
        summaries.append(run(scene, job, Outputs(path, path.with_suffix(".gpkg"), path.with_suffix(".png"))))
        geouq.vectorize(path, path.with_name("again.gpkg"))
        geouq.zonal(path, places, path.with_name("zonal.gpkg"))
        polygons += [geopandas.read_file(path.with_name(f)) for f in ("map.gpkg", "again.gpkg")]
        answers.append(geopandas.read_file(path.with_name("zonal.gpkg")))
        samples.append(geouq.samples(path))
        samples[-1].export(2, path.with_name("sample.tif"))
        samples[-1].export(2, path.with_name("sample.gpkg"))
        exported.append(geopandas.read_file(path.with_name("sample.gpkg")))
    for key in ("area_m2", "area_m2_p05", "area_m2_p95", "valid_area_m2", "positive_class"):
        assert summaries[0][key] == summaries[1][key] and summaries[0]["area_m2"] > 0
    assert summaries[0]["area_m2_p05"] <= summaries[0]["area_m2_p95"]
    if len(order) > 2:  # class after class, in the order of each model
        polygons, exported = ([_sorted(one) for one in frames] for frames in (polygons, exported))
        of_class = [{row["name"]: row for row in summary["by_class"]} for summary in summaries]
        for name, row in of_class[0].items():
            assert row | {"class": 0} == of_class[1][name] | {"class": 0}
        answers[1] = answers[1][answers[0].columns]
    for one in polygons[1:]:
        assert_geodataframe_equal(polygons[0], one)
    water = polygons[0] if len(order) == 2 else polygons[0][polygons[0]["class"] == "water"]
    assert np.isclose(water["area_m2"].sum(), summaries[0]["area_m2"])
    assert_geodataframe_equal(*answers)
    assert_geodataframe_equal(*exported)
    np.testing.assert_array_equal(samples[0].areas, samples[1].areas)
    masks = [rasterio.open(tmp_path / name / "map.tif").read(1) for name in "ab"]
    np.testing.assert_array_equal(moved(masks[0], order), masks[1])
    masks = [rasterio.open(tmp_path / name / "sample.tif").read(1) for name in "ab"]
    np.testing.assert_array_equal(moved(masks[0], order), masks[1])
    assert styled(tmp_path / "a" / "map.qml") == styled(tmp_path / "b" / "map.qml") or len(order) > 2
    assert styled(tmp_path / "b" / "map.qml")["water"] == (WATER, "255")


def _sorted(polygons):
    """Sort by class, and within each as they come."""
    return polygons.sort_values("class", kind="stable").reset_index(drop=True)


def styled(path) -> dict[str, tuple[str, str]]:
    """Return class → (colour, opacity) of a QGIS style."""
    entries = ElementTree.parse(path).iter("paletteEntry")
    return {entry.get("label"): (entry.get("color"), entry.get("alpha")) for entry in entries}


def data_for(folder, model, order, name):
    """Write three chips, labelled by chance with the model's own probabilities, in the given order of classes."""
    for i, chip in enumerate(("a_1", "b_1", "c_1")):
        values = scene_values(64, 64, seed=i)
        found = geouq.segment(as_scene(values), model, samples=6, layers=("probabilities",))["probabilities"].values
        drawn = np.random.default_rng(i).random((64, 64))
        label = (np.nan_to_num(found).cumsum(0)[:-1] < drawn).sum(0).astype(np.uint8)
        label[:3] = 255
        write_raster(folder / name / "images" / f"{chip}.tif", values, nodata=np.nan)
        write_raster(folder / name / "labels" / f"{chip}.png", moved(label, np.array(order))[None])
    return read_dataset(folder / name)


def test_scores_and_temperature_are_the_same(both, tmp_path):
    first, second, order = both
    chips = [data_for(tmp_path, first, o, n) for o, n in ((np.arange(len(order)), "a"), (order, "b"))]
    scores = [evaluate(m, c, samples=6).scores for m, c in zip((first, second), chips, strict=True)]
    for name, value in scores[0]["pooled"].items():
        assert_close(by_class(value, order), scores[1]["pooled"][name])
    for part in ("areas", "agreement", "noise", "one_pass"):
        for name, value in scores[0][part].items():
            assert_close(by_class(value, order), scores[1][part][name])
    assert_close(scores[0]["baselines"], scores[1]["baselines"])
    fits = [calibrate(m, c, samples=6)[1] for m, c in zip((first, second), chips, strict=True)]
    rounding = 0 if len(order) == 2 else 2e-3  # three exponentials are summed in another order
    assert fits[0].temperature == pytest.approx(fits[1].temperature, rel=rounding)
    assert fits[0].areas_covered == fits[1].areas_covered
    assert fits[0].scores_after == pytest.approx(fits[1].scores_after, abs=1e-6 if len(order) == 2 else 1e-3)


def by_class(value, order):
    """Return what is listed by class in the new order, a table of classes by classes likewise."""
    if not isinstance(value, list) or len(value) != len(order):
        return value
    return [by_class(value[i], order) for i in order]


def assert_close(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_close(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            assert_close(one, other)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    else:
        assert a == b


def test_colours_keep_the_positive_class():
    for positive in (0, 1):
        bands = map_bands(["mask"], legend=Legend(("x", "y"), positive))
        table = colour_table(bands[0].legend)
        assert table[positive][:3] == tuple(bytes.fromhex(WATER[1:]))
        assert table[1 - positive][:3] == tuple(bytes.fromhex(LAND[1:]))


def test_training_judges_the_positive_class():
    rng, model = np.random.default_rng(0), make(1)
    pixels = rng.normal(0, 1, (2, 2, 32, 32)).astype(np.float32)
    label, valid = rng.integers(0, 2, (2, 32, 32)), np.ones((2, 32, 32), bool)
    config = TrainConfig(steps=1, loss="cross_entropy")
    first = score(model.network, iter([(pixels, label, valid)]), config, 1)
    second = score(reordered(model, (1, 0)).network, iter([(pixels, 1 - label, valid)]), config, 0)
    assert first == pytest.approx(second, rel=1e-6) and 0 < first["val_iou"] < 1


@pytest.mark.parametrize("names", [("water", "land"), ("land", "water")])
def test_a_model_trained_with_water_first_maps_water(names, tmp_path):
    """The way that the fault was found: train, evaluate and segment agree with the labels."""
    positive, rng = names.index("water"), np.random.default_rng(0)
    for place in "ABCDE":
        pixels, label = picture(rng, 32, 48, 2)  # the right half is darker: water
        write_raster(tmp_path / "data" / "images" / f"{place}_1.png", pixels)
        write_raster(tmp_path / "data" / "labels" / f"{place}_1.png", label if positive else 1 - label)
    quick = replace(find_recipe("unet-16").training, rate=5e-3)
    recipe = replace(find_recipe("unet-16"), size=32, batch=2, arguments={"widths": [4, 6, 8]}, training=quick)
    path = train_model(
        tmp_path / "data", recipe, tmp_path / "out", FitOptions(40, validation=("A",), classes=names, device="cpu")
    )
    model = Model.load(path)
    assert model.spec.positive == "water" and model.spec.scores["val_iou"] > 0.8
    assert evaluate(model, read_dataset(tmp_path / "data"), samples=0).scores["pooled"]["iou"] > 0.8
    pixels, label = picture(rng, 32, 48, 2)
    found = geouq.segment(
        as_scene(pixels.astype(np.float32), units="rgb").assign_coords(band=["red", "green", "blue"]),
        model,
        samples=4,
        layers=("mask", "probability"),
    )
    assert (found["mask"].values == (label[0] if positive else 1 - label[0])).mean() > 0.9
    assert found["probability"].values[:, 30:].mean() > 0.5 > found["probability"].values[:, :18].mean()
