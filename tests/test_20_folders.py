"""Outputs that are folders (Zarr groups): whole or absent, and only folders that geouq has made are ever replaced."""

import errno
import os
from pathlib import Path

import pytest

from geouq.errors import OutputError
from geouq.files import check_free, publish, refuse_own, remove, whole
from geouq.segmentation.ledger import Ledger


def group(folder: Path, content: str = "1", ours: bool = True) -> Path:
    (folder / "mask").mkdir(parents=True)
    (folder / ".zattrs").write_text('{"GEOUQ_RUN": "0"}' if ours else "{}")
    (folder / "mask" / "0.0").write_text(content)
    return folder


def content(folder: Path) -> str:
    return (folder / "mask" / "0.0").read_text()


def test_a_folder_is_there_when_it_is_whole_and_only_then(tmp_path):
    path = tmp_path / "map.zarr"
    with pytest.raises(OutputError), whole(path) as made:
        group(made)
        raise OSError(errno.ENOSPC, "full")
    assert not list(tmp_path.iterdir())
    for text in ("1", "2"):
        with whole(path) as made:
            group(made, text)
        assert content(path) == text and [p.name for p in tmp_path.iterdir()] == ["map.zarr"]


def test_what_a_replaced_folder_held_is_gone(tmp_path):
    path = group(tmp_path / "map.zarr")
    (path / "mask" / "9.9").write_text("old")
    publish(group(tmp_path / "made"), path)
    assert not (path / "mask" / "9.9").exists()


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    target = group(tmp_path / "target.zarr", "kept")
    (tmp_path / "map.zarr").symlink_to(target)
    publish(group(tmp_path / "made", "new"), tmp_path / "map.zarr")
    assert content(target) == "kept" and content(tmp_path / "map.zarr") == "new"
    assert not (tmp_path / "map.zarr").is_symlink()
    (tmp_path / "link.zarr").symlink_to(target)
    remove(tmp_path / "link.zarr")
    assert content(target) == "kept"


def test_another_file_system_changes_nothing(tmp_path, monkeypatch):
    path, real = group(tmp_path / "there" / "map.zarr", "old"), os.replace
    made = group(tmp_path / "here" / "made")

    def replace(a, b):
        if Path(a) == made:
            raise OSError(errno.EXDEV, "another file system")
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    publish(made, path)
    assert content(path) == "1" and not made.exists()
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["map.zarr"]


@pytest.mark.parametrize("what", ["a folder of another program", "an empty folder", "a file"])
def test_no_folder_is_replaced_that_geouq_has_not_made(tmp_path, what):
    path = tmp_path / "map.zarr"
    if what == "a file":
        path.write_text("text")
    elif what == "an empty folder":
        path.mkdir()
    else:
        group(path, ours=False)
    with pytest.raises(OutputError, match="geouq has not made it"):
        check_free(path, overwrite=True)


@pytest.mark.parametrize("end", [".aux.xml", ".ovr", ".msk"])
def test_what_lies_beside_a_name_is_not_removed_unasked(tmp_path, end):
    path, beside = tmp_path / "map.tif", tmp_path / f"map.tif{end}"
    beside.write_text("mine")
    for refuse in (lambda: check_free(path, False), lambda: Ledger(tmp_path / ".map.tif.geouq", {}, [path], False)):
        with pytest.raises(OutputError, match=f"{beside.name} exists.*--overwrite"):
            refuse()
    assert [p.name for p in tmp_path.iterdir()] == [beside.name] and beside.read_text() == "mine"
    assert check_free(path, True) == path


def test_a_folder_that_holds_an_input_is_not_replaced(tmp_path):
    path = group(tmp_path / "map.zarr")
    assert check_free(path, overwrite=True) == path
    with pytest.raises(OutputError, match="exists"):
        check_free(path, overwrite=False)
    for source in (path, path / "mask" / "0.0", f"file://{path}/mask/0.0", f'ZARR:"{path}":/mask'):
        with pytest.raises(OutputError, match="what is to be read"):
            refuse_own(path, [source])
    (tmp_path / "other.tif").write_text("")
    refuse_own(path, [tmp_path / "other.tif"])


def test_a_folder_is_still_no_name_for_a_file(tmp_path):
    group(tmp_path / "map.tif")
    with pytest.raises(OutputError, match="is a folder"):
        check_free(tmp_path / "map.tif", overwrite=True)
