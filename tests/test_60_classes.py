"""More than two classes are first class: areas with intervals, polygons, votes, answers and colours of each."""

import json
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import rasterio
from shapely import box
from skimage.color import deltaE_cie76, rgb2lab

import geouq
from geouq.errors import InputError, ModelError, SceneError
from geouq.grid import Roi, pixel_areas
from geouq.layers import Legend, says
from geouq.learning.data.dataset import read_dataset
from geouq.learning.judging.calibrate import calibrate
from geouq.learning.judging.evaluate import evaluate
from geouq.learning.judging.page import page
from geouq.learning.judging.summary import summary
from geouq.maps.figure import Grid, Panel, draw
from geouq.maps.info import map_info
from geouq.maps.styles import UNKNOWN, class_colours, polygon_qml
from geouq.networks.model import Model
from geouq.rasters.coords import scene_geobox
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.run import Outputs, run
from tests.helpers import as_scene, scene_values
from tests.maps import write_places
from tests.test_70_positive import data_for, make

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIZE, SAMPLES = 96, 6
LAYERS = ("mask", "uncertainty", "confidence", "votes")
NAMES = ("open land", "water", "ice")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A map of three classes with all that a run leaves, its summary, and its layers in memory."""
    folder = tmp_path_factory.mktemp("map")
    model = make(3).with_spec(classes=NAMES)
    scene = as_scene(scene_values(SIZE, SIZE))
    job = prepare(scene, model, Settings(samples=SAMPLES, layers=LAYERS, tile=48))
    outputs = Outputs(folder / "m.tif", folder / "m.gpkg", folder / "m.png")
    return folder, run(scene, job, outputs), geouq.segment(scene, model, samples=SAMPLES, layers=LAYERS).compute()


def areas_of(layers):
    """Pixel areas (h, w), and each class' area in each sample (C, S), from the lazy step's votes."""
    geobox = scene_geobox(layers["mask"])
    area = np.broadcast_to(pixel_areas(geobox, Roi(0, SIZE, 0, SIZE)), (SIZE, SIZE))
    return area, np.array([[area[says(plane, s)].sum() for s in range(SAMPLES)] for plane in layers["votes"].values])


def test_the_votes_of_all_classes_are_one_map_a_sample(mapped):
    _, _, layers = mapped
    assert layers["votes"].dims == ("class", "y", "x") and list(layers["class"].values) == list(NAMES)
    valid, votes = layers["mask"].values != 255, layers["votes"].values
    for s in range(SAMPLES):
        told = np.array([says(plane, s) for plane in votes])
        assert (told.sum(0) == valid).all(), "each sample calls each pixel one class, and none what is not valid"
    folder = mapped[0]
    with rasterio.open(folder / "m_samples.tif") as file:
        assert file.descriptions == tuple(f"votes_{name}" for name in NAMES)
        np.testing.assert_array_equal(file.read(masked=True).filled(0), votes)


def test_areas_with_intervals_for_every_class(mapped):
    folder, found, layers = mapped
    area, by_sample = areas_of(layers)
    mask, doubt = layers["mask"].values, layers["uncertainty"].values
    low, high = np.quantile(by_sample, (0.05, 0.95), axis=1)
    assert [row["name"] for row in found["by_class"]] == list(NAMES)
    for number, row in enumerate(found["by_class"]):
        here = mask == number
        assert row["class"] == number and row["area_m2"] == pytest.approx(area[here].sum(), rel=1e-6)
        told = [row["area_m2_p05"], row["area_m2_p95"]]
        np.testing.assert_allclose(told, [low[number], high[number]], rtol=1e-5)
        assert row["mean_uncertainty"] == pytest.approx(np.average(doubt[here], weights=area[here]), abs=1e-4)
        assert low[number] < high[number]
    assert sum(row["area_m2"] for row in found["by_class"]) == pytest.approx(found["valid_area_m2"])
    assert (
        found["area_m2"] == pytest.approx(found["by_class"][1]["area_m2"], rel=1e-12)
        and found["area_m2_p05"] == found["by_class"][1]["area_m2_p05"]
    )
    with rasterio.open(folder / "m.tif") as file:
        assert json.loads(file.tags()["GEOUQ_BY_CLASS"]) == found["by_class"]
    assert map_info(folder / "m.tif")["by_class"].startswith("open land ")


def test_a_finished_run_says_the_same_again(mapped):
    folder, found, _ = mapped
    scene = as_scene(scene_values(SIZE, SIZE))
    job = prepare(scene, make(3).with_spec(classes=NAMES), Settings(samples=SAMPLES, layers=LAYERS, tile=48))
    again = run(scene, job, Outputs(folder / "m.tif", folder / "m.gpkg", folder / "m.png"))
    assert again["already_there"] and again["by_class"] == found["by_class"]


def test_polygons_of_every_class(mapped, tmp_path):
    folder, found, layers = mapped
    shapes = geopandas.read_file(folder / "m.gpkg", layer="classes")
    assert list(dict.fromkeys(shapes["class"])) == list(NAMES)
    sums = shapes.groupby("class")["area_m2"].sum()
    for row in found["by_class"]:
        assert sums[row["name"]] == pytest.approx(row["area_m2"])
    assert (shapes["area_m2_p95"] <= shapes["area_m2"] * (1 + 1e-9)).all() and shapes["area_m2_p05"].notna().all()
    assert shapes["probability"].between(1 / 3, 1).all(), "of its own class, which is the likeliest"
    assert shapes.union_all().area == pytest.approx(shapes.area.sum()), "no two overlap"
    styles = geopandas.read_file(folder / "m.gpkg", layer="layer_styles")
    assert styles["styleQML"][0] == polygon_qml(layers_legend())
    only = geouq.vectorize(folder / "m.tif", classes=["ice"])
    assert set(only["class"]) == {"ice"} and only["area_m2"].sum() == pytest.approx(sums["ice"])
    assert only.attrs["polygons"] == (shapes["class"] == "ice").sum()
    with pytest.raises(InputError, match="no class 'snow': the map has open land, water, ice"):
        geouq.vectorize(folder / "m.tif", tmp_path / "x.gpkg", classes=["snow"])
    assert not list(tmp_path.iterdir())


def layers_legend():
    return Legend(NAMES, 1)


def test_of_two_classes_the_polygons_are_of_the_positive_one(tmp_path):
    scene = as_scene(scene_values(SIZE, SIZE))
    run(scene, prepare(scene, make(1), Settings(samples=2)), Outputs(tmp_path / "m.tif", tmp_path / "m.gpkg"))
    shapes = geopandas.read_file(tmp_path / "m.gpkg", layer="water")
    assert "class" not in shapes
    both = geouq.vectorize(tmp_path / "m.tif", classes=["water", "land"])
    assert both[both["class"] == "water"]["area_m2"].sum() == pytest.approx(shapes["area_m2"].sum())
    with rasterio.open(tmp_path / "m.tif") as file:
        assert (both["class"] == "land").any() == (file.read(1) == 0).any()


def test_places_are_answered_by_class(mapped, tmp_path):
    folder, found, layers = mapped
    area, by_sample = areas_of(layers)
    left, top = 500_000, 5_000_000
    places = write_places(
        tmp_path / "p.gpkg", [box(left, top - 960, left + 960, top), box(left, top - 100, left + 50, top)]
    )
    told = geouq.zonal(folder / "m.tif", places, tmp_path / "z.gpkg", with_samples=True, shares=(30,))
    answers = geopandas.read_file(tmp_path / "z.gpkg", layer="places")
    whole = answers.iloc[0]
    for number, (name, word) in enumerate(zip(NAMES, ("open_land", "water", "ice"), strict=True)):
        assert whole[f"{word}_area_m2"] == pytest.approx(by_sample[number].mean(), rel=1e-5)
        assert whole[f"{word}_area_m2_p95"] == pytest.approx(np.quantile(by_sample[number], 0.95), rel=1e-5)
        assert whole[f"{word}_mask_area_m2"] == pytest.approx(found["by_class"][number]["area_m2"], rel=1e-6)
        share = (by_sample[number] > 0.3 * whole["valid_area_m2"]).mean()
        assert whole[f"{word}_p_over_30"] == pytest.approx(share)
        both = answers[f"{word}_area_m2"].sum()
        assert told.by_class[name]["area_m2"] == pytest.approx(both) and told.to_dict()["by_class"]
    assert "water_area_m2" in answers and "mask_area_m2" not in answers and "open land" in str(told)
    table = geopandas.read_file(tmp_path / "z.gpkg", layer="samples")
    ice = table[(table["class"] == "ice") & (table["place"] == 1)].sort_values("sample")["area_m2"]
    np.testing.assert_allclose(ice, by_sample[2], rtol=1e-5)


def test_samples_of_a_class_and_a_whole_sample(mapped, tmp_path):
    folder, _, layers = mapped
    _, by_sample = areas_of(layers)
    ice = geouq.samples(folder / "m.tif", of="ice")
    np.testing.assert_allclose(ice.areas, by_sample[2], rtol=1e-5)
    np.testing.assert_allclose(geouq.samples(folder / "m.tif").areas, by_sample[1], rtol=1e-5)
    number = ice.export("most", tmp_path / "s.tif")
    assert number == by_sample[2].argmax()
    with rasterio.open(tmp_path / "s.tif") as file:
        mask, tags = file.read(1), file.tags()
    told = np.array([says(plane, number) for plane in layers["votes"].values])
    np.testing.assert_array_equal(mask, np.where(layers["mask"].values == 255, 255, told.argmax(0)))
    assert tags["GEOUQ_CLASSES"] == ",".join(NAMES)
    ice.preview(tmp_path / "s.png")
    with pytest.raises(InputError, match="no class 'snow'"):
        geouq.samples(folder / "m.tif", of="snow")


def test_votes_from_before_there_were_votes_for_each_class(mapped, tmp_path):
    """One band, the positive class': answers are about that, and polygons of the others have no interval."""
    folder, _, _ = mapped
    with rasterio.open(folder / "m_samples.tif") as file:
        band, profile, tags = file.read(2), file.profile | {"count": 1, "driver": "GTiff"}, file.tags()
        valid = file.read_masks(1)
    (tmp_path / "m.tif").write_bytes((folder / "m.tif").read_bytes())
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "m_samples.tif", "w", **profile) as file:
        file.write(band, 1)
        file.write_mask(valid)
        file.update_tags(**tags)
        file.descriptions = ("votes",)
    shapes = geouq.vectorize(tmp_path / "m.tif")
    has = shapes.groupby("class")["area_m2_p05"].agg(lambda column: column.notna().all())
    assert has.to_dict() == {"open land": False, "water": True, "ice": False}
    assert geouq.samples(tmp_path / "m.tif").areas == pytest.approx(geouq.samples(folder / "m.tif").areas)
    with pytest.raises(SceneError, match="holds votes for water alone"):
        geouq.samples(tmp_path / "m.tif", of="ice")


def test_colours_are_told_apart():
    legend = Legend(tuple(f"c{i}" for i in range(20)), 1)
    colours = [*class_colours(legend), UNKNOWN]
    lab = [rgb2lab(np.array([[list(bytes.fromhex(colour[1:]))]]) / 255)[0, 0] for colour in colours]
    assert min(deltaE_cie76(a, b) for a, b in combinations(lab, 2)) > 14
    assert class_colours(Legend(legend.names[:9], 1)) == colours[:9], "the first stay as they are"
    assert len(set(class_colours(Legend(tuple(f"c{i}" for i in range(254)), 1)))) == 254
    names = [one.get("label") for one in ElementTree.fromstring(polygon_qml(legend).split("\n", 1)[1]).iter("category")]
    assert names == list(legend.names)


def test_the_names_of_many_classes_stand_below_the_picture_they_belong_to():
    patches = tuple((f"a class with a long name {i}", "#123456") for i in range(13))
    panel = Panel("Classes", np.zeros((60, 60, 4)), (60, 60), patches=patches)
    figure = draw([panel, panel], Grid((60, 60), rasterio.Affine.identity(), None), "t", ["fact"])
    figure.canvas.draw()
    for legend, axes in zip(figure.legends, figure.axes, strict=True):
        found, shown = legend.get_window_extent(), axes.get_window_extent()
        assert found.x1 <= shown.x1 + 15 and found.y1 <= shown.y0 and found.y0 > figure.texts[1].get_window_extent().y1


def test_scores_of_every_class_in_text_and_page(tmp_path):
    model = make(3)
    found = evaluate(model, data_for(tmp_path, model, range(3), "d"), samples=3)
    text, html = summary(found.scores), page(found, "d")
    lines = [line.split()[0] for line in text.splitlines() if line]
    for name in model.spec.classes:
        assert lines.count(name) == 2, "one line of scores, one of the confusion matrix"
    assert "IoU water" in text and "mIoU" in text
    for colour in class_colours(found.legend):
        assert f'style="background:{colour}"' in html


def test_temperature_and_alarm_of_three_classes(tmp_path):
    model, rng = make(3), np.random.default_rng(0)
    for i in range(2):  # 6 chips of as many places
        data_for(tmp_path, model, range(3), f"d{i}")
    chips = [
        replace(c, name=f"{c.name}{k}", place=f"{c.place}{k}")
        for k in range(2)
        for c in read_dataset(tmp_path / f"d{k}")
    ]
    before, _ = calibrate(model, chips[:2], samples=3)
    assert before.spec.alarm is None, "two places are too few"
    fitted, fit = calibrate(model, chips, samples=3)
    assert fitted.spec.temperature == fit.temperature and fitted.spec.risk is None
    alarm = fitted.spec.alarm
    assert len(alarm["open"]) == 6 and set(alarm["wrong"]) == {"accuracy"} and 0 < min(alarm["wrong"]["accuracy"])
    fitted.save(tmp_path / "m.safetensors")
    scene = as_scene(scene_values(64, 64, seed=1) + rng.normal(0, 0.1, (2, 64, 64)).astype(np.float32))
    job = prepare(scene, Model.load(tmp_path / "m.safetensors"), Settings(samples=3))
    told = run(scene, job, Outputs(tmp_path / "m.tif"))
    assert told["expectation"] and 0 < told["expected_wrong"] < 1
    with pytest.raises(ModelError, match="risk is for two classes"):
        fitted.with_spec(risk={"places": 5, "level": [0.5], "loss": {"accuracy": [0.1]}}).save(
            tmp_path / "r.safetensors"
        )
