"""What fuzzing found once, each with the file that showed it."""

import re
import sqlite3
from contextlib import closing

import geopandas
import pytest
import rasterio
import rasterio.shutil
import shapely

from geouq.answers.zonal import zonal
from geouq.errors import InputError, SceneError
from geouq.scenes.open import open_scene
from tests.helpers import scene_values, write_raster
from tests.maps import write_map
from tests.mutants import MUTANTS, ROOT


def test_a_crs_that_lacks_a_parameter(tmp_path):
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    write_raster(tmp_path / "s.tif", scene_values(20, 20), **place)
    rasterio.shutil.copy(tmp_path / "s.tif", tmp_path / "s.vrt", driver="VRT")
    text = (tmp_path / "s.vrt").read_text()
    assert "false_easting" in text
    (tmp_path / "s.vrt").write_text(re.sub(r'PARAMETER\["false_easting",\d+\],', "", text.replace("&quot;", '"')))
    with pytest.raises(SceneError, match="s.vrt: its CRS .* lacks the parameter 'false_easting'"):
        open_scene(tmp_path / "s.vrt", scale="db")


def test_a_geopackage_without_layers(tmp_path):
    path, *_ = write_map(tmp_path)
    shape = shapely.box(500020, 4999800, 500100, 4999900)
    geopandas.GeoDataFrame({"n": [1]}, geometry=[shape], crs="EPSG:32633").to_file(tmp_path / "p.gpkg", layer="p")
    with closing(sqlite3.connect(tmp_path / "p.gpkg")) as file:
        file.execute("DELETE FROM gpkg_contents")
        file.commit()
    with pytest.raises(InputError, match=r"p\.gpkg"):
        zonal(path, tmp_path / "p.gpkg", tmp_path / "o.gpkg")
    assert not (tmp_path / "o.gpkg").exists()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_of_the_code_as_it_is(mutant):
    assert (ROOT / mutant.file).read_text("utf-8").count(mutant.old) == 1
