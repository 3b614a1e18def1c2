"""Geocoding through the geolocation grid: every point of it is met, anywhere on Earth, and nodata stays nodata."""

import io
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from geouq.errors import InputError, SceneError
from geouq.grid import apply
from geouq.rasters.geocode import unwrap
from geouq.rasters.resample import interpolate, mean_of_blocks
from geouq.sentinel1.annotation import Annotation, read_annotation
from geouq.sentinel1.geolocation import expected_error
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.sentinel1.rangedoppler import range_doppler
from geouq.sentinel1.warp import GeocodedProduct, geocode_product
from tests.safe_products import Spec, annotation, geolocate
from tests.shared import SAFE

LARGE = Spec(lines=1200, pixels=1500, spacing=20.0, grid=(5, 7))


class Flat:
    """An image whose pixels hold a function of their line and pixel."""

    def __init__(self, shape, function):
        self.shape, self.function = shape, function

    def read(self, bands, rows, columns):
        line, pixel = np.mgrid[rows, columns]
        return np.stack([self.function(line, pixel)] * len(range(self.shape[0])[bands])).astype(np.float32)


def described(spec=LARGE) -> Annotation:
    return read_annotation(annotation("VV", spec).encode(), "made")


def mountains(found: Annotation) -> Annotation:
    """The same product over land whose heights differ by up to 500 m from one grid point to the next."""
    spec = LARGE
    rng = np.random.default_rng(3)
    height = rng.uniform(0, 500, found.grid.line.shape)
    to_degrees = Transformer.from_crs(4978, 4979, always_xy=True).transform
    points = np.empty((3, *height.shape))
    for i in np.ndindex(height.shape):
        points[:, *i] = to_degrees(*geolocate(found.grid.line[i], found.grid.pixel[i], spec, height[i]))
    return replace(found, grid=replace(found.grid, longitude=points[0], latitude=points[1], height=points[2]))


def geocoded(found: Annotation, function=lambda line, pixel: line + 0 * pixel + 1, **options) -> GeocodedProduct:
    image = Flat((1, found.lines, found.pixels), function)
    return geocode_product(image, found, "made", Preprocessing(**options))[0]


def misses(product: GeocodedProduct, found: Annotation) -> np.ndarray:
    """How far (lines, pixels) the map is off at the grid's points: the map pixel around each, and its slopes."""
    grid = found.grid
    to_map = Transformer.from_crs(4326, str(product.geobox.crs), always_xy=True)
    x, y = (unwrap(grid.longitude), grid.latitude)
    if product.geobox.crs.projected:
        x, y = to_map.transform(x, y)
    column, row = apply(~product.geobox.affine, x, y)
    out = []
    for i in np.ndindex(grid.line.shape):
        top, left = int(row[i]), int(column[i])
        around = product.locate(slice(top - 1, top + 2), slice(left - 1, left + 2))
        down, right = row[i] - 0.5 - top, column[i] - 0.5 - left
        at = around[:, 1, 1] + (around[:, 2, 1] - around[:, 0, 1]) / 2 * down
        at += (around[:, 1, 2] - around[:, 1, 0]) / 2 * right
        out.append(at - [grid.line[i], grid.pixel[i]])
    return np.abs(out).max(0)


@pytest.mark.parametrize("height", [0.0, 1500.0])
def test_range_and_doppler_find_the_line_and_pixel_that_saw_a_point(height):
    geometry = range_doppler(described(), "made")
    to_degrees = Transformer.from_crs(4978, 4979, always_xy=True).transform
    for line, pixel in ((0, 0), (1199, 1499), (600, 750), (333, 10)):
        longitude, latitude, above = to_degrees(*geolocate(line, pixel, LARGE, height))
        found = geometry.image(np.array(longitude), np.array(latitude), np.array(above))
        assert np.abs(found - [line, pixel]).max() < 0.01


@pytest.mark.parametrize("shift", [0.0, 167.5, -12.5])
@pytest.mark.parametrize("crs", [None, "EPSG:4326", "EPSG:3035"])
def test_every_grid_point_is_met(shift, crs):
    found = described(replace(LARGE, shift=shift))
    if crs == "EPSG:3035" and shift > 100:
        pytest.skip("a map of Europe")
    assert (misses(geocoded(found, crs=crs), found) < 0.05).all()


def test_every_grid_point_is_met_where_heights_differ():
    found = mountains(described())
    assert np.ptp(found.grid.height) > 400
    assert (misses(geocoded(found), found) < 0.3).all()


def test_one_mountain_does_not_bend_the_plain_beyond_its_neighbours():
    flat, high = described(), mountains(described())
    grids = [
        np.where(np.arange(flat.grid.line.size).reshape(flat.grid.line.shape) == 8, a, b)
        for a, b in (
            (getattr(high.grid, name), getattr(flat.grid, name)) for name in ("longitude", "latitude", "height")
        )
    ]
    grid = replace(flat.grid, longitude=grids[0], latitude=grids[1], height=grids[2])
    one = geocoded(replace(flat, grid=grid))
    plain = replace(geocoded(flat), geobox=one.geobox)
    rows, columns = one.geobox.shape
    apart = np.abs(one.locate(slice(0, rows), slice(0, columns)) - plain.locate(slice(0, rows), slice(0, columns)))
    line, pixel = plain.locate(slice(0, rows), slice(0, columns))
    near = (line < flat.grid.line[2, 0]) & (np.abs(pixel - flat.grid.pixel[0, 1]) < 260)
    inside = (line > 0) & (line < 1199) & (pixel > 0) & (pixel < 1499)
    assert apart[1][near].max() > 20
    assert apart[:, inside & ~near].max() < 0.05


@pytest.mark.parametrize("path", [None, "antimeridian"])
def test_bright_targets_come_out_at_their_place(path):
    found = described(replace(LARGE, shift=167.5 if path else 0.0))
    grid = found.grid
    inner = [(i, j) for i in range(1, 4) for j in range(1, 6)]
    targets = {(int(grid.line[p]), int(grid.pixel[p])): p for p in inner}

    def bright(line, pixel):
        out = np.ones(line.shape)
        for at in targets:
            out[(line == at[0]) & (pixel == at[1])] = 1000
        return out

    product = geocoded(found, bright)
    if path:
        assert np.ptp(grid.longitude) > 300  # on both sides of 180 degrees
    to_map = Transformer.from_crs(4326, str(product.geobox.crs), always_xy=True)
    for point in targets.values():
        x, y = to_map.transform(grid.longitude[point], grid.latitude[point])
        column, row = apply(~product.geobox.affine, x, y)
        top, left = int(row) - 6, int(column) - 6
        window = product.read(slice(0, 1), slice(top, top + 13), slice(left, left + 13))[0].astype(float) - 1
        where = np.mgrid[top : top + 13, left : left + 13] + 0.5
        centre = (where * window).sum((1, 2)) / window.sum()
        assert np.abs(centre - [row, column]).max() < 0.5


def test_windows_do_not_show():
    product = geocoded(mountains(described()))
    whole = product.read(slice(0, 1), slice(100, 400), slice(200, 500))
    assert np.isfinite(whole).any()
    part = product.read(slice(0, 1), slice(173, 311), slice(269, 402))
    np.testing.assert_array_equal(part, whole[:, 73:211, 69:202])
    np.testing.assert_array_equal(product[0, 173:311, 269:402], part[0])


def test_the_grid_is_north_up_on_multiples_and_holds_the_image():
    found = described()
    product = geocoded(found, resolution=30.0)
    a, b, c, d, e, f = product.geobox.affine[:6]
    assert (a, b, d, e) == (30, 0, 0, -30) and c % 30 == 0 and f % 30 == 0
    assert product.geobox.crs == "EPSG:32633"
    rows, columns = product.geobox.shape
    edge = product.locate(slice(0, rows), slice(0, columns))
    inside = (edge[0] >= 0) & (edge[0] <= 1199) & (edge[1] >= 0) & (edge[1] <= 1499)
    assert inside.mean() > 0.5
    assert not inside[[0, -1]].any() and not inside[:, [0, -1]].any()
    assert "35 points of its geolocation grid" in expected_error(found)


def test_a_coarser_grid_holds_means_of_power():
    found = described()
    speckle = np.random.default_rng(0).gamma(1, 1, (found.lines, found.pixels))
    fine = geocoded(found, lambda line, pixel: speckle[line, pixel])
    coarse = geocoded(found, lambda line, pixel: speckle[line, pixel], resolution=100.0)
    assert coarse.oversampling == 5
    values = coarse.read(slice(0, 1), slice(100, 200), slice(120, 220))
    assert abs(np.nanmean(values) - 1) < 0.02
    part = coarse.read(slice(0, 1), slice(130, 131), slice(150, 161))  # read in one piece, the whole in many
    np.testing.assert_array_equal(part[0], values[0, 30:31, 30:41])
    assert np.nanstd(values) < 0.35 < 0.6 < np.nanstd(fine.read(slice(0, 1), slice(500, 800), slice(600, 900)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_missing_pixels_weigh_nothing_and_stay_missing(seed, share):
    rng = np.random.default_rng(seed)
    image = np.where(rng.random((9, 11)) < share, np.nan, rng.uniform(1, 2, (9, 11)))
    where = rng.uniform(-2, 12, (2, 20, 20))
    out = interpolate(Flat((1, 9, 11), lambda line, pixel: image[line, pixel]), slice(0, 1), where)[0]
    row, column = np.rint(where).astype(int)
    inside = (where[0] > -0.5) & (where[0] < 8.5) & (where[1] > -0.5) & (where[1] < 10.5)
    measured = np.zeros(inside.shape, bool)
    measured[inside] = np.isfinite(image[row[inside], column[inside]])
    np.testing.assert_array_equal(np.isfinite(out), measured)
    assert ((out[measured] >= 1) & (out[measured] <= 2)).all()


def test_interpolation_is_bilinear_and_never_an_exact_zero():
    ramp = interpolate(
        Flat((1, 9, 11), lambda line, pixel: 2 * line + pixel), slice(0, 1), np.array([[[2.25]], [[3.5]]])
    )
    assert ramp[0, 0, 0] == pytest.approx(8.0)
    cancelled = interpolate(
        Flat((1, 9, 11), lambda line, pixel: pixel - 3.5), slice(0, 1), np.array([[[2.0]], [[3.5]]])
    )
    assert 0 < cancelled[0, 0, 0] < 1e-30


def test_means_of_blocks_want_half_of_the_pixels():
    values = np.array([[[1, 3, np.nan, np.nan], [np.nan, np.nan, np.nan, 5]]], np.float32)
    np.testing.assert_array_equal(mean_of_blocks(values, 2), [[[2, np.nan]]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(resolution=0.0), "resolution 0 is not the side of a pixel"),
        (dict(resolution=0.01), "resolution 0.01 is not the side of a pixel"),
        (dict(resolution=2001.0), r"and 100 \(2e\+03\)"),
        (dict(resolution=float("nan")), "resolution nan is not"),
        (dict(resolution=1e-7), "is not the side of a pixel"),
        (dict(crs="EPSG:123456"), "not a CRS that PROJ knows"),
        (dict(crs="EPSG:4978"), "not a map of two dimensions"),
    ],
)
def test_maps_that_cannot_be_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        geocoded(described(), **change)


def test_geometry_that_cannot_be_is_refused():
    found = described()
    orbit, grid = found.orbit, found.grid
    cases = {
        "orbit does not cover": replace(found, orbit=replace(orbit, time=orbit.time + np.timedelta64(90, "s"))),
        "polynomials": replace(found, conversions=()),
        "contradict each other by": replace(found, grid=replace(grid, longitude=grid.longitude + 0.02)),
        "does not cover the image": replace(found, lines=5000, line_interval=found.line_interval / 5),
    }
    for said, broken in cases.items():
        with pytest.raises(SceneError, match=f"^made: .*{said}"):
            geocoded(broken)


def test_steps_that_do_not_go_together_are_refused():
    assert Preprocessing().quantity == "sigma0"
    assert Preprocessing(rtc=True, dem="dem.tif").quantity == "beta0"
    with pytest.raises(InputError, match="give --dem"):
        Preprocessing(rtc=True)
    with pytest.raises(InputError, match="gives gamma0, not sigma0"):
        Preprocessing(rtc=True, dem="dem.tif", calibration="sigma0")


def real_annotations():
    for path in sorted(SAFE.glob("S1*GRD*")):
        if path.is_dir():
            yield from ((file.name, file.read_bytes()) for file in sorted(path.glob("annotation/*.xml"))[:1])
            continue
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            names = [name for name in archive.namelist() if re.search(r"annotation/[^/]*\.xml$", name)]
            yield path.name, archive.read(sorted(names)[0])


@pytest.mark.skipif(not SAFE.exists(), reason="no ../shared/data/safe here")
def test_every_grid_point_of_real_products_is_met():
    count = 0
    for name, data in real_annotations():
        found = read_annotation(data, name)
        line, pixel = misses(geocoded(found), found)
        assert line < 0.1 and pixel < 0.3, name
        count += 1
    assert count >= 10
