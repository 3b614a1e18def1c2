"""Answers about places: exact shares of pixels, samples kept whole, what came in kept as it was."""

import json
import sqlite3
import tracemalloc
from dataclasses import asdict

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from geouq.answers import coverage as cover
from geouq.answers import layercopy as layer
from geouq.answers import totals
from geouq.answers import zonal as module
from geouq.answers.places import Places
from geouq.answers.zonal import _class_columns, zonal
from geouq.errors import InputError, OutputError, SceneError
from tests.helpers import geouq as run
from tests.maps import AFFINES, SHAPES, UTM, on_map, polygon, write_map, write_places

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:'crs' was not provided"),
]

stars = st.builds(
    polygon,
    st.floats(-3, 15),
    st.floats(-3, 12),
    st.lists(st.floats(0.05, 8), min_size=3, max_size=12),
)
boxes = st.builds(
    lambda x, y, w, h: shapely.box(x, y, x + w, y + h), *[st.integers(-2, 12)] * 2, *[st.integers(1, 9)] * 2
)


def brute(shapes, rows, columns):
    """Shares of pixels by clipping each pixel's square: (shapes, rows, columns)."""
    y, x = np.mgrid[:rows, :columns]
    squares = shapely.box(x, y, x + 1, y + 1)
    return np.stack([shapely.area(shapely.intersection(squares, shape)) for shape in shapes])


def dense(shapes, rows, columns, step):
    edges, _ = cover.edges(*cover.rings(np.array(shapes, object)))
    out = np.zeros((len(shapes), rows, columns))
    for top in range(0, rows, step):
        for part in cover.coverage(edges, top, min(top + step, rows), 0, columns):
            np.add.at(out, (part.owners[part.polygon], part.row, part.column), part.share)
    return out


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(stars, boxes), min_size=1, max_size=5), st.integers(1, 10), st.booleans())
def test_shares_of_pixels_are_exact_whatever_the_strips(shapes, step, holes):
    if holes:
        shapes = [shape - shape.centroid.buffer(0.4) for shape in shapes]
    shapes = [shape for shape in shapes if shape.is_valid and not shape.is_empty] or [shapely.box(0, 0, 1, 1)]
    found = dense(shapes, 9, 12, step)
    np.testing.assert_allclose(found, brute(shapes, 9, 12), atol=1e-12)
    assert found.max() <= 1 and found.min() >= 0


def test_shares_do_not_depend_on_how_many_polygons_go_together(monkeypatch):
    rng = np.random.default_rng(0)
    shapes = [polygon(*rng.uniform(0, 40, 2), rng.uniform(0.5, 9, 9)) for _ in range(30)]
    together = dense(shapes, 40, 40, 16)
    monkeypatch.setattr(cover, "LIMIT", 50)
    np.testing.assert_allclose(dense(shapes, 40, 40, 16), together, atol=1e-13)


# ---------------------------------------------------------------- maps and places


@pytest.mark.parametrize("grid", sorted(AFFINES))
@pytest.mark.parametrize("samples", [20, 50])
def test_answers_are_those_of_brute_force(tmp_path, grid, samples):
    affine, crs = AFFINES[grid], {"pixels": None, "south-up": "EPSG:4326"}.get(grid, "EPSG:32633")
    path, says, valid, mask, doubt, area = write_map(tmp_path, samples=samples, affine=affine, crs=crs)
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES, affine), crs)
    zonal(path, places, tmp_path / "o.gpkg", shares=(10, 50))
    found = geopandas.read_file(tmp_path / "o.gpkg")
    share = brute(SHAPES, *valid.shape)
    weight = share * area * valid
    areas = np.einsum("nyx,syx->ns", weight, says)
    total = weight.sum((1, 2))
    expected = {
        "water_area_m2": areas.mean(1),
        "water_area_m2_p05": np.quantile(areas, 0.05, axis=1),
        "water_area_m2_p95": np.quantile(areas, 0.95, axis=1),
        "mask_area_m2": (weight * (mask == 1)).sum((1, 2)),
        "valid_area_m2": total,
        "not_classified": 1 - total / (share * area).sum((1, 2)),
        "outside": 1 - share.sum((1, 2)) / shapely.area(SHAPES),
        "p_over_10": (areas > 0.1 * total[:, None]).mean(1),
        "p_over_50": (areas > 0.5 * total[:, None]).mean(1),
        "uncertainty": (weight * np.where(valid, doubt, 0)).sum((1, 2)) / total,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-9, err_msg=name)
    assert (found["samples"] == samples).all()
    assert found["note"].fillna("").tolist() == [""] * 5 + ["partly outside the map", ""]
    assert found["name"].tolist() == [f"p{i}" for i in range(7)]


def test_without_a_path_a_frame_comes_back_that_is_the_file(tmp_path):
    path, *_ = write_map(tmp_path)
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES, UTM))
    summary = zonal(path, places, tmp_path / "o.gpkg", shares=(10, 50))
    frame = zonal(path, places, shares=(10, 50))
    pandas.testing.assert_frame_equal(frame, geopandas.read_file(tmp_path / "o.gpkg"))
    assert frame.attrs == asdict(summary) and frame.attrs["answered"] == 7
    with pytest.raises(InputError, match="give out_path"):
        zonal(path, places, with_samples=True)
    again = zonal(path, geopandas.read_file(places), shares=(10, 50))
    assert again.drop(columns="geometry").equals(frame.drop(columns="geometry"))
    with pytest.raises(InputError, match="places are list: give a vector file, Places or a GeoDataFrame"):
        zonal(path, [places])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_a_partition_adds_up_sample_by_sample(tmp_path_factory, seed, cuts):
    tmp_path = tmp_path_factory.mktemp("partition")
    path, says, valid, _, _, area = write_map(tmp_path, rows=21, columns=19, samples=7, seed=seed)
    points = np.random.default_rng(seed).uniform(-3, 24, (cuts + 1, 2))
    cells = shapely.get_parts(
        shapely.voronoi_polygons(shapely.MultiPoint(points), extend_to=shapely.box(-5, -5, 30, 30))
    )
    cells = [*cells] if len(cells) else [shapely.box(-5, -5, 30, 30)]
    places = write_places(tmp_path / "p.gpkg", on_map(cells, UTM))
    summary = zonal(path, places, tmp_path / "o.gpkg", with_samples=True)
    table = pyogrio.read_dataframe(tmp_path / "o.gpkg", layer="samples")
    total = np.einsum("yx,syx->s", area, says)
    np.testing.assert_allclose(table.groupby("sample")["area_m2"].sum(), total, rtol=1e-9)
    assert summary.water_area_m2_p05 == pytest.approx(np.quantile(total, 0.05), rel=1e-9)
    assert summary.valid_area_m2 == pytest.approx((area * valid).sum(), rel=1e-9)


def test_strips_and_batches_do_not_show(tmp_path, monkeypatch):
    path, *_ = write_map(tmp_path, rows=70, columns=50)
    rng = np.random.default_rng(0)
    shapes = [polygon(*rng.uniform(0, 60, 2), rng.uniform(0.5, 9, 9)) for _ in range(40)]
    places = write_places(tmp_path / "p.gpkg", on_map(shapes, UTM))
    zonal(path, places, tmp_path / "a.gpkg", with_samples=True)
    zonal(path, places, tmp_path / "same.gpkg", with_samples=True)
    monkeypatch.setattr(layer, "_READ", 3)
    monkeypatch.setattr(layer, "_FEATURES", 7)
    monkeypatch.setattr(cover, "LIMIT", 60)
    whole = totals.strips
    monkeypatch.setattr(totals, "strips", lambda geobox, pixels: whole(geobox, 400))
    zonal(path, places, tmp_path / "b.gpkg", with_samples=True)
    for name in ("places", "samples"):
        a, b = (pyogrio.read_dataframe(tmp_path / f"{x}.gpkg", layer=name) for x in "ab")
        pandas.testing.assert_frame_equal(a.select_dtypes("number"), b.select_dtypes("number"), rtol=1e-8, atol=1e-9)
        assert len(a) == (40 if name == "places" else 800)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "same.gpkg").read_bytes()


def test_what_is_not_classified_never_counts(tmp_path):
    path, _, valid, *_, area = write_map(tmp_path)
    y, x = np.argwhere(~valid)[0]
    places = write_places(tmp_path / "p.gpkg", on_map([shapely.box(x, y, x + 1, y + 1)], UTM))
    zonal(path, places, tmp_path / "o.gpkg")
    row = geopandas.read_file(tmp_path / "o.gpkg").iloc[0]
    assert row["valid_area_m2"] == 0 and row["not_classified"] == 1
    assert row[["water_area_m2", "water_area_m2_p05", "mask_area_m2", "p_over_50", "uncertainty"]].isna().all()


# ---------------------------------------------------------------- places of all kinds


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3035", "EPSG:32634", "EPSG:3857"])
def test_places_in_another_crs(tmp_path, crs):
    path, *_ = write_map(tmp_path, rows=300, columns=300, samples=5)
    there = Transformer.from_crs("EPSG:32633", crs, always_xy=True).transform
    shapes = on_map([shapely.segmentize(polygon(150, 150, [90, 40, 120, 60, 80]), 0.5), shapely.box(7, 8, 9, 9)], UTM)
    moved = [shapely.transform(shape, there, interleaved=False) for shape in shapes]
    zonal(path, write_places(tmp_path / "a.gpkg", shapes), tmp_path / "a_out.gpkg")
    zonal(path, write_places(tmp_path / "b.gpkg", moved, crs), tmp_path / "b_out.gpkg")
    a, b = (geopandas.read_file(tmp_path / f"{x}_out.gpkg") for x in "ab")
    for name in ("water_area_m2", "valid_area_m2", "uncertainty"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4)
    assert b.crs == crs and list(b.geometry) == moved, "shapes are those that came in"


@pytest.mark.parametrize("crs, centre", [("EPSG:32660", (180, 50)), ("EPSG:3413", (30, 90))])
def test_maps_across_180_degrees_and_the_pole(tmp_path, crs, centre):
    there = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    x, y = there.transform(*centre, direction="INVERSE")
    affine = Affine(30, 0, x - 4500, 0, -30, y + 4500)
    path, *_ = write_map(tmp_path, rows=300, columns=300, samples=5, affine=affine, crs=crs)
    shapes = on_map([shapely.box(180, 20, 280.5, 120), shapely.box(185, 180, 190, 270)], affine)
    moved = [shapely.transform(shapely.segmentize(shape, 5), there.transform, interleaved=False) for shape in shapes]
    zonal(path, write_places(tmp_path / "a.gpkg", shapes, crs), tmp_path / "a_out.gpkg")
    zonal(path, write_places(tmp_path / "b.gpkg", moved, "EPSG:4326"), tmp_path / "b_out.gpkg")
    a, b = (geopandas.read_file(tmp_path / f"{x}_out.gpkg") for x in "ab")
    np.testing.assert_allclose(a["valid_area_m2"], b["valid_area_m2"], rtol=1e-5)
    np.testing.assert_allclose(a["water_area_m2"], b["water_area_m2"], rtol=1e-5)
    assert b["outside"].tolist() == pytest.approx([0, 0], abs=1e-9) and b["note"].isna().all()


def test_memory_grows_neither_with_the_map_nor_with_the_places(tmp_path, monkeypatch):
    monkeypatch.setattr(layer, "_READ", 50)
    monkeypatch.setattr(layer, "_FEATURES", 200)
    whole = totals.strips
    monkeypatch.setattr(totals, "strips", lambda geobox, pixels: whole(geobox, 20_000))
    peaks = []
    for size in (1, 4):
        folder = tmp_path / str(size)
        folder.mkdir()
        path, *_ = write_map(folder, rows=200 * size, columns=300)
        corners = np.random.default_rng(0).uniform((0, 0), (300, 200 * size), (300 * size, 2))
        places = write_places(folder / "p.gpkg", on_map([shapely.box(x, y, x + 9, y + 9) for x, y in corners], UTM))
        zonal(path, places, folder / "warm.gpkg")
        tracemalloc.start()
        zonal(path, places, folder / "o.gpkg")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.15 * peaks[0], peaks


def test_long_edges_bend_as_they_should(tmp_path):
    """A box in degrees, 50 km wide, has a southern edge that bows by some 20 m from straight in UTM."""
    path, _, valid, *_, area = write_map(tmp_path, rows=120, columns=800, affine=Affine(100, 0, 46e4, 0, -100, 66e5))
    box = shapely.box(14.4, 59.45, 15.6, 59.52)
    zonal(path, write_places(tmp_path / "p.gpkg", [box], "EPSG:4326"), tmp_path / "o.gpkg")
    row = geopandas.read_file(tmp_path / "o.gpkg").iloc[0]
    ring = np.array(shapely.segmentize(box, 1e-3).exterior.coords)
    true = abs(Geod(ellps="WGS84").polygon_area_perimeter(*ring.T)[0])
    assert row["outside"] == 0
    assert row["valid_area_m2"] / (1 - row["not_classified"]) == pytest.approx(true, rel=1e-5)


def test_places_far_beyond_the_map(tmp_path):
    """Even those that the map's projection cannot hold, and those all around it."""
    path, _, valid, *_, area = write_map(tmp_path)
    world, antipode = shapely.box(-180, -90, 180, 90), shapely.box(-170, -50, -160, -40)
    country = shapely.box(14.99, 40, 40, 50)
    zonal(path, write_places(tmp_path / "p.gpkg", [world, antipode, country], "EPSG:4326"), tmp_path / "o.gpkg")
    found = geopandas.read_file(tmp_path / "o.gpkg")
    assert found["valid_area_m2"].tolist() == pytest.approx([(area * valid).sum(), 0, (area * valid).sum()])
    assert found["outside"].tolist() == pytest.approx([1, 1, 1], abs=1e-4)
    assert found["note"].tolist() == ["partly outside the map", "outside the map", "partly outside the map"]


@pytest.mark.filterwarnings("ignore:invalid value encountered in from_wkb")
def test_odd_shapes_are_repaired_or_said(tmp_path):
    path, _, valid, *_, area = write_map(tmp_path)
    bow = shapely.Polygon([(2, 2), (8, 8), (8, 2), (2, 8)])
    flat = shapely.Polygon([(2, 2), (8, 8), (2, 2)])
    mixed = shapely.GeometryCollection([shapely.box(10, 10, 14, 14), shapely.LineString([(0, 0), (9, 9)])])
    with np.errstate(invalid="ignore"):
        nowhere = shapely.Polygon([(2, 2), (np.nan, 8), (8, 8)])
    shapes = [*on_map([bow, flat, mixed], UTM), shapely.Polygon(), None, nowhere]
    places = write_places(tmp_path / "p.gpkg", shapes)
    summary = zonal(path, places, tmp_path / "o.gpkg")
    found = geopandas.read_file(tmp_path / "o.gpkg")
    ground = found["valid_area_m2"] / (1 - found["not_classified"])
    assert ground.tolist()[::2][:2] == pytest.approx([18 * area[0, 0], 16 * area[0, 0]], rel=1e-6)
    assert found["note"].fillna("").tolist() == [
        "repaired",
        "repaired; no area",
        "",
        "empty",
        "empty",
        "coordinates are not numbers",
    ]
    assert summary.notes == {"repaired": 2, "no area": 1, "empty": 2, "coordinates are not numbers": 1}
    assert summary.answered == 2
    assert found.geometry.iloc[0].equals_exact(shapes[0])


def test_what_parts_of_a_place_share_counts_once(tmp_path):
    """Overlapping parts, of a collection too, and holes that overlap or reach beyond their shell."""
    path, *_, area = write_map(tmp_path)
    a, b = shapely.box(0, 0, 20, 20), shapely.box(10, 10, 30, 30)
    holes = [shapely.box(5, 5, 10, 10), shapely.box(7, 7, 15, 15)]
    beyond = shapely.Polygon(a.exterior, [shapely.box(15, 5, 25, 15).exterior])
    pierced = shapely.Polygon(a.exterior, [hole.exterior for hole in holes])
    shapes = [shapely.MultiPolygon([a, b]), shapely.GeometryCollection([a, b]), beyond, pierced]
    zonal(path, write_places(tmp_path / "p.gpkg", on_map(shapes, UTM)), tmp_path / "o.gpkg")
    found = geopandas.read_file(tmp_path / "o.gpkg")
    ground = found["valid_area_m2"] / (1 - found["not_classified"]) / area[0, 0]
    np.testing.assert_allclose(ground, [700, 700, 350, 400 - 80], rtol=1e-5)
    assert found["outside"].tolist() == [0, 0, 0, 0]


def test_places_in_memory_are_widened_too(tmp_path):
    path, *_ = write_map(tmp_path)
    file = write_places(tmp_path / "p.gpkg", on_map([shapely.LineString([(20, 20), (20, 40)])], UTM))
    frame = geopandas.read_file(file)
    found, expected = (zonal(path, Places(places, buffer=6)) for places in (frame, file))
    assert found["valid_area_m2"].tolist() == expected["valid_area_m2"].tolist()
    with pytest.raises(InputError, match="shapes in geometry and wide: drop all of these columns but one"):
        zonal(path, frame.assign(wide=frame.buffer(5)))


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_roads_are_lines_with_a_buffer(tmp_path, crs):
    path, _, valid, *_, area = write_map(tmp_path, rows=300, columns=300)
    road = on_map([shapely.LineString([(20, 20), (20, 280)]), shapely.Point(150, 150)], UTM)
    there = Transformer.from_crs("EPSG:32633", crs, always_xy=True).transform
    moved = [shapely.transform(shape, there, interleaved=False) for shape in road]
    places = write_places(tmp_path / "p.gpkg", moved, crs)
    with pytest.raises(InputError, match="--buffer"):
        zonal(path, places, tmp_path / "o.gpkg")
    zonal(path, Places(places, buffer=6), tmp_path / "o.gpkg")
    found = geopandas.read_file(tmp_path / "o.gpkg")
    ground = found["valid_area_m2"] / (1 - found["not_classified"])
    np.testing.assert_allclose(ground, [2600 * 12 + np.pi * 36, np.pi * 36], rtol=2e-3)
    assert found.geom_type.tolist() == ["LineString", "Point"]


def test_everything_that_came_in_comes_out(tmp_path):
    path, *_ = write_map(tmp_path)
    columns = {
        "whole": pandas.array([1, None, 2**40], "Int64"),
        "text": ["a", None, "ü"],
        "day": pandas.to_datetime(["2026-11-21", None, "1999-01-01"]),
        "flag": [True, False, True],
        "samples": ["mine", "too", "!"],
        "Note": [1.5, 2.5, np.nan],
        "geom": [1, 2, 3],
    }
    shapes = on_map([shapely.box(1, 1, 3, 3), SHAPES[3], shapely.box(2, 2, 9, 9)], UTM)
    shapes = [shapely.force_3d(shape, 7) for shape in shapes]
    source = tmp_path / "p.fgb"
    geopandas.GeoDataFrame(columns, geometry=shapes, crs="EPSG:32633").to_file(source, SPATIAL_INDEX="NO")
    summary = zonal(path, source, tmp_path / "o.gpkg")
    assert summary.renamed == {"samples": "samples_2", "note": "note_2"}
    before, after = pyogrio.read_dataframe(source), pyogrio.read_dataframe(tmp_path / "o.gpkg")
    before["day"] = before["day"].dt.tz_localize("UTC")  # GeoPackages know no other
    pandas.testing.assert_frame_equal(before.drop(columns="geometry"), after[list(columns)])
    assert after.geometry.to_wkb().tolist() == before.geometry.to_wkb().tolist()
    again = zonal(path, tmp_path / "o.gpkg", tmp_path / "o2.gpkg")
    assert (
        again.renamed["samples"] == "samples_3"
        and "water_area_m2_2" in pyogrio.read_info(tmp_path / "o2.gpkg")["fields"]
    )


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_attributes_may_have_the_names_of_a_formats_own_columns(tmp_path, suffix):
    path, *_ = write_map(tmp_path)
    names = {
        "fid": "a",
        "ogc_fid": 7,
        "geom": "b",
        "geometry": "c",
        "when": "2026-11-21T10:00:00+01:00",
        "list": [1, 2],
    }
    shape = on_map([shapely.box(1, 1, 5, 5)], UTM)[0]
    feature = {"type": "Feature", "id": 9, "properties": names, "geometry": shapely.geometry.mapping(shape)}
    crs = {"type": "name", "properties": {"name": "EPSG:32633"}}
    source = tmp_path / "p.geojson"
    source.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    zonal(path, source, tmp_path / f"o{suffix}")
    reader = geopandas.read_parquet if suffix == ".parquet" else geopandas.read_file
    found = reader(tmp_path / f"o{suffix}")
    assert found.geometry.iloc[0].equals(shape)
    row = found.iloc[0]
    assert (row["fid"], row["ogc_fid"], row["valid_area_m2"] > 0) == ("a", 7, True)
    assert row["when"] == pandas.Timestamp("2026-11-21T09:00Z")


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson", ".parquet"])
def test_formats_hold_the_same(tmp_path, suffix):
    path, *_ = write_map(tmp_path)
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES, UTM))
    zonal(path, places, tmp_path / "o.gpkg")
    zonal(path, places, tmp_path / f"x{suffix}")
    reader = geopandas.read_parquet if suffix == ".parquet" else geopandas.read_file
    found, expected = reader(tmp_path / f"x{suffix}"), geopandas.read_file(tmp_path / "o.gpkg")
    if suffix == ".fgb":  # sorted by place for its index
        found = found.sort_values("name", ignore_index=True)
    columns = [name for name in expected.columns if name not in ("geometry", "note")]
    pandas.testing.assert_frame_equal(
        pandas.DataFrame(found[columns]), pandas.DataFrame(expected[columns]), check_dtype=False, rtol=1e-12
    )
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_no_places_is_a_valid_question(tmp_path):
    path, *_ = write_map(tmp_path)
    summary = zonal(path, write_places(tmp_path / "p.gpkg", [], name=[]), tmp_path / "o.gpkg", with_samples=True)
    assert summary.places == 0 and len(geopandas.read_file(tmp_path / "o.gpkg", layer="places")) == 0


def test_votes_alone_are_enough(tmp_path):
    path, *_ = write_map(tmp_path)
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES, UTM))
    zonal(path, places, tmp_path / "a.gpkg")
    zonal(tmp_path / "m_samples.tif", places, tmp_path / "b.gpkg")
    a, b = (geopandas.read_file(tmp_path / f"{x}.gpkg") for x in "ab")
    assert (a["water_area_m2"] == b["water_area_m2"]).all()
    assert b["mask_area_m2"].isna().all() and b["uncertainty"].isna().all()


def test_ids_of_the_samples(tmp_path):
    path, says, *_, area = write_map(tmp_path)
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES, UTM), **{'the "id"': list("abacdea")})
    summary = zonal(path, Places(places, id='the "id"'), tmp_path / "o.gpkg", with_samples=True)
    table = pyogrio.read_dataframe(tmp_path / "o.gpkg", layer="samples")
    assert summary.notes["with an id that others have too"] == 2
    assert table["id"].tolist() == [name for name in "abacdea" for _ in range(20)]
    assert table["place"].tolist() == [k for k in range(1, 8) for _ in range(20)]
    weight = brute([SHAPES[0], SHAPES[2], SHAPES[6]], *says.shape[1:]).sum(0) * area
    together = table[table["id"] == "a"].groupby("sample")["area_m2"].sum()
    np.testing.assert_allclose(together, np.einsum("yx,syx->s", weight, says), rtol=1e-9)


# ---------------------------------------------------------------- what cannot be done


def test_one_line_for_what_is_wrong(tmp_path):
    path, *_ = write_map(tmp_path)
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES, UTM))
    out = tmp_path / "o.gpkg"
    bare = write_places(tmp_path / "bare.gpkg", SHAPES, None)
    two = write_places(tmp_path / "two.gpkg", SHAPES)
    geopandas.GeoDataFrame(geometry=SHAPES, crs=32633).to_file(two, layer="more")
    pyogrio.write_dataframe(pandas.DataFrame({"a": [1]}), tmp_path / "table.gpkg")
    alone = tmp_path / "alone" / "m.tif"
    alone.parent.mkdir()
    alone.write_bytes(path.read_bytes())
    wrong = [
        ((alone, places, out), SceneError, "--layers mask,uncertainty,confidence,votes"),
        ((tmp_path / "none.tif", places, out), SceneError, "none.tif"),
        ((path, tmp_path / "none.gpkg", out), InputError, "none.gpkg"),
        ((path, path, out), InputError, "vector"),
        ((path, bare, out), InputError, "bare.gpkg has no CRS"),
        ((path, two, out), InputError, "layers two, more: choose one with --layer"),
        ((path, Places(two, layer="x"), out), InputError, "no layer 'x'"),
        ((path, tmp_path / "table.gpkg", out), InputError, "without shapes"),
        ((path, Places(places, id="x"), out), InputError, "table of samples"),
        ((path, places, tmp_path / "o.shp"), OutputError, ".gpkg"),
        ((path, places, tmp_path / "no" / "o.gpkg"), OutputError, "does not exist"),
        ((path, places, places), OutputError, "exists"),
    ]
    for arguments, error, words in wrong:
        with pytest.raises(error) as found:
            zonal(*arguments)
        assert words in str(found.value) and "\n" not in str(found.value), str(found.value)
    for keywords, words in (({"shares": (100,)}, "below 100"), ({"shares": (5, 5)}, "once")):
        with pytest.raises(InputError, match=words):
            zonal(path, places, out, **keywords)
    with pytest.raises(OutputError, match="what is to be read"):
        zonal(path, places, places, overwrite=True)
    with pytest.raises(InputError, match="no attribute 'x'"):
        zonal(path, Places(places, id="x"), out, with_samples=True)
    with pytest.raises(OutputError, match="GeoPackage"):
        zonal(path, places, tmp_path / "o.fgb", with_samples=True)
    assert not out.exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_places_of_another_run_are_refused(tmp_path):
    path, *_ = write_map(tmp_path)
    (tmp_path / "b").mkdir()
    other, *_ = write_map(tmp_path / "b", columns=41)
    (tmp_path / "m_samples.tif").write_bytes((tmp_path / "b" / "m_samples.tif").read_bytes())
    with pytest.raises(SceneError, match="another grid"):
        zonal(path, write_places(tmp_path / "p.gpkg", on_map(SHAPES, UTM)), tmp_path / "o.gpkg")


def test_nothing_classified_in_any_place_is_said():
    said = str(module.ZonalSummary(places=3, samples=20, notes={"outside the map": 2}))
    assert said == "3 places, none with an answer: nothing of the map is classified in any of them; 2 outside the map"


@pytest.mark.parametrize("places_crs", ["EPSG:4326", "EPSG:4258", "EPSG:32610"])
def test_places_are_found_on_a_map_beyond_180_degrees(tmp_path, places_crs):
    """Longitudes from 0 to 360, as climate data have them."""
    map_at = Affine(0.01, 0, 236.9, 0, -0.01, 48.1)
    path, *_ = write_map(tmp_path, affine=map_at, crs="EPSG:4326")
    own = write_places(tmp_path / "own.gpkg", on_map(SHAPES, map_at), "EPSG:4326")
    shapes = geopandas.GeoSeries(on_map(SHAPES, map_at), crs="EPSG:4326").translate(xoff=-360)
    if places_crs == "EPSG:32610":
        shapes = shapes.segmentize(1e-3)
    other = write_places(tmp_path / "other.gpkg", list(shapes.to_crs(places_crs)), places_crs)
    for name, places in (("a.gpkg", own), ("b.gpkg", other)):
        zonal(path, places, tmp_path / name)
    a, b = (geopandas.read_file(tmp_path / name) for name in ("a.gpkg", "b.gpkg"))
    assert a.note.isna().any() and (a.valid_area_m2 > 0).all()
    np.testing.assert_allclose(b.water_area_m2, a.water_area_m2, rtol=1e-3, atol=50)
    np.testing.assert_allclose(b.outside, a.outside, atol=1e-3)


def test_a_place_across_the_edge_of_a_map_around_the_earth_is_whole(tmp_path):
    path, *_, area = write_map(tmp_path, rows=18, columns=36, affine=Affine(10, 0, 0, 0, -10, 90), crs="EPSG:4326")
    places = write_places(tmp_path / "p.gpkg", [shapely.box(-20, -20, 20, 20)], "EPSG:4326")
    zonal(path, places, tmp_path / "o.gpkg")
    found = geopandas.read_file(tmp_path / "o.gpkg")
    assert found.outside[0] == 0 and found.note.isna()[0]
    whole = area[7:11, [0, 1, 34, 35]].sum()
    assert found.valid_area_m2[0] == pytest.approx(whole * (1 - found.not_classified[0]), rel=1e-9)


def test_a_share_that_is_written_as_a_power_of_ten(tmp_path):
    path, *_ = write_map(tmp_path)
    zonal(path, write_places(tmp_path / "p.gpkg", on_map(SHAPES, UTM)), tmp_path / "o.gpkg", shares=(0.00001, 12.5))
    assert {"p_over_0_00001", "p_over_12_5"} <= set(geopandas.read_file(tmp_path / "o.gpkg"))


@pytest.mark.parametrize("srs", [-1, 0])
def test_a_geopackage_that_says_it_has_no_crs(tmp_path, srs):
    path, *_ = write_map(tmp_path, crs=None, affine=UTM)
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES, UTM), None)
    with sqlite3.connect(places) as table:
        for name, column in (("gpkg_contents", "srs_id"), ("gpkg_geometry_columns", "srs_id")):
            table.execute(f"UPDATE {name} SET {column} = {srs}")
    zonal(path, places, tmp_path / "o.gpkg")
    assert (geopandas.read_file(tmp_path / "o.gpkg").valid_area_m2 > 0).all()
    mapped, *_ = write_map(tmp_path)
    with pytest.raises(InputError, match="has no CRS"):
        zonal(mapped, places, tmp_path / "o2.gpkg")


def test_triangles_have_an_area(tmp_path):
    path, _, valid, *_ = write_map(tmp_path)
    corners = on_map([shapely.box(3, 2, 21, 14)], UTM)[0].exterior.coords
    a, b, c, d = ("{} {}".format(*corner) for corner in list(corners)[:4])
    text = (
        f'id,WKT\n1,"TRIANGLE (({a},{b},{c},{a}))"\n2,"TIN ((({a},{b},{c},{a})),(({a},{c},{d},{a})))"\n'
        f'3,"POLYHEDRALSURFACE ((({a},{b},{c},{d},{a})))"\n4,"POLYGON (({a},{b},{c},{d},{a}))"\n'
    )
    (tmp_path / "p.csv").write_text(text)
    (tmp_path / "p.vrt").write_text(
        '<OGRVRTDataSource><OGRVRTLayer name="p"><SrcDataSource relativeToVRT="1">p.csv</SrcDataSource>'
        "<LayerSRS>EPSG:32633</LayerSRS></OGRVRTLayer></OGRVRTDataSource>"
    )
    zonal(path, tmp_path / "p.vrt", tmp_path / "o.gpkg")
    found = pyogrio.read_dataframe(tmp_path / "o.gpkg", read_geometry=False)
    assert found.valid_area_m2[0] < found.valid_area_m2[3]
    np.testing.assert_allclose(found.valid_area_m2[1:3], found.valid_area_m2[3], rtol=1e-9)


def test_the_mean_of_samples_is_not_taken_for_the_mask(tmp_path):
    path, *_ = write_map(tmp_path)
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES[:2], UTM))
    summary = zonal(path, places, tmp_path / "o.gpkg")
    found = geopandas.read_file(tmp_path / "o.gpkg")
    assert summary.mask_area_m2 == pytest.approx(found.mask_area_m2.sum())
    assert "mean of 20 samples" in str(summary) and f"mask {summary.mask_area_m2:.6g} m²" in str(summary)


def test_curves_are_measured_and_kept_or_refused(tmp_path):
    path, *_ = write_map(tmp_path)
    x, y = UTM * (10, 15)
    around = ",".join(f"{x + dx} {y + dy}" for dx, dy in ((-50, 0), (0, 50), (50, 0), (0, -50), (-50, 0)))
    text = f'id,WKT\n1,"CURVEPOLYGON (CIRCULARSTRING ({around}))"\n'
    (tmp_path / "p.csv").write_text(text)
    (tmp_path / "p.vrt").write_text(
        '<OGRVRTDataSource><OGRVRTLayer name="p"><SrcDataSource relativeToVRT="1">p.csv</SrcDataSource>'
        "<LayerSRS>EPSG:32633</LayerSRS></OGRVRTLayer></OGRVRTDataSource>"
    )
    zonal(path, tmp_path / "p.vrt", tmp_path / "o.gpkg")
    found = pyogrio.read_dataframe(tmp_path / "o.gpkg", read_geometry=False)
    assert found.valid_area_m2[0] / (1 - found.not_classified[0]) == pytest.approx(np.pi * 2500, rel=0.01)
    with pytest.raises(OutputError, match="write .gpkg"):
        zonal(path, tmp_path / "p.vrt", tmp_path / "o.parquet")
    assert not (tmp_path / "o.parquet").exists()


def test_places_stay_where_they_are_in_geojson(tmp_path):
    far = Affine(10_000, 0, 375_000, 0, -10_000, 7_000_000)
    path, *_ = write_map(tmp_path, rows=20, columns=25, affine=far)
    box = shapely.box(380_000, 6_850_000, 620_000, 6_990_000)
    places = write_places(tmp_path / "p.gpkg", [box, shapely.box(380_000, 6_850_000, 380_400, 6_850_400)])
    zonal(path, places, tmp_path / "o.geojson")
    found = geopandas.read_file(tmp_path / "o.geojson")
    dense = geopandas.GeoSeries(shapely.segmentize(found.geometry, 0.001), crs="EPSG:4326").to_crs("EPSG:32633")
    assert shapely.hausdorff_distance(dense[0], box) < 0.5
    assert shapely.get_num_coordinates(found.geometry[1]) == 5  # short edges stay as they are


def test_damaged_tags_and_votes_in_another_crs_are_refused_in_one_line(tmp_path):
    path, *_ = write_map(tmp_path)
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES, UTM))
    votes = tmp_path / "m_samples.tif"
    before = votes.read_bytes()
    for change, words in (
        ({"tags": {"GEOUQ_SAMPLES": "x"}}, "GEOUQ_SAMPLES is 'x'"),
        ({"tags": {"GEOUQ_SAMPLES": "inf"}}, "holds no votes"),
        ({"tags": {"GEOUQ_SAMPLES": "nan"}}, "holds no votes|no number"),
        ({"tags": {"GEOUQ_POSITIVE_CLASS": "x"}}, "tags on classes"),
        ({"tags": {"GEOUQ_POSITIVE_CLASS": "5", "GEOUQ_CLASSES": "land,water"}}, "tags on classes"),
        ({"crs": "EPSG:32634"}, "another grid"),
    ):
        votes.write_bytes(before)
        with rasterio.open(votes, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.update_tags(**change.get("tags", {}))
            if "crs" in change:
                file.crs = change["crs"]
        with pytest.raises(SceneError, match=words) as found:
            zonal(path, places, tmp_path / "o.gpkg")
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb", "parquet"])
def test_columns_that_differ_in_case_alone_are_all_kept(tmp_path, suffix):
    path = write_map(tmp_path)[0]
    shapes = on_map(SHAPES[:3], UTM)
    columns = {"Name": ["a", "b", "c"], "NAME": [1, 2, 3], 'na"me': [0.5, 1.5, 2.5], "name_2": [7, 8, 9]}
    places = write_places(tmp_path / "p l.geojson", shapes, "EPSG:32633", **columns)
    out = tmp_path / f"o.{suffix}"
    summary = zonal(path, places, out)
    assert summary.renamed == {"NAME": "NAME_3"}
    found = geopandas.read_parquet(out) if suffix == "parquet" else geopandas.read_file(out)
    found = found.sort_values("Name")  # FlatGeobuf orders by place
    assert found[["Name", "NAME_3", 'na"me', "name_2"]].values.tolist() == [
        list(row) for row in zip(*columns.values(), strict=True)
    ]
    assert (found["water_area_m2"] > 0).all()


@pytest.mark.parametrize("odd", ["Id", "sample", "place", "area_m2"])
def test_an_id_is_the_column_it_names_whatever_the_others_are_called(tmp_path, odd):
    path = write_map(tmp_path)[0]
    columns = {odd: [5, 5] if odd == "Id" else ["t", "u"], odd.upper(): ["x", "y"]}
    places = write_places(tmp_path / "p.geojson", on_map(SHAPES[:2], UTM), **columns)
    summary = zonal(path, Places(places, id=odd.upper()), tmp_path / "o.gpkg", with_samples=True)
    assert "with an id that others have too" not in summary.notes
    table = pyogrio.read_dataframe(tmp_path / "o.gpkg", layer="samples")
    assert table["id"].tolist() == ["x"] * 20 + ["y"] * 20
    assert table["sample"].tolist() == [*range(20), *range(20)] and table["area_m2"].dtype == float
    done = run("zonal", path, places, "-o", tmp_path / "c.gpkg")
    assert f"a column {odd.upper()} already: the other one is called {odd.upper()}_2" in done.stderr


@pytest.mark.parametrize("names", [("forest", "forest mask", "water"), ("a b", "a_b", "a_b_0"), ("valid", "a", "A")])
def test_no_two_classes_share_a_column(names):
    columns = [name for one in _class_columns(names) for name in (*one.areas, one.mask, one.over(0.5))]
    assert len(set(columns)) == len(columns)
