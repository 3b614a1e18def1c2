"""Scenes that lie beside one another, as one: the pixels of the scene that they were cut from, or one line why not."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner

import geouq
from geouq.errors import GeouqError, InputError, SceneError
from geouq.scenes.batch import scenes_named
from tests.helpers import scene_values, small_model, write_raster

ROWS, COLUMNS = 150, 130
PLACE = Affine(10, 0, 5e5, 0, -10, 5e6)
BURSTS = [f"OPERA_L2_RTC-S1_T064-13552{n}-IW2_20240501T01503{n}Z_20240502T004227Z_S1A_30_v1.0" for n in (3, 4, 5)]


def cut(path: Path, values: np.ndarray, top: int, bottom: int, left: int, right: int, **profile) -> Path:
    """Write a rectangle of a scene as a file of its own."""
    place = {"crs": "EPSG:32633", "transform": PLACE * Affine.translation(left, top), "nodata": np.nan}
    return write_raster(path, values[:, top:bottom, left:right], **place | profile)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mosaic")
    cut(path / "whole_db.tif", scene_values(ROWS, COLUMNS), 0, ROWS, 0, COLUMNS)
    small_model().save(path / "m.safetensors")
    return path


#: rows and columns of the parts
CUTS = {
    "above one another": [(0, 70, 0, 130), (70, 150, 0, 130)],
    "beside one another, the right one first": [(0, 150, 61, 130), (0, 150, 0, 61)],
    "four that overlap": [(60, 150, 50, 130), (0, 70, 0, 60), (0, 64, 55, 130), (64, 150, 0, 55)],
    "one inside the other": [(0, 150, 0, 130), (20, 40, 30, 50)],
}


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_parts_of_a_scene_are_the_scene(whole, tmp_path, cuts):
    values = scene_values(ROWS, COLUMNS)
    parts = [cut(tmp_path / f"{i}_db.tif", values, *one) for i, one in enumerate(cuts)]
    scene, joined = geouq.open_scene(whole / "whole_db.tif"), geouq.open_mosaic(parts)
    assert joined.equals(scene) and joined.odc.geobox == scene.odc.geobox
    assert joined.attrs["source"] == [str(part) for part in parts]
    assert "the first that is valid counts" in joined.attrs["notes"]


def test_no_seam_shows_in_the_map(whole, tmp_path):
    values = scene_values(ROWS, COLUMNS)
    parts = [cut(tmp_path / f"{i}_db.tif", values, *one) for i, one in enumerate(CUTS["four that overlap"])]
    for name, one in (("a", geouq.open_scene(whole / "whole_db.tif")), ("b", geouq.open_mosaic(parts))):
        asked = {"samples": 2, "tile": 64, "layers": ("mask", "probability", "votes")}
        geouq.run(one, whole / "m.safetensors", tmp_path / f"{name}.tif", **asked)
    for end in ("", "_samples"):
        with rasterio.open(tmp_path / f"a{end}.tif") as a, rasterio.open(tmp_path / f"b{end}.tif") as b:
            assert np.array_equal(a.read(), b.read()) and a.transform == b.transform and a.crs == b.crs


def test_the_first_that_is_valid_counts_band_by_band(tmp_path):
    first, other = np.full((2, 40, 40), -12, np.float32), np.full((2, 40, 40), -15, np.float32)
    first += np.random.default_rng(0).normal(0, 0.5, first.shape).astype(np.float32)
    other += np.random.default_rng(1).normal(0, 0.5, other.shape).astype(np.float32)
    first[1, 30:] = np.nan
    a, b = (cut(tmp_path / f"{name}_db.tif", values, 0, 40, 0, 40) for name, values in (("a", first), ("b", other)))
    joined = geouq.open_mosaic([a, b]).values
    assert np.array_equal(joined[0], first[0]) and np.array_equal(joined[1, :30], first[1, :30])
    assert np.array_equal(joined[1, 30:], other[1, 30:])
    assert np.array_equal(geouq.open_mosaic([b, a]).values, other)


def test_where_there_is_no_part_nothing_is_classified(whole, tmp_path):
    values = scene_values(ROWS, COLUMNS, holes=False)
    parts = [cut(tmp_path / "a_db.tif", values, 0, 60, 0, 60), cut(tmp_path / "b_db.tif", values, 90, 150, 70, 130)]
    summary = geouq.run(geouq.open_mosaic(parts), whole / "m.safetensors", tmp_path / "m.tif", samples=2)
    assert summary["not_classified_percent"] == pytest.approx(100 * (1 - 2 * 60 * 60 / (ROWS * COLUMNS)), abs=1e-3)


def pairs(folder: Path, names: list[str]) -> None:
    """Bursts, a file a band with a mask beside them, in power; each overlaps the next."""
    values = (10 ** (scene_values(ROWS, COLUMNS, holes=False) / 10)).astype(np.float32)
    for number, name in enumerate(names):
        rows = (45 * number, 45 * number + 60)
        for band, polarisation in enumerate(("VV", "VH")):
            cut(folder / f"{name}_{polarisation}.tif", values[band : band + 1], *rows, 0, COLUMNS)
        mask = np.zeros((1, ROWS, COLUMNS), np.uint8)
        mask[0, 50:55, 10:20] = 1
        cut(folder / f"{name}_mask.tif", mask, *rows, 0, COLUMNS, nodata=255)


def test_bursts_with_their_masks(whole, tmp_path):
    pairs(tmp_path / "bursts", BURSTS)
    found, notes = scenes_named([str(tmp_path / "bursts")])
    assert len(found) == 3 and any("a map each (--mosaic joins them)" in note for note in notes)
    (one,), notes = scenes_named([str(tmp_path / "bursts")], mosaic=True)
    assert (one.name, one.what) == ("OPERA_L2_RTC-S1_T064_20240501", "3 bursts of one pass, joined")
    assert not any("not joined" in note for note in notes)
    joined = geouq.open_mosaic(one.source)
    assert joined.shape == (2, 150, COLUMNS) and list(joined["band"].values) == ["VV", "VH"]
    assert joined.attrs["acquired"] == "2024-05-01T01:50:33Z"
    missing = np.isnan(joined.values).any(axis=0)
    assert missing[50:55, 10:20].all() and missing.sum() == 50
    assert sum(path.endswith("_mask.tif") for path in joined.attrs["source"]) == 3


@pytest.mark.parametrize("way", ["one map", "a folder"])
def test_the_command_line(whole, tmp_path, monkeypatch, way):
    from geouq.cli.main import geouq as command

    monkeypatch.chdir(tmp_path)
    pairs(Path("bursts"), BURSTS)
    out, made = (
        ("all.tif", "all.tif") if way == "one map" else ("maps/", "maps/OPERA_L2_RTC-S1_T064_20240501_water.tif")
    )
    options = ["--mosaic", "--model", f"{whole}/m.safetensors", "--samples", "2", "-q"]
    done = CliRunner().invoke(command, ["segment", "bursts", "-o", out, *options])
    assert done.exit_code == 0, done.output
    with rasterio.open(made) as file:
        assert file.shape == (150, COLUMNS)
        assert file.tags()["GEOUQ_SOURCE"].count(".tif") == 9
    done = CliRunner().invoke(command, ["segment", "bursts", "--vv", "a.tif", *options])
    assert isinstance(done.exception, InputError) and "--vv and --vh are of one scene" in str(done.exception)


def test_the_run_is_of_all_its_parts(whole, tmp_path):
    values = scene_values(ROWS, COLUMNS)
    parts = [cut(tmp_path / f"{i}_db.tif", values, *one) for i, one in enumerate(CUTS["above one another"])]
    asked = {"samples": 2, "layers": ("mask",)}
    first = geouq.run(geouq.open_mosaic(parts), whole / "m.safetensors", tmp_path / "m.tif", **asked)
    again = geouq.run(geouq.open_mosaic(parts), whole / "m.safetensors", tmp_path / "m.tif", **asked)
    assert again["already_there"] and again["run"] == first["run"]
    cut(parts[1], scene_values(ROWS, COLUMNS, seed=5), *CUTS["above one another"][1])
    with pytest.raises(GeouqError, match="exists already"):
        geouq.run(geouq.open_mosaic(parts), whole / "m.safetensors", tmp_path / "m.tif", **asked)
    with pytest.raises(GeouqError, match="is the scene itself"):
        geouq.run(geouq.open_mosaic(parts), whole / "m.safetensors", parts[1], overwrite=True, **asked)


def other(tmp_path: Path, change: str) -> Path | dict[str, Path]:
    if change == "power":
        pairs(tmp_path, ["b_20240501"])
        return {band: tmp_path / f"b_20240501_{band}.tif" for band in ("VV", "VH")}
    values, profile, name = scene_values(60, 60, seed=2), {}, "b_20240501_db.tif"
    if change == "crs":
        profile["crs"] = "EPSG:32634"
    if change == "half a pixel":
        profile["transform"] = PLACE * Affine.translation(0.5, 30)
    if change == "larger pixels":
        profile["transform"] = PLACE * Affine.scale(2)
    if change == "one band":
        values = values[:1]
    if change == "another day":
        name = "b_20240513_db.tif"
    if change == "control points":
        gcps = [rasterio.control.GroundControlPoint(r, c, *(PLACE * (c, r))) for r in (0, 60) for c in (0, 60)]
        profile |= {"gcps": gcps, "transform": None}
    return cut(tmp_path / name, values, 0, 60, 0, 60, **profile)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("crs", "their CRS are EPSG:32633 and EPSG:32634"),
        ("half a pixel", "is not on the grid of the first scene"),
        ("larger pixels", "is not on the grid of the first scene"),
        ("one band", "the bands of one are"),
        ("another day", "they were taken at 2024-05-01 and 2024-05-13"),
        ("power", "one is in dB, the other in power: give --scale"),
        ("control points", "is put on a map while it is read"),
    ],
)
def test_what_cannot_be_joined_is_said_in_a_line(tmp_path, change, says):
    first = cut(tmp_path / "a_20240501_db.tif", scene_values(60, 60), 0, 60, 0, 60)
    with pytest.raises(SceneError, match=says) as caught:
        geouq.open_mosaic([first, other(tmp_path, change)])
    assert "\n" not in str(caught.value) and "b_2024" in str(caught.value)


def test_a_mosaic_is_of_several(whole):
    for given in (str(whole / "whole_db.tif"), [whole / "whole_db.tif"]):
        with pytest.raises(InputError, match="two scenes or more"):
            geouq.open_mosaic(given)
    with pytest.raises(InputError, match="chunk is 0"):
        geouq.open_mosaic([whole / "whole_db.tif"] * 2, chunk=0)


def test_slices_of_a_data_take_are_told(tmp_path):
    name = "S1A_IW_GRDH_1SDV_20150203T04{}_20150203T04{}_004454_00574F_{}.SAFE"
    for ends in (("3109", "3134", "6D00"), ("3134", "3159", "AAAA"), ("3109", "3134", "FEC3")):
        (tmp_path / name.format(*ends)).mkdir()
        (tmp_path / name.format(*ends) / "manifest.safe").write_text("<x/>")
    _, notes = scenes_named([str(tmp_path)])
    assert [note for note in notes if note.startswith("2 slices of data take 00574F are not joined")], notes
