"""What lies beside a scene's files: sisters and masks are named, several scenes are not one, numbers choose bands."""

import zipfile

import numpy as np
import pytest
import rasterio

import geouq
from geouq.errors import InputError, SceneError
from geouq.scenes.info import scene_info
from geouq.scenes.open import open_scene
from geouq.sentinel1.preprocessing import Preprocessing
from tests import safe_products as safe
from tests.helpers import scene_values, small_model, write_raster

VALUES = scene_values(40, 50, holes=False)


def labelled(path, values, labels, **profile):
    write_raster(path, values, crs="EPSG:32633", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **profile)
    with rasterio.open(path, "r+") as file:
        file.descriptions = labels
    return path


def folder_or_zip(folder, zipped):
    """Return a folder, or it in a zip beside it."""
    if not zipped:
        return folder
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"{folder.name}/{file.name}")
    return folder.with_suffix(".zip")


def test_the_other_polarisation_beside_a_file_is_named(tmp_path):
    vv, vh = (write_raster(tmp_path / f"jja10_{name}.tif", VALUES[:1]) for name in ("vv", "vh"))
    assert str(vh) in open_scene(vv).attrs["notes"]
    assert str(vv) in open_scene(vh).attrs["notes"]
    assert "beside" not in open_scene([vv, vh]).attrs.get("notes", "")
    assert scene_info(vv)["other_polarisation"] == str(vh)
    odd = [write_raster(tmp_path / f"June; 10_{name}.tif", VALUES[:1]) for name in ("vv", "vh")]
    (note,) = open_scene(odd[0]).attrs["notes"].split("; ")  # a note is one line, whatever a file is called
    assert "lies beside it" in note


@pytest.mark.parametrize("zipped", [False, True])
def test_masks_of_layover_beside_the_bands_are_named(tmp_path, zipped):
    name = "S1A_IW_20191203T224518_DVP_RTC10_G_gpuned_54B9"
    power = 10 ** (VALUES / 10)
    for band, values in zip(("VV", "VH", "ls_map"), (power[:1], power[1:], np.ones((1, 40, 50), "u1")), strict=True):
        write_raster(tmp_path / name / f"{name}_{band}.tif", values)
    source = folder_or_zip(tmp_path / name, zipped)
    assert f"{name}_ls_map.tif marks layover" in open_scene(source).attrs["notes"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.tif": ("VV", "VH"), "b.tif": ("VV", "VH")}, "both hold V"),
        ({"a_VV.tif": ("",), "b_VV.tif": ("",)}, "both hold VV"),
        ({"x_20200101T010203_VV.tif": ("",), "x_20200113T010203_VH.tif": ("",)}, "20200101 and 20200113"),
    ],
)
def test_several_scenes_are_not_taken_for_one(tmp_path, files, words):
    paths = [labelled(tmp_path / name, VALUES[: len(labels)], labels) for name, labels in files.items()]
    with pytest.raises(SceneError, match=words) as error:
        open_scene(paths)
    assert all(str(path) in str(error.value) for path in paths) and "\n" not in str(error.value)


def test_bands_of_one_date_are_one_scene(tmp_path):
    names = [f"OPERA_L2_RTC-S1_T137_20240928T015902Z_2024092{day}T005548Z_S1A_30_v1.0_{b}.tif" for day, b in
             ((9, "VV"), (8, "VH"))]  # fmt: skip
    paths = [write_raster(tmp_path / name, 10 ** (VALUES[i : i + 1] / 10)) for i, name in enumerate(names)]
    assert list(open_scene(paths).band.values) == ["VV", "VH"]


def test_two_bands_of_one_name_are_told(tmp_path):
    path = labelled(tmp_path / "s.tif", np.concatenate([VALUES, VALUES[:1]]), ("VV", "VH", "VV"))
    assert "2 bands are called VV" in open_scene(path, scale="db").attrs["notes"]
    assert "called" not in open_scene(path, scale="db", bidx=[1, 2]).attrs.get("notes", "")


def test_numbers_choose_bands_whatever_they_are_called(tmp_path):
    path = labelled(tmp_path / "s.tif", VALUES, ("VV_byte", "VH_byte"))
    scene = open_scene(path, scale="db", bidx=[1, 2])
    assert geouq.segment(scene, small_model(), samples=0).mask.shape == (40, 50)
    both = open_scene({"VV": path, "VH": path}, scale="db", bidx=[1, 2])
    np.testing.assert_array_equal(both.values, scene.values)
    assert list(both.band.values) == ["VV", "VH"]


def test_heights_in_a_compound_crs_are_no_unit_of_backscatter(tmp_path):
    path = write_raster(
        tmp_path / "s_VV.tif", VALUES[:1], crs="EPSG:5555", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    )
    assert open_scene(path).attrs["units"] == "dB"


@pytest.mark.parametrize(("kind", "marker"), [("Int64", -9223372036854775806), ("UInt64", 18446744073709551613)])
def test_nodata_beyond_the_digits_of_a_float(tmp_path, kind, marker):
    values = np.full((1, 9, 9), 7, kind.lower())
    values[0, :3] = marker
    values[0, 5, 5] = marker + 1
    write_raster(tmp_path / "s.tif", values)
    path = tmp_path / "s.vrt"  # rasterio itself writes such a value as a float
    path.write_text(
        f'<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="{kind}" '
        f'band="1"><NoDataValue>{marker}</NoDataValue><SimpleSource><SourceFilename relativeToVRT="1">s.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    found = np.isnan(open_scene(path, scale="dn").values[0])
    assert found[:3].all() and not found[3:].any()


def test_options_of_products_are_named_where_there_is_none(tmp_path):
    path = write_raster(tmp_path / "s_VV.tif", VALUES[:1])
    with pytest.raises(InputError, match=r"--hand is for: leave it out"):
        open_scene(path, preprocessing=Preprocessing(hand="hand.tif"))


def test_heights_above_drainage_of_another_place_are_refused(tmp_path):
    product = safe.build(tmp_path, lines=120, pixels=120, spacing=10.0)
    hand = write_raster(
        tmp_path / "hand.tif",
        np.zeros((1, 20, 20), "f4"),
        crs="EPSG:4326",
        transform=rasterio.Affine(0.01, 0, 100, 0, -0.01, 3),
    )
    with pytest.raises(SceneError, match="does not meet"):
        open_scene(product, preprocessing=Preprocessing(hand=str(hand)))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "ending", "hidden", "clear"),
    [
        ("OPERA_L2_RTC-S1_T137-292318-IW1_20211119T015854Z_20250830T120333Z_S1A_30_v1.0", "mask", (1, 2, 3, 255), (0,)),
        ("S1A_IW_20191203T224518_DVP_RTC10_G_gpuned_54B9", "ls_map", (3, 5, 7, 9, 17, 25, 31), (0, 1)),
    ],
)
def test_what_a_mask_beside_the_bands_marks_is_not_valid(tmp_path, zipped, name, ending, hidden, clear):
    power, mask = 10 ** (VALUES / 10), np.full((1, 40, 50), clear[-1], np.uint8)
    mask[0, 5:20] = np.resize(np.array([*hidden, *clear], np.uint8), (15, 50))
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    for band, values in zip(("VV", "VH", ending), (power[:1], power[1:], mask), strict=True):
        write_raster(tmp_path / name / f"{name}_{band}.tif", values, **place)
    source = folder_or_zip(tmp_path / name, zipped)
    scene = open_scene(source)
    assert f"{name}_{ending}.tif marks layover and shadow: not classified there" in scene.attrs["notes"]
    assert any(path.endswith(f"{ending}.tif") for path in scene.attrs["source"])
    expected = np.isin(mask[0], hidden)
    assert (np.isnan(scene.values) == expected).all() and 0 < expected.sum() < 750
    assert (geouq.segment(scene, small_model(), samples=0).mask.values == 255).sum() == expected.sum()
    np.testing.assert_array_equal(np.isnan(scene[1, 7:9, 3:20].values), expected[7:9, 3:20])


def test_a_mask_of_unknown_meaning_or_another_grid_is_told_and_not_used(tmp_path):
    opera = "OPERA_L2_RTC-S1_T137-292318-IW1_20211119T015854Z_20250830T120333Z_S1A_30_v1.0"
    for name, rows in (("mine", 40), (opera, 39)):
        path = write_raster(tmp_path / f"{name}_VV.tif", 10 ** (VALUES[:1] / 10))
        write_raster(tmp_path / f"{name}_mask.tif", np.ones((1, rows, 50), "u1"))
        scene = open_scene(path, scale="power")
        assert "mask.tif marks layover and shadow: it is not used" in scene.attrs["notes"]
        assert np.isfinite(scene.values).all() and len(scene.attrs["source"]) == 1
    (tmp_path / "mine_mask.tif").write_bytes(b"")  # nobody knows what it means, so nobody reads it
    assert "it is not used" in open_scene(tmp_path / "mine_VV.tif", scale="power").attrs["notes"]


def test_a_run_knows_the_mask_that_it_was_made_with(tmp_path):
    name = "OPERA_L2_RTC-S1_T137-292318-IW1_20211119T015854Z_20250830T120333Z_S1A_30_v1.0"
    path = write_raster(tmp_path / f"{name}_VV.tif", 10 ** (VALUES[:1] / 10))
    mask = write_raster(tmp_path / f"{name}_mask.tif", np.zeros((1, 40, 50), "u1"))
    before = open_scene(path)
    with rasterio.open(mask, "r+") as file:
        file.write(np.ones((1, 40, 50), "u1"))
    after = open_scene(path)
    assert before.data.name != after.data.name and np.isnan(after.values).all()
    with pytest.raises(SceneError, match="has changed"):
        before.compute()
