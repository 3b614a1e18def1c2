"""``geouq preprocess`` as a user meets it, and the file it writes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from geouq import open_scene
from geouq.cli.preprocess import command
from geouq.errors import GeouqError, OutputError, UnitsError
from geouq.maps import backscatter
from geouq.maps.backscatter import write_backscatter
from tests import safe_products as safe
from tests.helpers import as_scene, geouq, scene_values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("preprocess")
    safe.build(path, lines=560, pixels=640, spacing=10.0).rename(path / "p.SAFE")
    with rasterio.open(
        path / "dem.tif", "w", driver="GTiff", height=400, width=400, count=1, dtype="float32", crs="EPSG:4979",
        transform=rasterio.Affine(0.0005, 0, 12.5, 0, -0.0005, 40.5),
    ) as file:  # fmt: skip
        file.write(np.full((1, 400, 400), 50, np.float32))
    return path


def preprocess(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=True)


def test_the_file_is_what_open_scene_gives(folder):
    done = geouq("preprocess", "p.SAFE", "-o", "s.tif", "--json", cwd=folder)
    summary = json.loads(done.stdout)
    scene = open_scene(folder / "p.SAFE")
    with rasterio.open(folder / "s.tif") as file:
        np.testing.assert_array_equal(file.read(), scene.values)
        assert file.descriptions == ("VV", "VH") and file.units == ("dB", "dB") and np.isnan(file.nodata)
        tags = file.tags()
    assert cog_validate(folder / "s.tif", quiet=True)[0]
    assert "thermal noise removed" in tags["GEOUQ_SCENE"] and tags["GEOUQ_SOURCE"] == "p.SAFE"
    assert "calibrated to sigma0" in summary["steps"] and summary["bands"] == ["VV", "VH"]
    assert summary["valid_percent"] == pytest.approx(100 * np.isfinite(scene.values).all(0).mean(), abs=0.001)
    assert "geouq: thermal noise removed" in done.stderr
    again = open_scene(folder / "s.tif")
    assert again.attrs["units"] == "dB" and list(again.band.values) == ["VV", "VH"]
    assert {path.name for path in folder.iterdir()} == {"p.SAFE", "dem.tif", "s.tif"}


@pytest.mark.parametrize("option", ["--dem", "--hand"])
def test_a_raster_of_heights_is_never_replaced(folder, tmp_path, option):
    heights = shutil.copy(folder / "dem.tif", tmp_path / "heights.tif")
    before = Path(heights).read_bytes()
    done = preprocess(folder / "p.SAFE", "-o", heights, option, heights, "--overwrite", "-q")
    assert done.exception.exit_code == 2 and "is the scene itself" in str(done.exception)
    assert Path(heights).read_bytes() == before


def test_a_products_own_image_is_never_replaced(folder, tmp_path):
    product = shutil.copytree(folder / "p.SAFE", tmp_path / "p.SAFE")
    image = next((product / "measurement").iterdir())
    before = image.read_bytes()
    done = preprocess(product, "-o", image, "--overwrite", "-q")
    assert done.exception.exit_code == 2 and "is the scene itself" in str(done.exception)
    assert image.read_bytes() == before


def test_options_reach_the_pixels_and_the_tags(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--calibration", "gamma0", "--crs", "EPSG:4326", "--resolution", 0.0002, "--bidx", 2, "-q"]
    assert preprocess(folder / "p.SAFE", "-o", "g.tif", *options, "--no-noise").output == ""
    with rasterio.open(tmp_path / "g.tif") as file:
        assert file.crs == "EPSG:4326" and file.res == (0.0002, 0.0002) and file.descriptions == ("VH",)
        assert "calibrated to gamma0" in file.tags()["GEOUQ_SCENE"]
    assert "wrote t.tif" in preprocess(folder / "p.SAFE", "-o", "t.tif", "--dem", folder / "dem.tif", "--rtc").output
    with rasterio.open(tmp_path / "t.tif") as file:
        assert "beta0 flattened to gamma0" in file.tags()["GEOUQ_SCENE"]
        assert np.isfinite(file.read(1)).mean() > 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s1.tif", "-o", "x.tif"], "is no Sentinel-1 product"),
        (["p.SAFE", "-o", "x.png"], "is not called .tif"),
        (["p.SAFE", "-o", "nowhere/x.tif"], "its folder nowhere does not exist"),
        (["p.SAFE", "-o", "dem.tif"], "dem.tif exists: choose another name"),
        (["p.SAFE", "-o", "x.tif", "--rtc"], "give --dem"),
        (["p.SAFE", "-o", "x.tif", "--crs", "nonsense"], "is not a CRS that PROJ knows"),
        (["p.SAFE", "-o", "x.tif", "--dem", "absent.tif"], "absent.tif: no such file"),
        (["p.SAFE", "-o", "x.tif", "--co", "COMPRESS=JPEG"], "COMPRESS=JPEG is not one of"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(folder, monkeypatch, arguments, said):
    monkeypatch.chdir(folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = preprocess(*arguments, "-q")
    assert isinstance(done.exception, GeouqError) and done.exception.exit_code == 2 and done.output == ""
    assert said in str(done.exception) and "\n" not in str(done.exception)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_scene_that_breaks_off_leaves_nothing(tmp_path):
    scene = as_scene(scene_values(64, 64), chunks=dict(y=32, x=32))

    def fail(block, block_info=None):
        if block_info[0]["chunk-location"][1] == 1:
            raise OutputError("broken")
        return block

    nothing = np.empty((0, 0, 0), np.float32)
    broken = scene.copy(data=scene.data.map_blocks(fail, dtype=np.float32, meta=nothing))
    with pytest.raises(OutputError, match="broken"):
        write_backscatter(broken, tmp_path / "a.tif")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UnitsError):
        write_backscatter(scene.assign_attrs(units="rgb"), tmp_path / "a.tif")


def test_overviews_are_means_of_power(tmp_path):
    values = np.full((1, 1024, 1024), -20, np.float32)
    values[0, ::2, ::2] = -10
    values[0, :2, :2] = np.nan
    write_backscatter(as_scene(values, chunks=dict(y=512, x=512)), tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as file:
        half = file.read(1)
    assert np.isnan(half[0, 0])
    np.testing.assert_allclose(half[1:, 1:], 10 * np.log10((0.1 + 3 * 0.01) / 4), atol=1e-4)


def test_only_a_few_chunks_are_in_memory(tmp_path, monkeypatch):
    """However large the scene is: chunks are dropped once they are written."""
    monkeypatch.setattr(backscatter, "IN_FLIGHT", 2)
    alive, most = set(), []

    def count(block, block_info=None):
        alive.add(block_info[0]["chunk-location"])
        most.append(len(alive))
        return block

    scene = as_scene(scene_values(256, 256), chunks=dict(y=32, x=32))
    scene = scene.copy(data=scene.data.map_blocks(count, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)))
    seen = []

    def written(pixels):
        seen.append(pixels)
        if len(seen) % 2 == 0:
            alive.clear()

    write_backscatter(scene, tmp_path / "a.tif", on_pixels=written)
    assert sum(seen) == 256 * 256 and max(most) <= 2
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(window=Window(0, 0, 50, 50)), scene.values[:, :50, :50])
