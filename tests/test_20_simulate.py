import tracemalloc

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from geouq.errors import InputError, OutputError
from geouq.grid import Roi
from geouq.simulation.simulate import Landscape, random_landscape, simulate_scene, simulate_window

SHAPE = (600, 700)
PLAIN = Landscape(
    texture=0, relief=0, forest=0, urban=0, look_alikes=0, lakes=0, ponds=0, flood=0, river_width=0, stream_width=0,
    swath_edge=0, noise_floor=-60, incidence=(38, 38),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    return simulate_window(SHAPE, Roi(0, 600, 0, 700), seed=3)


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_a_window_has_the_bytes_of_the_whole_scene(whole, data):
    y0, x0 = data.draw(st.integers(0, 598)), data.draw(st.integers(0, 698))
    y1, x1 = data.draw(st.integers(y0 + 1, 600)), data.draw(st.integers(x0 + 1, 700))
    window = Roi(y0, y1, x0, x1)
    pixels, truth = simulate_window(SHAPE, window, seed=3)
    assert pixels.tobytes() == whole[0][:, y0:y1, x0:x1].tobytes()
    assert truth.tobytes() == whole[1][y0:y1, x0:x1].tobytes()


def test_other_seeds_are_other_scenes(whole):
    other, truth = simulate_window(SHAPE, Roi(0, 600, 0, 700), seed=4)
    assert (other != whole[0]).mean() > 0.9
    assert 0.001 < (truth != whole[1]).mean()


def test_the_landscape_does_not_depend_on_the_size_of_the_scene():
    landscape = Landscape(swath_edge=0)
    _, small = simulate_window((128, 128), Roi(0, 128, 0, 128), 1, landscape)
    _, large = simulate_window((9000, 5000), Roi(0, 128, 0, 128), 1, landscape)
    assert np.array_equal(small, large)


def test_levels_lie_where_real_chips_have_them():
    pixels, truth = simulate_window((1024, 1024), Roi(0, 1024, 0, 1024), 0)
    land, water = (np.median(pixels[:, truth == c], axis=1) for c in (0, 1))
    assert -12 < land[0] < -8 and -18.5 < land[1] < -14
    assert -23 < water[0] < -13 and -30 < water[1] < -22
    assert 0.02 < (truth == 1).mean() < 0.6


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dark_tells_water_about_as_well_as_on_real_chips(seed):
    pixels, truth = simulate_window((1024, 1024), Roi(0, 1024, 0, 1024), seed)
    for band, low in ((0, 0.7), (1, 0.85)):  # labelled chips: 0.57 (wind) … 0.97 in VV, 0.87 … 0.99 in VH
        ranks = rankdata(pixels[band][truth != 255])
        water = truth[truth != 255] == 1
        n = water.sum()
        auc = 1 - (ranks[water].sum() - n * (n + 1) / 2) / (n * (~water).sum())
        assert low < auc < 0.995


@pytest.mark.parametrize("looks", [1.0, 4.4, 12.0])
def test_speckle_has_the_looks_and_correlation_asked_for(looks):
    landscape = Landscape(**{**vars(PLAIN), "looks": looks})
    pixels, _ = simulate_window((512, 512), Roi(0, 512, 0, 512), 2, landscape)
    power = 10 ** (pixels.astype(np.float64) / 10)
    mean = power.mean(axis=(1, 2))
    assert np.allclose(10 * np.log10(mean), PLAIN.land, atol=0.2)
    assert np.allclose(mean**2 / np.var(power, axis=(1, 2)), looks, rtol=0.12)
    f = power[0] / mean[0] - 1
    for lag, expected in ((1, landscape.speckle_correlation), (2, 0.2), (3, 0.0)):
        for a, b in ((f[lag:], f[:-lag]), (f[:, lag:], f[:, :-lag])):
            assert np.mean(a * b) / np.var(f) == pytest.approx(expected, abs=0.06)
    assert np.corrcoef(power[0].ravel(), power[1].ravel())[0, 1] == pytest.approx(
        landscape.channel_correlation, abs=0.05
    )


def test_wind_roughens_water_in_vv_far_more_than_in_vh():
    lake = {**vars(PLAIN), "lakes": 1.0}
    calm, truth = simulate_window((256, 256), Roi(0, 256, 0, 256), 0, Landscape(**lake | {"wind": 1.0}))
    rough, _ = simulate_window((256, 256), Roi(0, 256, 0, 256), 0, Landscape(**lake | {"wind": 9.0}))
    assert (truth == 1).mean() > 0.99
    rise = np.median(rough, axis=(1, 2)) - np.median(calm, axis=(1, 2))
    assert 6 < rise[0] < 16 and 1 < rise[1] < 6 and rise[0] > 2 * rise[1]


def test_water_darkens_towards_far_range_more_than_land():
    drops = []
    for lakes in (0.0, 1.0):
        landscape = Landscape(**vars(PLAIN) | {"lakes": lakes, "wind": 0.1, "incidence": (31, 45)})
        pixels, _ = simulate_window((256, 2048), Roi(0, 256, 0, 2048), 0, landscape)
        drops.append(np.median(pixels[0, :, :100]) - np.median(pixels[0, :, -100:]))
    assert 1 < drops[0] < 2.2 and 2.5 < drops[1] < 4.5


def test_beyond_the_swath_edge_there_is_no_data(whole):
    pixels, truth = whole
    assert np.array_equal(np.isnan(pixels).all(axis=0), truth == 255)
    assert np.array_equal(np.isnan(pixels).any(axis=0), truth == 255)
    assert 0.02 < (truth == 255).mean() < 0.08
    widths = (truth == 255).sum(axis=1)
    assert abs(int(widths[0]) - int(widths[-1])) > 5  # slanted
    assert set(np.unique(truth)) == {0, 1, 255}


@pytest.mark.parametrize("seed", range(6))
def test_random_landscapes_make_valid_chips(seed):
    landscape = random_landscape(seed)
    assert landscape == random_landscape(seed) and landscape != random_landscape(seed + 1)
    pixels, truth = simulate_window((256, 256), Roi(0, 256, 0, 256), seed, landscape)
    assert np.isfinite(pixels[:, truth != 255]).all()
    assert -65 < np.nanmin(pixels) and np.nanmax(pixels) < 40


def test_scene_file(tmp_path, whole):
    seen = []
    simulate_scene(
        tmp_path / "s.tif", size=SHAPE, seed=3, truth=tmp_path / "t.tif", on_progress=lambda *a: seen.append(a)
    )
    with rasterio.open(tmp_path / "s.tif") as file:
        assert file.read().tobytes() == whole[0].tobytes()
        assert file.descriptions == ("VV", "VH") and file.units == ("dB", "dB") and np.isnan(file.nodata)
        assert file.crs.to_epsg() == 32633 and file.res == (10, 10) and file.block_shapes[0] == (512, 512)
    with rasterio.open(tmp_path / "t.tif") as file:
        assert np.array_equal(file.read(1), whole[1]) and file.nodata == 255
    assert seen == [(1, 1)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.tif", "t.tif"]


def test_the_same_settings_give_the_same_file(tmp_path):
    for name in "ab":
        simulate_scene(tmp_path / f"{name}.tif", size=(300, 1100), seed=1)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "s.tif"
    path.write_text("mine")
    with pytest.raises(OutputError, match=r"s\.png: scenes are written as \.tif"):
        simulate_scene(tmp_path / "s.png", size=8)
    with pytest.raises(OutputError, match=r"s\.tif exists"):
        simulate_scene(path, size=32)
    assert path.read_text() == "mine"
    with pytest.raises(OutputError, match=r"s\.tif exists"):
        simulate_scene(tmp_path / "new.tif", size=32, truth=path)
    simulate_scene(path, size=32, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["s.tif"]
    assert rasterio.open(path).shape == (32, 32)


def test_what_cannot_be_made_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="0 x 5"):
        simulate_scene(tmp_path / "s.tif", size=(0, 5))
    with pytest.raises(InputError, match="looks of a simulated scene is 0"):
        Landscape(looks=0)
    with pytest.raises(OutputError, match="missing"):
        simulate_scene(tmp_path / "missing" / "s.tif", size=8)
    with pytest.raises(OutputError, match="same file"):
        simulate_scene(tmp_path / "s.tif", size=8, truth=tmp_path / "s.tif")

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_scene(tmp_path / "s.tif", size=8, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(1, 1), (15, 17), (1, 300)])
def test_any_size(tmp_path, size):
    simulate_scene(tmp_path / "s.tif", size=size, truth=tmp_path / "t.tif")
    assert rasterio.open(tmp_path / "t.tif").shape == size


def test_memory_does_not_grow_with_the_scene(tmp_path):
    peaks = []
    for columns in (2048, 6144):
        tracemalloc.start()
        simulate_scene(tmp_path / f"{columns}.tif", size=(512, columns))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0] and peaks[1] < 150e6


def test_a_scene_that_its_disk_cannot_hold_is_refused_at_once(tmp_path):
    with pytest.raises(OutputError, match="takes some 3e\\+05 GB, and its disk has"):
        simulate_scene(tmp_path / "s.tif", size=10_000_000)
    assert not list(tmp_path.iterdir())
