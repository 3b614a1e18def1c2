"""Parts and the ledger: what of a run is safely on disk, and whose it is.

A *part* is one finished tile's arrays in one file, written under a temporary name, synced and renamed before its
*receipt* is entered into the ledger (sqlite), so that a receipt always speaks of a whole part. The ledger is tied to
the *identity* of its run: all that the result depends on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from geouq.errors import OutputError


@dataclass(frozen=True)
class Receipt:
    """What a finished tile says of itself; areas in m² (pixels² without a CRS), samples drawn."""

    index: int
    part: str
    digest: str
    valid: int
    water_area: float
    valid_area: float
    areas: tuple[float, ...]
    drawn: int = 0


def write_part(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write a part, whole or not at all, and return its sha256.

    Raises
    ------
    OutputError : it cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    packed = zlib.compress(buffer.getbuffer(), 1)
    temporary = path.with_suffix(".writing")
    try:
        with open(temporary, "wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None
    return hashlib.sha256(packed).hexdigest()


def read_part(path: Path) -> Mapping[str, np.ndarray]:
    """Return the arrays of a part."""
    arrays: Mapping[str, np.ndarray] = np.load(io.BytesIO(zlib.decompress(path.read_bytes())))
    return arrays


class Ledger:
    """What is done of one run, in its hidden ``work`` folder. One process at a time holds it.

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
        self.work = work
        text = json.dumps(identity, sort_keys=True)
        broken = _facts(work)
        ours = broken.get("identity") == text
        if broken and not ours and not overwrite:
            raise OutputError(
                f"{work} holds an unfinished run with other settings ({_difference(broken['identity'], text)}): "
                "finish it with the command that began it, or give --overwrite to start anew"
            )
        existing = [path for path in finals if path.exists()]
        if existing and not overwrite and not (ours and "placing" in broken):
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def note(self, name: str, value: str) -> None:
        """Write down a fact about the run."""
        _write(self.work, "INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def receipts(self) -> dict[int, Receipt]:
        """Return the receipts whose part is there and whole, by tile."""
        with closing(_connect(self.work)) as database:
            rows = list(database.execute("SELECT receipt FROM receipts ORDER BY tile"))
        found = {}
        for (text,) in rows:
            values = json.loads(text)
            part = self.work / values["part"]
            if part.exists() and hashlib.sha256(part.read_bytes()).hexdigest() == values["digest"]:
                found[values["index"]] = Receipt(**values | {"areas": tuple(values["areas"])})
        return found

    def close(self) -> None:
        """Remove the folder: the run is finished and all its outputs are in place."""
        self._lock.close()
        shutil.rmtree(self.work)


def enter(work: Path, receipt: Receipt) -> None:
    """Enter a receipt into the ledger in ``work``; any thread or process may.

    Raises
    ------
    OutputError : the ledger cannot be written.
    """
    _write(work, "INSERT OR REPLACE INTO receipts VALUES (?, ?)", (receipt.index, json.dumps(asdict(receipt))))


def _write(work: Path, statement: str, row: tuple[Any, ...]) -> None:
    try:
        with closing(_connect(work)) as database, database:
            database.execute(statement, row)
    except sqlite3.Error as error:
        raise OutputError(f"{work} cannot be written: {error}") from None


def _connect(work: Path) -> sqlite3.Connection:
    return sqlite3.connect(work / "ledger.sqlite", timeout=60)


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
            path.unlink()


def _facts(work: Path) -> dict[str, str]:
    """Return the facts of a ledger that is there; nothing if there is none."""
    if not (work / "ledger.sqlite").exists():
        return {}
    try:
        with closing(_connect(work)) as database:
            return {"identity": "{}", **dict(database.execute("SELECT name, value FROM facts"))}
    except sqlite3.Error:
        return {"identity": "{}"}


def _difference(old: str, new: str) -> str:
    """Return which settings differ, for people."""
    before, after = json.loads(old), json.loads(new)
    return ", ".join(name for name in after if before.get(name) != after[name]) or "another version of geouq"
