"""What names lead to: files that outputs must not replace, states that tell one file from its successor, no network."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from geouq.errors import OutputError, SceneError
from geouq.files import check_free, publish, refuse_own, scratch, whole
from geouq.gdal import guard
from geouq.scenes.open import open_scene
from geouq.sources import file_key, files_behind, is_remote, local_files, state
from tests.helpers import write_raster

VRT = (
    '<VRTDataset rasterXSize="4" rasterYSize="3"><VRTRasterBand dataType="Float32" band="1"><SimpleSource>'
    '<SourceFilename relativeToVRT="1">{}</SourceFilename><SourceBand>1</SourceBand>'
    "</SimpleSource></VRTRasterBand></VRTDataset>"
)


def write(path, value):
    profile = {"driver": "GTiff", "width": 4, "height": 3, "count": 1, "dtype": "float32", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=Affine(10, 0, 5e5, 0, -10, 5e6)) as file:
        file.write(np.full((1, 3, 4), value, "float32"))
    return Path(path)


def values(name, **options):
    return float(open_scene(str(name), scale="dn", **options).values.mean())


# --- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "{}",
        "file://{}",
        "file://localhost{}",
        "vrt://{}?bands=1",
        "/vsizip/{}/a.tif",
        "/vsizip/{{{}}}/a.tif",
        "zip://{}!a.tif",
        "/vsisubfile/0_10,{}",
        'NETCDF:"{}":water',
        'HDF5:"{}"://a/b',
        "GTIFF_DIR:1:{}",
        "/vsicurl/file://{}",
    ],
)
@pytest.mark.parametrize("folder", ["plain", "with!mark", "a b,c"])
def test_a_name_is_resolved_to_its_file(tmp_path, name, folder):
    path = tmp_path / folder / "s.tif"
    path.parent.mkdir()
    path.write_bytes(b"x")
    (found,) = local_files(name.format(path))
    assert os.path.samefile(found, path) and not is_remote(name.format(path))
    for overwritten in (path, tmp_path / folder / ".." / folder / "s.tif"):
        with pytest.raises(OutputError, match="is what is to be read"):
            refuse_own(overwritten, [name.format(path)])
    link = tmp_path / "link.tif"
    link.symlink_to(path)
    with pytest.raises(OutputError):
        refuse_own(link, [name.format(path)])


def test_what_cannot_be_resolved_is_not_replaced(tmp_path):
    out = tmp_path / "out.tif"
    refuse_own(out, ["PG:host=db"])
    out.write_text("mine")
    with pytest.raises(OutputError, match="cannot be resolved"):
        refuse_own(out, ["PG:host=db"])
    refuse_own(out, ["https://example.org/out.tif"])


def test_files_behind_virtual_rasters_at_any_depth(tmp_path):
    source = write(tmp_path / "s.tif", 1)
    (tmp_path / "s.tif.aux.xml").write_text("<PAMDataset/>")
    (tmp_path / "a.vrt").write_text(VRT.format("s.tif"))
    (tmp_path / "b.vrt").write_text(VRT.format("a.vrt"))
    found = {os.path.basename(file) for file in files_behind(str(tmp_path / "b.vrt"))}
    assert found == {"b.vrt", "a.vrt", "s.tif", "s.tif.aux.xml"}
    with pytest.raises(OutputError):
        refuse_own(source, [tmp_path / "b.vrt"])


# --- the state of what is read --------------------------------------------------------------------------------


def test_a_file_rewritten_is_another_file(tmp_path):
    path = write(tmp_path / "s.tif", 1)
    key = file_key(str(path))
    assert key == file_key(str(path))
    path.rename(tmp_path / "first.tif")
    write(path, 2)
    assert key != file_key(str(path))
    os.utime(path, ns=(0, key[1][0][2]))
    assert key != file_key(str(path)), "size and time as before, but another file"


@pytest.mark.parametrize("how", ["vrt", "nested", "zip", "memory", "mask"])
def test_pixels_of_an_earlier_file_are_not_read(tmp_path, how):
    path = tmp_path / "s.tif"
    name = str(path)

    def put(value):
        if how == "memory":
            write("/vsimem/rewritten.tif", value)
            return
        write(path, value)
        if how == "zip":
            with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
                archive.write(path, "s.tif")

    if how in ("vrt", "nested"):
        name = str(tmp_path / "a.vrt")
        Path(name).write_text(VRT.format("s.tif"))
    if how == "nested":
        name = str(tmp_path / "b.vrt")
        Path(name).write_text(VRT.format("a.vrt"))
    name = {"zip": f"/vsizip/{tmp_path}/s.zip/s.tif", "memory": "/vsimem/rewritten.tif"}.get(how, name)
    put(1)
    first = open_scene(name, scale="dn")
    assert float(first.values.mean()) == 1
    if how == "mask":
        with rasterio.open(f"{path}.msk", "w", driver="GTiff", width=4, height=3, count=1, dtype="uint8") as file:
            file.write(np.full((1, 3, 4), 0, "uint8"))
            file.update_tags(INTERNAL_MASK_FLAGS_1="2")
        assert np.isnan(open_scene(name, scale="dn").values).all()
        return
    put(2)
    second = open_scene(name, scale="dn")
    assert float(second.values.mean()) == 2 and first.data.name != second.data.name
    with pytest.raises(SceneError, match="has changed"):
        first.compute(scheduler="synchronous")


# --- remote files ---------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path):
    """The address of a server of ``tmp_path``."""
    command = [sys.executable, "-m", "tests.web", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


def test_a_remote_file_replaced_is_another_file(tmp_path, web):
    url = web
    write(tmp_path / "r.tif", 1)
    first = open_scene(f"{url}/r.tif", scale="dn")
    assert float(first.values.mean()) == 1
    write(tmp_path / "r.tif", 2)
    second = open_scene(f"{url}/r.tif", scale="dn")
    assert float(second.values.mean()) == 2 and first.data.name != second.data.name


def test_a_busy_server_is_asked_again(tmp_path, web, monkeypatch):
    url = web
    write(tmp_path / "r.tif", 3)
    monkeypatch.setattr("geouq.gdal.PAUSES", (0.01,) * 4)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    scene = open_scene(f"{url}/r.tif", scale="dn")
    (tmp_path / "failures").write_text("2")
    assert float(scene.compute(scheduler="synchronous").values.mean()) == 3
    with pytest.raises(SceneError, match="check the address"):
        open_scene(f"{url}/gone.tif", scale="dn")


# --- the guard ------------------------------------------------------------------------------------------------


def test_pipes_and_what_is_not_there(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "over.vrt").write_text(VRT.format("pipe"))
    for name in (tmp_path / "pipe", tmp_path / "over.vrt", f"vrt://{tmp_path}/pipe"):
        with pytest.raises(SceneError, match="is not a file"):
            guard(str(name))
    with pytest.raises(SceneError, match="no such file"):
        guard(str(tmp_path / ("x" * 300)))


@pytest.mark.skipif(os.getuid() != 0, reason="asks as another user than who made the files")
def test_what_may_not_be_read_is_one_line(tmp_path):
    path = write(tmp_path / "s.tif", 1)
    closed = tmp_path / "closed"
    closed.mkdir()
    write(closed / "s.tif", 1)
    path.chmod(0)
    closed.chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder != Path("/"):
            folder.chmod(0o755)
    program = (
        "import os, sys; from geouq.scenes.open import open_scene; os.seteuid(65534)\n"
        "try: open_scene(sys.argv[1])\nexcept Exception as error: print(type(error).__name__, error)"
    )
    for name in (path, closed / "s.tif", closed):
        done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True)
        assert "SceneError" in done.stdout and "may not be read" in done.stdout, done.stdout + done.stderr


# --- writing --------------------------------------------------------------------------------------------------


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a.txt"
    with whole(path) as made:
        made.write_text("first")
        assert not path.exists()
    with pytest.raises(RuntimeError), whole(path) as made:
        made.write_text("second")
        raise RuntimeError
    with pytest.raises(OutputError, match="a.txt cannot be written: no space is left"), whole(path) as made:
        raise OSError(28, "No space left on device", str(made))
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["a.txt"]


def test_companions_go_with_the_file_they_speak_of(tmp_path):
    path = write(tmp_path / "m.tif", 1)
    for end in (".aux.xml", ".ovr", ".msk"):
        Path(f"{path}{end}").write_text("of the old one")
    (tmp_path / "m.tif.txt").write_text("a user's own")
    with whole(path) as made:
        write(made, 2)
    assert sorted(os.listdir(tmp_path)) == ["m.tif", "m.tif.txt"]


@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_what_is_open_in_another_program_is_not_replaced(tmp_path, end):
    path = tmp_path / "p.gpkg"
    path.write_text("old")
    Path(f"{path}{end}").write_text("")
    with pytest.raises(OutputError, match=f"open in another program.*p.gpkg{end}"):
        check_free(path, overwrite=True)
    made = tmp_path / "new"
    made.write_text("new")
    with pytest.raises(OutputError):
        publish(made, path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["s3://bucket/a.tif", "http://x.org/a.tif", "/vsis3/bucket/a.tif"])
def test_outputs_are_on_this_machine(name):
    with pytest.raises(OutputError, match="not on this machine"):
        check_free(Path(name), overwrite=False)


def test_what_dead_processes_left_is_removed(tmp_path):
    path, mine = tmp_path / "a.tif", tmp_path / ".a.mine-00000000"
    mine.mkdir()
    program = (
        "import os, sys, pathlib; from geouq.files import scratch\n"
        "with scratch(pathlib.Path(sys.argv[1])) as folder: os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, path])
    (left,) = set(tmp_path.iterdir()) - {mine}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    left.rename(tmp_path / "kept")
    left.symlink_to(elsewhere)
    with scratch(path):
        assert left.is_symlink(), "only real folders are removed"
    left.unlink()
    (tmp_path / "kept").rename(left)
    with scratch(path) as folder, scratch(path) as another:
        assert folder.is_dir() and another.is_dir() and not left.exists() and mine.is_dir()
    assert (elsewhere / "precious").exists()


@pytest.mark.parametrize("tiled", [True, False])
def test_a_scene_too_long_for_coordinates_is_refused(tmp_path, tiled):
    profile = {"driver": "GTiff", "width": 1, "height": 500_000_000, "count": 1, "dtype": "uint8", "sparse_ok": True}
    shape = {"blockysize": 1 << 26} if not tiled else {"tiled": True, "blockxsize": 16, "blockysize": 1 << 15}
    with rasterio.open(tmp_path / "long.tif", "w", **profile, **shape):
        pass
    with pytest.raises(SceneError, match="longer than any scene"):
        open_scene(str(tmp_path / "long.tif"), scale="dn")


def test_what_libraries_log_is_not_printed(tmp_path):
    program = "import logging, geouq.gdal; [logging.getLogger(n).error('x') for n in ('rasterio._io', 'pyogrio._io')]"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("source", [b"a file object", 3, None, [None]])
def test_what_is_no_name_is_refused_in_one_line(source):
    with pytest.raises(SceneError, match="give a path or a URL"):
        open_scene(source)


QGIS = """<PAMDataset>
  <PAMRasterBand band="1">%s
    <Histograms><HistItem><HistMin>-20</HistMin></HistItem></Histograms>
    <Metadata><MDI key="STATISTICS_MEAN">-12.5</MDI><MDI key="STATISTICS_STDDEV">3</MDI></Metadata>
  </PAMRasterBand>
</PAMDataset>
"""


def test_what_a_viewer_leaves_beside_an_image_does_not_make_it_another(tmp_path):
    scene = write_raster(tmp_path / "s.tif", np.ones((1, 9, 9), np.float32))
    before = state(str(scene))
    (tmp_path / "s.tif.ovr").write_bytes(b"pyramids")
    beside = tmp_path / "s.tif.aux.xml"
    beside.write_text(QGIS % "")
    assert state(str(scene)) == before
    beside.write_text(QGIS % "<NoDataValue>-99</NoDataValue>")
    nodata = state(str(scene))
    assert nodata != before
    beside.write_text(QGIS.replace("-12.5", "-13") % "<NoDataValue>-99</NoDataValue>")
    assert state(str(scene)) == nodata
    assert str(beside) in files_behind(str(scene)), "it is still an input that no output replaces"
