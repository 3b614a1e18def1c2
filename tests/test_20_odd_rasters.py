"""Every odd raster there is ends in a right result or in one line that names the file and what to do."""

import warnings

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from geouq.errors import GeouqError, SceneError
from geouq.rasters.coords import scene_geobox
from geouq.scenes.open import open_scene
from tests.shared import SHARED

FOLDERS = [
    path
    for path in SHARED.rglob("*")
    if path.is_dir() and (path.suffix in (".zarr", ".zr3", ".SAFE") or path.name == "gdal_SAFE_FAKE_WV")
]
INSIDE = {path for folder in FOLDERS for path in folder.rglob("*")}
FILES = sorted(
    [
        path
        for name in ("odd-rasters", "rtc", "grd-frames", "dem", "s1/terramesh", "s1/stacoverflow", "s1/large")
        for path in (SHARED / name).rglob("*")
        if path.is_file() and path not in INSIDE
    ]
    + [path for path in FOLDERS if path not in INSIDE]
)
#: reading all of it takes minutes, or gigabytes
PIXELS = 30_000_000

pytestmark = [pytest.mark.skipif(not FILES, reason="no ../shared/data here"), pytest.mark.timeout(120)]


def computed(scene):
    """All of a small scene; the first, middle and last chunk of a big one."""
    if scene.size < PIXELS:
        return [scene.data.compute()]
    counts = [len(sizes) for sizes in scene.chunks]
    places = {(0, 0, 0), (0, counts[1] // 2, counts[2] // 2), tuple(n - 1 for n in counts)}
    return [scene.data.blocks[place].compute() for place in places]


def check_line(error, path):
    text = str(error)
    assert "\n" not in text and len(text) < 900
    assert path.name in text and ": " in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SHARED)))
def test_a_right_result_or_one_line(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # raised within odc-geo
        try:
            scene = open_scene(path, scale="dn")
            parts = computed(scene)
        except GeouqError as error:
            check_line(error, path)
            return
    geobox = scene_geobox(scene)
    assert geobox.shape == scene.shape[1:]
    assert all(part.dtype == np.float32 and not np.isinf(part).any() for part in parts)
    if "control points" not in scene.attrs.get("notes", ""):
        compare_with_rasterio(path, scene, geobox, parts)


def compare_with_rasterio(path, scene, geobox, parts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            np.testing.assert_allclose(geobox.affine[:6], file.transform[:6], rtol=1e-12)
            if scene.size >= PIXELS:
                return
            bands = [i for i in range(1, file.count + 1) if file.colorinterp[i - 1].name != "alpha"]
            assert len(bands) == len(scene.band)
            for values, i in zip(parts[0], bands, strict=True):
                expected = (file.read(i) * file.scales[i - 1] + file.offsets[i - 1]).astype("float32")
                valid = (file.read_masks(i) > 0) & np.isfinite(expected)
                np.testing.assert_array_equal(np.isfinite(values), valid)
                np.testing.assert_allclose(values[valid], expected[valid], rtol=1e-6)


@pytest.mark.parametrize(
    "path", [p for p in FILES if "single_block_32769" not in p.name], ids=lambda path: str(path.relative_to(SHARED))
)
def test_auto_decides_or_says_what_to_give(path):
    try:
        scene = open_scene(path)
    except GeouqError as error:
        check_line(error, path)
    else:
        assert scene.attrs["units"] in ("dB", "power", "amplitude", "dn", "rgb", "unknown")


EXPECTED = {
    "s1/stacoverflow/jja10_vv.tif": "dB",
    "s1/stacoverflow/awc00_vh.tif": "dB",
    "s1/terramesh/282D_485L_3_3.tif": "dB",
    "rtc/pyrosar_S1A__IW___A_20150309T173017_VV_grd_mli_geo_norm_db.tif": "dB",
    "rtc/earth-engine/Spain_7370579_S1Hand.tif": "dB",
    "rtc/opera-rtc-s1/2021-12-01/"
    "OPERA_L2_RTC-S1_T137-292323-IW2_20211201T015908Z_20250830T065219Z_S1A_30_v1.0_VV.tif": "power",
    "rtc/hyp3-rtc-template/rtc_VV.tif": "unknown",
    "odd-rasters/rasterio/389225main_sw_1965_1024.jpg": "rgb",
    "grd-frames/georust_gcp_6x10.tif": "dn",
}


@pytest.mark.parametrize(("name", "unit"), EXPECTED.items(), ids=lambda value: value[-30:])
def test_units_of_known_products(name, unit):
    assert open_scene(SHARED / name).attrs["units"] == unit


@pytest.mark.parametrize(
    "transform", [(10, 0, 5e5, 0, -10, 1e308), (1e-9, 0, 5e5, 0, -1e-9, 5e6), (10, 10, 5e5, 10, 10, 5e6)]
)
def test_coordinates_that_do_not_tell_pixels_apart_are_refused_in_one_line(tmp_path, transform):
    values = 10 * np.log10(np.random.default_rng(0).gamma(4, 0.02, (2, 30, 20))).astype("f4")
    path = tmp_path / "s.vrt"
    with rasterio.open(tmp_path / "s.tif", "w", driver="GTiff", width=20, height=30, count=2, dtype="float32") as file:
        file.write(values)
    rasterio.shutil.copy(tmp_path / "s.tif", path, driver="VRT")
    gdal = ", ".join(repr(float(v)) for v in rasterio.Affine(*transform).to_gdal())
    path.write_text(path.read_text().replace("<VRTRasterBand", f"<GeoTransform>{gdal}</GeoTransform><VRTRasterBand", 1))
    with pytest.raises(SceneError, match="its transform tells no pixels apart") as error:
        open_scene(path, scale="db")
    assert "\n" not in str(error.value)
