"""ESA's own products (../shared/data/safe): calibration against the formula and an independent reader; refusals.

The products come without their images; known DN are written into sparse ones of full size.
"""

import shutil
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from geouq.errors import SceneError
from geouq.sentinel1.grd import calibrate, read_product
from tests.shared import PRODUCTS, SAFE, unpacked

pytestmark = pytest.mark.skipif(not SAFE.exists(), reason="needs ../shared/data/safe")


def with_images(product: Path, seed: int = 0) -> dict[str, dict[int, np.ndarray]]:
    """Write images of full size; return the DN of the lines that are not empty, by polarisation."""
    rng = np.random.default_rng(seed)
    out = {}
    for annotation in sorted((product / "annotation").glob("*.xml")):
        root = ET.parse(annotation).getroot()
        lines, pixels = (int(root.findtext(f".//numberOf{what}")) for what in ("Lines", "Samples"))
        chosen = {0, 1, lines - 1, *rng.integers(0, lines, 25).tolist()}
        dn = {line: rng.integers(1, 2000, pixels).astype(np.uint16) for line in sorted(chosen)}
        for values in dn.values():
            values[:: rng.integers(50, 90)] = 65534
            values[7:19] = 0
        path = product / "measurement" / f"{annotation.stem}.tiff"
        profile = dict(
            driver="GTiff", dtype="uint16", count=1, SPARSE_OK=True, blockysize=1, width=pixels, height=lines
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path, "w", **profile)
        with dataset:
            for line, values in dn.items():
                dataset.write(values[None], 1, window=Window(0, line, pixels, 1))
        out[root.findtext("adsHeader/polarisation")] = dn
    return out


def floats(node: ET.Element, path: str) -> np.ndarray:
    return np.array([float(word) for word in (node.findtext(path) or "").split()])


def along(root: ET.Element, vectors: str, values: str, line: int, pixels: np.ndarray) -> np.ndarray:
    """Bilinear interpolation of a list of vectors, as the specification words it, at one line."""
    nodes = root.findall(f".//{vectors}")
    at = np.array([float(node.findtext("line")) for node in nodes])
    below = max(i for i in range(len(at)) if at[i] <= line)
    above = min(below + 1, len(at) - 1)
    rows = [np.interp(pixels, floats(nodes[i], "pixel"), floats(nodes[i], values)) for i in (below, above)]
    share = 0.0 if above == below else (line - at[below]) / (at[above] - at[below])
    return rows[0] * (1 - share) + rows[1] * share


def esa_sigma0(product: Path, polarisation: str, line: int, dn: np.ndarray) -> np.ndarray:
    """(DN² - noise) / A² of one line, straight from the XML."""
    folder, key, pixels = product / "annotation/calibration", f"-{polarisation.lower()}", np.arange(len(dn))
    calibration, noise = (
        ET.parse(next(f for f in folder.glob(f"{kind}-*") if key in f.name)).getroot()
        for kind in ("calibration", "noise")
    )
    if noise.find("noiseVectorList") is not None:
        power = along(noise, "noiseVector", "noiseLut", line, pixels)
    else:
        power = along(noise, "noiseRangeVector", "noiseRangeLut", line, pixels)
        for block in noise.findall(".//noiseAzimuthVector"):
            first, last, left, right = (
                int(block.findtext(f"{end}{what}"))
                for what in ("AzimuthLine", "RangeSample")
                for end in ("first", "last")
            )
            if first <= line <= last:
                factor = np.interp(line, floats(block, "line"), floats(block, "noiseAzimuthLut"))
                power[left : right + 1] *= factor
    return (dn.astype(float) ** 2 - power) / along(calibration, "calibrationVector", "sigmaNought", line, pixels) ** 2


@pytest.mark.parametrize("ipf", PRODUCTS)
def test_sigma0_is_esas_formula(ipf, tmp_path):
    folder = unpacked(PRODUCTS[ipf], tmp_path)
    known = with_images(folder)
    product = read_product(str(folder))
    assert product.manifest.ipf == f"00{ipf}" and set(product.polarisations) == set(known)
    calibrated, worst, points = calibrate(product), 0.0, 0
    for band, polarisation in enumerate(product.polarisations):
        for line, dn in known[polarisation].items():
            sigma0 = calibrated.read(slice(band, band + 1), slice(line, line + 1), slice(0, len(dn)))[0, 0]
            expected = esa_sigma0(folder, polarisation, line, dn)
            assert np.array_equal(np.isnan(sigma0), dn == 0)
            measured = (dn > 0) & (expected != 0)
            worst = max(worst, np.abs(sigma0[measured] / expected[measured] - 1).max())
            points += measured.sum()
    print(f"IPF {ipf}: {points} points, {worst:.1e} relative at most")
    assert points > 300_000 and worst < 1e-4


def reader(product: Path):
    """xarray-safe-s1's reader, which needs both polarisations: VV's files stand in for VH's where those are absent."""
    safe_s1 = pytest.importorskip("safe_s1", reason="needs xarray-safe-s1 (geouq[dev])")
    for file in list(product.rglob("*-vv-*-001.*")):
        other = file.with_name(file.name.replace("-vv-", "-vh-").replace("-001.", "-002."))
        if not other.exists():
            shutil.copyfile(file, other)
    return safe_s1.Sentinel1Reader(str(product))


def oracle_noise(oracle, polarisation: str, line: int, pixels: int) -> np.ndarray:
    """Range noise at one line from the oracle's lists of vectors."""
    name = next(n for n in oracle.files["noise"] if f"-{polarisation.lower()}-" in n)
    lines, samples, values = (
        oracle.xml_parser.get_var(name, f"noise.range.{what}") for what in ("line", "sample", "noiseLut")
    )
    table = [np.interp(np.arange(pixels), sample, value) for sample, value in zip(samples, values, strict=True)]
    at = min(np.searchsorted(lines, line, side="right"), len(lines) - 1)
    share = np.clip((line - lines[at - 1]) / (lines[at] - lines[at - 1]), 0, 1)
    return table[at - 1] * (1 - share) + table[at] * share


@pytest.mark.parametrize("ipf", ["2.36", "2.70", "3.31", "3.40"])
def test_sigma0_as_the_oracle_reads_the_tables(ipf, tmp_path):
    """Against xarray-safe-s1: its calibration table, interpolated by xarray, and its lists of noise vectors.

    Not its noise table, which puts the values of all vectors at the pixels of the first; those of IPF 2.70 differ.
    """
    folder = unpacked(PRODUCTS[ipf], tmp_path)
    known = with_images(folder)
    product = read_product(str(folder))
    oracle = reader(folder)
    calibration = oracle.get_calibration_luts
    worst, points = 0.0, 0
    for quantity in ("sigma0", "gamma0"):
        calibrated = calibrate(product, quantity=quantity)
        for band, polarisation in enumerate(product.polarisations):
            blocks = list(zip(*oracle.get_noise_azi_initial_parameters(polarisation), strict=True))
            for line, dn in known[polarisation].items():
                at = dict(line=line, sample=np.arange(len(dn)))
                constant = calibration[f"{quantity}_lut"].sel(pol=polarisation).interp(at).values
                power = oracle_noise(oracle, polarisation, line, len(dn))
                for _, lines, first, last, left, right, factors in blocks:
                    if first <= line <= last:
                        power[left : right + 1] *= np.interp(line, lines, factors)
                expected = (dn.astype(float) ** 2 - power) / constant**2
                got = calibrated.read(slice(band, band + 1), slice(line, line + 1), slice(0, len(dn)))[0, 0]
                measured = (dn > 0) & (expected != 0)
                worst = max(worst, np.abs(got[measured] / expected[measured] - 1).max())
                points += measured.sum()
    print(f"IPF {ipf}: {points} points of sigma0 and gamma0, {worst:.1e} relative at most")
    assert worst < 1e-4


def test_annotation_against_the_oracle(tmp_path):
    """Geolocation grid and orbit, as another reader has them."""
    folder = unpacked(PRODUCTS["3.31"], tmp_path)
    with_images(folder)
    annotation, oracle = read_product(str(folder)).annotation, reader(folder)
    grid, orbit = oracle.dt["geolocationGrid"].to_dataset(), oracle.orbit
    assert np.array_equal(grid.line.values, annotation.grid.line[:, 0])
    for theirs, ours in (("latitude", "latitude"), ("longitude", "longitude"), ("height", "height")):
        assert np.allclose(grid[theirs].values, getattr(annotation.grid, ours), rtol=0, atol=1e-9)
    assert np.array_equal(orbit.time.values.astype("datetime64[ns]"), annotation.orbit.time)
    for i, axis in enumerate("xyz"):
        assert np.array_equal(orbit[f"position_{axis}"].values, annotation.orbit.position[:, i])
        assert np.array_equal(orbit[f"velocity_{axis}"].values, annotation.orbit.velocity[:, i])


REFUSED = {
    "S1A_IW_GRDH_1SDV_20150203T043109_20150203T043134_004454_00574F_6D00.zip": "no image",
    "S1A_IW_GRDH_1SDV_20200708T182643_20200708T182708_033367_03DDAA_9550.zip": "no image",
    "S1A_IW_GRDH_1SDV_20210809T173953_20210809T174018_039156_049F13_6FF8.SAFE": "0 bytes",
    "S1A_EW_GRDM_1SDH_20221130T014342_20221130T014446_046117_058549_BB15.aws-layout.zip": "0 bytes",
    "S1C_S4_GRDH_1SDH_20250118T171404_20250118T171421_000638_000538_4B8B.SAFE": "0 bytes",
    "S1B_IW_GRDH_1SDV_20210401T052623_20210401T052648_026269_032297_ECC8.SAFE": "no calibration file for VV",
    "S1A_IW_SLC__1SDV_20170525T025145_20170525T025157_016732_01BCA6_CEBE.hollow.zip": "0 bytes",
    "S1A_IW_SLC__1SDV_20220104T170557_20220104T170624_041314_04E951_F1F1.SAFE": "SLC",
    "S1A_IW_SLC__1SDV_20230108T135249_20230108T135316_046693_0598D3_BA76.zip": "SLC",
    "S1B_IW_SLC__1SDV_20210401T052622_20210401T052650_026269_032297_EFA4.zip": "SLC",
    "gdal_SAFE_FAKE/test.SAFE": "no noise file",
    "gdal_SAFE_FAKE_WV": "SLC",
    "gdal_rcm_fake_VV_VH_GRD": "another mission",
    "manifest-only/S1A_AUX_CAL_V20140402T000000_G20140402T133909.SAFE": "no manifest",
    "manifest-only/S1A_IW_GRDH_1ADV_20180227T145413_20180227T145438_020794_023A69_632A.SAFE": "class A",
    "manifest-only/S1A_IW_GRDH_1SDV_20180227T145344_20180227T145413_020794_023A69_C0B5.SAFE": "no image",
    "manifest-only/S1A_IW_GRDH_1SDV_20180227T145618_20180227T145643_020794_023A69_D7EC.SAFE": "no manifest",
    "manifest-only/S1A_IW_RAW__0SDV_20171213T121623_20171213T121656_019684_021735_C6DB.SAFE": "level 0",
    "manifest-only/S1A_WV_GRDM_1ASV_20180913T214338_20180913T214410_023685_0294F4_70D1.SAFE": "class A",
    "manifest-only/S1A_WV_OCN__2SSV_20190518T160559_20190518T161434_027284_0313A0_46F2.SAFE": "OCN",
    "manifest-only/S2A_MSIL1C_20210403T101021_N0300_R022_T33TUM_20210403T110551.SAFE": "Sentinel-2A",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_grd_product_is_refused_in_one_line(name):
    with pytest.raises(SceneError) as caught:
        read_product(str(SAFE / name))
    message = str(caught.value)
    assert REFUSED[name] in message and "\n" not in message and name.rpartition("/")[2] in message
