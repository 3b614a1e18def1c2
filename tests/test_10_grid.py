"""Tiles cover each pixel once, windows hold their halo on the stride grid, areas agree with pyproj.Geod."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from geouq.grid import Roi, Tiling, geobox_roi, pixel_areas

sides = st.integers(1, 400)


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(1, 200), st.integers(0, 6), st.sampled_from([1, 2, 16]), st.data())
def test_cores_cover_each_pixel_once_and_windows_hold_the_halo(rows, columns, size, halo, stride, data):
    assume(rows * columns < 3000 * size**2)  # a few thousand tiles: else one example takes seconds
    bounds = None
    if data.draw(st.booleans()):
        y, x = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
        bounds = Roi(y, data.draw(st.integers(y + 1, rows)), x, data.draw(st.integers(x + 1, columns)))
    tiling = Tiling((rows, columns), size, halo * stride, stride, bounds)
    covered = np.zeros((rows, columns), int)
    for tile in tiling:
        covered[tile.core.slices] += 1
        window, padded = tile.window, tiling.padded
        assert window.y0 % stride == window.x0 % stride == window.shape[0] % stride == window.shape[1] % stride == 0
        for low, high, core0, core1, limit in (
            (window.y0, window.y1, tile.core.y0, tile.core.y1, padded[0]),
            (window.x0, window.x1, tile.core.x0, tile.core.x1, padded[1]),
        ):
            assert low == 0 or core0 - low >= tiling.halo
            assert high == limit or high - core1 >= tiling.halo
    inside = np.zeros((rows, columns), int)
    inside[(bounds or Roi(0, rows, 0, columns)).slices] = 1
    assert (covered == inside).all()
    assert [t.index for t in tiling] == list(range(len(tiling)))


def test_bounds_leave_windows_as_they_are():
    whole = {t.core: t.window for t in Tiling((100, 100), 40, 16, 16)}
    for tile in Tiling((100, 100), 40, 16, 16, Roi(45, 60, 3, 99)):
        assert tile.window in whole.values()


def geod_area(geobox: GeoBox, row: int, column: int) -> float:
    """Area of one pixel by pyproj.Geod, its edges densified."""
    t = np.linspace(0, 1, 9)[:-1]
    x = column + np.concatenate([t, np.ones(8), 1 - t, np.zeros(8)])
    y = row + np.concatenate([np.zeros(8), t, np.ones(8), 1 - t])
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    east, north = a * x + b * y + c, d * x + e * y + f
    crs = CRS.from_user_input(str(geobox.crs))
    base = crs.geodetic_crs.to_2d()
    longitude, latitude = Transformer.from_crs(crs, base, always_xy=True).transform(east, north)
    unit = np.degrees(base.axis_info[0].unit_conversion_factor)
    return abs(crs.get_geod().polygon_area_perimeter(unit * longitude, unit * latitude)[0])


GRIDS = {
    "utm": GeoBox((400, 300), Affine(500, 0, 300_000, 0, -500, 5_500_000), "EPSG:32633"),
    "utm edge": GeoBox((400, 300), Affine(500, 0, 100_000, 0, -500, 5_500_000), "EPSG:32633"),
    "utm rotated": GeoBox((400, 300), Affine(300, 90, 400_000, 80, -310, 5_500_000), "EPSG:32633"),
    "geographic": GeoBox((300, 400), Affine(0.05, 0, 10, 0, -0.05, 62), "EPSG:4326"),
    "geographic south-up": GeoBox((300, 400), Affine(0.05, 0, 10, 0, 0.05, -20), "EPSG:4326"),
    "geographic rotated": GeoBox((300, 400), Affine(0.05, 0.01, 10, 0.01, -0.05, 62), "EPSG:4326"),
    "web mercator": GeoBox((300, 400), Affine(1000, 0, 1e6, 0, -1000, 8e6), "EPSG:3857"),
    "polar stereographic": GeoBox((300, 400), Affine(1000, 0, 5e5, 0, -1000, 5e5), "EPSG:3413"),
    "grads from Paris": GeoBox((300, 400), Affine(0.02, 0, 1, 0, -0.02, 54), "EPSG:4807"),
    "lambert from Paris": GeoBox((300, 400), Affine(1000, 0, 4e5, 0, -1000, 2.5e6), "EPSG:27572"),
    "around the pole": GeoBox((301, 401), Affine(1000, 0, -200_500, 0, -1000, 150_500), "EPSG:3413"),
    "around the south pole": GeoBox((300, 400), Affine(15_000, 0, -3e6, 0, -15_000, 2.25e6), "EPSG:3031"),
    "equal area at the pole": GeoBox((300, 400), Affine(25_000, 0, -5e6, 0, -25_000, 3.75e6), "EPSG:6931"),
    "compound": GeoBox((300, 400), Affine(1000, 0, 4e5, 0, -1000, 5.6e6), "EPSG:5555"),
    "oblique": GeoBox((300, 400), Affine(1000, 0, 2.5e6, 0, -1000, 1.3e6), "EPSG:2056"),
    "across 180": GeoBox((300, 400), Affine(1000, 0, 3e5, 0, -1000, 7e6), "EPSG:32601"),
    "rotated pole": GeoBox(
        (300, 400),
        Affine(0.05, 0, -10, 0, -0.05, 8),
        CRS.from_proj4("+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +datum=WGS84").to_wkt(),
    ),
    "feet": GeoBox((300, 400), Affine(3000, 0, 2e6, 0, -3000, 8e5), "EPSG:2263"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_pixel_areas_within_a_thousandth_of_geod(name):
    geobox = GRIDS[name]
    rows, columns = geobox.shape
    areas = np.broadcast_to(pixel_areas(geobox, Roi(0, rows, 0, columns)), (rows, columns))
    for row, column in [(0, 0), (rows // 2, columns // 3), (rows - 1, columns - 1), (17, columns - 2)]:
        assert areas[row, column] == pytest.approx(geod_area(geobox, row, column), rel=1e-3)


@pytest.mark.parametrize("name", GRIDS)
def test_pixel_areas_of_a_part_are_those_of_the_whole(name):
    geobox = GRIDS[name]
    whole = np.broadcast_to(pixel_areas(geobox, Roi(0, *geobox.shape[:1], 0, geobox.shape[1])), geobox.shape)
    part = Roi(101, 190, 50, 53)
    np.testing.assert_allclose(np.broadcast_to(pixel_areas(geobox, part), part.shape), whole[part.slices], rtol=1e-4)


def test_no_crs_counts_the_units_of_the_grid():
    assert pixel_areas(GeoBox((5, 5), Affine(2, 0, 0, 0, -3, 0), None), Roi(0, 5, 0, 5)).max() == 6


def test_geobox_of_a_part():
    part = geobox_roi(GRIDS["utm"], Roi(10, 30, 5, 9))
    assert part.shape == (20, 4) and part.affine.c == 302_500 and part.affine.f == 5_495_000
