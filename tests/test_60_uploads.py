"""Outputs for a store: whole or absent, found again, never replaced unasked. The store is S3, as moto plays it."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner

import geouq
from geouq.errors import OutputError
from geouq.segmentation.events import Noted, TileDone
from geouq.uploads import look, store_for, upload
from tests.helpers import scene_values, small_model, write_raster

pytest.importorskip("moto")
s3fs = pytest.importorskip("s3fs")
PLACE = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
ASK = {"samples": 2, "tile": 64, "layers": ("mask", "probability", "votes")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scene")
    write_raster(path / "scene_20240501_db.tif", scene_values(100, 90), nodata=np.nan, **PLACE)
    small_model().save(path / "m.safetensors")
    return path


@pytest.fixture(scope="module")
def server():
    """The address of a server of S3 that keeps everything in memory."""
    program = (
        "import sys; from moto.server import ThreadedMotoServer; s = ThreadedMotoServer('127.0.0.1', 0, verbose=False);"
        "s.start(); print(s._server.port, flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """A new bucket, and a new folder to work in."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.chdir(tmp_path)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{time.time_ns()}"
    s3fs.S3FileSystem().mkdir(name)
    return name


def run(folder: Path, outputs, **options):
    scene = geouq.open_scene(folder / "scene_20240501_db.tif")
    return geouq.run(scene, folder / "m.safetensors", outputs, **(ASK | options))


def named(root: str) -> geouq.Outputs:
    files = {"preview": "water.png", "zarr": "water.zarr", "stac": "items/water.json", "vector": "water.gpkg"}
    return geouq.Outputs(f"{root}/water.tif", **{what: f"{root}/{name}" for what, name in files.items()})


def local_sums(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stored_sums(bucket: str) -> dict[str, str]:
    files = s3fs.S3FileSystem()
    files.invalidate_cache()
    found = files.find(bucket)
    return {name.removeprefix(f"{bucket}/maps/"): hashlib.sha256(files.cat_file(name)).hexdigest() for name in found}


def test_what_is_in_the_store_is_what_a_run_leaves_here(folder, bucket, tmp_path):
    seen = []
    summary = run(folder, named(f"s3://{bucket}/maps"), on_event=seen.append)
    assert stored_sums(bucket).keys() > {"water.tif", "water_samples.tif", "water.qml", "water.zarr/.zmetadata"}
    assert not list(tmp_path.iterdir()), "nothing is left here"
    assert any(isinstance(event, Noted) and ".geouq-upload-water.tif-" in event.text for event in seen)
    told = {one["url"]: one for one in summary["uploaded"]}
    assert summary["map"] == f"s3://{bucket}/maps/water.tif" and set(summary["files"]) == set(told)
    etag = s3fs.S3FileSystem().info(f"{bucket}/maps/water.tif")["ETag"].strip('"')
    assert told[summary["map"]]["etag"] == etag and told[summary["map"]]["size"] > 1000
    (tmp_path / "here" / "items").mkdir(parents=True)
    run(folder, named(str(tmp_path / "here")))
    assert stored_sums(bucket) == local_sums(tmp_path / "here")
    item = json.loads((tmp_path / "here" / "items" / "water.json").read_text())
    assert item["assets"]["map"]["href"] == "./../water.tif"


def test_what_is_there_is_found_and_not_replaced(folder, bucket, tmp_path):
    url = f"s3://{bucket}/maps/water.tif"
    first = run(folder, url)
    before, seen = look(url), []
    again = run(folder, url, on_event=seen.append)
    assert again["already_there"] and not seen and look(url) == before
    assert {key: again[key] for key in ("run", "files", "area_m2")} == {
        key: first[key] for key in ("run", "files", "area_m2")
    }
    with pytest.raises(OutputError, match=rf"{url} exists already: give --overwrite|_samples.tif exists already"):
        run(folder, url, samples=3, on_event=seen.append)
    assert not any(isinstance(event, TileDone) for event in seen) and not list(tmp_path.iterdir())
    run(folder, url, layers=("mask",), overwrite=True, on_event=seen.append)
    assert look(url) != before
    left = [
        event.text for event in seen if isinstance(event, Noted) and "_samples.tif belongs to the map" in event.text
    ]
    assert len(left) == 1 and left[0].startswith(f"s3://{bucket}/maps/water_samples.tif")


@pytest.mark.parametrize("broken", ["water.qml", "water.tif"])
def test_an_upload_that_fails_is_gone_on_with(folder, bucket, tmp_path, monkeypatch, broken):
    url, call = f"s3://{bucket}/maps/water.tif", s3fs.S3FileSystem._call_s3

    async def fail(self, method, *args, **options):
        if method == "put_object" and options["Key"].endswith(broken):
            raise PermissionError("Access Denied")
        return await call(self, method, *args, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", fail)
    with pytest.raises(OutputError, match=r"Access Denied.*the same command goes on"):
        run(folder, url)
    assert look(url) is None and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
    seen = []
    summary = run(folder, url, on_event=seen.append)
    assert not any(isinstance(event, TileDone) for event in seen), "nothing is computed again"
    assert look(url) and not summary["already_there"] and not list(tmp_path.iterdir())


def test_an_upload_is_tried_again(bucket, tmp_path, monkeypatch):
    made, url, call, failures = tmp_path / "a", f"s3://{bucket}/a", s3fs.S3FileSystem._call_s3, []
    made.write_bytes(b"some")
    monkeypatch.setattr("geouq.uploads.PAUSES", (0.01, 0.01))

    async def fail(self, method, *args, **options):
        if method == "put_object" and len(failures) < 2:
            failures.append(1)
            raise ConnectionResetError("Connection reset by peer")
        return await call(self, method, *args, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", fail)
    assert upload(made, url, replace=False).size == 4 and len(failures) == 2
    assert upload(made, url, replace=False).size == 4, "the same bytes are not in the way"
    made.write_bytes(b"else")
    with pytest.raises(OutputError, match="exists already"):
        upload(made, url, replace=False)


def test_where_names_appear_before_all_is_there_another_is_uploaded_first(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    made, url, names = tmp_path / "a", "memory://here/a", []
    made.write_bytes(b"some")
    files = fsspec.filesystem("memory")
    put = type(files).put_file
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(files), "put_file", lambda self, *a, **k: (names.append(a[1]), put(self, *a, **k)))
        upload(made, url, replace=False)
    assert files.cat_file("/here/a") == b"some" and names == ["memory://here/.a.geouq-uploading"]
    assert files.ls("/here", detail=False) == ["/here/a"]


def group(folder: Path, run: str) -> Path:
    """What is a Zarr group by its names."""
    (folder / "mask").mkdir(parents=True)
    (folder / ".zattrs").write_text(f'{{"GEOUQ_RUN": "{run}"}}')
    for name in (".zgroup", ".zmetadata", "mask/0.0", "mask/.zarray"):
        (folder / name).write_text(name)
    return folder


def test_a_group_is_one_when_all_of_it_is_there(bucket, tmp_path, monkeypatch):
    names, put_file = [], s3fs.S3FileSystem._put_file

    async def note(self, made, there, **options):
        names.append(there.partition("w.zarr/")[2])
        return await put_file(self, made, there, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", note)
    s3fs.S3FileSystem.clear_instance_cache()
    url, files = f"s3://{bucket}/w.zarr", s3fs.S3FileSystem()
    upload(group(tmp_path / "a", "1"), url, replace=False)
    assert names == ["mask/.zarray", "mask/0.0", ".zattrs", ".zgroup", ".zmetadata"]
    upload(tmp_path / "a", url, replace=False)
    with pytest.raises(OutputError, match="exists already"):
        upload(group(tmp_path / "b", "2"), url, replace=False)
    files.pipe_file(f"{url}/mask/9.9", b"of the old one")
    assert upload(tmp_path / "b", url, replace=True).size > 0 and not files.exists(f"{url}/mask/9.9")
    files.pipe_file(f"s3://{bucket}/other.zarr/zarr.json", b"precious")
    for replace in (False, True):
        with pytest.raises(OutputError, match="geouq has not made it"):
            upload(tmp_path / "b", f"s3://{bucket}/other.zarr", replace=replace)
    assert files.cat_file(f"s3://{bucket}/other.zarr/zarr.json") == b"precious"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["s3://bucket"], "names no file in a store"),
        (["s3://bucket/a/../b.tif"], "names no file in a store"),
        (["s3:///bucket/a.tif"], "names no file in a store"),
        (["s3://bucket//a.tif"], "names no file in a store"),
        (["s3://bucket/a//b.tif"], "names no file in a store"),
        (["https://x.org/a.tif"], "https cannot be written to"),
        (["what://x/a.tif"], "nothing is known that writes there"),
        (["s3://one/a.tif", "s3://two/a.gpkg"], "are in two stores"),
    ],
)
def test_what_is_no_store_is_refused(names, says):
    with pytest.raises(OutputError, match=says):
        store_for(names)


def test_outputs_are_all_here_or_all_there(folder):
    with pytest.raises(OutputError, match="p.gpkg is on this machine, and s3://b/a.tif is not"):
        run(folder, geouq.Outputs("s3://b/a.tif", vector="p.gpkg"))


def test_the_command_line(folder, bucket, monkeypatch):
    from geouq.cli.main import geouq as command

    monkeypatch.setattr("geouq.uploads.PAUSES", ())
    options = ["--model", f"{folder}/m.safetensors", "--samples", "2", "-q"]
    scene, url = str(folder / "scene_20240501_db.tif"), f"s3://{bucket}/maps"
    done = CliRunner().invoke(command, ["segment", scene, "-o", f"{url}/a.tif", "--stac", "--json", *options])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["files"] == [f"{url}/a.json", f"{url}/a.qml", f"{url}/a.tif"]
    done = CliRunner().invoke(command, ["segment", scene, "-o", f"{url}/", "--vector", f"{url}/", *options])
    assert done.exit_code == 0, done.output
    assert {f"scene_20240501_db_water.{end}" for end in ("tif", "qml", "gpkg")} < set(stored_sums(bucket))
    done = CliRunner().invoke(command, ["segment", scene, "-o", "s3://no-such-bucket/a.tif", *options])
    assert isinstance(done.exception, OutputError) and "the same command goes on" in str(done.exception)


def test_a_store_that_is_not_there_is_told_before_anything_is_computed(folder, bucket, monkeypatch):
    monkeypatch.setattr("geouq.uploads.PAUSES", ())
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    seen = []
    with pytest.raises(OutputError, match=rf"s3://{bucket}/w.*check the address"):
        run(folder, f"s3://{bucket}/w.tif", on_event=seen.append)
    assert not any(isinstance(event, TileDone) for event in seen) and not os.listdir()


# --- scenes in a store ------------------------------------------------------------------------------------------


def put(folder: Path, bucket: str, name: str) -> None:
    s3fs.S3FileSystem().put_file(str(folder / name), f"{bucket}/scene_20240501_db.tif")


def test_a_scene_in_a_store_is_the_scene_of_the_file(folder, bucket, tmp_path):
    put(folder, bucket, "scene_20240501_db.tif")
    scene = geouq.open_scene(f"s3://{bucket}/scene_20240501_db.tif")
    geouq.run(scene, folder / "m.safetensors", tmp_path / "remote.tif", **ASK)
    run(folder, tmp_path / "local.tif")
    with rasterio.open(tmp_path / "remote.tif") as one, rasterio.open(tmp_path / "local.tif") as other:
        assert np.array_equal(one.read(), other.read())


@pytest.mark.parametrize("name", ["s3://{}/scene_20240501_db.tif", "/vsis3/{}/scene_20240501_db.tif"])
def test_a_scene_in_a_store_is_not_replaced_by_its_map(folder, bucket, tmp_path, name):
    put(folder, bucket, "scene_20240501_db.tif")
    scene, url = geouq.open_scene(name.format(bucket)), f"s3://{bucket}/scene_20240501_db.tif"
    with pytest.raises(OutputError, match=rf"{url} is the scene itself"):
        geouq.run(scene, folder / "m.safetensors", url, overwrite=True, **ASK)
    assert look(url).size == (folder / "scene_20240501_db.tif").stat().st_size and not list(tmp_path.iterdir())


def test_a_run_on_a_scene_that_was_replaced_is_not_continued(folder, bucket, tmp_path):
    write_raster(folder / "other.tif", scene_values(100, 90, seed=3), nodata=np.nan, **PLACE)
    put(folder, bucket, "scene_20240501_db.tif")
    url = f"s3://{bucket}/scene_20240501_db.tif"

    class Enough(Exception):
        pass

    def stop(event):
        if isinstance(event, TileDone):
            raise Enough

    with pytest.raises(Enough):
        geouq.run(geouq.open_scene(url), folder / "m.safetensors", tmp_path / "m.tif", on_event=stop, **ASK)
    put(folder, bucket, "other.tif")
    with pytest.raises(OutputError, match=r"unfinished run with other settings \(scene"):
        geouq.run(geouq.open_scene(url), folder / "m.safetensors", tmp_path / "m.tif", **ASK)


def test_a_scene_that_is_not_in_its_store_is_one_line(bucket):
    started = time.monotonic()
    with pytest.raises(geouq.GeouqError, match=rf"s3://{bucket}/gone.tif: cannot be opened .*check the address"):
        geouq.open_scene(f"s3://{bucket}/gone.tif")
    assert time.monotonic() - started < 5
