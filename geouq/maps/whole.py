"""Files that are whole or not there: made in a hidden folder beside them, and renamed when done."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geouq.errors import OutputError


def scratch(path: Path, work: str | os.PathLike[str] | None = None) -> Path:
    """Make a new hidden folder in ``work``, or else beside ``path``; ``discard`` it at the end.

    Its name is new each time, also because GDAL's pool of VRT sources remembers names as long as a process lives.
    """
    return Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=work or path.parent))


def discard(folder: Path) -> None:
    """Remove a scratch folder and all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, path: Path) -> None:
    """Give the finished file ``made`` its name, once its bytes are on disk."""
    with open(made, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(made, path)


def place(made: Path, path: Path) -> None:
    """Give the finished file ``made`` its final name in one step, also on another file system."""
    try:
        os.replace(made, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = path.with_name(f".{path.name}.part")
        try:
            shutil.copyfile(made, beside)
            publish(beside, path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn OSError, and ``errors``, into an OutputError of one line that names ``path``."""
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except caught as error:
        raise OutputError(f"{path} cannot be written: {' '.join(str(error).split())}") from error
