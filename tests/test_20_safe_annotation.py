"""Annotation, calibration and noise files of Sentinel-1 products, read from synthetic ones whose values are known."""

import pickle

import numpy as np
import pytest

from geouq.errors import SceneError
from geouq.sentinel1.annotation import read_annotation
from geouq.sentinel1.luts import read_calibration, read_noise
from tests import safe_products as safe

SPEC = safe.Spec()


@pytest.fixture(scope="module")
def annotation():
    return read_annotation(safe.annotation("VV", SPEC).encode(), "a.xml")


def test_what_the_annotation_says(annotation):
    assert (annotation.mission, annotation.mode) == ("S1A", "IW")
    assert (annotation.polarisation, annotation.pass_direction) == ("VV", "Descending")
    assert (annotation.lines, annotation.pixels) == (60, 90)
    assert annotation.start == annotation.first_line_time == safe.START
    assert annotation.line_interval == pytest.approx(SPEC.interval) and annotation.range_spacing == 100
    assert annotation.noise_removed is False
    assert len(annotation.orbit.time) == len(annotation.orbit.position) == len(annotation.orbit.velocity) == 13
    assert len(annotation.conversions) == 2


def test_lines_and_pixels_are_centres(annotation):
    """The first sample is measured at the first line's time and the first pixel's range: integers are centres."""
    grid = annotation.grid
    assert grid.line[0, 0] == grid.pixel[0, 0] == 0
    assert grid.line[-1, -1] == annotation.lines - 1 and grid.pixel[-1, -1] == annotation.pixels - 1
    assert grid.azimuth_time[0, 0] == annotation.first_line_time
    assert grid.azimuth_time[-1, 0] == annotation.last_line_time
    assert grid.slant_range_time[0, 0] == pytest.approx(annotation.slant_range_time, rel=1e-12)
    conversion = annotation.conversions[0]
    ground = grid.pixel[0] * annotation.range_spacing - conversion.ground_range_origin
    slant = np.polynomial.polynomial.polyval(ground, conversion.grsr)
    assert np.allclose(2 * slant / safe.LIGHT, grid.slant_range_time[0], rtol=1e-12)
    back = np.polynomial.polynomial.polyval(slant - conversion.slant_range_origin, conversion.srgr)
    assert np.allclose(back, ground, atol=1e-3)


def test_grid_points_lie_at_zero_doppler_and_slant_range(annotation):
    """The grid agrees with the orbit: what the other half of the way, geocoding, builds on."""
    grid, orbit = annotation.grid, annotation.orbit
    assert grid.latitude.shape == (4, 6) and np.ptp(grid.height) == 0
    seconds = (orbit.time - safe.START) / np.timedelta64(1, "s")
    place = np.polynomial.Polynomial
    for i, j in ((0, 0), (1, 4), (3, 5)):
        latitude, longitude = np.radians([grid.latitude[i, j], grid.longitude[i, j]])
        flat = 1 - (safe.SEMI_MINOR / safe.SEMI_MAJOR) ** 2
        prime = safe.SEMI_MAJOR / np.sqrt(1 - flat * np.sin(latitude) ** 2)
        across = prime * np.cos(latitude)
        point = np.array(
            [across * np.cos(longitude), across * np.sin(longitude), prime * (1 - flat) * np.sin(latitude)]
        )
        moment = (grid.azimuth_time[i, j] - safe.START) / np.timedelta64(1, "s")
        position = np.array([place.fit(seconds, p, 8)(moment) for p in orbit.position.T])
        velocity = np.array([place.fit(seconds, v, 8)(moment) for v in orbit.velocity.T])
        distance = np.linalg.norm(point - position)
        assert distance == pytest.approx(grid.slant_range_time[i, j] * safe.LIGHT / 2, abs=0.01)
        assert abs((point - position) @ velocity) / np.linalg.norm(velocity) < 0.02


def test_calibration_is_bilinear():
    table = read_calibration(safe.calibration("VV", SPEC).encode(), "c.xml").tables["sigma0"]
    window = table.at(slice(7, 31), slice(11, 90))
    line, pixel = np.mgrid[7:31, 11:90]
    assert np.allclose(window, 665 - 0.35 * pixel + 0.02 * line, rtol=1e-9)


@pytest.mark.parametrize("ipf", [safe.ZERO_NOISE, safe.OLD_NOISE, safe.NEW_NOISE, safe.NO_AZIMUTH])
def test_noise_of_every_processor_version(ipf):
    spec = safe.Spec(ipf=ipf)
    noise = read_noise(safe.noise("VV", spec).encode(), "n.xml")
    assert noise.empty == (ipf == safe.ZERO_NOISE)
    assert len(noise.blocks) == (4 if ipf == safe.NEW_NOISE else 0)
    pixels = safe.vector_pixels(spec)
    if ipf == safe.ZERO_NOISE:
        assert not noise.at(slice(0, 60), slice(0, 90)).any()
        return
    factor = 1.1 + 0.2 * np.cos(0 / 9) if noise.blocks else 1.0  # pixel 40: second swath, first line
    expected = np.interp(40, pixels, safe.noise_power(0, pixels))
    assert noise.at(slice(0, 1), slice(40, 41)).item() == pytest.approx(expected * factor)
    assert noise.at(slice(0, 60), slice(89, 90)).max() == 0  # the table's end


def test_noise_windows_agree_with_the_whole():
    noise = read_noise(safe.noise("VH", SPEC).encode(), "n.xml")
    whole = noise.at(slice(0, 60), slice(0, 90))
    for rows, columns in ((slice(0, 1), slice(0, 90)), (slice(25, 41), slice(28, 61)), (slice(59, 60), slice(89, 90))):
        assert np.array_equal(noise.at(rows, columns), whole[rows, columns])


def test_damaged_files_are_refused_by_name():
    good = safe.calibration("VV", SPEC)
    bad = {
        "<calib": "no Sentinel-1 calibration",
        "": "no Sentinel-1 calibration",
        good[: len(good) // 2]: "no Sentinel-1 calibration",
        '<!DOCTYPE x [<!ENTITY a "b">]>' + good: "entities",
        safe.noise("VV", SPEC): "not with <calibration>",
        safe.document("calibration", ""): "no vectors",
        good.replace("0 8 16", "0 16 16"): "increase",
        good.replace("0 8 16", "0 8"): "positions",
        good.replace("<pixel", "<pixels").replace("</pixel", "</pixels"): "no pixel",
        good.replace("4.740000000000000e+02", "nan"): "not finite",
        good.replace("4.740000000000000e+02", "0"): "above 0",
        good.replace("4.740000000000000e+02", "x"): "could not convert",
    }
    for content, reason in bad.items():
        with pytest.raises(SceneError, match=reason) as caught:
            read_calibration(content.encode(), "cal.xml")
        assert str(caught.value).startswith("cal.xml: ") and "\n" not in str(caught.value)


def test_annotation_of_something_else_is_refused():
    slc = safe.annotation("VV", safe.Spec(product_type="SLC"))
    with pytest.raises(SceneError, match="is SLC, not GRD"):
        read_annotation(slc.encode(), "a.xml")
    good = safe.annotation("VV", SPEC)
    for content, reason in (
        (good.replace("<latitude>", "<lat>").replace("</latitude>", "</lat>"), "has no latitude"),
        (good.replace("<line>59</line>", "<line>58</line>", 1), "form no grid"),
        (good.replace("<pixel>18</pixel>", "<pixel>17</pixel>", 1), "form no grid"),
        (good.replace("numberOfLines", "numberOfRows"), "has no imageAnnotation/imageInformation/numberOfLines"),
    ):
        with pytest.raises(SceneError, match=reason):
            read_annotation(content.encode(), "a.xml")


def test_all_of_it_travels(annotation):
    noise = read_noise(safe.noise("VV", SPEC).encode(), "n.xml")
    assert pickle.loads(pickle.dumps(annotation)).grid.line.shape == (4, 6)
    assert pickle.loads(pickle.dumps(noise)).blocks[0].rows == noise.blocks[0].rows
