"""``geouq zonal`` as a user meets it."""

import json
import subprocess
import sys

import geopandas
import pyogrio
import pytest
import shapely

from tests.helpers import geouq
from tests.maps import SHAPES, UTM, on_map, write_map, write_places


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("zonal")
    write_map(path)
    write_places(path / "districts.gpkg", on_map(SHAPES, UTM))
    write_places(path / "roads.geojson", on_map([shapely.LineString([(2, 2), (30, 20)])], UTM))
    return path


def test_districts(folder):
    done = geouq("zonal", "m.tif", "districts.gpkg", "-o", "a.gpkg", cwd=folder)
    assert done.stdout.startswith("wrote a.gpkg: 7 places, 7 with an answer; together ")
    assert "1 partly outside the map" in done.stdout and done.stderr == ""
    assert len(geopandas.read_file(folder / "a.gpkg")) == 7


def test_roads_shares_samples_and_numbers(folder):
    options = ["--buffer", 5, "--share", 10, "--share", "0.5", "--samples-table", "--id", "name", "--json"]
    done = geouq("zonal", "m.tif", "roads.geojson", "-o", "b.gpkg", *options, cwd=folder)
    summary = json.loads(done.stdout)
    assert summary["places"] == 1 and summary["samples"] == 20
    assert summary["water_area_m2_p05"] <= summary["water_area_m2"] <= summary["water_area_m2_p95"]
    table = pyogrio.read_dataframe(folder / "b.gpkg", layer="samples")
    assert table["id"].tolist() == ["p0"] * 20 and table["sample"].tolist() == list(range(20))
    assert {"p_over_10", "p_over_0_5"} <= set(pyogrio.read_info(folder / "b.gpkg", layer="places")["fields"])


def test_one_line_and_exit_code_2(folder):
    done = geouq("zonal", "m.tif", "roads.geojson", "-o", "c.gpkg", cwd=folder, code=2)
    assert "--buffer" in done.stderr and done.stderr.count("\n") == 1
    (folder / "there.gpkg").write_text("mine")
    assert "--overwrite" in geouq("zonal", "m.tif", "districts.gpkg", "-o", "there.gpkg", cwd=folder, code=2).stderr
    assert (folder / "there.gpkg").read_text() == "mine"
    geouq("zonal", "m.tif", "districts.gpkg", "-o", "there.gpkg", "--overwrite", cwd=folder)
    geouq("zonal", "m.tif", "districts.gpkg", "-o", "d.gpkg", "--share", 100, cwd=folder, code=2)


def test_neither_torch_nor_matplotlib_is_loaded():
    code = "import sys, geouq; geouq.zonal; assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
