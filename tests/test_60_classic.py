"""geouq classic: thresholds, Otsu and k-means against scikit and by hand; blocks do not show; refusals."""

import json

import numpy as np
import pytest
from skimage.filters import threshold_otsu
from sklearn.cluster import KMeans

from geouq.classic.classify import classify
from geouq.classic.rules import kmeans, otsu
from geouq.errors import InputError
from tests.helpers import as_scene, lake, mask_of
from tests.helpers import geouq as run


@pytest.fixture
def values():
    return lake()


@pytest.mark.parametrize(("method", "fit"), [("otsu", 20_000), ("kmeans", 20_000), ("kmeans", 900)])
def test_a_lake_is_found_whatever_the_chunks(method, fit, values, tmp_path, monkeypatch):
    made, water = values
    monkeypatch.setattr("geouq.classic.classify.FIT", fit)
    found = [
        classify(as_scene(made, chunks=chunks), tmp_path / f"{i}.tif", method)
        for i, chunks in enumerate((None, {"y": 31, "x": 17}))
    ]
    masks = [mask_of(tmp_path / f"{i}.tif")[0] for i in range(2)]
    valid = np.isfinite(made if method == "kmeans" else made[:1]).all(0)
    assert np.array_equal(*masks) and (masks[0][~valid] == 255).all()
    assert (masks[0][valid] == water[valid]).mean() > 0.999
    area = (masks[0] == 1).sum() * 100
    assert found[0]["areas_m2"]["water"] == pytest.approx(area, rel=2e-3) and found[0]["approximate"] is (fit < 9900)
    assert found[0]["not_classified_percent"] == pytest.approx(100 * (~valid).mean())


def test_otsu_and_kmeans_are_those_of_others(values):
    first = values[0][0]
    ours, theirs = otsu(lambda: [values[0]]).level, threshold_otsu(first[np.isfinite(first)], nbins=4096)
    known = first[np.isfinite(first)]
    assert ((known < ours) != (known < theirs)).sum() <= 2  # cells are a little wide
    pixels = np.random.default_rng(0).normal(0, 1, (600, 2)) + np.repeat([[0, 0], [9, 1], [4, 30]], 200, axis=0)
    centres = KMeans(3, n_init=5, random_state=0).fit(pixels / pixels.std(0)).cluster_centers_ * pixels.std(0)
    ours = kmeans(pixels, 3).centres
    assert np.abs(ours[np.argsort(ours[:, 1])] - centres[np.argsort(centres[:, 1])]).max() < 1e-6


def test_threshold_above_below_and_regions(values, tmp_path):
    scene = as_scene(values[0])
    classify(scene, tmp_path / "a.tif", "threshold", threshold=-15)
    classify(scene, tmp_path / "b.tif", "threshold", threshold=-15, above=True)
    below, above = (mask_of(tmp_path / name)[0] for name in ("a.tif", "b.tif"))
    valid = below != 255
    assert (below[valid] == (values[0][0][valid] < -15)).all() and (above[valid] == 1 - below[valid]).all()
    found = classify(scene, tmp_path / "c.tif", "kmeans", regions=4)
    mask, tags = mask_of(tmp_path / "c.tif")
    assert tags["GEOUQ_CLASSES"] == "region 1,region 2,region 3,region 4" and set(np.unique(mask)) == {0, 1, 2, 3, 255}
    assert np.diff(np.mean(found["centres"], axis=1)).min() > 0


def test_a_constant_scene_and_bad_options_are_refused(values, tmp_path):
    scene = as_scene(np.full((1, 9, 9), -9, np.float32))
    for told, words in (
        ({"method": "otsu"}, "no two values"),
        ({"method": "kmeans"}, "fewer different pixels"),
        ({"method": "threshold"}, "needs"),
        ({"method": "otsu", "threshold": 3.0}, "no other takes"),
        ({"method": "threshold", "threshold": float("nan")}, "is no value of a pixel"),
        ({"method": "otsu", "regions": 3}, "otsu, threshold 2"),
        ({"method": "snakes"}, "choose among"),
    ):
        with pytest.raises(InputError, match=words):
            classify(scene, tmp_path / "m.tif", **told)
    assert not list(tmp_path.iterdir())


def test_from_the_command_line_and_scored(tmp_path):
    run("simulate", "s.tif", "--size", 128, "--seed", 7, "--truth", "t.tif", cwd=tmp_path)
    told = json.loads(run("classic", "s.tif", "-o", "m.tif", "--json", cwd=tmp_path).stdout)
    assert told["method"] == "otsu" and -25 < told["threshold"] < -8
    assert "threshold" in run("classic", "s.tif", "-o", "m.tif", "--overwrite", cwd=tmp_path).stdout
    assert json.loads(run("score", "m.tif", "t.tif", "--json", cwd=tmp_path).stdout)["classes"][1]["recall"] > 0.75
    for args, words in (
        (("s.tif", "-o", "m.tif"), "exists"),
        (("s.tif", "-o", "s.tif", "--overwrite"), "give the output another name"),
        (("s.tif", "-o", "x.tif", "--method", "threshold"), "a threshold is what"),
    ):
        error = run("classic", *args, cwd=tmp_path, code=2).stderr
        assert words in error and error.count("\n") == 1, error
