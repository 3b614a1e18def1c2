"""Polygons of a map: those of the whole raster, with the areas and layers of their pixels."""

import hashlib
import os
import resource
import sqlite3
from dataclasses import asdict

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox
from pyproj import Geod

from geouq.errors import OutputError, SceneError
from geouq.grid import Roi, pixel_areas
from geouq.maps.bands import map_bands, quantise, vote_bands
from geouq.maps.cog import MapWriter
from geouq.polygons import features
from geouq.polygons.regions import polygons, regions
from geouq.polygons.vectorize import FIELDS, vectorize
from tests.helpers import write_raster
from tests.maps import AFFINES, UTM

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

FORMATS = (".gpkg", ".fgb", ".geojson", ".parquet")


def found_by_strips(mask, rows, affine=AFFINES["pixels"]):
    """Polygons and pixel counts of ``mask`` read ``rows`` rows at a time."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    strips = ((y, padded[y : min(y + rows, height) + 2]) for y in range(0, height, rows))

    def count(_row, labels, n):
        return np.bincount(labels.ravel(), minlength=n + 1)[1:, None].astype(float)

    parts = [(polygons(r.outlines, len(r.sums), width, affine), r.sums[:, 0]) for r in regions(strips, width, count)]
    return tuple(np.concatenate(x) for x in zip(*parts, strict=True))


def whole(mask, affine=AFFINES["pixels"]):
    shapes = rasterio.features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4, transform=affine)
    return np.array([shapely.geometry.shape(geometry) for geometry, _ in shapes], dtype=object)


def as_set(geometries):
    return sorted(shapely.to_wkb(shapely.normalize(geometries)).tolist())


@settings(max_examples=150, deadline=None)
@given(
    arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))),
    st.integers(1, 15),
    st.sampled_from(sorted(AFFINES)),
)
def test_polygons_by_strips_are_those_of_the_whole_raster(mask, rows, grid):
    affine = AFFINES[grid]
    shapes, counts = found_by_strips(mask, rows, affine)
    assert as_set(shapes) == as_set(whole(mask, affine))
    assert counts.sum() == mask.sum()
    assert shapely.is_valid(shapes).all()
    np.testing.assert_allclose(shapely.area(shapes), counts * abs(affine.determinant), rtol=1e-5)
    assert shapely.is_ccw(shapely.get_exterior_ring(shapes)).all()
    again, _ = found_by_strips(mask, max(mask.shape), affine)
    assert shapely.to_wkb(shapes).tolist() == shapely.to_wkb(again).tolist(), "order and bytes, whatever the strips"


def test_without_a_path_a_frame_comes_back_that_is_the_file(tmp_path):
    path, *_ = a_map(tmp_path, (120, 90))
    summary = vectorize(path, tmp_path / "o.gpkg", min_area=300)
    frame = vectorize(path, min_area=300)
    pandas.testing.assert_frame_equal(frame, geopandas.read_file(tmp_path / "o.gpkg"))
    assert frame.crs == "EPSG:32632" and frame.attrs == asdict(summary) and frame.attrs["dropped"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "map_samples.tif", "o.gpkg"]


@pytest.mark.parametrize("density", [0.05, 0.5, 0.6, 0.9])
def test_polygons_of_larger_masks(density):
    rng = np.random.default_rng(3)
    mask = rng.random((300, 200)) < density
    shapes, _ = found_by_strips(mask, 32, UTM)
    assert as_set(shapes) == as_set(whole(mask, UTM))
    assert shapely.is_valid(shapes).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_hole_that_touches_the_shell_in_a_point_is_a_hole(rows):
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    (shape,), _ = found_by_strips(mask, rows)
    assert shape.is_valid and len(shape.interiors) == 1 and shape.area == 7


def test_a_spiral_and_nested_rings_come_out_whole():
    """Regions that leave a strip and come back, and regions inside holes of others."""
    mask = np.zeros((41, 41), bool)
    for k in range(0, 20, 2):
        mask[k, k : 41 - k] = mask[40 - k, k : 41 - k] = mask[k : 41 - k, k] = mask[k : 41 - k, 40 - k] = True
    nested, _ = found_by_strips(mask, 4)
    assert len(nested) == 10 and as_set(nested) == as_set(whole(mask))
    for k in range(0, 18, 2):  # open each ring into the next
        mask[k + 1, k] = False
        mask[k + 2, k + 1] = True
    spiral, _ = found_by_strips(mask, 4)
    assert as_set(spiral) == as_set(whole(mask))


def a_map(folder, shape=(700, 400), affine=UTM, crs="EPSG:32632", samples=20, float32=False, threshold=0.5, names=None):
    """Write a map and its votes; return its path and layers."""
    rng = np.random.default_rng(5)
    coarse = rng.random((shape[0] // 8 + 1, shape[1] // 8 + 1)).repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]]
    p = np.clip(coarse * 0.8 + 0.2 * rng.random(shape), 0, 1).astype(np.float32)
    p[: shape[0] // 5, : shape[1] // 5] = np.nan
    valid = ~np.isnan(p)
    draws = rng.normal(0, 0.1, (samples, 1, 1)).astype(np.float32)
    bits = (p + draws + rng.normal(0, 0.05, (samples, *shape)).astype(np.float32) >= threshold) & valid
    layers = {
        "mask": np.where(valid, p >= threshold, 255).astype(np.uint8),
        "probability": p,
        "confidence": np.maximum(p, 1 - p),
        "uncertainty": 4 * p * (1 - p),
        "votes": sum(bits[s].astype(np.uint64) << np.uint64(s) for s in range(samples)),
    }
    geobox = GeoBox(shape, affine, crs)
    tags = {"GEOUQ_THRESHOLD": threshold, "GEOUQ_POSITIVE_CLASS": 1, "GEOUQ_SAMPLES": samples, "GEOUQ_SEED": 0}
    path = folder / "map.tif"
    names = names or ("mask", "uncertainty", "probability")
    files = [(path, map_bands(names, float32))]
    files += [(folder / "map_samples.tif", vote_bands(samples))] if samples else []
    for name, bands in files:
        with MapWriter(name, geobox, bands, tags) as writer:
            writer.write(Roi(0, shape[0], 0, shape[1]), quantise(layers, bands))
            writer.finish()
    return path, layers, bits


def expected(layers, bits, affine, crs):
    """Attributes by brute force: polygon by polygon over the whole raster."""
    mask = layers["mask"] == 1
    geobox = GeoBox(mask.shape, affine, crs)
    areas = np.broadcast_to(pixel_areas(geobox, Roi(0, mask.shape[0], 0, mask.shape[1])), mask.shape)
    out = {}
    for shape in whole(mask, affine):
        inside = rasterio.features.geometry_mask([shape], mask.shape, affine, invert=True)
        sampled = [areas[inside & b].sum() for b in bits]
        out[shapely.to_wkb(shapely.normalize(shape))] = (
            areas[inside].sum(),
            *(np.quantile(sampled, (0.05, 0.95)) if sampled else (np.nan, np.nan)),
            layers["probability"][inside].mean(),
            layers["uncertainty"][inside].mean(),
        )
    return out


@pytest.mark.parametrize(
    ("crs", "affine"),
    [("EPSG:32632", UTM), ("EPSG:4326", Affine(1e-3, 0, 8, 0, -1e-3, 60)), (None, AFFINES["pixels"])],
)
@pytest.mark.parametrize("float32", [False, True])
def test_attributes_are_those_of_a_polygons_pixels(tmp_path, crs, affine, float32):
    path, layers, bits = a_map(tmp_path, (130, 90), affine, crs, float32=float32)
    summary = vectorize(path, tmp_path / "out.gpkg", tile=32)
    frame = pyogrio.read_dataframe(tmp_path / "out.gpkg", layer="water")
    assert (frame.crs is None) == (crs is None) and (crs is None or frame.crs == crs)
    assert list(frame.columns) == [*FIELDS, "geometry"]
    truth = expected(layers, bits, affine, crs)
    assert len(frame) == len(truth) == summary.polygons > 20
    tolerance = 1e-5 if float32 else 0.006
    for row in frame.itertuples():
        area, low, high, probability, uncertainty = truth[shapely.to_wkb(shapely.normalize(row.geometry))]
        np.testing.assert_allclose((row.area_m2, row.area_m2_p05, row.area_m2_p95), (area, low, high), rtol=1e-6)
        assert abs(row.probability - probability) < tolerance
        assert abs(row.uncertainty - uncertainty) < tolerance
    geobox = GeoBox(layers["mask"].shape, affine, crs)
    areas = np.broadcast_to(pixel_areas(geobox, Roi(0, 130, 0, 90)), (130, 90))
    np.testing.assert_allclose(frame.area_m2.sum(), areas[layers["mask"] == 1].sum(), rtol=1e-6)
    np.testing.assert_allclose(summary.area_m2, frame.area_m2.sum(), rtol=1e-12)


def test_areas_are_true_areas(tmp_path):
    affine = Affine(0.01, 0, 8, 0, -0.01, 60)
    path, *_ = a_map(tmp_path, (50, 40), affine, "EPSG:4326", samples=0)
    vectorize(path, tmp_path / "out.gpkg")
    frame = pyogrio.read_dataframe(tmp_path / "out.gpkg")
    geod = Geod(ellps="WGS84")
    true = [abs(geod.geometry_area_perimeter(shapely.segmentize(g, 0.001))[0]) for g in frame.geometry]
    np.testing.assert_allclose(frame.area_m2, true, rtol=1e-3)


def test_same_polygons_and_order_whatever_the_tile(tmp_path):
    path, *_ = a_map(tmp_path, (150, 200))
    frames = []
    for tile in (16, 70, 2048):
        out = tmp_path / f"{tile}.gpkg"
        vectorize(path, out, tile=tile)
        frames.append(pyogrio.read_dataframe(out))
    for frame in frames[1:]:
        assert (frame.geometry.to_wkb() == frames[0].geometry.to_wkb()).all()
        np.testing.assert_allclose(frame[list(FIELDS)], frames[0][list(FIELDS)], rtol=1e-6)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_holds_the_same_and_has_the_same_bytes_again(tmp_path, suffix):
    path, *_ = a_map(tmp_path)
    vectorize(path, tmp_path / "truth.gpkg")
    truth = pyogrio.read_dataframe(tmp_path / "truth.gpkg")
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        out = tmp_path / name / f"water{suffix}"
        vectorize(path, out)
        assert os.listdir(out.parent) == [out.name], "no leftovers"
        digests.append(hashlib.sha256(out.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    frame = geopandas.read_parquet(out) if suffix == ".parquet" else pyogrio.read_dataframe(out)
    if suffix == ".geojson":
        assert frame.crs == "EPSG:4326"
        assert 8 < frame.total_bounds[0] < 10 and 44 < frame.total_bounds[1] < 46
        frame = frame.to_crs(truth.crs)
        np.testing.assert_allclose(frame.area.sum(), truth.area.sum(), rtol=1e-4)
    else:
        assert frame.crs == truth.crs
        assert as_set(frame.geometry.to_numpy()) == as_set(truth.geometry.to_numpy())
    frame, truth = (f.sort_values(list(FIELDS)).reset_index() for f in (frame, truth))
    np.testing.assert_allclose(frame[list(FIELDS)], truth[list(FIELDS)])


@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_found_is_an_empty_layer_with_the_same_columns(tmp_path, suffix):
    path, *_ = a_map(tmp_path, threshold=2.0)
    out = tmp_path / f"water{suffix}"
    assert vectorize(path, out).polygons == 0
    frame = geopandas.read_parquet(out) if suffix == ".parquet" else pyogrio.read_dataframe(out)
    assert len(frame) == 0
    if suffix != ".geojson":  # a format without a schema
        assert frame.crs == "EPSG:32632"
        assert list(frame.columns) == [*FIELDS, "geometry"]


def test_small_polygons_are_left_out_and_accounted_for(tmp_path):
    path, layers, _ = a_map(tmp_path)
    everything = vectorize(path, tmp_path / "all.gpkg")
    summary = vectorize(path, tmp_path / "large.gpkg", min_area=2000)
    frame, large = (pyogrio.read_dataframe(tmp_path / f"{name}.gpkg") for name in ("all", "large"))
    assert len(large) == (frame.area_m2 >= 2000).sum() == summary.polygons > 0
    assert summary.dropped == len(frame) - len(large) > 0
    np.testing.assert_allclose(summary.area_m2 + summary.dropped_area_m2, everything.area_m2, rtol=1e-12)
    assert large.area_m2.min() >= 2000


def test_what_is_not_known_is_null(tmp_path):
    path, *_ = a_map(tmp_path, samples=0, names=("mask",))
    vectorize(path, tmp_path / "out.gpkg")
    frame = pyogrio.read_dataframe(tmp_path / "out.gpkg")
    assert frame[list(FIELDS)[1:]].isna().all(axis=None) and frame.area_m2.notna().all()
    with sqlite3.connect(tmp_path / "out.gpkg") as db:
        assert db.execute("select count(*) from water where probability is not null").fetchone() == (0,)


@pytest.mark.parametrize(("threshold", "known"), [(0.5, True), (0.4, False)])
def test_confidence_stands_in_for_probability_at_the_usual_threshold_only(tmp_path, threshold, known):
    path, *_ = a_map(tmp_path, threshold=threshold, names=("mask", "uncertainty", "confidence"))
    vectorize(path, tmp_path / "out.gpkg")
    assert pyogrio.read_dataframe(tmp_path / "out.gpkg").probability.notna().all() == known


def test_any_mask_of_one_band(tmp_path):
    mask = np.zeros((60, 50), np.uint8)
    mask[10:20, 10:20], mask[40:, 30:] = 1, 7
    with rasterio.open(
        tmp_path / "m.tif",
        "w",
        driver="GTiff",
        width=50,
        height=60,
        count=1,
        dtype="uint8",
        nodata=7,
        transform=UTM,
        crs="EPSG:32632",
    ) as file:
        file.write(mask, 1)
    assert vectorize(tmp_path / "m.tif", tmp_path / "m.gpkg").polygons == 1
    frame = pyogrio.read_dataframe(tmp_path / "m.gpkg")
    assert frame.geometry[0].equals(shapely.box(500100, 4999800, 500200, 4999900))


def test_progress_ends_at_the_last_row(tmp_path):
    path, *_ = a_map(tmp_path)
    calls = []
    vectorize(path, tmp_path / "a.gpkg", tile=128, on_progress=lambda done, rows: calls.append((done, rows)))
    assert calls[-1] == (700, 700) and len(calls) > 3


def test_refusals_are_one_line_that_names_the_file(tmp_path, monkeypatch):
    path, *_ = a_map(tmp_path)
    (tmp_path / "there.gpkg").write_bytes(b"old")
    (tmp_path / "text.tif").write_text("no raster")
    for source, out, error, words in (
        (path, "there.gpkg", OutputError, "there.gpkg exists"),
        (path, "out.shp", OutputError, "out.shp: polygons are written as"),
        (path, "no/out.gpkg", OutputError, "does not exist"),
        (tmp_path / "text.tif", "out.gpkg", SceneError, "text.tif: cannot be opened"),
        (tmp_path / "missing.tif", "out.gpkg", SceneError, "missing.tif: no such file"),
    ):
        with pytest.raises(error, match=words) as caught:
            vectorize(source, tmp_path / out)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "there.gpkg").read_bytes() == b"old"
    assert vectorize(path, tmp_path / "there.gpkg", overwrite=True).polygons == len(
        pyogrio.read_dataframe(tmp_path / "there.gpkg")
    )
    monkeypatch.setattr(features, "pyarrow", None)
    with pytest.raises(OutputError, match="needs pyarrow"):
        vectorize(path, tmp_path / "out.parquet")


def test_samples_of_another_run_are_refused(tmp_path):
    path, *_ = a_map(tmp_path)
    for tags, words in (({"GEOUQ_SEED": "1"}, "GEOUQ_SEED"), ({"GEOUQ_SAMPLES": "19"}, "GEOUQ_SAMPLES")):
        other = tmp_path / "other.tif"
        other.write_bytes((tmp_path / "map_samples.tif").read_bytes())
        with rasterio.open(other, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.update_tags(**tags)
        with pytest.raises(SceneError, match=words):
            vectorize(path, tmp_path / "out.gpkg", samples_path=other)
    (tmp_path / "small").mkdir()
    a_map(tmp_path / "small", (100, 100))
    with pytest.raises(SceneError, match="another grid"):
        vectorize(path, tmp_path / "out.gpkg", samples_path=tmp_path / "small" / "map_samples.tif")
    with pytest.raises(SceneError, match="no votes"):
        vectorize(path, tmp_path / "out.gpkg", samples_path=path)
    assert not (tmp_path / "out.gpkg").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path, suffix):
    path, *_ = a_map(tmp_path, (700, 700), samples=0)
    out = tmp_path / f"water{suffix}"
    vectorize(path, out)
    size = out.stat().st_size
    out.unlink()
    before = sorted(os.listdir(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (50_000, size // 2, size - 10_000, size - 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OutputError, match=rf"^\S*water\{suffix} cannot be written: .+$"):
                vectorize(path, out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert sorted(os.listdir(tmp_path)) == before


def test_edges_stay_where_they_are_when_they_become_degrees(tmp_path):
    """GeoJSON is in degrees: only ends of edges are taken there, so long ones need more of them."""
    profile = {"crs": "EPSG:32633", "transform": Affine(10_000, 0, 375_000, 0, -10_000, 7_000_000)}
    path = write_raster(tmp_path / "m.tif", np.ones((1, 2, 25), np.uint8), **profile)
    vectorize(path, tmp_path / "m.geojson")
    (found,) = geopandas.read_file(tmp_path / "m.geojson").geometry
    dense = geopandas.GeoSeries([shapely.segmentize(found, 0.001)], crs="EPSG:4326").to_crs("EPSG:32633")[0]
    assert shapely.hausdorff_distance(dense, shapely.box(375_000, 6_980_000, 625_000, 7_000_000)) < 0.5
