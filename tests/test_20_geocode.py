"""Ground control points: the whole grid of them is met, by pixels that keep their values, or refused in one line."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.warp import Resampling, reproject

from geouq.errors import SceneError
from geouq.rasters.coords import scene_geobox
from geouq.rasters.geocode import fit_spline, geocode, misfits
from geouq.rasters.raster import inspect_raster
from geouq.scenes.open import open_scene
from tests.shared import SHARED

FRAMES = SHARED / "grd-frames"
KERALA = FRAMES / "S1A_IW_GRDH_1SDV_20180716T004042_20180716T004107_022812_02792A_FD5B" / "measurement"
needs_frames = pytest.mark.skipif(not FRAMES.exists(), reason="no ../shared/data/grd-frames here")
ROWS, COLUMNS = 300, 400


def ground(column, row, centre=(500_000.0, 1_200_000.0)):
    """A side-looking radar's image on the map: turned, mirrored, stretched, and bent by far more than a pixel."""
    x, y = 100 * (column - COLUMNS / 2), 100 * (row - ROWS / 2)
    east = -0.97 * x - 0.22 * y + 900 * np.sin(column / 130) + 4e-6 * x * x
    north = 0.21 * x - 0.98 * y + 700 * np.cos(row / 90)
    return centre[0] + east, centre[1] + north


def image_of(east, north, centre=(500_000.0, 1_200_000.0)):
    """The inverse of ``ground``, by Newton's method."""
    column, row = np.full_like(east, COLUMNS / 2), np.full_like(north, ROWS / 2)
    for _ in range(30):
        e, n = ground(column, row, centre)
        de_dc, dn_dc = (b - a for a, b in zip((e, n), ground(column + 1e-3, row, centre), strict=True))
        de_dr, dn_dr = (b - a for a, b in zip((e, n), ground(column, row + 1e-3, centre), strict=True))
        determinant = de_dc * dn_dr - de_dr * dn_dc
        column = column + 1e-3 * ((east - e) * dn_dr - (north - n) * de_dr) / determinant
        row = row + 1e-3 * ((north - n) * de_dc - (east - e) * dn_dc) / determinant
    return column, row


def points(epsg=32643, shift=(0, 0), lattice=(10, 21), centre=(500_000.0, 1_200_000.0)):
    row, column = np.meshgrid(np.linspace(0, ROWS, lattice[0]), np.linspace(0, COLUMNS, lattice[1]), indexing="ij")
    east, north = ground(column, row, centre)
    east[4 % lattice[0], 7 % lattice[1]] += shift[0]
    north[4 % lattice[0], 7 % lattice[1]] += shift[1]
    longitude, latitude = Transformer.from_crs(epsg, 4326, always_xy=True).transform(east, north)
    flat = zip(row.flat, column.flat, longitude.flat, latitude.flat, strict=True)
    return [GroundControlPoint(row=r, col=c, x=x, y=y) for r, c, x, y in flat]


def write(path, gcps, crs="EPSG:4326", nodata=None):
    """Two bands that hold each pixel's own column and row."""
    row, column = np.mgrid[:ROWS, :COLUMNS].astype("float32")
    with rasterio.open(
        path, "w", driver="GTiff", width=COLUMNS, height=ROWS, count=2, dtype="float32", nodata=nodata,
        gcps=gcps, crs=crs,
    ) as file:  # fmt: skip
        file.write(np.stack([column, row]))
    return str(path)


def test_a_known_warp_is_undone_within_half_a_pixel(tmp_path):
    scene = open_scene(write(tmp_path / "a.tif", points()), scale="dn")
    geobox = scene_geobox(scene)
    assert geobox.crs == "EPSG:32643"
    assert geobox.affine.a == 100 and geobox.affine.e == -100
    x, y = np.meshgrid(scene.x.values, scene.y.values)
    column, row = image_of(x, y)
    inside = (column > 0.1) & (column < COLUMNS - 0.1) & (row > 0.1) & (row < ROWS - 0.1)
    values = scene.values
    assert inside.mean() > 0.4
    assert np.isfinite(values[:, inside]).all()
    # A pixel's value is its number, its place half a pixel further: 0.5 at most if the right one was taken.
    error = np.hypot(values[0] + 0.5 - column, values[1] + 0.5 - row)[inside]
    assert error.max() < 0.5 * np.sqrt(2) + 0.05
    assert (np.floor(column[inside]) == values[0][inside]).mean() > 0.97
    assert np.isnan(values[0][(column < -0.1) | (column > COLUMNS + 0.1) | (row < -0.1) | (row > ROWS + 0.1)]).all()
    assert "210 ground control points" in scene.attrs["notes"]


def test_one_affine_would_be_off_by_many_pixels():
    gcps = points()
    transform = rasterio.transform.from_gcps(gcps)
    east, north = zip(*[transform * (p.col, p.row) for p in gcps], strict=True)
    off = np.hypot(np.array(east) - [p.x for p in gcps], np.array(north) - [p.y for p in gcps])
    assert off.max() * 111_000 / 100 > 5  # so the test above can fail


def test_windows_read_alone_equal_the_whole(tmp_path):
    pixels = geocode(inspect_raster(write(tmp_path / "a.tif", points())))
    whole = pixels[:]
    for rows, columns in (
        (slice(0, 50), slice(3, 90)),
        (slice(101, 230), slice(77, 311)),
        (slice(17, 18), slice(5, 6)),
    ):
        np.testing.assert_array_equal(pixels[:, rows, columns], whole[:, rows, columns])


def test_missing_pixels_stay_missing(tmp_path):
    scene = open_scene(write(tmp_path / "a.tif", points(), nodata=200), scale="dn")
    whole = open_scene(write(tmp_path / "b.tif", points()), scale="dn")
    np.testing.assert_array_equal(np.isnan(scene.values), np.isnan(whole.values) | (whole.values == 200))


@pytest.mark.parametrize(
    ("epsg", "centre"),
    [(32660, (833_000.0, 100_000.0)), (32701, (166_000.0, 8_000_000.0)), (3413, (5_000.0, 8_000.0))],
    ids=["antimeridian from the west", "antimeridian from the east", "over the pole"],
)
def test_across_the_antimeridian_and_by_the_pole(tmp_path, epsg, centre):
    gcps = points(epsg, centre=centre)
    longitude = np.array([p.x for p in gcps])
    assert np.ptp(longitude) > 180
    geobox = scene_geobox(open_scene(write(tmp_path / "a.tif", gcps), scale="dn"))
    assert geobox.crs.epsg in (epsg, 32601, 32660, 32760, 32701)
    assert max(geobox.shape) < 700  # no grid around the world
    pixels = geocode(inspect_raster(tmp_path / "a.tif"))
    east, north = Transformer.from_crs(4326, geobox.crs.epsg, always_xy=True).transform(longitude, [p.y for p in gcps])
    found = pixels.spline(np.stack([east, north], 1))
    np.testing.assert_allclose(found, [(p.col, p.row) for p in gcps], atol=1e-4)


def test_projected_points_keep_their_crs(tmp_path):
    row, column = np.meshgrid(np.linspace(0, ROWS, 5), np.linspace(0, COLUMNS, 5))
    flat = zip(row.flat, column.flat, *(v.flat for v in ground(column, row)), strict=True)
    gcps = [GroundControlPoint(row=r, col=c, x=x, y=y) for r, c, x, y in flat]
    scene = open_scene(write(tmp_path / "a.tif", gcps, "EPSG:3857"), scale="dn")
    assert scene_geobox(scene).crs == "EPSG:3857"


def refusal(path, gcps, crs="EPSG:4326"):
    with pytest.raises(SceneError) as error:
        open_scene(write(path, gcps, crs), scale="dn")
    text = str(error.value)
    assert "\n" not in text and str(path) in text and "geocode it first" in text
    return text


def test_points_that_cannot_be_right_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    assert "fewer than 4" in refusal(path, points()[:3])
    diagonal = [GroundControlPoint(row=i, col=i * COLUMNS / ROWS, x=78 + i / 1e3, y=10) for i in range(0, ROWS + 1, 20)]
    assert refusal(path, diagonal)
    assert "contradict" in refusal(path, points(shift=(9_000, 0)))
    half = [GroundControlPoint(row=p.row / 3, col=p.col / 3, x=p.x, y=p.y) for p in points()]
    assert "do not cover" in refusal(path, half)
    swapped = [GroundControlPoint(row=p.row, col=p.col, x=p.x, y=p.x * 3) for p in points()]
    assert refusal(path, swapped)
    raster = inspect_raster(write(path, points()))
    with pytest.raises(SceneError, match="no coordinate system"):
        geocode(replace(raster, gcp_crs=""))
    many = [(i % 60 * 7.0, i // 60 * 5.0, 78 + i % 60 * 1e-3, 10 - i // 60 * 1e-3) for i in range(3000)]
    with pytest.raises(SceneError, match="more than"):
        geocode(replace(raster, gcps=tuple(many)))


def test_misfit_is_what_leaving_a_point_out_would_show():
    rng = np.random.default_rng(3)
    source, target = rng.uniform(0, 100, (30, 2)), rng.uniform(0, 100, (30, 2))
    misfit = misfits(source, target)
    for i in (0, 11, 29):
        rest = np.arange(30) != i
        spline = fit_spline(source[rest], target[rest])
        assert misfit[i] == pytest.approx(np.hypot(*(spline(source[i : i + 1]) - target[i])[0]), rel=1e-6)


@needs_frames
def test_the_kerala_frame_as_gdal_warps_it():
    path = KERALA / "iw-vv.tiff"
    scene = open_scene({"VV": path, "VH": KERALA / "iw-vh.tiff"})
    geobox = scene_geobox(scene)
    assert scene.attrs["units"] == "dn" and geobox.crs == "EPSG:32643" and geobox.affine.a == 200
    values = scene.values[0]
    expected = np.full(values.shape, np.nan, "float32")
    with rasterio.open(path) as file:
        gcps, crs = file.gcps
        image = file.read(1).astype("float32")
    reproject(
        image, expected, gcps=gcps, src_crs=crs, dst_crs="EPSG:32643", dst_transform=geobox.affine, src_nodata=0,
        dst_nodata=np.nan, resampling=Resampling.nearest, tolerance=0.0, METHOD="GCP_TPS",
    )  # fmt: skip
    both = np.isfinite(values) & np.isfinite(expected)
    assert both.mean() > 0.69 and (np.isfinite(values) == np.isfinite(expected)).mean() > 0.999
    # Nearest pixels differ only where two splines, one in degrees and one in metres, part by hundredths of a pixel.
    assert (values[both] == expected[both]).mean() > 0.95


@needs_frames
@pytest.mark.parametrize("name", ["georust_gcp_6x10.tif", "kerala_gcps_const1_uint8.tif"])
def test_other_frames_come_out_whole(name):
    scene = open_scene(FRAMES / name, scale="dn")
    values = scene.values
    assert 0.4 < np.isfinite(values).mean() < 0.9
    with rasterio.open(FRAMES / name) as file:
        assert set(np.unique(values[np.isfinite(values)])) <= set(np.unique(file.read(1)))
