"""Parts and the ledger: what of a run is safely on disk, and whose it is.

A *part* is one finished tile's arrays in one file, written under a temporary name, synced and renamed before its
*receipt* is entered into the ledger (sqlite), so that a receipt always speaks of a whole part. The ledger is tied to
the *identity* of its run: all that the result depends on. Each line in it is sealed with its own hash, and each receipt
has the hash of its part: what a disk has damaged since is not believed but made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from geouq.errors import ModelError, OutputError, TileError
from geouq.files import in_the_way

_PART = re.compile(r"\d+\.part")
#: all names that geouq gives in a work folder: ledger, parts, files about to get their final names, scratch folders
_OURS = re.compile(
    r"(ledger|lock)\.sqlite(-journal|-wal|-shm)?|\d+\.(part|writing)|made-.+|\..*\.geouq-[0-9a-f]{8}-\d+-[a-z0-9_]{8}"
)


@dataclass(frozen=True)
class Receipt:
    """What a finished tile says of itself; areas in m² (pixels² without a CRS), samples drawn.

    doubt, water_doubt : sums of uncertainty · pixel area over what is classified, and over the positive class.
    class_areas, mask_areas, mask_doubts : of more than two classes each one's area by sample (C, S), and of the mask
        area and sum of uncertainty · pixel area, (C,) each; of two classes empty.
    open_area : of what is classified, with more uncertainty than ``geouq.alarm.OPEN``.
    undecided_area : of what is classified, and of neither class. Where the mask goes by the whole scene, areas of the
        mask and its doubt are of no account: the part holds what they are made of (geouq.segmentation.deciding).
    """

    index: int
    part: str
    digest: str
    valid: int
    water_area: float
    valid_area: float
    areas: tuple[float, ...]
    drawn: int = 0
    doubt: float = 0.0
    water_doubt: float = 0.0
    undecided_area: float = 0.0
    class_areas: tuple[tuple[float, ...], ...] = ()
    mask_areas: tuple[float, ...] = ()
    mask_doubts: tuple[float, ...] = ()
    open_area: float = 0.0


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return what a part holds."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return zlib.compress(buffer.getbuffer(), 1)


def digest_of(packed: bytes) -> str:
    """Return what a receipt knows a part by, its sha256."""
    return hashlib.sha256(packed).hexdigest()


def read_part(path: Path, digest: str, most: int) -> dict[str, np.ndarray] | None:
    """Return the arrays of a part; None if it is gone or damaged, or would take more than ``most`` bytes."""
    try:
        packed = path.read_bytes()
        if hashlib.sha256(packed).hexdigest() != digest:
            return None
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(packed, most)
        if not unpacker.eof:
            return None
        with np.load(io.BytesIO(content)) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile):
        return None


class Ledger:
    """What is done of one run, in its hidden ``work`` folder. One process at a time holds it.

    A run in the way with other settings is refused, unless there is nothing in it to lose: no tile was finished, a tile
    failed (so that the command that began it cannot finish it), or its ledger is damaged. ``notes`` says so.

    Parameters
    ----------
    work : the folder; made if it is not there.
    identity : plain values on which the result depends; a ledger of another identity is not continued.
    finals : the names the outputs will have; they must not exist yet unless ``overwrite`` says so.

    Raises
    ------
    OutputError : an output exists, the folder belongs to a run with other settings or to a running process, or
        cannot be written.
    """

    def __init__(self, work: Path, identity: Mapping[str, Any], finals: Iterable[Path], overwrite: bool) -> None:
        self.work, self.notes = work, list[str]()
        if stranger := not_ours(work):
            raise OutputError(f"{stranger} is not what geouq leaves in {work.name}: move it away, and run again")
        text = json.dumps(identity, sort_keys=True)
        broken = _facts(work)
        ours = broken.get("identity") == text
        if broken and not ours and not overwrite:
            self._give_way(broken, text)
        existing = [found for found in map(in_the_way, finals) if found is not None]
        if existing and not overwrite and not (ours and "publishing" in broken):
            raise OutputError(f"{existing[0]} exists already: give --overwrite to replace it, or another name")
        try:
            work.mkdir(exist_ok=True)
            self._lock = _hold(work)
            if broken and not ours:
                _empty(work)
            with closing(_connect(work)) as database, database:
                database.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")
                database.execute("CREATE TABLE IF NOT EXISTS receipts (tile INTEGER PRIMARY KEY, receipt TEXT)")
            self.note("identity", text)
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"{work} cannot be written: {error}") from None

    def _give_way(self, broken: Mapping[str, str], text: str) -> None:
        """Note why another run in the folder may be emptied; raise OutputError if it may not."""
        if "identity" not in broken:
            self.notes.append(f"{self.work.name}, what a broken run left, is damaged: the run starts anew")
        elif "failed" in broken:
            self.notes.append(f"a run with other settings in {self.work.name} failed: this one takes its place")
        elif broken["tiles"] != "0":
            raise OutputError(
                f"{self.work} holds an unfinished run with other settings ({_difference(broken['identity'], text)}): "
                "finish it with the command that began it, or give --overwrite to start anew"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go; a run that failed says so, and one that failed before its first tile leaves nothing behind."""
        failed = kind is not None and issubclass(kind, Exception)
        if failed and not self.receipts():
            self.close()
        elif kind is not None and issubclass(kind, TileError | ModelError):
            self.note("failed", "yes")
        self._lock.close()

    def note(self, name: str, value: str) -> None:
        """Write down a fact about the run."""
        _write(self.work, "INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, _seal(value)))

    def receipts(self) -> dict[int, Receipt]:
        """Return the receipts whose part is there and whole, by tile; ``notes`` says how many are not."""
        with closing(_connect(self.work)) as database:
            rows = list(database.execute("SELECT receipt FROM receipts ORDER BY tile"))
        read = [_receipt(text) for (text,) in rows]
        found = {r.index: r for r in read if r is not None and self._whole(r)}
        if len(found) < len(rows):
            lost = len(rows) - len(found)
            self.notes.append(f"{lost} finished tiles are damaged or gone from {self.work.name}: computed again")
        return found

    def _whole(self, receipt: Receipt) -> bool:
        try:
            return hashlib.sha256((self.work / receipt.part).read_bytes()).hexdigest() == receipt.digest
        except OSError:
            return False

    def close(self) -> None:
        """Remove the folder: the run is finished and all its outputs have their final names."""
        self._lock.close()
        clear(self.work)


def not_ours(work: Path) -> Path | None:
    """Return what in a work folder, or in its place, is not geouq's: a link, or a name that it never gives."""
    if not os.path.lexists(work):
        return None
    if work.is_symlink() or not work.is_dir():
        return work
    with os.scandir(work) as entries:
        strange = sorted(one.name for one in entries if one.is_symlink() or not _OURS.fullmatch(one.name))
    return work / strange[0] if strange else None


def clear(work: Path) -> None:
    """Remove a work folder, its ledger first: what is left if this is cut short is nobody's."""
    (work / "ledger.sqlite").unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def tidy(work: Path, identity: Mapping[str, Any]) -> None:
    """Remove what a finished run of this identity has left of its folder, unless a process is at it."""
    text = json.dumps(identity, sort_keys=True)
    if not_ours(work) or not work.exists() or _facts(work).get("identity", text) != text:
        return
    try:
        _hold(work).close()
    except OutputError:
        return
    clear(work)


def enter(work: Path, receipt: Receipt) -> None:
    """Enter a receipt into the ledger in ``work``; any thread or process may.

    Raises
    ------
    OutputError : the ledger cannot be written.
    """
    text = _seal(json.dumps(asdict(receipt)))
    _write(work, "INSERT OR REPLACE INTO receipts VALUES (?, ?)", (receipt.index, text))


def _write(work: Path, statement: str, row: tuple[Any, ...]) -> None:
    try:
        with closing(_connect(work)) as database, database:
            database.execute(statement, row)
    except sqlite3.Error as error:
        raise OutputError(f"{work} cannot be written: {error}") from None


def _connect(work: Path) -> sqlite3.Connection:
    return sqlite3.connect(work / "ledger.sqlite", timeout=60)


def _seal(text: str) -> str:
    """Return a line with its hash before it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16] + text


def _unseal(line: object) -> str | None:
    """Return the line as it was sealed; None if it is not."""
    return line[16:] if isinstance(line, str) and _seal(line[16:]) == line else None


def _receipt(line: object) -> Receipt | None:
    text = _unseal(line)
    if text is None:
        return None
    values = json.loads(text)
    if not _PART.fullmatch(values["part"]):
        return None
    lists = {name: tuple(values[name]) for name in ("areas", "mask_areas", "mask_doubts")}
    return Receipt(**values | lists | {"class_areas": tuple(map(tuple, values["class_areas"]))})


def _hold(work: Path) -> sqlite3.Connection:
    """Return an exclusive lock on the folder, which ends with this process at the latest."""
    lock = sqlite3.connect(work / "lock.sqlite", timeout=0.2, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        raise OutputError(f"{work} is in use by another geouq process: wait for it, or take another name") from None
    return lock


def _empty(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith("lock.sqlite"):
            path.unlink(missing_ok=True)


def _facts(work: Path) -> dict[str, str]:
    """Return the facts of a ledger that is there, and how many ``tiles`` it has; nothing if there is none.

    Those of a damaged one are without ``identity``.
    """
    if not (work / "ledger.sqlite").exists():
        return {}
    try:
        with closing(_connect(work)) as database:
            whole = database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = list(database.execute("SELECT name, value FROM facts")) if whole else []
            facts = {str(name): _unseal(line) for name, line in rows}
            tiles = database.execute("SELECT count(*) FROM receipts").fetchone()[0] if whole else 0
    except sqlite3.Error:
        facts, tiles = {}, 0
    return {"tiles": str(tiles)} | {name: value for name, value in facts.items() if value is not None}


def _difference(old: str, new: str) -> str:
    """Return which settings differ, for people."""
    before, after = json.loads(old), json.loads(new)
    return ", ".join(name for name in after if before.get(name) != after[name]) or "another version of geouq"
