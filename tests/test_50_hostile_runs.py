"""What a run meets that it did not make: damaged parts and ledgers, signals, odd CRS, absurd numbers, full disks."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS

import geouq
from geouq.errors import InputError, OutputError, SceneError, TileError
from geouq.files import check_writable, scratch, writing
from geouq.segmentation import identity
from geouq.segmentation.events import Finishing, Noted, TileDone
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.ledger import read_part
from geouq.segmentation.mapgrid import grid_of_map
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run
from geouq.sources import unknown
from tests.helpers import as_scene, scene_values, small_model
from tests.maps import write_map, write_places

MODEL = small_model()


class Stop(Exception):
    pass


def stop(event):
    if isinstance(event, TileDone):
        raise Stop


def start(path: Path, on_event=lambda event: None, scene=None, model=MODEL, **settings):
    scene = as_scene(scene_values(60, 60)) if scene is None else scene
    job = prepare(scene, model, Settings(**{"samples": 2, "tile": 24, "layers": ("mask", "votes")} | settings))
    return run(scene, job, Outputs(path), on_event=on_event)


def maps(folder: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted(folder.glob("*.tif"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    start(folder / "map.tif")
    return maps(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def alter(path: Path) -> None:
    """Another area in a receipt: still JSON, still sqlite."""
    with sqlite3.connect(path) as database:
        (text,) = database.execute("SELECT receipt FROM receipts").fetchone()
        database.execute("UPDATE receipts SET receipt = ?", (text.replace('"water_area": ', '"water_area": 9'),))


@pytest.mark.parametrize("damage", [cut, flip, alter, lambda path: path.write_bytes(b"no database")])
def test_a_damaged_ledger_is_not_believed(tmp_path, whole, damage):
    path, notes = tmp_path / "map.tif", []
    with pytest.raises(Stop):
        start(path, stop)
    damage(tmp_path / ".map.tif.geouq" / "ledger.sqlite")
    start(path, notes.append)
    assert maps(tmp_path) == whole
    assert any("damaged" in event.text for event in notes if isinstance(event, Noted))


@pytest.mark.parametrize("when", [TileDone, Finishing])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda path: path.write_bytes(zlib.compress(bytes(9)))])
def test_a_part_that_is_damaged_or_gone_is_computed_again(tmp_path, whole, when, damage):
    notes = []

    def spoil(event):
        parts = sorted((tmp_path / ".map.tif.geouq").glob("*.part"))
        if isinstance(event, when) and not notes:
            notes.append(event)
            damage(parts[0])
        elif isinstance(event, Noted):
            notes.append(event)

    start(tmp_path / "map.tif", spoil)
    assert maps(tmp_path) == whole
    assert [isinstance(event, Noted) and "damaged or gone" in event.text for event in notes[1:]]


def test_a_part_is_read_with_a_limit(tmp_path):
    bomb = zlib.compress(bytes(1 << 24))
    (tmp_path / "a.part").write_bytes(bomb)
    assert read_part(tmp_path / "a.part", hashlib.sha256(bomb).hexdigest(), 1 << 20) is None


def fails(*args):
    raise TileError("bad model")


def test_a_run_that_failed_does_not_block_another(tmp_path, monkeypatch):
    path, notes = tmp_path / "map.tif", []
    with monkeypatch.context() as patch:
        patch.setattr("geouq.segmentation.run.segment_tile", fails)
        with pytest.raises(TileError):
            start(path)
    assert not list(tmp_path.iterdir())  # nothing was done: nothing is left
    real, count = geouq.segmentation.tile.segment_tile, []

    def fails_later(*args):
        count.append(args)
        if len(count) > 4:
            raise TileError("bad model")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr("geouq.segmentation.run.segment_tile", fails_later)
        with pytest.raises(TileError):
            start(path)
    assert (tmp_path / ".map.tif.geouq").exists()
    start(path, notes.append, seed=1)
    assert any("failed" in event.text for event in notes if isinstance(event, Noted))


def on_crs(crs: CRS) -> GeoBox:
    return GeoBox((40, 40), Affine(10, 0, 5e5, 0, -10, 5e6), crs.to_wkt())


def test_the_map_has_the_horizontal_part_of_the_scenes_crs(tmp_path):
    for crs in (CRS("EPSG:32633").to_3d(), CRS(5555)):
        scene = as_scene(scene_values(40, 40), crs=crs.to_wkt())
        assert scene.odc.geobox.crs is not None
        path = tmp_path / f"{crs.name[:3]}.tif"
        start(path, scene=scene)
        with rasterio.open(path) as file:
            kept = CRS.from_wkt(file.crs.to_wkt())
        flat = crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()
        assert kept.equals(flat) and not path.with_name(path.name + ".aux.xml").exists()


def test_a_crs_that_no_file_keeps_is_refused_before_the_first_tile(tmp_path):
    rotated = CRS.from_cf(
        {
            "grid_mapping_name": "rotated_latitude_longitude",
            "grid_north_pole_latitude": 39.25,
            "grid_north_pole_longitude": -162.0,
        }
    )
    with pytest.raises(SceneError, match="no GeoTIFF can keep its CRS"):
        grid_of_map(GeoBox((40, 40), Affine(0.1, 0, 5, 0, -0.1, 5), rotated.to_wkt()), "scene.tif")
    for code in (32633, 3035, 4326, 4807, 3413, 2154):
        grid = (
            on_crs(CRS(code)) if CRS(code).is_projected else GeoBox((4, 4), Affine(1, 0, 5, 0, -1, 45), f"EPSG:{code}")
        )
        assert grid_of_map(grid, "scene.tif") is grid


def test_broken_proj_data_is_one_line_before_the_first_tile(tmp_path):
    values = scene_values(40, 40)
    with rasterio.open(
        tmp_path / "s.tif", "w", driver="GTiff", width=40, height=40, count=2, dtype="float32", crs="EPSG:32633",
        transform=Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as file:  # fmt: skip
        file.write(values)
    MODEL.save(tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "geouq.cli.main", "segment", "s.tif", "-o", "map.tif", "--model", "m.safetensors"]
    done = subprocess.run(
        [*command, "--scale", "db"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PROJ_DATA": "/nowhere", "PROJ_LIB": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr and "PROJ_DATA" in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"s.tif", "m.safetensors"}


@pytest.mark.parametrize("verb", ["vectorize m.tif out.gpkg", "zonal m.tif p.gpkg -o out.gpkg"])
def test_broken_proj_data_is_one_line_for_every_reader_of_maps(tmp_path, verb):
    write_map(tmp_path)
    write_places(tmp_path / "p.gpkg", [shapely.box(500020, 4999800, 500100, 4999900)])
    done = subprocess.run(
        [sys.executable, "-m", "geouq.cli.main", *verb.split()], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PROJ_DATA": "/nowhere", "PROJ_LIB": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr and "PROJ_DATA" in done.stderr
    assert not (tmp_path / "out.gpkg").exists()


def test_names_that_are_too_long_are_refused_before(tmp_path):
    for name in ("x" * 247 + ".tif", "ä" * 120 + ".tif"):
        with pytest.raises(OutputError, match="too long"):
            start(tmp_path / name)
        with pytest.raises(OutputError, match="too long"):
            check_writable(tmp_path / name)
    start(tmp_path / ("x" * 180 + ".tif"))
    ends = {p.name.replace("x" * 180, "") for p in tmp_path.iterdir()}
    assert ends == {".tif", ".qml", "_samples.tif", "_samples.qml"}


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 10**9},
        {"seed": -1},
        {"seed": 2**64},
        {"bounds": (1e308, 1e308, 1.5e308, 1.5e308)},
        {"bounds": (-1e308, 1e308, 1e308, -1e308, )[:4] and (np.nan, 0, 1, 1)},
    ],
)  # fmt: skip
def test_absurd_numbers_are_refused(tmp_path, settings):
    with pytest.raises(InputError):
        start(tmp_path / "map.tif", **settings)
    assert not list(tmp_path.iterdir())


def test_bounds_may_be_as_wide_as_numbers_go(tmp_path, whole):
    start(tmp_path / "map.tif", bounds=(-1e300, -1e300, 1e300, 1e300))
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.shape == (60, 60)


def test_a_full_disk_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(OutputError, match="no space is left on its disk"), writing(tmp_path / "w.gpkg", ValueError):
        raise ValueError("no such table: gpkg_contents")


def test_scratch_folders_of_dead_processes_are_removed(tmp_path):
    code = "import os, sys; from pathlib import Path; from geouq.files import scratch\n"
    code += "with scratch(Path(sys.argv[1])): os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "v.gpkg")])
    (dead,) = tmp_path.iterdir()
    with scratch(tmp_path / "v.gpkg") as mine, scratch(tmp_path / "vv.gpkg") as other, scratch(tmp_path / "v.gpkg"):
        assert not dead.exists() and mine.exists() and other.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_scratch_folder(tmp_path, number):
    with rasterio.open(
        tmp_path / "m.tif", "w", driver="GTiff", width=6000, height=6000, count=1, dtype="uint8", crs="EPSG:32633",
        transform=Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as file:  # fmt: skip
        file.write(np.random.default_rng(0).integers(0, 2, (1, 6000, 6000)).astype(np.uint8))
    command = ["nice", "-n", "19", sys.executable, "-m", "geouq.cli.main", "vectorize", "m.tif", "v.gpkg"]
    heard = {"preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)}  # under nohup it would be ignored, rightly
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, **heard)
    while process.poll() is None and not list(tmp_path.glob(".v.*")):  # nice: on a busy machine we come before it ends
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + number and "interrupted" in said
    assert [p.name for p in tmp_path.iterdir()] == ["m.tif"]


def test_a_run_on_a_file_of_which_no_server_tells_the_state_is_never_continued(tmp_path, monkeypatch):
    """GDAL reads s3:// and the like, and does not tell whether they are what they were."""
    nowhere = (("/vsis3/bucket/s.tif",),)
    monkeypatch.setattr(identity, "scene_sources", lambda scene: ["/vsis3/bucket/s.tif"])
    monkeypatch.setattr(identity, "state", lambda name: nowhere)
    scene, said = as_scene(scene_values(60, 60)), []
    job = prepare(scene, small_model(), Settings(samples=2, tile=32))

    def tell(event):
        said.append(getattr(event, "text", ""))
        if isinstance(event, Finishing):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scene, job, Outputs(tmp_path / "m.tif"), on_event=tell)
    assert any("no server tells in which state /vsis3/bucket/s.tif is" in line for line in said)
    with pytest.raises(OutputError, match=r"unfinished run with other settings \(scene\).*--overwrite"):
        run(scene, job, Outputs(tmp_path / "m.tif"))
    first = run(scene, job, Outputs(tmp_path / "m.tif"), overwrite=True)
    assert first["tiles_continued"] == 0
    with pytest.raises(OutputError, match="exists already"):
        run(scene, job, Outputs(tmp_path / "m.tif"))
    assert unknown([nowhere, (("http://x/s.tif", "12", "", ""), ("/tmp/s.tif", 1, 2, 3))]) == ["/vsis3/bucket/s.tif"]
