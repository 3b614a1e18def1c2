"""A scene whose bands are no two polarisations of a radar image gets a map that says not to trust it."""

import json
import warnings
from html import unescape

import dask.array as da
import pytest
import rasterio
from shapely import box

import geouq
from geouq.answers.zonal import zonal
from tests.helpers import as_scene, small_model, write_raster
from tests.maps import write_places
from tests.test_10_likeness import picture, speckle

ASKED = {"samples": 2, "tile": 64}


def scene_file(path, values, names=("VV", "VH")):
    write_raster(path, values)
    with rasterio.open(path, "r+") as file:
        file.descriptions = names
    return path


@pytest.mark.parametrize(
    ("values", "names", "said"),
    [
        (speckle()[::-1], ("VV", "VH"), "swapped?"),
        (speckle()[::-1], ("", ""), "swapped?"),
        (picture(), ("VV", "VH"), "correlates by"),
        (10 ** (picture() / 10), ("VV", "VH"), "correlates by"),
    ],
)
def test_the_map_of_a_file_says_so(tmp_path, values, names, said):
    path = scene_file(tmp_path / "s.tif", values, names)
    scene = geouq.open_scene(path, scale="db" if values.min() < 0 else "power")
    assert said in scene.attrs["unlike"] and scene.attrs["unlike"] in scene.attrs["notes"]
    found = geouq.run(scene, "s1-water", tmp_path / "map.tif", **ASKED)
    assert found["warnings"] == [f"do not trust this map: {scene.attrs['unlike']}"] and "expectation" not in found
    with rasterio.open(tmp_path / "map.tif") as file:
        assert json.loads(file.tags()["GEOUQ_WARNINGS"]) == found["warnings"]
    with pytest.warns(UserWarning, match="swapped|correlates"):
        geouq.segment(scene, small_model(), **ASKED)


def test_bands_that_are_named_right_are_looked_at_anew(tmp_path):
    scene = geouq.open_scene(scene_file(tmp_path / "s.tif", speckle()[::-1]), scale="db")
    found = geouq.run(scene.assign_coords(band=["VH", "VV"]), "s1-water", tmp_path / "map.tif", **ASKED)
    assert not any("swapped" in line for line in found["warnings"])


def test_bands_in_files_of_their_own(tmp_path):
    paths = [
        scene_file(tmp_path / f"{name}.tif", band[None], (name,)) for name, band in zip("ab", speckle(), strict=True)
    ]
    right = geouq.open_scene({"VV": paths[0], "VH": paths[1]}, scale="db")
    assert "unlike" not in right.attrs and "expectation" in geouq.run(right, "s1-water", tmp_path / "map.tif", **ASKED)
    assert "swapped" in geouq.open_scene({"VV": paths[1], "VH": paths[0]}, scale="db").attrs["unlike"]
    assert "correlates by 1.00" in geouq.open_scene({"VV": paths[0], "VH": paths[0]}, scale="db").attrs["unlike"]


def test_bands_of_two_days_are_no_image(tmp_path):
    paths = [
        scene_file(tmp_path / f"S1A_2024{day}_db.tif", band[None], ("",))
        for day, band in zip(("0501", "0513"), speckle(), strict=True)
    ]
    scene = geouq.open_scene({"VV": paths[0], "VH": paths[1]})
    assert scene.attrs["unlike"] == (
        "its bands are of several days (VV of 20240501 and VH of 20240513), and a model looks at one image"
    )
    found = geouq.run(scene, small_model(), tmp_path / "map.tif", **ASKED)
    assert found["warnings"] == [f"do not trust this map: {scene.attrs['unlike']}"]


@pytest.mark.parametrize("lazy", [False, True])
def test_the_map_of_an_array_says_so(tmp_path, lazy):
    scene = as_scene(speckle()[::-1].copy())
    scene = scene.copy(data=da.from_array(scene.values, chunks=64)) if lazy else scene
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = geouq.run(scene, small_model(), tmp_path / "map.tif", **ASKED)
    assert [line for line in found["warnings"] if "swapped?" in line]


def test_a_model_of_other_bands_is_not_concerned(tmp_path):
    model = small_model().with_spec(bands=("B1", "B2"))
    found = geouq.run(as_scene(picture()).assign_coords(band=["B1", "B2"]), model, tmp_path / "map.tif", **ASKED)
    assert not [line for line in found["warnings"] if "correlates" in line]


def test_nothing_is_expected_where_a_band_is_missing(tmp_path):
    """The alarm was made from maps with both bands: with VV alone it expected an eighth of what is wrong."""
    scene = as_scene(speckle())
    both = geouq.run(scene, "s1-water", tmp_path / "both.tif", **ASKED)
    assert both["expectation"] and not both["warnings"]
    for here, missing in (("VV", "VH"), ("VH", "VV")):
        found = geouq.run(scene.sel(band=[here]), "s1-water", tmp_path / f"{here}.tif", **ASKED)
        assert found["warnings"] == [
            f"do not trust this map: the scene has no {missing}, and how wrong maps are without was never measured"
        ]
        assert "expectation" not in found and "expected_wrong" not in found


def test_qgis_and_zonal_say_so_too(tmp_path):
    asked = ASKED | {"layers": ("mask", "uncertainty", "confidence", "votes")}
    with pytest.warns(UserWarning, match="swapped"):
        found = geouq.run(as_scene(speckle()[::-1].copy()), small_model(), tmp_path / "map.tif", **asked)
    (said,) = found["warnings"]
    assert said in unescape((tmp_path / "map.qml").read_text())
    places = write_places(tmp_path / "p.gpkg", [box(500_100, 4_999_000, 500_900, 4_999_800)])
    assert zonal(tmp_path / "map.tif", places, tmp_path / "z.gpkg").expectation == said
