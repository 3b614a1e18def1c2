"""``geouq segment S1A_….zip``: a product in, a map out; a bad one gives one line, exit code 2, and leaves nothing."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from geouq.cli.main import geouq
from geouq.errors import InputError
from geouq.sources import files_behind
from tests import safe_products as safe
from tests.helpers import small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    safe.zip_product(safe.build(path, lines=120, pixels=150, spacing=10.0))
    small_model().save(path / "m.safetensors")
    return path


def invoke(*args, **kwargs):
    return CliRunner().invoke(geouq, [str(arg) for arg in args], **kwargs)


def test_a_zip_in_a_map_out(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    product = next(folder.glob("*.zip"))
    result = invoke("segment", product, "--model", folder / "m.safetensors", "--samples", 2, "--speckle", "lee")
    assert result.exit_code == 0, result.output
    for step in ("thermal noise removed", "calibrated to sigma0", "speckle filtered (lee", "placed through all"):
        assert f"geouq: {step}" in result.stderr
    with rasterio.open(tmp_path / f"{product.stem}_water.tif") as made:
        assert "calibrated to sigma0" in made.tags()["GEOUQ_SCENE"] and made.crs.to_epsg() == 32633
        mask = made.read(1)
    assert 0.2 < (mask != 255).mean() < 0.9  # the image lies askew on the map; around it nothing is classified


def test_tiles_do_not_show_in_a_product(folder, tmp_path):
    product, maps = next(folder.glob("*.zip")), []
    for tile in (64, 512):
        out = tmp_path / f"{tile}.tif"
        done = invoke(
            "segment", product, "-o", out, "--model", folder / "m.safetensors", "--samples", 2, "--tile", tile,
            "--layers", "mask,probability", "--float32", "--quiet",
        )  # fmt: skip
        assert done.exit_code == 0 and not done.stderr, done.output
        with rasterio.open(out) as made:
            maps.append(made.read())
    assert np.array_equal(np.isnan(maps[0]), np.isnan(maps[1]))
    assert np.nanmax(np.abs(maps[0][1] - maps[1][1])) <= 1e-5


@pytest.mark.parametrize("given", ["", "manifest.safe"])
def test_a_products_own_files_are_never_replaced(folder, tmp_path, given):
    product = shutil.copytree(next(folder.glob("*.SAFE")), tmp_path / "p.SAFE")
    image = next((product / "measurement").iterdir())
    before = image.read_bytes()
    shutil.copy(image, image.with_suffix(".tif"))
    image.unlink()
    result = invoke(
        "segment", product / given, "--model", folder / "m.safetensors", "--samples", 1, "--overwrite",
        "-o", image.with_suffix(".tif"),
    )  # fmt: skip
    assert result.exception.exit_code == 2 and "is the scene itself" in str(result.exception)
    assert image.with_suffix(".tif").read_bytes() == before


def test_a_manifest_named_where_it_lies_stands_for_its_product(folder, tmp_path, monkeypatch):
    product = shutil.copytree(next(folder.glob("*.SAFE")), tmp_path / "p.SAFE")
    monkeypatch.chdir(product)
    behind = files_behind("manifest.safe")
    assert len(behind) == len(files_behind(str(product))) > 5 and all(os.path.isfile(file) for file in behind)


def test_info_says_what_it_is(folder):
    product = next(folder.glob("*.SAFE"))
    said = json.loads(invoke("info", product, "--json", "--calibration", "gamma0").stdout)
    assert said["product"] == safe.Spec().name and "calibrated to gamma0" in said["segment_would"]
    assert "descending" in invoke("info", product).stdout


@pytest.mark.parametrize(
    "spoil",
    [
        lambda product: (product / "manifest.safe").unlink(),
        lambda product: shutil.rmtree(product / "annotation"),
        lambda product: shutil.rmtree(product / "measurement"),
        lambda product: next((product / "measurement").iterdir()).write_bytes(b""),
        lambda product: next((product / "annotation").glob("*.xml")).write_text("<product/>"),
        lambda product: next((product / "annotation/calibration").glob("noise*")).write_text("x"),
    ],
    ids=["manifest", "annotation", "images", "empty image", "hollow annotation", "noise"],
)
def test_bad_products_give_one_line_and_leave_nothing(folder, tmp_path, monkeypatch, spoil):
    source = next(folder.glob("*.SAFE"))
    product = shutil.copytree(source, tmp_path / "in" / source.name)
    spoil(product)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    for given in (product, safe.zip_product(product)):
        result = invoke("segment", given, "--model", folder / "m.safetensors")
        assert isinstance(result.exception, InputError) and result.exception.exit_code == 2
        message = str(result.exception)
        assert product.stem in message and "\n" not in message
    assert not list((tmp_path / "out").iterdir())


def test_an_image_that_breaks_off_is_one_line(folder, tmp_path):
    """As a process: what a user sees. The file is cut after its product was looked at once."""
    source = next(folder.glob("*.SAFE"))
    product = shutil.copytree(source, tmp_path / source.name)
    image = next((product / "measurement").iterdir())
    image.write_bytes(image.read_bytes()[:9000])
    done = subprocess.run(
        [sys.executable, "-m", "geouq.cli.main", "info", str(product)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("geouq: ") and "is cut off at line" in done.stderr


def test_options_of_products_are_refused_elsewhere(folder, tmp_path):
    safe.write_measurement(tmp_path / "a.tif", np.full((40, 40), 0.1, np.float32))
    result = invoke("info", tmp_path / "a.tif", "--scale", "power", "--no-noise")
    assert isinstance(result.exception, InputError) and "no Sentinel-1 product" in str(result.exception)
