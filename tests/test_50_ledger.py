"""A work folder that is not what it seems: nothing in it is followed, read, written or removed that is not geouq's."""

import json
from contextlib import closing

import numpy as np
import pytest

from geouq.errors import OutputError
from geouq.segmentation.ledger import Ledger, Receipt, _connect, _seal, enter, tidy
from tests.helpers import write_part

IDENTITY = {"scene": "a"}


def ledger(work, overwrite=False, identity=IDENTITY):
    return Ledger(work, identity, [], overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_work_folder_that_is_a_link_is_refused(tmp_path, overwrite):
    elsewhere, work = tmp_path / "elsewhere", tmp_path / ".out.tif.geouq"
    with ledger(elsewhere):
        (elsewhere / "000001.part").write_text("x")
    work.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="is not what geouq leaves"):
        ledger(work, overwrite, {"scene": "b"})
    tidy(work, IDENTITY)
    assert (elsewhere / "000001.part").exists() and (elsewhere / "ledger.sqlite").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["precious.txt", "map.tif", "000000.writing", "ledger.sqlite-journal", "sub"])
def test_strange_names_and_links_are_never_touched(tmp_path, name, overwrite):
    work, precious = tmp_path / ".out.tif.geouq", tmp_path / "precious"
    precious.write_text("mine")
    with ledger(work):
        pass
    if name == "sub":
        (work / name).mkdir()
    elif name in ("precious.txt", "map.tif"):
        (work / name).write_text("mine")
    else:
        (work / name).symlink_to(precious)
    with pytest.raises(OutputError, match=name):
        ledger(work, overwrite, {"scene": "b"})
    assert (work / name).exists() and precious.read_text() == "mine"


def test_a_part_is_written_through_no_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "000000.writing").symlink_to(precious)
    write_part(tmp_path / "000000.part", {"map": np.zeros(3)})
    assert precious.read_text() == "mine" and not (tmp_path / "000000.part").is_symlink()


@pytest.mark.parametrize("part", ["../evil.part", "/etc/passwd", "sub/000001.part"])
def test_receipts_of_parts_elsewhere_do_not_count(tmp_path, part):
    work = tmp_path / ".out.tif.geouq"
    with ledger(work) as book:
        digest = write_part(work / "000001.part", {"map": np.zeros(3)})
        enter(work, Receipt(1, "000001.part", digest, 1, 2.0, 3.0, (4.0,)))
        assert list(book.receipts()) == [1]
        with closing(_connect(work)) as database, database:
            (text,) = database.execute("SELECT receipt FROM receipts").fetchone()
            values = json.loads(text[16:]) | {"part": part}
            database.execute("UPDATE receipts SET receipt=?", (_seal(json.dumps(values)),))
        assert book.receipts() == {}
