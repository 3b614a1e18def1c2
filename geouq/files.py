"""Files that are whole or not there: made in a hidden folder beside them, and renamed when done.

Every file that geouq leaves is written here: ``with whole(path) as made`` gives a temporary name, and what is there
when the block ends well gets its final one, in one step, once its bytes are on disk. And what may never be replaced:
files that are there unless told so, what is open in another program, and what the file is made from at all.

A Zarr group is a folder, and a file here in all but this: no file system replaces one folder by another in one step, so
a group that is to be replaced is moved away first; and no folder is replaced but such as geouq has made.
"""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from geouq.errors import OutputError
from geouq.sources import files_behind, is_remote, local_files

if TYPE_CHECKING:
    import xarray as xr

Name = str | os.PathLike[str]

#: bytes of an output's name: file systems take 255, and hidden names beside it are longer
LONGEST_NAME = 200
_FULL = 1 << 20  # bytes that are as good as none

#: files that speak of the one whose name they carry on, and would speak of its successor: GDAL removes them likewise
_COMPANIONS = (".aux.xml", ".ovr", ".msk")
#: ... and those by which an SQLite file (a GeoPackage) shows that a program has it open, or died with it
_OPEN = ("-wal", "-journal")
#: the suffix of outputs that are folders, and the file in them that has what geouq says of its outputs
_FOLDER, _ATTRIBUTES = ".zarr", ".zattrs"
_OUR_TAGS = b'"GEOUQ_RUN"'
#: what is no path, but tells GDAL where to look
_GDAL_NAME = re.compile(r"/vsi|[A-Za-z][\w+.-]+:|\s*<")
_HIDDEN = ".geouq-"
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # a process number means nothing on another machine


# --- where a file may be -----------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Raise OutputError unless a file may be there: a folder on this machine, no folder itself, not open elsewhere."""
    if is_remote(str(path)) or re.match(r"/vsi|[A-Za-z][\w+.-]+:/", str(path)):
        raise OutputError(f"{path} is not on this machine: give a local path, and copy the file when it is done")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise OutputError(f"{path}: the name is too long: give one of at most {LONGEST_NAME} bytes")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: its folder {path.parent} does not exist: make it first")
    if path.is_dir() and path.suffix != _FOLDER:
        raise OutputError(f"{path} is a folder: give the name of a file in it")
    if path.suffix == _FOLDER and path.exists() and not (path.is_dir() and _is_ours(path)):
        raise OutputError(f"{path} is there, and geouq has not made it: move it away, or give another name")
    _refuse_open(path)


def check_free(path: Path, overwrite: bool) -> Path:
    """Return ``path``; raise OutputError if no file may be there, or one is in the way and is not to be replaced."""
    check_writable(path)
    found = None if overwrite else in_the_way(path)
    if found is not None:
        raise OutputError(f"{found} exists: choose another name, or overwrite it with --overwrite")
    return path


def in_the_way(path: Path) -> Path | None:
    """Return what an output would replace or remove: itself, or a companion of it that lies there alone; or None."""
    if path.exists():
        return path
    return next((file for file in _companions(path) if os.path.lexists(file)), None)


def _companions(path: Path) -> list[Path]:
    return [Path(f"{path}{end}") for end in _COMPANIONS]


def refuse_own(path: Path, sources: Iterable[Name], what: str = "what is to be read") -> None:
    """Raise OutputError if ``path`` is a file that it is to be made from, or might be.

    Parameters
    ----------
    sources : names as they were given: paths, ``file://``, ``/vsizip/…``, VRTs, URLs; see ``geouq.sources``.
    what : what they are, for people.
    """
    if not path.exists():
        return
    for name in (os.fspath(source) for source in sources):
        files = files_behind(name)
        if any(os.path.exists(file) and _is_or_holds(path, file) for file in files):
            raise OutputError(f"{path} is {what}: give the output another name")
        if not files and _GDAL_NAME.match(name) and not is_remote(name) and "/vsimem/" not in name:
            raise OutputError(f"{path} might be {what}, {name}, which cannot be resolved: give the output another name")


def _is_or_holds(path: Path, file: str) -> bool:
    """True if a path is a file, or a folder that the file lies in."""
    return path.samefile(file) or Path(file).resolve().is_relative_to(path.resolve())


def metadata_of(path: Path) -> Path:
    """Return the file that has the metadata of an output: itself; of a Zarr group the one of its attributes."""
    return path / _ATTRIBUTES if path.suffix == _FOLDER and path.is_dir() else path


def _is_ours(folder: Path) -> bool:
    attributes = metadata_of(folder)
    return attributes.is_file() and _OUR_TAGS in attributes.read_bytes()


def existing(names: Iterable[str]) -> list[str]:
    """Return the names that are files, of such as may also be those of shipped models."""
    return [name for name in names if os.path.isfile(name)]


def refuse_own_scene(scene: xr.DataArray, wanted: Iterable[Path]) -> None:
    """Raise OutputError if an output would take the place of a file that the scene is read from."""
    for path in wanted:
        refuse_own(path, scene_sources(scene), "the scene itself")


def scene_sources(scene: xr.DataArray) -> list[str]:
    """Return the names that a scene was opened by; words of other people's are left out."""
    given = scene.attrs.get("source", [])
    names = [str(name) for name in ([given] if isinstance(given, str) else given)]
    return [name for name in names if _GDAL_NAME.match(name) or local_files(name)]


def scene_files(scene: xr.DataArray) -> list[str]:
    """Return the local files that a scene is read from, once each."""
    return list(dict.fromkeys(file for name in scene_sources(scene) for file in files_behind(name)))


def _refuse_open(path: Path) -> None:
    for beside in (Path(f"{path}{end}") for end in _OPEN):
        if beside.exists():
            raise OutputError(f"{path} is open in another program, or was when it died ({beside.name}): close it there")


# --- writing ---------------------------------------------------------------------------------------------------


@contextmanager
def whole(path: Name, *errors: type[Exception], replace: bool = True) -> Iterator[Path]:
    """Yield the name to write a file under; it is there as ``path`` when the block ends well, and only then.

    The name has the suffix of ``path`` and lies alone in a hidden folder beside it, so a library may put files of its
    own there. An existing file is replaced, in one step; without ``replace`` it is kept, and an error.

    Raises
    ------
    OutputError : the file cannot be written: an OSError, or one of ``errors``, in one line that names ``path``.
    """
    path = Path(path)
    with writing(path, *errors), scratch(path) as folder:
        made = folder / f"made{path.suffix.lower()}"
        yield made
        publish(made, path, replace)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file among many in a folder that is geouq's own, whole or not at all; no link is followed.

    Raises
    ------
    OutputError : it cannot be written.
    """
    temporary = path.with_suffix(".writing")
    with writing(path):
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextmanager
def scratch(path: Path, work: Name | None = None) -> Iterator[Path]:
    """Yield a new hidden folder in ``work``, or else beside ``path``, that is gone at the end.

    Its name is new each time, also because GDAL's pool of VRT sources remembers names as long as a process lives.
    What processes left that were killed is removed on the way.
    """
    parent = Path(work or path.parent)
    _sweep(parent, path.stem[:40])
    folder = Path(tempfile.mkdtemp(prefix=f".{path.stem[:40]}{_HIDDEN}{_HOST}-{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def unmarked(path: Path) -> Iterator[Path]:
    """Yield another name of a file or folder, without the ``!`` that pyogrio takes for the end of an archive's name."""
    if "!" not in str(path.absolute()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="geouq-") as folder:
        parts = [path] if path.is_dir() else path.parent.glob(f"{glob.escape(path.stem)}.*")
        for part in parts:
            (Path(folder) / part.name.replace("!", "_")).symlink_to(part.absolute())
        yield Path(folder) / path.name.replace("!", "_")


def publish(made: Path, path: Path, replace: bool = True) -> Path:
    """Give the finished file ``made`` its final name, once its bytes are on disk; return that name.

    What speaks of the file that was there before (statistics, overviews, masks beside it) goes with it. Without
    ``replace`` nothing that has the name by now, though it was free when it was looked at, is touched.

    Raises
    ------
    OutputError : it is open in another program, or there though it is not to be replaced.
    """
    _refuse_open(path)
    if not replace:
        check_free(path, overwrite=False)
    try:
        for part in (*made.rglob("*"), made):
            _sync(part)
        for companion in _companions(path):
            companion.unlink(missing_ok=True)
        _replace(made, path) if replace else _claim(made, path)
        with suppress(OSError):  # not every file system lets a folder be synced
            _sync(path.parent)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and not replace:
            check_free(path, overwrite=False)
        if error.errno != errno.EXDEV:
            raise
        with whole(path, replace=replace) as beside:  # another file system
            shutil.copytree(made, beside) if made.is_dir() else shutil.copyfile(made, beside)
        remove(made)
    return path


def remove(path: Path) -> None:
    """Remove an output, if it is there: a file, a link, or the folder of a Zarr group."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(made: Path, path: Path) -> None:
    """Rename a file or folder; OSError, and nothing has been done, if ``path`` is on another file system."""
    if not (made.is_dir() and os.path.lexists(path)):
        os.replace(made, path)
        return
    with scratch(path) as aside:
        os.replace(made, aside / "new")
        os.replace(path, aside / "old")
        os.replace(aside / "new", path)


def _claim(made: Path, path: Path) -> None:
    """Rename a file or folder to a name that nothing has; OSError, and nothing has been done, if something has it."""
    if made.is_dir():
        os.rename(made, path)  # takes the place of an empty folder at most
        return
    try:
        os.link(made, path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.EXDEV):
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))  # a file system without links: keep the name
        os.replace(made, path)
    else:
        made.unlink()


@contextmanager
def writing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn OSError, and ``errors``, into an OutputError of one line that names ``path``."""
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except caught as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = "no space is left on its disk: make some" if _is_full(path, error) else " ".join(reason.split())
        raise OutputError(f"{path} cannot be written: {reason}") from error


def _is_full(path: Path, error: Exception) -> bool:
    """True if a failure comes from a full disk, whatever a library says of it."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    try:
        return shutil.disk_usage(path.parent).free < _FULL
    except OSError:
        return False


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(parent: Path, stem: str) -> None:
    """Remove hidden folders for files of this stem whose process is dead; only real folders of such a name."""
    with os.scandir(parent) as entries:
        found = list(entries)
    name = re.compile(re.escape(f".{stem}{_HIDDEN}{_HOST}-") + r"(\d+)-[a-z0-9_]{8}")
    for entry in found:
        match = name.fullmatch(entry.name)
        if match and entry.is_dir(follow_symlinks=False) and not _alive(int(match[1])):
            shutil.rmtree(entry.path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True
