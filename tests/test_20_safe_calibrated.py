"""Calibrated backscatter in radar geometry: ESA's formula at every pixel, any window alike, nodata kept, speckle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geouq.errors import InputError, SceneError
from geouq.sentinel1.grd import calibrate, read_product
from geouq.sentinel1.speckle import FILTERS, HALO, despeckle
from geouq.units import DB, FLOOR_DB, POWER, convert
from tests import safe_products as safe

WHOLE = (slice(0, 2), slice(0, 60), slice(0, 90))
TABLES = {"sigma0": "sigmaNought", "gamma0": "gamma", "beta0": "betaNought"}


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """One product for each form of noise file, all with the same DN."""
    return {
        ipf: read_product(str(safe.build(tmp_path_factory.mktemp("safe"), ipf=ipf, spacing=10.0)))
        for ipf in (safe.ZERO_NOISE, safe.OLD_NOISE, safe.NEW_NOISE, safe.NO_AZIMUTH)
    }


def esa_noise(ipf: str) -> np.ndarray:
    """Noise at every pixel from what the builder wrote, by loops and np.interp: another way than the library's."""
    spec, out = safe.Spec(), np.zeros((60, 90))
    if ipf == safe.ZERO_NOISE:
        return out
    lines, pixels = safe.vector_lines(spec)[:-1], safe.vector_pixels(spec)
    vectors = []
    for i, line in enumerate(lines):
        at = np.delete(pixels, 3) if i % 2 and ipf not in (safe.OLD_NOISE,) else pixels
        vectors.append(np.interp(np.arange(90), at, safe.noise_power(line, at)))
    for column in range(90):
        out[:, column] = np.interp(np.arange(60), lines, [vector[column] for vector in vectors])
    if ipf == safe.NEW_NOISE:
        for top, bottom, swath in ((0, 59, 0), (0, 29, 1), (30, 59, 1), (0, 59, 2)):
            at = np.arange(top, bottom + 1, 7)
            factor = np.interp(np.arange(top, bottom + 1), at, 1 + 0.1 * swath + 0.2 * np.cos(at / 9))
            out[top : bottom + 1, 30 * swath : 30 * swath + 30] *= factor[:, None]
    return out


@pytest.mark.parametrize("quantity", TABLES)
@pytest.mark.parametrize("ipf", [safe.ZERO_NOISE, safe.OLD_NOISE, safe.NEW_NOISE, safe.NO_AZIMUTH])
def test_esas_formula_at_every_pixel(products, ipf, quantity):
    calibrated = calibrate(products[ipf], quantity=quantity)
    power = calibrated.read(*WHOLE)
    dn = safe.numbers(safe.Spec()).astype(float)
    constant = np.stack([safe.constants(line, np.arange(90), TABLES[quantity]) for line in range(60)])
    expected = (dn**2 - esa_noise(ipf)) / constant**2
    measured = dn > 0
    assert power.dtype == np.float32 and np.array_equal(np.isfinite(power), measured)
    assert np.allclose(power[measured], expected[measured], rtol=1e-6, atol=1e-12)
    said = " ".join(calibrated.steps)
    assert f"calibrated to {quantity}" in said
    assert ("wrote none down" if ipf == safe.ZERO_NOISE else "noise removed") in said


def test_noise_is_left_in_when_asked_or_done(products, tmp_path):
    dn = safe.numbers(safe.Spec())[0].astype(float)
    expected = dn**2 / 474.0**2
    kept = calibrate(products[safe.NEW_NOISE], quantity="beta0", noise=False)
    done = calibrate(read_product(str(safe.build(tmp_path, noise_removed=True))), quantity="beta0")
    for calibrated, said in ((kept, "left in"), (done, "by the processor")):
        assert np.allclose(calibrated.read(*WHOLE)[0][dn > 0], expected[dn > 0], rtol=1e-6)
        assert said in " ".join(calibrated.steps)


def test_dark_water_stays_valid_and_nodata_stays_out(tmp_path):
    """Below the noise is measured, if not much; DN 0 is not, and never -40 dB."""
    dn = np.full((2, 60, 90), 300, np.uint16)
    dn[:, 10:20], dn[:, :, :5] = 3, 0
    dn[0, 40, 40] = 65535
    calibrated = calibrate(read_product(str(safe.build(tmp_path, dn=dn))))
    power = calibrated.read(*WHOLE)
    assert np.isnan(power[:, :, :5]).all() and np.isfinite(power[:, :, 5:]).all()
    assert (power[:, 10:20, 5:80] < 0).all()
    decibels = convert(power, POWER, DB)
    assert np.array_equal(np.isfinite(decibels), np.isfinite(power))
    assert np.allclose(decibels[:, 10:20, 5:80], FLOOR_DB, atol=1e-4) and np.nanmin(decibels) > FLOOR_DB - 1e-4


def test_power_of_exactly_the_noise_is_a_measurement(tmp_path):
    dn = np.full((2, 60, 90), 20, np.uint16)
    product = read_product(str(safe.build(tmp_path, dn=dn, ipf=safe.OLD_NOISE)))
    for value in product.channels[0].noise.table.value:
        value[:] = 20**2
    power = calibrate(product).read(*WHOLE)
    assert np.isfinite(power).all() and np.isfinite(convert(power, POWER, DB)).all()


def test_nodata_value_of_the_file(tmp_path):
    product = safe.build(tmp_path, dn=np.full((2, 60, 90), 65535, np.uint16))
    for image in (product / "measurement").iterdir():
        safe.write_measurement(image, np.full((60, 90), 65535, np.uint16), nodata=65535)
    assert np.isnan(calibrate(read_product(str(product))).read(*WHOLE)).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-9, 65), st.integers(1, 40), st.integers(-9, 95), st.integers(1, 40), st.sampled_from([None, *FILTERS])
)
def test_any_window_is_a_part_of_the_whole(products, top, height, left, width, speckle):
    """Bit by bit, also with a filter, also beyond the image."""
    calibrated = calibrate(products[safe.NEW_NOISE], speckle=speckle)
    around = calibrated.read(slice(0, 2), slice(-10, 110), slice(-10, 140))
    window = calibrated.read(slice(0, 2), slice(top, top + height), slice(left, left + width))
    part = around[:, top + 10 : top + 10 + height, left + 10 : left + 10 + width]
    assert np.array_equal(window, part, equal_nan=True)


def test_bands_are_picked(products):
    product = products[safe.NEW_NOISE]
    both = calibrate(product).read(*WHOLE)
    assert np.array_equal(calibrate(product).read(slice(1, 2), *WHOLE[1:])[0], both[1], equal_nan=True)
    turned = calibrate(product, ("VH", "VV")).read(*WHOLE)
    assert np.array_equal(turned, both[::-1], equal_nan=True)


def test_what_cannot_be_asked(products):
    product = products[safe.NEW_NOISE]
    with pytest.raises(InputError, match="none of sigma0, gamma0, beta0"):
        calibrate(product, quantity="sigma")
    with pytest.raises(InputError, match="none of boxcar, lee, refined-lee, gamma-map"):
        calibrate(product, speckle="median")
    with pytest.raises(SceneError, match="VV, VH and no HH"):
        calibrate(product, ("HH",))


def test_an_image_that_spoils_later_is_named(tmp_path):
    folder = safe.build(tmp_path)
    calibrated = calibrate(read_product(str(folder)))
    image = next(path for path in (folder / "measurement").iterdir() if "-vv-" in path.name)
    image.write_bytes(image.read_bytes()[:6000])
    with pytest.raises(SceneError, match=f"{image.name}: has changed"):
        calibrated.read(*WHOLE)


# --- speckle ------------------------------------------------------------------------------------------------


def speckled(level: np.ndarray, looks: float = 4.4, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).gamma(looks, 1 / looks, level.shape)).astype(np.float32)


@pytest.mark.parametrize("name", FILTERS)
def test_uniform_ground_gets_smooth_and_keeps_its_mean(name):
    power = speckled(np.full((120, 120), 0.05))
    filtered = despeckle(power, name, 4.4)
    assert filtered.shape == (120 - 2 * HALO,) * 2
    assert filtered.mean() == pytest.approx(0.05, rel=0.03)
    assert filtered.std() / filtered.mean() < 0.55 * power.std() / power.mean()


@pytest.mark.parametrize("name", ["lee", "refined-lee", "gamma-map"])
def test_edges_stay_sharper_than_in_a_boxcar(name):
    level = np.full((90, 90), 0.2)
    level[:, :45] = 0.004
    power = speckled(level)
    inner = level[3:-3, 3:-3]
    beside = slice(40, 43)  # dark, within a window of the edge

    def bleed(values: np.ndarray) -> float:
        return float(np.abs(values - inner)[:, 39:45].mean())

    filtered, smooth = despeckle(power, name, 4.4), despeckle(power, "boxcar", 4.4)
    assert bleed(filtered) < 0.8 * bleed(smooth)
    assert np.median(filtered[:, beside]) < np.median(smooth[:, beside])


def test_refined_lee_follows_edges_of_any_direction():
    y, x = np.mgrid[:80, :80] - 40
    for direction in np.arange(0, 360, 45):
        angle = np.radians(direction)
        level = np.where(x * np.cos(angle) + y * np.sin(angle) > 0, 0.5, 0.01)
        near = (np.abs(x * np.cos(angle) + y * np.sin(angle)) < 2.5)[3:-3, 3:-3] & (level[3:-3, 3:-3] < 0.1)
        refined, plain = (despeckle(speckled(level), name, 4.4) for name in ("refined-lee", "boxcar"))
        assert np.median(refined[near]) < 0.03 < np.median(plain[near]), direction


@pytest.mark.parametrize("name", FILTERS)
def test_nodata_weighs_nothing_and_stays(name):
    power = speckled(np.full((60, 60), 0.05))
    power[20:30, 20:30] = np.nan
    filtered = despeckle(power, name, 4.4)
    assert np.array_equal(np.isnan(filtered), np.isnan(power[3:-3, 3:-3]))
    assert np.nanmin(filtered) > 0.005
    alone = np.full((7, 7), np.nan, np.float32)
    alone[3, 3] = 0.1
    assert despeckle(alone, name, 4.4).item() == pytest.approx(0.1)


@pytest.mark.parametrize("name", FILTERS)
def test_negative_power_is_no_trouble(name):
    power = speckled(np.full((60, 60), 0.001)) - np.float32(0.0012)
    with np.errstate(all="raise"):
        filtered = despeckle(power, name, 4.4)
    assert np.isfinite(filtered).all() and abs(filtered.mean() - power.mean()) < 2e-4


def test_lee_by_hand():
    """One window of Lee 1980: mean 2, variance 1 / 48, looks high enough to leave some of it to the scene."""
    power = np.full((7, 7), 2.0, np.float32)
    power[3, 3] = 3
    mean = 2 + 1 / 49
    variance = (48 * 4 + 9) / 49 - mean**2
    speckle = mean**2 / 400
    scene = (variance - speckle) / (1 + 1 / 400)
    expected = mean + scene / (scene + speckle) * (3 - mean)
    assert despeckle(power, "lee", 400).item() == pytest.approx(expected, rel=1e-6)
