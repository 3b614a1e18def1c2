"""The examples for users run as their first lines say, and say what is so."""

import runpy
from pathlib import Path

import geopandas
import matplotlib.image
import numpy as np
import pytest
import rasterio
import shapely

import geouq
from tests.helpers import geouq as run
from tests.maps import write_places
from tests.shared import SHARED

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    run("simulate", "s.tif", "--size", 160, "--seed", 7, cwd=folder)
    return folder / "s.tif"


def example(name, *arguments):
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*map(str, arguments))


def test_a_pipeline_step(scene, tmp_path, capsys):
    example("pipeline_step", scene, tmp_path / "share.tif")
    with rasterio.open(tmp_path / "share.tif") as file:
        share = file.read(1)
        assert file.shape == (8, 8) and file.res == (200, 200)
    assert np.nanmin(share) == 0 and 0.5 < np.nanmax(share) <= 1
    assert "of what is known is water" in capsys.readouterr().out


def test_a_stack_of_dates(scene, tmp_path, capsys):
    example("stack_of_dates", tmp_path / "f.tif", f"2024-05-01={scene}", f"2024-05-13={scene}")
    with rasterio.open(tmp_path / "f.tif") as file:
        frequency = file.read(1)
    assert set(np.unique(frequency[np.isfinite(frequency)])) == {0, 1}, "twice the same date"
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1] == second.split()[1] and first.startswith("2024-05-01: ")


def dates_of_one_place(folder):
    """Two dates of a burst of OPERA, on the open sea; simulated ones where these are not."""
    opera = SHARED / "s1" / "opera-dist-s1"
    found = [file for day in ("20211201", "20241209") for file in opera.glob(f"*T137-292318-IW2_{day}*_V?.tif")]
    for file in found:
        (folder / file.name).symlink_to(file)
    for day in () if found else ("20211201", "20241209"):
        run("simulate", f"s_{day}.tif", "--size", 100, "--seed", int(day), cwd=folder)
    return sorted(folder.glob("*20211201*"))


def test_a_stack(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    first = dates_of_one_place(tmp_path / "in")
    example("stack", tmp_path / "in", tmp_path / "w.gpkg", tmp_path / "w.png")
    dates = geopandas.read_file(tmp_path / "w.gpkg", layer="dates")
    water = geopandas.read_file(tmp_path / "w.gpkg", layer="water")
    assert list(dates.date.dt.strftime("%Y%m%d")) == ["20211201", "20241209"] and set(water.date) == set(dates.date)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["2021-12-01", "2024-12-09"]
    run("segment", *first, "-o", tmp_path / "one.tif", "--layers", "mask,votes")
    areas = geouq.samples(tmp_path / "one_samples.tif").areas  # the first date by itself, from the command line
    row = dates.iloc[0]
    found = row[["water_area_m2_p05", "water_area_m2", "water_area_m2_p95"]].to_numpy(float)
    np.testing.assert_allclose(found, [np.quantile(areas, 0.05), areas.mean(), np.quantile(areas, 0.95)], rtol=1e-6)
    polygons = water[water.date == row.date]
    assert polygons.area_m2.sum() == pytest.approx(row.mask_area_m2) and polygons.crs == dates.crs
    assert matplotlib.image.imread(tmp_path / "w.png")[..., :3].std() > 0.05


def test_answers_about_places(scene, tmp_path, capsys):
    water = tmp_path / "w.tif"
    run("segment", scene, "-o", water, "--layers", "mask,uncertainty,votes", "--samples", 10)
    with rasterio.open(water) as file:
        left, bottom, right, top = file.bounds
    halves = [shapely.box(left, bottom, right, (bottom + top) / 2), shapely.box(left, (bottom + top) / 2, right, top)]
    example("places", water, write_places(tmp_path / "p.gpkg", halves, geouq.open_scene(scene).odc.crs.to_wkt()))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("place ") for line in lines[:2])
    whole = geouq.samples(tmp_path / "w_samples.tif").areas / 1e4  # the two halves are all of the map
    low, high = np.quantile(whole, (0.05, 0.95))
    assert lines[2] == f"together {whole.mean():.1f} ha ({low:.1f} to {high:.1f})"


def test_an_own_network(scene, capsys):
    example("own_network", scene)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "halo 4 pixels, measured; dropout at drop" and 0 < float(lines[1]) < 1


def test_an_own_recipe(tmp_path):
    for place in range(3):
        run("simulate", f"{place}.tif", "--size", 160, "--seed", place, "--truth", f"{place}_truth.tif", cwd=tmp_path)
    for kind, suffix in (("images", ""), ("labels", "_truth")):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for place in range(3):
            (tmp_path / f"{place}{suffix}.tif").rename(tmp_path / "data" / kind / f"place{place}_a.tif")
    recipe = EXAMPLES / "own_recipe.toml"
    few = ("--steps", 4, "--set", "training.every=2", "--set", "batch=2", "--set", "size=64")
    run("train", "data", "--recipe", recipe, "-o", "mine", *few, cwd=tmp_path)
    model = geouq.Model.load(tmp_path / "mine" / "small-sar.safetensors")
    assert model.spec.bands == ("VV", "VH") and model.network.state_dict()["head.weight"].shape[1] == 8
    shown = run("train", "data", "--recipe", recipe, "--show", cwd=tmp_path).stdout
    assert 'name = "small-sar"' in shown and "average = 0.99" in shown, "the defaults are shown too"
