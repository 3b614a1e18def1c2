"""geouq classic beyond thresholds: each method finds a lake, takes any number of regions, says what is approximate."""

import json

import geopandas
import numpy as np
import pytest
from affine import Affine
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from geouq.classic.classify import METHODS, REGIONAL, classify
from geouq.classic.features import REACH, texture
from geouq.classic.rules import Levels, valleys
from geouq.classic.smooth import MARGIN, SMOOTHS, smoothed
from geouq.cli.classic import command
from geouq.errors import InputError
from tests.helpers import as_scene, lake, mask_of, write_raster

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
SPOKEN = ("histogram", "kmeans", "texture", *REGIONAL)


@pytest.mark.parametrize("method", SPOKEN)
def test_a_lake_is_found(method, tmp_path):
    made, water = lake()
    found = classify(as_scene(made), tmp_path / "m.tif", method, vector=tmp_path / "m.gpkg")
    mask, tags = mask_of(tmp_path / "m.tif")
    valid = np.isfinite(made[:1] if method == "histogram" else made).all(0)
    assert (mask[~valid] == 255).all() and (mask[valid] != 255).all()
    inner = valid & (gaussian_filter(water.astype(float), 3) % 1 < 1e-3 if method == "texture" else valid)
    assert (mask[inner] == water[inner]).mean() > (0.98 if method == "split-merge" else 0.99)  # its blocks are 4 px
    assert tags["GEOUQ_METHOD"] == method and not found["approximate"] and "GEOUQ_APPROXIMATE" not in tags
    shapes = geopandas.read_file(tmp_path / "m.gpkg", layer="water")
    assert shapes["area_m2"].sum() == pytest.approx(found["areas_m2"]["water"])


@pytest.mark.parametrize("method", [m for m in SPOKEN if m != "texture"])
def test_three_regions_from_dark_to_bright(method, tmp_path):
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 40)[None] + np.zeros((80, 1), int)
    made = (np.array([-22, -14, -6])[truth] + rng.normal(0, 0.7, truth.shape)).astype(np.float32)[None]
    found = classify(as_scene(made), tmp_path / "m.tif", method, regions=3)
    mask, tags = mask_of(tmp_path / "m.tif")
    assert tags["GEOUQ_CLASSES"] == "region 1,region 2,region 3" and (mask == truth).mean() > 0.97
    if method == "histogram":
        assert -20 < found["thresholds"][0] < -15 < found["thresholds"][1] < -8


def test_texture_tells_what_values_do_not(tmp_path):
    rng = np.random.default_rng(0)
    rough = np.zeros((80, 120), bool)
    rough[:, 60:] = True
    made = np.where(rough, rng.normal(0, 3, rough.shape), rng.normal(0, 0.3, rough.shape)).astype(np.float32)[None]
    masks = {}
    for method in ("kmeans", "texture"):
        classify(as_scene(made), tmp_path / f"{method}.tif", method)
        masks[method] = mask_of(tmp_path / f"{method}.tif")[0]
    agree = {method: max((mask == rough).mean(), (mask != rough).mean()) for method, mask in masks.items()}
    assert agree["texture"] > 0.93 and agree["kmeans"] < 0.75


def test_texture_is_mean_and_deviation_of_what_is_valid():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (2, 31, 33)).astype(np.float32)
    values[0, 12:15, 14] = np.nan
    found = texture(values)
    y, x = 10, 11  # in the middle: (12, 13) of the values, beside those that are not valid
    for band in range(2):
        near = values[band, 10:15, 11:16].astype(float)
        expected = [np.nanmean(near), np.nanstd(near)]
        np.testing.assert_allclose(found[band::2, y, x], expected, rtol=1e-5)
    assert np.isnan(found[::2, 12 - REACH : 15 - REACH, 14 - REACH]).all() and np.isfinite(found[1::2]).all()


@pytest.mark.parametrize("method", ["texture", *REGIONAL])
def test_windows_are_told_where_they_show(method, tmp_path, monkeypatch):
    made, water = lake(150, 200)
    for module in ("windows", "classify"):
        monkeypatch.setattr(f"geouq.classic.{module}.WINDOW", 64)
    found = classify(as_scene(made, chunks={"y": 41, "x": 37}), tmp_path / "m.tif", method)
    mask, tags = mask_of(tmp_path / "m.tif")
    monkeypatch.undo()
    classify(as_scene(made), tmp_path / "whole.tif", method)
    whole = mask_of(tmp_path / "whole.tif")[0]
    if method in REGIONAL:
        assert found["approximate"] and "windows of 64 pixels" in tags["GEOUQ_APPROXIMATE"]
        assert (mask == whole).mean() > 0.99
    else:
        assert (mask == whole).all(), "a neighbourhood that is finite leaves no seams"
        assert found["approximate"] == (150 * 200 > 20_000)


def test_valleys_of_a_histogram():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(m, 1, n) for m, n in ((0, 4000), (8, 9000), (20, 2000))]).astype(np.float32)
    blocks = [values[None, None, :5000], values[None, None, 5000:]]
    two, three = (valleys(lambda: blocks, n) for n in (2, 3))
    assert 3 < two.level < 17 and isinstance(three, Levels)
    assert 2.5 < three.levels[0] < 5.5 and 11 < three.levels[1] < 18
    with pytest.raises(InputError, match="never has 9 peaks"):
        valleys(lambda: [np.array([0.0, 0, 1, 1], np.float32)[None, None]], 9)


@pytest.mark.parametrize("name", SMOOTHS)
def test_smoothing_is_of_power_and_leaves_what_is_not_valid(name, tmp_path):
    rng = np.random.default_rng(0)
    power = rng.gamma(4.4, 1 / 4.4, (1, 60, 60)).astype(np.float32)
    db = 10 * np.log10(power)
    db[0, 30:33, 30] = np.nan
    found = smoothed(db, name, "dB")
    assert found.shape == (1, 60 - 2 * MARGIN, 60 - 2 * MARGIN)
    assert (np.isnan(found) == np.isnan(db[:, MARGIN:-MARGIN, MARGIN:-MARGIN])).all()
    known = found[np.isfinite(found)]
    assert known.std() < 0.7 * np.nanstd(db)
    same = smoothed(10 ** (db / 10), name, "power")
    np.testing.assert_allclose(10 * np.log10(same), found, atol=1e-4, equal_nan=True)


def test_smoothing_makes_a_better_map_of_speckle(tmp_path):
    made, water = lake(noise=5)
    scores = {}
    for name in (None, "lee", "median"):
        classify(as_scene(made), tmp_path / f"{name}.tif", "otsu", smooth=name)
        mask, tags = mask_of(tmp_path / f"{name}.tif")
        scores[name] = (mask[5:] == water[5:]).mean()
        assert tags.get("GEOUQ_SMOOTH") == name
    assert scores["lee"] > scores[None] and scores["median"] > scores[None]
    colours = as_scene(made, units="reflectance")
    with pytest.raises(InputError, match="lee is for speckle"):
        classify(colours, tmp_path / "x.tif", "otsu", smooth="lee")
    with pytest.raises(InputError, match="choose among median"):
        classify(colours, tmp_path / "x.tif", "otsu", smooth="bilateral")


def test_from_the_command_line(tmp_path):
    path = write_raster(tmp_path / "s.tif", lake()[0], nodata=np.nan, crs="EPSG:32633", transform=TRANSFORM)
    arguments = [str(path), "--scale", "db", "-o", str(tmp_path / "m.tif"), "--method", "split-merge", "--regions", "3"]
    done = CliRunner().invoke(command, [*arguments, "--smooth", "median", "--vector", str(tmp_path / "m.gpkg")])
    assert done.exit_code == 0 and "split-merge: 3 regions" in done.stdout and "m.gpkg" in done.stdout
    assert set(geopandas.read_file(tmp_path / "m.gpkg", layer="classes")["class"]) <= {f"region {i}" for i in (1, 2, 3)}
    told = CliRunner().invoke(command, [*arguments, "--json", "--overwrite"])
    assert told.exit_code == 0, told.output
    assert set(json.loads(told.stdout)["areas_m2"]) == {"region 1", "region 2", "region 3"}
    assert set(METHODS) == {"otsu", "threshold", *SPOKEN}
