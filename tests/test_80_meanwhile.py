"""What another program puts under an output's name while it is made is not lost, but where --overwrite was given."""

import os
from pathlib import Path

import pytest
import shapely

from geouq import files
from geouq.answers.samples import samples
from geouq.answers.zonal import zonal
from geouq.errors import OutputError
from geouq.files import publish, whole
from geouq.maps.backscatter import write_backscatter
from geouq.polygons.vectorize import vectorize
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run
from geouq.simulation.simulate import simulate_scene
from tests.helpers import as_scene, scene_values, small_model
from tests.maps import write_map, write_places


def segment(out, overwrite):
    scene = as_scene(scene_values(40, 40))
    run(scene, prepare(scene, small_model(), Settings(samples=2)), Outputs(out), overwrite=overwrite)


def of_map(function):
    """A writer of something made of a map, its votes and a place beside the output."""

    def write(out, overwrite):
        path = write_map(out.parent)[0]
        places = write_places(out.parent / "p.gpkg", [shapely.box(500050, 4999800, 500200, 4999950)])
        function(path, places, out, overwrite)

    return write


WRITERS = {
    "m.tif": segment,
    "s.tif": lambda out, overwrite: simulate_scene(out, size=16, overwrite=overwrite),
    "b.tif": lambda out, overwrite: write_backscatter(
        as_scene(scene_values(40, 40, holes=False)), out, overwrite=overwrite
    ),
    "m.safetensors": lambda out, overwrite: small_model().save(out, replace=overwrite),
    "v.gpkg": of_map(lambda path, places, out, overwrite: vectorize(path, out, overwrite=overwrite)),
    "z.gpkg": of_map(lambda path, places, out, overwrite: zonal(path, places, out, overwrite=overwrite)),
    "k.tif": of_map(lambda path, places, out, overwrite: samples(path).export(0, out, overwrite=overwrite)),
    "k.geojson": of_map(lambda path, places, out, overwrite: samples(path).export(0, out, overwrite=overwrite)),
    "k.png": of_map(lambda path, places, out, overwrite: samples(path).preview(out, overwrite=overwrite)),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_came_meanwhile_is_replaced_only_if_that_was_said(tmp_path, monkeypatch, name, overwrite):
    out, sync = tmp_path / "out" / name, files._sync
    out.parent.mkdir()

    def late(path: Path) -> None:
        sync(path)
        if ".geouq" in str(path) and path.parent.name != "out":  # what is made, just before it gets its name
            out.write_text("another program's")

    monkeypatch.setattr(files, "_sync", late)
    if overwrite:
        WRITERS[name](out, True)
        assert out.read_bytes()[:10] != b"another pr"
        return
    with pytest.raises(OutputError, match=f"{name}.*exists"):
        WRITERS[name](out, False)
    assert out.read_text() == "another program's"


@pytest.mark.parametrize("links", [True, False])
def test_names_are_taken_in_one_step_with_and_without_links(tmp_path, monkeypatch, links):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    with whole(tmp_path / "a.txt", replace=False) as made:
        made.write_text("mine")
    assert (tmp_path / "a.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="exists"), whole(tmp_path / "b.txt", replace=False) as made:
        made.write_text("mine")
        (tmp_path / "b.txt").write_text("theirs")
    assert (tmp_path / "b.txt").read_text() == "theirs" and sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_a_folder_takes_no_other_s_place(tmp_path):
    for folder in ("made", "map.zarr"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".zattrs").write_text('{"GEOUQ_RUN": "0"}')
    with pytest.raises(OutputError, match="exists"):
        publish(tmp_path / "made", tmp_path / "map.zarr", replace=False)
    assert (tmp_path / "made").is_dir()


def test_a_run_broken_while_it_published_goes_on_over_its_own_files_alone(tmp_path, monkeypatch):
    out, real = tmp_path / "m.tif", files.os.link

    def stop(made, path):
        if Path(path) == out:
            raise KeyboardInterrupt
        real(made, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files.os, "link", stop)
        segment(out, False)
    assert (tmp_path / "m.qml").exists() and not out.exists()
    out.write_text("another program's")
    with pytest.raises(OutputError, match=r"m.tif.*exists"):
        segment(out, False)
    assert out.read_text() == "another program's"
    out.unlink()
    segment(out, False)
    assert out.stat().st_size > 1000
