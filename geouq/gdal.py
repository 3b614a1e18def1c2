"""How geouq opens files with GDAL: in the thread that reads, errors on one line, and no network unasked.

GDAL's handles belong to one thread, so each thread and process keeps its own. What GDAL throws (and rasterio
lets through) comes out as one SceneError line. A local path never leads to the network: files that point there
(a VRT over ``/vsicurl``, a WMS description) are refused by name, and what might still slip through, from inside
an archive say, finds GDAL set up without a way out.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geouq.errors import GeouqError, SceneError
from geouq.forks import lock

_REMOTE = re.compile(
    r"(\b(https?|ftp|s3|gs|gcs|azure|az|adls?|abfss?|oss|swift|webhdfs|hdfs)://"
    r"|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(_streaming)?[/?]"
    r"|^(wms|wmts|wcs|tms|stacit|stacta|eedai?|ogcapi|plmosaic|daas|ngw):)",
    re.IGNORECASE,
)
_SERVICES = re.compile(
    rb"<(GDAL_WMT?S|WCS_GDAL|WMS_Tile_Service|WMS_Capabilities|WMT_MS_Capabilities|Capabilities|TileMap)\b"
)
#: elements of a VRT or MRF that name another file
_POINTERS = re.compile(r"<(?:SourceFilename|SourceDataset|Dataset|Source|DataFile)\b[^>]*>([^<]+)<")
#: GDAL settings while a local file is read: no web request gets past this machine
_OFFLINE = {"GDAL_HTTP_PROXY": "127.0.0.1:9", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}"}
#: ... and while a URL is read: a dead connection ends in an error, not in waiting
_ONLINE = {"GDAL_HTTP_CONNECTTIMEOUT": "30", "GDAL_HTTP_LOW_SPEED_TIME": "60", "GDAL_HTTP_LOW_SPEED_LIMIT": "1"}
_MOST_HANDLES = 8

_OPENING = lock()
_THREAD = threading.local()

#: a local file at one moment: (path, time of change in ns, size); time and size are 0 for anything else
FileKey = tuple[str, int, int]


def is_remote(name: str) -> bool:
    """True if a path or URL leads to the network."""
    return bool(_REMOTE.search(name))


def file_key(name: str) -> FileKey:
    """Return what tells one state of a file from another."""
    if not os.path.isfile(name):
        return name, 0, 0
    status = os.stat(name)
    return name, status.st_mtime_ns, status.st_size


@contextmanager
def gdal_errors(name: str, done: str) -> Iterator[None]:
    """Run GDAL on a file with the settings for it; whatever it throws becomes one SceneError line.

    ``done`` is the participle that completes "cannot be …": ``opened`` or ``read``.
    """
    settings = _OFFLINE
    if is_remote(name):
        settings = {key: value for key, value in _ONLINE.items() if key not in os.environ}
    try:
        with rasterio.Env(**settings):
            yield
    except GeouqError:
        raise
    except (RasterioError, CPLE_BaseError, ValueError, ArithmeticError, LookupError, OSError, MemoryError) as error:
        reason = _reason(error, name)
        fix = "check it with gdalinfo" if done == "opened" else "it is damaged or incomplete: copy it again"
        if "No such file" in reason:
            fix = "put the missing file where it looks for it"
        raise SceneError(f"{name}: cannot be {done} ({reason}): {fix}") from error


def _reason(error: BaseException, name: str) -> str:
    """The innermost message of an error chain on one line, without the file's own path."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    for prefix in (f"'{name}' ", f"`{name}' ", f"{name}: ", f"{name}, ", f"{os.path.basename(name)}: "):
        text = text.replace(prefix, "")
    text = text.rstrip(".")
    return text if len(text) <= 200 else text[:199] + "…"


def open_dataset(name: str) -> rasterio.DatasetReader:
    """Open for reading, within ``gdal_errors``."""
    # Locked: the opening of some formats is not for two threads at a time. The filter is for warnings from this
    # module alone and is never taken back: catch_warnings in a worker thread would undo what the caller's set.
    with _OPENING:
        warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=re.escape(__name__))
        return rasterio.DatasetReader(name)


def handle(key: FileKey) -> rasterio.DatasetReader:
    """Return the open file for this thread and process, within ``gdal_errors``; those used last stay open."""
    if getattr(_THREAD, "pid", None) != os.getpid():
        _THREAD.pid, _THREAD.handles = os.getpid(), OrderedDict()
    handles = _THREAD.handles
    if key not in handles:
        handles[key] = open_dataset(key[0])
    handles.move_to_end(key)
    while len(handles) > _MOST_HANDLES:
        handles.popitem(last=False)[1].close()
    return handles[key]


def refuse_unreadable(name: str) -> None:
    """Refuse in clear words what GDAL would answer with less: nothing there, nothing in it, a way to the web.

    Raises
    ------
    SceneError : naming the file and what to do.
    """
    if is_remote(name):
        return
    plain = not name.startswith("/vsi") and not re.match(r"[A-Za-z][\w+.-]+:", name)
    if plain and not os.path.exists(name):
        raise SceneError(f"{name}: no such file: check the path")
    if not os.path.exists(name) or os.path.isdir(name):
        return
    if not os.path.isfile(name):
        raise SceneError(f"{name}: is not a file: give the path of a raster")
    if not os.path.getsize(name):
        raise SceneError(f"{name}: is empty (0 bytes): copy or download it again")
    target = _pointer_to_web(name, set())
    if target:
        raise SceneError(f"{name}: leads to the network ({target}): download the data, or give its URL yourself")


def _pointer_to_web(name: str, seen: set[str]) -> str:
    """First web address that an XML file, or a file it names as a source, points to; empty if none does."""
    path = os.path.realpath(name)
    if path in seen or not os.path.isfile(path):
        return ""
    seen.add(path)
    with open(path, "rb") as file:
        head = file.read(4096)
        if _SERVICES.search(head):
            return "a web service description"
        if b"<VRTDataset" not in head and b"<MRF_META" not in head:
            return ""
        text = (head + file.read(2**26)).decode("utf-8", "replace")
    for match in _POINTERS.finditer(text):
        source = unescape(match[1]).strip()
        found = source if is_remote(source) else _pointer_to_web(os.path.join(os.path.dirname(path), source), seen)
        if found:
            return found if len(found) <= 100 else found[:99] + "…"
    return ""
