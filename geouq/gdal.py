"""How geouq opens files with GDAL: in the thread that reads, errors on one line, and no network unasked.

GDAL's handles belong to one thread, so each thread and process keeps its own. What GDAL throws (and rasterio
lets through) comes out as one SceneError line. A local path never leads to the network: files that point there
(a VRT over ``/vsicurl``, a WMS description) are refused by name, and what might still slip through, from inside
an archive say, finds GDAL set up without a way out.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from geouq.errors import GeouqError, SceneError
from geouq.forks import lock
from geouq.sources import PAUSES, FileKey, file_key, is_remote, local_files, sources, way_to_network

#: GDAL settings while a local file is read: no web request gets past this machine
OFFLINE = {"GDAL_HTTP_PROXY": "127.0.0.1:9", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}"}
#: ... and while a URL is read: a dead connection ends in an error, not in waiting; a busy server is asked again; and
#: what was read of a file is forgotten when it is closed, for it may be another by the next time
_ONLINE = {
    "GDAL_HTTP_CONNECTTIMEOUT": "30",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/:/vsiadls/:/vsioss/:/vsiswift/",
}
_MOST_HANDLES = 8

_OPENING = lock()
_THREAD = threading.local()

for _name in ("rasterio", "pyogrio"):  # what they log becomes an error's words here; unasked, Python would print it
    logging.getLogger(_name).addHandler(logging.NullHandler())

Value = TypeVar("Value")


@contextmanager
def gdal_errors(name: str, done: str) -> Iterator[None]:
    """Run GDAL on a file with the settings for it; whatever it throws becomes one SceneError line.

    ``done`` is the participle that completes "cannot be …": ``opened`` or ``read``.
    """
    settings = OFFLINE
    if is_remote(name):
        settings = {key: value for key, value in (_ONLINE | _endpoint()).items() if key not in os.environ}
    try:
        with rasterio.Env(**settings):
            yield
    except GeouqError:
        raise
    except (RasterioError, CPLE_BaseError, ValueError, ArithmeticError, LookupError, OSError, MemoryError) as error:
        reason = _reason(error, name)
        fix = "check it with gdalinfo" if done == "opened" else "it is damaged or incomplete: copy it again"
        if is_remote(name):
            fix = "check the address, and that its server answers; the same command continues"
        elif "No such file" in reason:
            fix = "put the missing file where it looks for it"
        raise SceneError(f"{name}: cannot be {done} ({reason}): {fix}") from error


def _endpoint() -> dict[str, str]:
    """Return where GDAL finds the store of ``s3://`` if it is not Amazon's, by the variable that the AWS tools know."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    scheme, _, host = url.rstrip("/").rpartition("://")
    if not host:
        return {}
    https = "NO" if scheme == "http" else "YES"
    return {"AWS_S3_ENDPOINT": host, "AWS_HTTPS": https, "AWS_VIRTUAL_HOSTING": "FALSE"}


def _reason(error: BaseException, name: str) -> str:
    """The innermost message of an error chain on one line, without the file's own path."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnicodeError):
        text = "it holds text that is not UTF-8"
    for prefix in (f"'{name}' ", f"`{name}' ", f"{name}: ", f"{name}, ", f"{os.path.basename(name)}: "):
        text = text.replace(prefix, "")
    text = text.rstrip(".")
    return text if len(text) <= 200 else text[:199] + "…"


def open_dataset(name: str) -> rasterio.DatasetReader:
    """Open for reading what ``guard`` lets pass; within ``gdal_errors``."""
    guard(name)
    # Locked: the opening of some formats is not for two threads at a time. The filter is for warnings from this
    # module alone and is never taken back: catch_warnings in a worker thread would undo what the caller's set.
    with _OPENING:
        warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=re.escape(__name__))
        return rasterio.DatasetReader(name)


def check_projections(name: str) -> None:
    """Raise SceneError, for a file ``name`` with a CRS, where GDAL finds no data of PROJ: it would lose the CRS."""
    try:
        CRS.from_epsg(4326)
    except CRSError as error:
        reason = " ".join(str(error).split())[:200]
        raise SceneError(
            f"{name}: its CRS cannot be used ({reason}): check where PROJ looks for its data (PROJ_DATA, PROJ_LIB)"
        ) from error


def handle(key: FileKey) -> rasterio.DatasetReader:
    """Return the open file for this thread and process, within ``gdal_errors``; those used last stay open.

    Raises
    ------
    SceneError : the file, or one that it brings in, is no longer what it was when the key was made.
    """
    if getattr(_THREAD, "pid", None) != os.getpid():
        _THREAD.pid, _THREAD.handles = os.getpid(), OrderedDict()
    handles = _THREAD.handles
    if key not in handles:
        close_changed(handles)
        if file_key(key[0]) != key:
            raise SceneError(f"{key[0]}: has changed since it was first looked at: run the command again")
        handles[key] = open_dataset(key[0])
    handles.move_to_end(key)
    while len(handles) > _MOST_HANDLES:
        handles.popitem(last=False)[1].close()
    return handles[key]


def close_changed(handles: OrderedDict[FileKey, rasterio.DatasetReader]) -> None:
    """Close what has changed on this machine since it was opened: GDAL shares the sources of VRTs that are open."""
    for name, state in [key for key in handles if not is_remote(key[0])]:
        if file_key(name)[1] != state:
            handles.pop((name, state)).close()


def insisting(name: str, action: Callable[[], Value]) -> Value:
    """Return what an action on a file returns; a server that fails is asked again after each of ``PAUSES``.

    Not what GDAL has nothing to do with, nor a server that knows no such file or gives it to nobody.

    Raises
    ------
    SceneError : as the last time that it was tried.
    """
    for pause in PAUSES if is_remote(name) else ():
        try:
            return action()
        except SceneError as error:
            if error.__cause__ is None or re.search("response code: 4|specified (key|bucket) does", str(error)):
                raise
            time.sleep(pause)
    return action()


def read(key: FileKey, reading: Callable[[rasterio.DatasetReader], Value]) -> Value:
    """Return what ``reading`` reads from a file; see ``insisting``.

    Raises
    ------
    SceneError : it cannot be read.
    """

    def once() -> Value:
        try:
            with gdal_errors(key[0], "read"):
                return reading(handle(key))
        except SceneError:
            if opened := _THREAD.handles.pop(key, None):
                opened.close()
            raise

    return insisting(key[0], once)


def guard(name: str) -> None:
    """Refuse in clear words what GDAL would answer with less, wait for or follow: the one check before any opening.

    That is: nothing there, nothing in it, no right to read it, a pipe or a device, a way to the network from a local
    file; of a VRT also where a source of it is so.

    Raises
    ------
    SceneError : naming the file and what to do.
    """
    if is_remote(name):
        return
    try:
        if not name.startswith("/vsi") and not re.match(r"[A-Za-z][\w+.-]+:|\s*[<{]", name):
            os.stat(name)
        for source in sources(name):
            for file in local_files(source):
                _refuse_unreadable(file)
        target = way_to_network(name)
    except PermissionError as error:
        raise SceneError(f"{error.filename}: may not be read: ask for the right to it (chmod, chown)") from error
    except (OSError, ValueError) as error:
        raise SceneError(f"{name[:300]}: no such file: check the path") from error
    if target:
        raise SceneError(f"{name}: leads to the network ({target}): download the data, or give its URL yourself")


def _refuse_unreadable(path: str) -> None:
    """Raise PermissionError, or SceneError, for what is there but is no file with something in it, and no folder."""
    if os.path.isdir(path):
        os.scandir(path).close()
        return
    if not os.path.isfile(path):
        raise SceneError(f"{path}: is not a file: give the path of a file")
    if not os.path.getsize(path):
        raise SceneError(f"{path}: is empty (0 bytes): copy or download it again")
    with open(path, "rb"):
        pass
