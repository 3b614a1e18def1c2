"""Files that are whole or not there: made in a hidden folder beside them, and renamed when done.

And what they may never replace: files that are there unless told so, and what they are made from at all.
"""

from __future__ import annotations

import errno
import glob
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from geouq.errors import OutputError
from geouq.gdal import gdal_errors, open_dataset

if TYPE_CHECKING:
    import xarray as xr

#: the file that makes a folder a Sentinel-1 product
MANIFEST = "manifest.safe"
_FULL = 1 << 20  # bytes that are as good as none
#: bytes of an output's name: file systems take 255, and hidden names beside it are up to 55 longer
LONGEST_NAME = 200


def check_place(path: Path) -> None:
    """Raise OutputError unless a file may be there: its folder exists, and it is no folder itself."""
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise OutputError(f"{path}: the name is too long: give one of at most {LONGEST_NAME} bytes")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: its folder {path.parent} does not exist: make it first")
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file in it")


def check_free(path: Path, overwrite: bool) -> Path:
    """Return ``path``; raise OutputError if no file may be there, or one is and is not to be replaced."""
    check_place(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another name, or overwrite it with --overwrite")
    return path


def refuse_own(path: Path, sources: Iterable[str | os.PathLike[str]], what: str) -> None:
    """Raise OutputError if the output ``path`` is one of ``sources``; ``what`` the message calls a source."""
    if path.exists() and any(os.path.exists(source) and path.samefile(source) for source in sources):
        raise OutputError(f"{path} is {what}: give the output another name")


def refuse_own_scene(scene: xr.DataArray, wanted: Iterable[Path]) -> None:
    """Raise OutputError if an output would take the place of a file that the scene is read from."""
    files = scene_files(scene)
    for path in wanted:
        refuse_own(path, files, "the scene itself")


def scene_files(scene: xr.DataArray) -> list[str]:
    """Return the local files a scene says it comes from, and those behind them."""
    sources = scene.attrs.get("source", [])
    local = [str(f) for f in ([sources] if isinstance(sources, str) else sources) if os.path.exists(f)]
    return [behind for file in local for behind in files_behind(file)]


def files_behind(name: str) -> list[str]:
    """Return a local file and, where it is a virtual raster (VRT), the local files that it shows, once each.

    For the folder or manifest of a SAFE product, the files in that folder.

    Raises
    ------
    SceneError : a virtual raster cannot be opened.
    """
    product = name if os.path.isdir(name) else os.path.dirname(name) or "."
    if os.path.isfile(os.path.join(product, MANIFEST)):
        return [os.path.join(folder, file) for folder, _, files in os.walk(product) for file in files]
    if not name.lower().endswith(".vrt"):
        return [name]
    with gdal_errors(name, "opened"), open_dataset(name) as dataset:
        found = [os.fspath(path) for path in dataset.files]
    return [name, *dict.fromkeys(path for path in found if os.path.isfile(path) and not os.path.samefile(path, name))]


def scratch(path: Path, work: str | os.PathLike[str] | None = None) -> Path:
    """Make a new hidden folder in ``work``, or else beside ``path``; ``discard`` it at the end.

    Those that killed processes of this computer have left there are removed. Its name is new each time, also because
    GDAL's pool of VRT sources remembers names as long as a process lives.
    """
    folder = Path(work or path.parent)
    here = f"@{platform.node()[:20].replace('-', '_')}-"
    for left in folder.glob(f".{glob.escape(path.stem)}-*{glob.escape(here)}*"):
        pid = left.name.removeprefix(f".{path.stem}-").split("@")[0]
        if pid.isdecimal() and not _is_running(int(pid)) and left.is_dir() and not left.is_symlink():
            discard(left)
    return Path(tempfile.mkdtemp(prefix=f".{path.stem}-{os.getpid()}{here}", dir=folder))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


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
        reason = "no space is left on its disk: make some" if _is_full(path, error) else " ".join(str(error).split())
        raise OutputError(f"{path} cannot be written: {reason}") from error


def _is_full(path: Path, error: Exception) -> bool:
    """True if a failure comes from a full disk, whatever a library says of it."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    try:
        return shutil.disk_usage(path.parent).free < _FULL
    except OSError:
        return False
