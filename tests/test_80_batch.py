"""Many scenes at once: which files are one scene, scenes that fail, batches that are killed and go on."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from geouq.cli.batch import _table
from geouq.errors import InputError
from geouq.scenes.batch import scenes_named
from tests.helpers import geouq, scene_values, small_model, write_raster
from tests.shared import SHARED

BURSTS = [f"OPERA_L2_RTC-S1_T064-13552{n}-IW2_20240501T015035Z_20240502T004227Z_S1A_30_v1.0" for n in (3, 4, 5)]
LATER = BURSTS[0].replace("20240501", "20240513")


def band(path: Path, values: np.ndarray, nodata: float = np.nan) -> None:
    write_raster(path, values, crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6), nodata=nodata)


def pair(stem: Path, seed: int) -> None:
    values = (10 ** (scene_values(70, 60, seed) / 10)).astype(np.float32)
    for polarisation, one in zip(("VV", "VH"), values, strict=True):
        band(stem.with_name(f"{stem.name}_{polarisation}.tif"), one[None])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve scenes: three bursts, one of them again later, two pairs, four files, one corrupt, one without a pixel."""
    path = tmp_path_factory.mktemp("batch")
    small_model().save(path / "m.safetensors")
    scenes = path / "scenes"
    for seed, name in enumerate([*BURSTS, LATER, "lake_2024", "river-2024"]):
        pair(scenes / name, seed)
    write_raster(scenes / f"{BURSTS[0]}_mask.tif", np.zeros((1, 70, 60), np.uint8))
    for seed, name in enumerate(["a_db", "b_db", "c_db", "d_db"], 20):
        band(scenes / f"{name}.tif", scene_values(70, 60, seed))
    (scenes / "e_db.tif").write_bytes((scenes / "d_db.tif").read_bytes()[:3000])
    band(scenes / "f_db.tif", np.full((2, 70, 60), np.nan, np.float32))
    (scenes / "notes.md").write_text("nothing to map")
    return path


def test_what_belongs_together_is_one_scene(folder):
    found, notes = scenes_named([str(folder / "scenes")])
    by = {one.name: one for one in found}
    assert set(by) == {*BURSTS, LATER, "lake_2024", "river-2024", *(f"{letter}_db" for letter in "abcdef")}
    assert by["lake_2024"].source == {b: str(folder / "scenes" / f"lake_2024_{b}.tif") for b in ("VV", "VH")}
    assert by["river-2024"].what == "VV and VH, a file each" and by["a_db"].what == "one raster"
    assert by[LATER].taken == "2024-05-13T01:50:35Z"
    assert any("3 bursts of track T064 on 2024-05-01 are not joined: a map each" in note for note in notes)
    assert any("IW2_*" in note and "2 dates, a map each" in note for note in notes)
    assert any(f"{BURSTS[0]}_mask.tif belongs to a scene beside it, and is no scene" in note for note in notes)
    one_by_one = sorted(str(file) for file in (folder / "scenes").glob("*.tif"))
    assert scenes_named(one_by_one) == (found, notes)


def test_lists_and_stac_items(folder):
    files = [f"scenes/{name}" for name in ("lake_2024_VV.tif", "lake_2024_VH.tif", "a_db.tif")]
    listed = folder / "list.txt"
    listed.write_text("# of May\n\n" + "\n".join(files) + "\n")
    assert [one.name for one in scenes_named([str(listed)])[0]] == ["lake_2024", "a_db"]
    listed.write_text("\r\n".join(files), encoding="utf-8-sig")  # as editors on Windows may save it
    assert [one.name for one in scenes_named([str(listed)])[0]] == ["lake_2024", "a_db"]
    assets = {"vv": {"href": files[0]}, "vh": {"href": f"file://{folder / files[1]}"}, "mask": {"href": "m.tif"}}
    items = [
        {"type": "Feature", "id": "S1/1", "assets": assets},
        {"type": "Feature", "id": "x", "assets": {"d": assets["vv"]}},
    ]
    stac = folder / "items.json"
    stac.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    pair_of_files, single = scenes_named([str(stac)])[0]
    assert pair_of_files.source == {"VV": str(folder / files[0]), "VH": str(folder / files[1])}
    assert (pair_of_files.name, single.source) == ("S1_1", str(folder / files[0]))
    stac.write_text(json.dumps(items[0]))
    assert len(scenes_named([str(stac)])[0]) == 1


def test_relative_links_of_a_stac_item_are_from_its_folder(folder, tmp_path, monkeypatch):
    """A file of the same name where the command runs is another one."""
    (tmp_path / "vv.tif").write_bytes(b"another")
    (tmp_path / "items").mkdir()
    assets = {"vv": {"href": "./vv.tif"}, "vh": {"href": f"file://{tmp_path}/a%20b.tif"}}
    (tmp_path / "items" / "i.json").write_text(json.dumps({"type": "Feature", "id": "i", "assets": assets}))
    monkeypatch.chdir(tmp_path)
    (found,), _ = scenes_named(["items/i.json"])
    assert found.source == {"VV": "items/vv.tif", "VH": f"{tmp_path}/a b.tif"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no STAC Item or ItemCollection"),
        ("[" * 100_000, "is no STAC Item or ItemCollection"),
        ('{"type": "FeatureCollection", "features": [{"id": 1}]}', "is no STAC Item"),
        ('{"type": "Feature", "id": "i", "assets": {"a": {"href": "a"}, "b": {"href": "b"}}}', "assets of i is named"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, text, says):
    (tmp_path / "i.json").write_text(text)
    with pytest.raises(InputError, match=says):
        scenes_named([str(tmp_path / "i.json")])


def test_no_two_maps_get_one_name(folder, tmp_path):
    band(tmp_path / "a_db.tif", scene_values(20, 20))
    for mosaic in (False, True):  # scenes of one name are not bursts of one pass
        with pytest.raises(InputError, match=r"2 scenes are called a_db \(.*scenes/a_db.tif; .*a_db.tif\)"):
            scenes_named([str(folder / "scenes"), str(tmp_path / "a_db.tif")], mosaic=mosaic)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no scene is in"):
        scenes_named([str(tmp_path / "empty")])


def command(folder: Path, out: str, *more: str) -> list[str]:
    return ["segment", "scenes", "-o", out, "--model", "m.safetensors", "--samples", "3", "--tile", "32", *more]


def sums(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def killed_at(folder: Path, line: str, *arguments: str) -> None:
    """Run a command, and kill it when it says a line."""
    started = [sys.executable, "-m", "geouq.cli.main", *arguments]
    with subprocess.Popen(started, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        for said in process.stderr:
            if line in said:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL


def test_a_batch_that_is_killed_twice_ends_as_one_that_is_not(folder):
    done = geouq(*command(folder, "whole/", "--json"), cwd=folder, code=1)
    told = json.loads(done.stdout)
    states = {row["scene"]: row for row in told["scenes"]}
    assert told["failed"] == 1 and len(states) == 12 and "e_db.tif" in states["e_db"]["error"]
    assert states["f_db"]["valid_area_m2"] == 0 and states["a_db"]["area_m2"] > 0
    assert "1 of 12 scenes have no map" in done.stderr and "12 scenes" in done.stderr
    whole = sums(folder / "whole")
    assert len([name for name in whole if name.endswith("_water.tif")]) == 11
    for line in ("[4/12]", "[9/12]"):
        killed_at(folder, line, *command(folder, "parts/"))
    done = geouq(*command(folder, "parts/"), cwd=folder, code=1)
    assert sums(folder / "parts") == whole
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "  already there" in lines[BURSTS[0]] and "  mapped" in lines["river-2024"] and "  no map:" in lines["e_db"]
    assert "see the warning" in lines["f_db"]
    found, notes = scenes_named([str(folder / "parts"), str(folder / "scenes" / "a_db.tif")])
    assert len(found) == 1 and sum("is a map of geouq's, and no scene" in note for note in notes) == 11


def test_a_batch_leaves_what_else_is_asked_for_in_folders(folder):
    arguments = ["scenes/a_db.tif", "scenes/b_db.tif", "-o", "more", "--vector", "polygons", "--preview", "more"]
    (folder / "more").mkdir()
    done = geouq("segment", *arguments, "--model", "m.safetensors", "--samples", 2, cwd=folder)
    assert {path.name for path in (folder / "polygons").iterdir()} == {"a_db_water.gpkg", "b_db_water.gpkg"}
    assert {path.suffix for path in (folder / "more").iterdir()} == {".tif", ".qml", ".png"}
    assert done.stdout.splitlines()[0].split()[:2] == ["scene", "area"]
    assert "km²  " in done.stdout.splitlines()[1]


def test_what_is_undecided_has_a_column():
    told = {"area_m2": 2e6, "area_m2_p05": None, "area_m2_p95": None, "valid_area_m2": 8e6, "crs": "EPSG:32633"}
    told |= {"not_classified_percent": 0, "already_there": False, "warnings": []}
    rows = [{"scene": "a"} | told | {"undecided_area_m2": 1e6}, {"scene": "b", "error": "no"}]
    lines = _table(rows, [100.0, 1.0]).splitlines()
    assert lines[0].split() == ["scene", "area", "5–95", "%", "undecided", "not", "classified"]
    assert lines[1].split() == ["a", "2", "km²", "12.5", "%", "0", "%", "mapped"]
    assert lines[2].split() == ["b", "no", "map:", "no"]
    assert "undecided" not in _table([{"scene": "a"} | told], [100.0])


def test_areas_without_a_crs_are_no_square_kilometres(folder, tmp_path):
    write_raster(tmp_path / "bare.tif", scene_values(70, 60))
    done = geouq("segment", "bare.tif", "-o", "out/", "--model", folder / "m.safetensors", "--samples", 2, cwd=tmp_path)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("bare")]
    assert " px " in line and "km²" not in done.stdout
    one = geouq("segment", "bare.tif", "--model", folder / "m.safetensors", "--samples", 2, cwd=tmp_path)
    assert line.split()[1] == one.stdout.split()[1]


def test_what_stops_all_stops_at_once(folder):
    for more, says in (
        (["--model", "nothing"], "no model"),
        (["--vv", "a.tif"], "--vv and --vh are of one scene"),
        (["-o", "no/where/"], "does not exist: make it first"),
        (["--vector", "m.safetensors"], "m.safetensors is a file: of several scenes, name a folder"),
    ):
        done = geouq(*command(folder, "never/"), *more, cwd=folder, code=2)
        assert says in done.stderr and not (folder / "never").exists()
    several = geouq(
        "segment", "scenes/lake_2024_VV.tif", "scenes/river-2024_VV.tif", "--scale", "power", cwd=folder, code=2
    )
    assert "-o FOLDER/ for a map each" in several.stderr


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_real_files_of_opera_are_grouped():
    found, notes = scenes_named([str(SHARED / "rtc" / "opera-rtc-s1")])
    assert found and all(set(one.source) == {"VV", "VH"} for one in found if not isinstance(one.source, str)), notes
