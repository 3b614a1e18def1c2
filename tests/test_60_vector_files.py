"""Vector files in and out: the same guard as for rasters, and names that libraries would take apart."""

import os
import sqlite3
import zipfile
from contextlib import closing

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine

from geouq.answers.layercopy import LayerCopy
from geouq.errors import InputError, SceneError
from geouq.gdal import guard
from geouq.maps.votes import MapFile
from geouq.polygons.vectorize import vectorize
from tests.test_20_sources import VRT

LINKED = (
    '{{"type": "FeatureCollection", "crs": {{"type": "link",'
    ' "properties": {{"href": "{}/crs.wkt", "type": "ogcwkt"}}}},'
    ' "features": [{{"type": "Feature", "properties": {{}},'
    ' "geometry": {{"type": "Point", "coordinates": [1, 2]}}}}]}}'
)
OGR = (
    '<OGRVRTDataSource><OGRVRTLayer name="x"><SrcDataSource>{}/x.geojson</SrcDataSource></OGRVRTLayer>'
    "</OGRVRTDataSource>"
)
KML = (
    '<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document><Style id="s"><IconStyle><Icon>'
    "<href>http://maps.google.com/a.png</href></Icon></IconStyle></Style>{}<Placemark><name>a</name><Polygon>"
    "<outerBoundaryIs><LinearRing><coordinates>15,45 15.001,45 15.001,45.001 15,45</coordinates></LinearRing>"
    "</outerBoundaryIs></Polygon></Placemark></Document></kml>"
)
LINK = "<NetworkLink><name>more</name><Link><href>\n<![CDATA[http://127.0.0.1:9/x.kml]]></href></Link></NetworkLink>"
WFS = "<OGRWFSDataSource><URL>{}/wfs</URL></OGRWFSDataSource>"


def square(path):
    geopandas.GeoDataFrame({"name": ["a"]}, geometry=[shapely.box(0, 0, 10, 10)], crs="EPSG:32633").to_file(path)
    return path


def mask(path):
    profile = {"driver": "GTiff", "width": 4, "height": 3, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=Affine(10, 0, 5e5, 0, -10, 5e6)) as file:
        file.write(np.array([[[0, 1, 1, 0]] * 3], "uint8"))
    return path


@pytest.mark.parametrize(("name", "text"), [("a.geojson", LINKED), ("a.vrt", OGR), ("a.xml", WFS)])
def test_places_never_lead_to_the_network(tmp_path, name, text):
    (tmp_path / name).write_text(text.format("http://127.0.0.1:9"))
    with pytest.raises(InputError, match="leads to the network"), LayerCopy(tmp_path / name, None, tmp_path / "o.gpkg"):
        pass
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("far", [False, True])
def test_links_in_kml_are_refused_and_icons_are_none(tmp_path, zipped, far):
    filler = f"<!-- {'x' * (1 << 20)} -->" if far else ""  # links may be anywhere
    for name, link in (("linked", LINK), ("plain", "<NetworkLink><Link><href>other.kml</href></Link></NetworkLink>")):
        path, text = tmp_path / f"{name}.kml", KML.replace("{}", filler + link)
        path.write_text(text)
        if zipped:
            path = tmp_path / f"{name}.kmz"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("doc.kml", text)
        if name == "linked":
            with pytest.raises(SceneError, match="leads to the network .a NetworkLink"):
                guard(str(path))
        else:
            guard(str(path))


def test_maps_never_lead_to_the_network(tmp_path):
    (tmp_path / "e.vrt").write_text(VRT.format("/vsicurl/http://127.0.0.1:9/x.tif"))
    with pytest.raises(SceneError, match="leads to the network"):
        MapFile(tmp_path / "e.vrt")


def test_a_pipe_is_no_vector_file_and_no_map(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a file"), LayerCopy(tmp_path / "pipe", None, tmp_path / "o.gpkg"):
        pass
    for verb in (MapFile, lambda path: vectorize(path, tmp_path / "o.gpkg")):
        with pytest.raises(SceneError, match="is not a file"):
            verb(tmp_path / "pipe")


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_an_exclamation_mark_is_part_of_a_name(tmp_path, suffix):
    folder = tmp_path / "a!b"
    folder.mkdir()
    vectorize(mask(folder / "m!.tif"), folder / f"out!{suffix}")
    assert sorted(os.listdir(folder)) == ["m!.tif", f"out!{suffix}"]
    os.rename(folder / f"out!{suffix}", tmp_path / f"out{suffix}")
    assert len(geopandas.read_file(tmp_path / f"out{suffix}")) == 1


@pytest.mark.parametrize("name", ["places.gpkg", "places!.shp", "x!y.geojson"])
def test_places_in_a_folder_with_an_exclamation_mark(tmp_path, name):
    folder = tmp_path / "a!b"
    folder.mkdir()
    made = square(tmp_path / name.replace("!", "_"))
    for part in tmp_path.glob(f"{made.stem}.*"):
        part.rename(folder / name.replace(made.suffix, part.suffix))
    with LayerCopy(folder / name, None, folder / "o.gpkg") as layer:
        assert layer.count == 1 and layer.fields == ["name"]


def test_columns_of_polygons_say_what_they_are(tmp_path):
    vectorize(mask(tmp_path / "water.tif"), tmp_path / "water.gpkg")
    with closing(sqlite3.connect(tmp_path / "water.gpkg")) as database:
        columns = {row[1] for row in database.execute("PRAGMA table_info(water)")}
        told = dict(database.execute("SELECT column_name, title FROM gpkg_data_columns WHERE table_name = 'water'"))
        extensions = [name for (name,) in database.execute("SELECT extension_name FROM gpkg_extensions")]
    assert told["area_m2"] == "area in m²" and set(told) == columns - {"fid", "geom"}
    assert extensions.count("gpkg_schema") == 1
    assert list(pyogrio.read_dataframe(tmp_path / "water.gpkg", layer="water").columns) == [*told, "geometry"]


def test_polygons_carry_a_style_of_their_own(tmp_path):
    vectorize(mask(tmp_path / "water.tif"), tmp_path / "water.gpkg")
    with closing(sqlite3.connect(tmp_path / "water.gpkg")) as database:
        row = database.execute("SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles")
        (layer, column, default, qml), *others = row.fetchall()
        shape = database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
    assert not others and (layer, column) in shape and default == 1 and "SimpleFill" in qml
    assert pyogrio.read_info(tmp_path / "water.gpkg")["layer_name"] == "water"
    with LayerCopy(tmp_path / "water.gpkg", None, tmp_path / "o.gpkg") as copy:
        assert copy.count == 1, "the style is no layer to choose"
    vectorize(tmp_path / "water.tif", tmp_path / "again.gpkg")
    assert (tmp_path / "again.gpkg").read_bytes() == (tmp_path / "water.gpkg").read_bytes()
