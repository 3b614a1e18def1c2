"""Sentinel-1 products are found and understood, in folders and zips; what is no whole GRD product is refused."""

import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from geouq.errors import SceneError
from geouq.rasters import raster
from geouq.sentinel1.grd import calibrate, read_product
from geouq.sentinel1.safe import find_files, is_product
from tests import safe_products as safe

WHOLE = (slice(0, 2), slice(0, 60), slice(0, 90))


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    return safe.build(tmp_path_factory.mktemp("safe"))


@pytest.fixture
def copy(product, tmp_path):
    """A copy of the product to spoil."""
    return shutil.copytree(product, tmp_path / product.name)


def files(folder, kind, polarisation):
    where = {"annotation": "annotation", "measurement": "measurement"}.get(kind, "annotation/calibration")
    prefix = f"{kind}-" if where.endswith("calibration") else ""
    return next(path for path in (folder / where).glob(f"{prefix}*") if f"-{polarisation.lower()}" in path.name)


def refusal(path) -> str:
    """The one line that a path is refused with, which names it."""
    with pytest.raises(SceneError) as caught:
        read_product(str(path))
    message = str(caught.value)
    assert "\n" not in message and str(path).rstrip("/").removeprefix("/vsizip/") in message, message
    assert caught.value.exit_code == 2
    return message


# --- found --------------------------------------------------------------------------------------------------


def test_every_way_to_name_a_product(product, tmp_path):
    folder = read_product(str(product))
    assert folder.polarisations == ("VV", "VH") and not folder.notes
    assert folder.manifest.name == safe.Spec().name and folder.manifest.ipf == "003.31"
    assert folder.manifest.polarisations == ("VV", "VH") and len(folder.manifest.footprint) == 4
    zipped = safe.zip_product(product, tmp_path / "any name.zip", junk=True)
    odd = safe.zip_product(product, tmp_path / "any.SAFE.packed")
    bare = shutil.copytree(product, tmp_path / "unpacked")
    expected = calibrate(folder).read(*WHOLE)
    for path in (
        f"{product}/",
        product / "manifest.safe",
        bare,
        zipped,
        f"/vsizip/{zipped}",
        f"/vsizip/{zipped}/{product.name}",
        f"/vsizip/{zipped}/{product.name}/manifest.safe",
        f"/vsizip/{{{odd}}}/{product.name}",
    ):
        assert is_product(str(path)), path
        found = read_product(str(path))
        assert found.annotation.lines == 60
        assert np.array_equal(calibrate(found).read(*WHOLE), expected, equal_nan=True), path


def test_relative_paths(product, monkeypatch, tmp_path):
    safe.zip_product(product, tmp_path / "p.zip")
    shutil.copytree(product, tmp_path / "p.SAFE")
    monkeypatch.chdir(tmp_path)
    for path in ("p.zip", "./p.zip", "p.SAFE", "p.SAFE/manifest.safe"):
        assert calibrate(read_product(path)).read(*WHOLE).shape == (2, 60, 90)
    monkeypatch.chdir(tmp_path / "p.SAFE")
    assert read_product("manifest.safe").polarisations == read_product(".").polarisations == ("VV", "VH")


@pytest.mark.parametrize(
    "changes",
    [
        dict(name="S1A_EW_GRDM_1SDH_20221130T014342_20221130T014446_046117_058549_BB15", polarisations=("HH", "HV")),
        dict(name="S1C_S4_GRDH_1SSV_20250118T171404_20250118T171421_000638_000538_4B8B", polarisations=("VV",)),
        dict(layout="aws"),
    ],
    ids=["EW HH HV", "stripmap, one", "names of a bucket"],
)
def test_modes_polarisations_and_layouts(tmp_path, changes):
    product = read_product(str(safe.build(tmp_path, **changes)))
    assert product.polarisations == changes.get("polarisations", ("VV", "VH"))
    assert calibrate(product).shape == (len(product.polarisations), 60, 90)


def test_a_zip_of_a_folders_content(product, tmp_path):
    """Without the .SAFE folder in it, and with entries for folders."""
    path = tmp_path / "content.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(product.rglob("*")):
            archive.write(file, str(file.relative_to(product)))
    assert read_product(str(path)).polarisations == ("VV", "VH")


def test_absent_polarisation_is_said(copy):
    for kind in ("annotation", "calibration", "noise", "measurement"):
        files(copy, kind, "VH").unlink()
    product = read_product(str(copy))
    assert product.polarisations == ("VV",) and "VH is in the manifest" in product.notes[0]
    with pytest.raises(SceneError, match="has VV and no VH"):
        calibrate(product, ("VV", "VH"))


def test_false_coordinate_system_is_not_used(copy):
    """The processor once wrote EPSG:4326 with no transform; it must not make the image a map."""
    safe.write_measurement(files(copy, "measurement", "VV"), safe.numbers(safe.Spec())[0], crs="EPSG:4326")
    product = read_product(str(copy))
    assert any("false" in note for note in product.notes)
    assert np.isfinite(calibrate(product).read(*WHOLE)).any()


def test_a_product_travels(product):
    """To another process, as a dask task does."""
    calibrated = calibrate(read_product(str(product)))
    there = pickle.loads(pickle.dumps(calibrated))
    assert np.array_equal(there.read(*WHOLE), calibrated.read(*WHOLE), equal_nan=True)
    assert there.token == calibrated.token


# --- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["annotation", "calibration", "noise"])
def test_missing_files_are_named(copy, kind):
    files(copy, kind, "VH").unlink()
    assert f"has no {kind} file for VH" in refusal(copy)


def test_no_image_at_all(copy):
    shutil.rmtree(copy / "measurement")
    assert "no image" in refusal(copy)


@pytest.mark.parametrize("size", [0, 300, 0.9])
def test_empty_and_truncated_images(copy, size):
    image = files(copy, "measurement", "VV")
    content = image.read_bytes()
    image.write_bytes(content[: int(size * len(content)) if isinstance(size, float) else size])
    message = refusal(copy)
    assert image.name in message and ("0 bytes" in message or "cut off" in message or "cannot be opened" in message)
    zipped = safe.zip_product(copy)
    assert image.name in refusal(zipped)


def test_image_of_another_product(copy):
    safe.write_measurement(files(copy, "measurement", "VV"), np.ones((60, 91), np.uint16))
    assert "has 91 x 60 pixels, its annotation 90 x 60" in refusal(copy)
    safe.write_measurement(files(copy, "measurement", "VV"), np.ones((60, 90), np.complex64))
    assert "complex64" in refusal(copy)


def test_blocks_too_large_to_read(product, monkeypatch):
    """The image alone and the product it is in are refused alike; a file with such blocks would be too large here."""
    monkeypatch.setattr(raster, "LARGEST_BLOCK", 1)
    image = files(product, "measurement", "VV")
    said = f"^{re.escape(str(image))}: is stored in blocks of 90 x .* pixels, too large to read: rewrite it tiled"
    with pytest.raises(SceneError, match=said):
        raster.inspect_raster(image)
    with pytest.raises(SceneError, match=said):
        read_product(str(product))


def test_wrong_polarisation(copy):
    shutil.copy(files(copy, "annotation", "VV"), files(copy, "annotation", "VH"))
    assert "is named VH, but says VV" in refusal(copy)


def test_two_images_of_one_polarisation(copy):
    image = files(copy, "measurement", "VV")
    shutil.copy(image, image.with_name(image.name.replace("-001", "-003")))
    assert "two measurement files for VV" in refusal(copy)


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(product_type="SLC"), "SLC"),
        (dict(product_type="OCN"), "OCN"),
        (dict(product_type="XYZ"), "type XYZ"),
        (dict(product_class="A"), "class A"),
    ],
)
def test_other_sentinel1_products(tmp_path, change, reason):
    product = safe.build(tmp_path, **change)
    assert reason in refusal(product)
    assert reason in refusal(safe.zip_product(product))


def test_other_manifests(copy):
    manifest = copy / "manifest.safe"
    good = manifest.read_text()
    for content, reason in (
        (good.replace("SENTINEL-1", "SENTINEL").replace("<safe:number>A", "<safe:number>2A"), "Sentinel-2A"),
        (good.replace("SENTINEL-1", "RCM"), "another mission"),
        ("<xfdu/>", "not with <XFDU>"),
        ("\n\n", "no manifest"),
        ("", "0 bytes"),
        (good[:500], "no manifest"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + good, "entities"),
        (good.replace("GRD</s1sarl1:productType>", "</s1sarl1:productType>"), "no type"),
    ):
        manifest.write_text(content)
        assert is_product(str(copy))
        assert reason in refusal(copy), reason
    manifest.unlink()
    assert "has no manifest.safe" in refusal(copy)


def test_what_is_not_there(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.SAFE")
    with pytest.raises(SceneError, match="absent.zip: no such file"):
        read_product(f"/vsizip/{tmp_path}/absent.zip/x.SAFE")
    (tmp_path / "file.SAFE").write_text("x")
    assert "no folder" in refusal(tmp_path / "file.SAFE")
    assert "download it first" in refusal("/vsicurl/https://example.org/x.SAFE")
    assert "GDAL's name" in refusal("SENTINEL1_DS:/x.SAFE/manifest.safe:IW_VV")


def test_half_a_zip(product, tmp_path):
    whole = safe.zip_product(product, tmp_path / "whole.zip").read_bytes()
    for size, reason in ((0, "0 bytes"), (len(whole) // 2, "no whole zip"), (len(whole) - 30, "no whole zip")):
        half = tmp_path / f"half{size}.zip"
        half.write_bytes(whole[:size])
        assert reason in refusal(half)


def test_zip_with_a_damaged_file(product, tmp_path):
    path = safe.zip_product(product, tmp_path / "damaged.zip")
    with zipfile.ZipFile(path) as archive:
        entry = next(one for one in archive.infolist() if "/calibration-" in one.filename)
    content = bytearray(path.read_bytes())
    content[entry.header_offset + 300 : entry.header_offset + 340] = bytes(40)
    path.write_bytes(content)
    assert "cannot be" in refusal(path)


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil", "..\\evil.txt"])
def test_zip_that_leads_out_of_itself(product, tmp_path, name):
    path = safe.zip_product(product, tmp_path / "evil.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    assert "outside of itself" in refusal(path)
    assert sorted(os.listdir(tmp_path)) == ["evil.zip"]


def test_zip_bomb(product, tmp_path):
    """A manifest of zeros that unpacks to a thousand times its size is not unpacked."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"{product.name}/manifest.safe", "w", force_zip64=True) as entry:
            for _ in range(80):
                entry.write(bytes(1 << 20))
    assert "has 80 MB" in refusal(path)


def test_zip_bomb_that_understates_itself(product, tmp_path):
    """What an archive says of a file's size is not believed: reading stops at a limit."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"{product.name}/manifest.safe", "w", force_zip64=True) as entry:
            for _ in range(600):
                entry.write(bytes(1 << 20))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 600 << 20), struct.pack("<I", 1000)))
    program = (
        "import resource, sys; from geouq.errors import SceneError; from geouq.sentinel1.grd import read_product\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_product(sys.argv[1])\nexcept SceneError: pass\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert int(done.stdout) < 200, f"{done.stdout} MB {done.stderr}"


def test_two_products_in_a_zip(product, tmp_path):
    path = safe.zip_product(product, tmp_path / "two.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(product / "manifest.safe", "other.SAFE/manifest.safe")
    assert "holds 2 products" in refusal(path)
    assert find_files(f"/vsizip/{path}/{product.name}").prefix == f"{product.name}/"
    assert read_product(f"/vsizip/{path}/{product.name}").polarisations == ("VV", "VH")


def test_encrypted_zip_is_one_line(product, tmp_path):
    path = safe.zip_product(product, tmp_path / "locked.zip")
    content = bytearray(path.read_bytes())
    at = -1
    while (at := content.find(b"PK\1\2", at + 1)) >= 0:  # the flag in the central directory: encrypted
        content[at + 8] |= 1
    path.write_bytes(content)
    assert "cannot be read" in refusal(path)


def test_other_zips_and_folders_are_no_products(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.tif", "x")
    for path in (tmp_path, tmp_path / "other.zip", f"/vsizip/{tmp_path}/other.zip/a.tif", tmp_path / "a.tif"):
        assert not is_product(str(path))
