"""Terrain correction: heights move pixels as the geometry says, and relief is flagged or flattened as it should be."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer

from geouq.errors import SceneError
from geouq.grid import GeoBox, apply
from geouq.sentinel1 import terrain
from geouq.sentinel1.annotation import read_annotation
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.sentinel1.rangedoppler import range_doppler
from geouq.sentinel1.relief import LAYOVER, SHADOW, STEEP
from geouq.sentinel1.terrain import open_elevation
from geouq.sentinel1.warp import HIGH, OUTSIDE, geocode_product
from tests.safe_products import Spec, annotation
from tests.shared import SAFE, SHARED

ROME = SAFE / "S1B_IW_GRDH_1SDV_20211223T051122_20211223T051147_030148_039993_5371.SAFE"
ROME_DEM = SHARED / "dem" / "Rome-30m-DEM.tif"
SPEC = Spec(lines=500, pixels=800, spacing=10.0, grid=(5, 7))
FOUND = read_annotation(annotation("VV", SPEC).encode(), "made")
GEOMETRY = range_doppler(FOUND, "made")
INCIDENCE = np.radians(FOUND.grid.incidence_angle.mean())


class Ones:
    """An image of one power everywhere."""

    shape = (1, SPEC.lines, SPEC.pixels)

    def read(self, bands, rows, columns):
        return np.ones((1, rows.stop - rows.start, columns.stop - columns.start), np.float32)


def write_dem(path, height, crs="EPSG:32633", **profile):
    """An elevation model around the product at 40 m: ``height`` is given line and pixel as seen at height 0."""
    grid = FOUND.grid
    x, y = Transformer.from_crs(4326, 32633, always_xy=True).transform(grid.longitude, grid.latitude)
    left, top = (np.floor(v / 40) * 40 for v in (x.min() - 3000, y.max() + 1000))
    columns, rows = int((x.max() + 3000 - left) / 40), int((top - y.min() + 1000) / 40)
    affine = Affine(40, 0, left, 0, -40, top)
    x, y = apply(affine, *np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5))
    longitude, latitude = Transformer.from_crs(32633, 4326, always_xy=True).transform(x, y)
    values = np.asarray(height(*GEOMETRY.image(longitude, latitude, np.zeros(x.shape))), np.float32)
    profile = dict(driver="GTiff", count=1, dtype="float32", crs=crs, transform=affine) | profile
    with rasterio.open(path, "w", height=rows, width=columns, **profile) as file:
        file.write(np.broadcast_to(values, (profile["count"], rows, columns)))
    return str(path)


def corrected(dem, **options):
    return geocode_product(Ones(), FOUND, "made", Preprocessing(dem=dem, **options))


def everything(product):
    rows, columns = product.geobox.shape
    return slice(0, rows), slice(0, columns)


def middle(product, half=120):
    rows, columns = product.geobox.shape
    return slice(rows // 2 - half, rows // 2 + half), slice(columns // 2 - half, columns // 2 + half)


@pytest.mark.parametrize("height", [-400.0, 700.0, 5000.0, 8800.0])
def test_points_of_any_height_are_where_range_and_doppler_put_them(tmp_path, height):
    product, _ = corrected(write_dem(tmp_path / "dem.tif", lambda line, pixel: height + 0 * line))
    where = product.locate(*middle(product, 20))
    rows, columns = np.mgrid[middle(product, 20)] + 0.5
    x, y = apply(product.geobox.affine, columns, rows)
    longitude, latitude = Transformer.from_crs(32633, 4326, always_xy=True).transform(x, y)
    assert np.abs(where - GEOMETRY.image(longitude, latitude, np.full(x.shape, height))).max() < 0.05
    flat = GEOMETRY.image(longitude, latitude, np.zeros(x.shape))
    moved = -height / np.tan(INCIDENCE) / 10
    assert (where[1] - flat[1]).mean() == pytest.approx(moved, rel=0.05)


def test_heights_follow_what_the_crs_says_they_are_above(tmp_path, monkeypatch):
    def dem(name, crs):
        return write_dem(tmp_path / name, lambda line, pixel: 100 + 0 * line, crs)

    plain, says = dem("plain.tif", "EPSG:32633"), "EPSG:32633+5773"
    monkeypatch.setattr(terrain, "_geoid", lambda vertical: None)
    assert "EGM2008 height (assumed: its CRS does not say): PROJ lacks" in open_elevation(plain).note
    assert "are EGM96 height: PROJ lacks the geoid's grid here" in open_elevation(dem("egm96.tif", says)).note
    bare, _ = corrected(plain)
    shift = Transformer.from_pipeline("+proj=affine +zoff=50")
    monkeypatch.setattr(terrain, "_geoid", lambda vertical: shift if vertical.name == "EGM96 height" else None)
    lifted, notes = corrected(str(tmp_path / "egm96.tif"))
    assert "heights converted from EGM96 height" in notes[0]
    window = middle(bare, 10)
    moved = (lifted.locate(*window) - bare.locate(*window))[1]
    assert moved.mean() == pytest.approx(-50 / np.tan(INCIDENCE) / 10, rel=0.05)


def test_geoid_grids_are_used_only_if_proj_has_them():
    for code in (5773, 3855):
        transformer = terrain._geoid(terrain.CRS.from_epsg(code))
        if transformer is not None:
            assert abs(transformer.transform(12.5, 42.0, 0.0)[2] - 48) < 2


def test_where_the_dem_has_no_height_nothing_is_valid(tmp_path):
    def holed(line, pixel):
        return np.where((abs(line - 250) < 40) & (abs(pixel - 400) < 60), -32768, 10)

    product, _ = corrected(write_dem(tmp_path / "dem.tif", holed))  # the nodata value is not declared
    values = product.read(slice(0, 1), *middle(product))[0]
    where = line, pixel = product._positions(*middle(product))[1]
    assert np.isnan(values[(abs(line - 250) < 36) & (abs(pixel - 400) < 56)]).all()
    assert np.isfinite(
        values[
            ((abs(line - 250) > 44) | (abs(pixel - 400) > 64))
            & (where > 0).all(0)
            & (where[0] < 499)
            & (where[1] < 799)
        ]
    ).all()


def test_a_wall_throws_layover_and_shadow_as_far_as_its_height_says(tmp_path):
    def wall(line, pixel):
        return np.where(abs(pixel - 400) < 30, 600, 0)

    product, notes = corrected(write_dem(tmp_path / "dem.tif", wall))
    window = middle(product, 150)
    flags, (_, pixel) = product.flags(*window), product._positions(*window)[1]
    before, behind = 600 / np.tan(INCIDENCE) / 10, 600 * np.tan(INCIDENCE) / 10
    assert (flags[(pixel > 376 - before * 0.9) & (pixel < 364)] == LAYOVER).all()
    assert (flags[(pixel > 436) & (pixel < 424 + behind * 0.9)] == SHADOW).all()
    open_ground = (pixel < 364 - before * 1.1) | (pixel > 436 + behind * 1.1)
    assert open_ground.any() and not flags[open_ground].any()
    values = product.read(slice(0, 1), *window)[0]
    np.testing.assert_array_equal(np.isfinite(values), flags == 0)
    assert "layover" in notes[1] and "shadow" in notes[1]


@pytest.mark.parametrize("resolution", [40.0, 100.0])
def test_shares_of_a_small_map_count_each_pixel_once(tmp_path, resolution):
    dem = write_dem(tmp_path / "dem.tif", lambda line, pixel: np.where(abs(pixel - 300) < 30, 600, 0))
    product, notes = corrected(dem, resolution=resolution)
    assert max(product.geobox.shape) < 320
    flags = product.flags(*everything(product))
    for number, name in ((LAYOVER, "layover"), (SHADOW, "shadow")):
        assert f"{name} {100 * (flags == number).sum() / (flags != OUTSIDE).sum():.1f} %" in notes[1]


def test_steep_slopes_and_ground_high_above_the_drainage_are_flagged(tmp_path):
    def slopes(line, pixel):  # along the track, where a slope makes neither layover nor shadow
        return 10 * np.where(line > 400, (line - 400) * 0.7 + 54.6, np.clip(line - 250, 0, None) * 0.364)

    dem = write_dem(tmp_path / "dem.tif", slopes)
    hand = write_dem(tmp_path / "hand.tif", lambda line, pixel: np.where(line < 60, 16.0, 14.0))
    product, notes = corrected(dem, hand=hand)
    window = everything(product)
    flags, where = product.flags(*window), product.locate(*window)
    line = product._positions(*window)[1][0]
    inside = (where >= 0).all(0) & (where[0] < 499) & (where[1] < 799)
    assert (flags[inside & (line > 410) & (line < 480)] == STEEP).all()
    assert not flags[inside & (line > 270) & (line < 390)].any()
    assert (flags[inside & (line > 5) & (line < 50)] == HIGH).all()
    assert (flags[~(where > -0.5).all(0)] == OUTSIDE).all()
    assert "15 m or more above drainage" in notes[1]


@pytest.mark.parametrize("slope", [-12.0, 0.0, 15.0])
def test_flattening_divides_by_the_area_that_a_slope_shows(tmp_path, slope):
    def plane(line, pixel):
        return 10 * (pixel - 400) * np.tan(np.radians(slope))

    product, _ = corrected(write_dem(tmp_path / "dem.tif", plane), rtc=True)
    window = middle(product, 40)
    area = 1 / product.read(slice(0, 1), *window)[0]
    incidence = np.radians(np.interp(product._positions(*window)[1][1], FOUND.grid.pixel[0], _incidence()))
    expected = 1 / np.tan(incidence - np.radians(slope))
    assert np.abs(area / expected - 1).max() < 0.05
    assert abs((area / expected).mean() - 1) < 0.01


def _incidence():
    return FOUND.grid.incidence_angle.mean(0)


def test_flattening_loses_no_light(tmp_path):
    rng = np.random.default_rng(2)
    bumps = rng.normal(0, 80, (64, 64))

    def hills(line, pixel):
        return 400 + bumps[(line // 50).astype(int) % 64, (pixel // 40).astype(int) % 64]

    product, _ = corrected(write_dem(tmp_path / "dem.tif", hills), rtc=True)
    profiles = product.relief._profiles(product._positions(*middle(product, 30))[1], 1)
    lit, _ = product.relief._lit(profiles)
    highest = np.maximum.accumulate(profiles.look, axis=1)
    expected = (np.diff(highest, axis=1) * profiles.slant_range[:, 1:]).sum(1)
    np.testing.assert_allclose(lit.sum(1), expected, rtol=0.002)


def test_windows_do_not_show(tmp_path):
    rng = np.random.default_rng(1)
    bumps = rng.uniform(0, 400, (64, 64))

    def hills(line, pixel):
        return bumps[(line // 30).astype(int) % 64, (pixel // 25).astype(int) % 64]

    product, _ = corrected(write_dem(tmp_path / "dem.tif", hills), rtc=True)
    rows, columns = middle(product, 100)
    whole = product.read(slice(0, 1), rows, columns)[0]
    assert 0.1 < np.isfinite(whole).mean() < 0.95
    part = product.read(
        slice(0, 1), slice(rows.start + 37, rows.stop - 61), slice(columns.start + 50, columns.stop - 3)
    )[0]
    np.testing.assert_allclose(part, whole[37:-61, 50:-3], rtol=1e-5)


def test_it_travels_to_other_processes(tmp_path):
    product, _ = corrected(write_dem(tmp_path / "dem.tif", lambda line, pixel: 100 + 0 * line))
    twin = pickle.loads(pickle.dumps(product))
    window = middle(product, 10)
    np.testing.assert_array_equal(twin.read(slice(0, 1), *window), product.read(slice(0, 1), *window))


def test_elevation_models_that_cannot_be_used_are_refused(tmp_path):
    def flat(line, pixel):
        return 0 * line

    far = Affine(0.01, 0, -110, 0, -0.01, 41)  # of the same latitudes
    cases = {
        "made: give a DEM of that place": dict(crs="EPSG:4326", transform=far),
        "has no CRS": dict(crs=None),
        "has 2 bands": dict(count=2),
        "does not meet made": dict(transform=Affine(40, 0, 900_000, 0, -40, 2_000_000)),
    }
    for i, (said, profile) in enumerate(cases.items()):
        path = write_dem(tmp_path / f"{i}.tif", flat, **profile)
        with pytest.raises(SceneError, match=f"^{path}: .*{said}"):
            corrected(path)
    with pytest.raises(SceneError, match="no such file"):
        corrected(str(tmp_path / "absent.tif"))


@pytest.mark.skipif(not ROME.exists() or not ROME_DEM.exists(), reason="no ../shared/data/safe here")
@pytest.mark.filterwarnings("ignore")
def test_sarsen_says_the_same_of_rome(monkeypatch):
    """Positions of all pixels of the DEM in the real product; both take its geoid heights as they are."""
    sarsen = pytest.importorskip("sarsen")
    monkeypatch.setattr(terrain, "_geoid", lambda vertical: None)
    theirs = sarsen.Sentinel1SarProduct(str(ROME), "IW/VV")
    dem = sarsen.scene.open_dem_raster(str(ROME_DEM))
    orbit = sarsen.orbit.OrbitPolyfitInterpolator.from_position(theirs.state_vectors())
    points = sarsen.scene.convert_to_dem_ecef(dem).drop_vars("spatial_ref")
    seen = sarsen.apps.simulate_acquisition(points, orbit)
    ground = theirs.slant_range_time_to_ground_range(seen.azimuth_time, seen.slant_range_time).values
    found = read_annotation(next(ROME.glob("annotation/*.xml")).read_bytes(), "rome")
    seconds = (seen.azimuth_time.values - found.first_line_time) / np.timedelta64(1, "ns") * 1e-9
    expected = np.stack([seconds / found.line_interval, ground / found.range_spacing])[:, ::-1]
    product, _ = geocode_product(Ones(), found, "rome", Preprocessing(dem=str(ROME_DEM)))
    with rasterio.open(ROME_DEM) as file:
        product = replace(product, geobox=GeoBox(file.shape, file.transform, "EPSG:4326"))
    ours = product.locate(*everything(product))
    assert np.abs(ours - expected).max() < 0.1
