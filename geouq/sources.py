"""What a name leads to: the local files behind it, the addresses it points to, and the state they are in.

A name is whatever GDAL opens: a path, ``file://``, ``/vsizip/…``, ``vrt://``, ``NETCDF:"…":x``, a URL, or a description
(VRT, MRF) that names further sources. Two questions are answered for all of them in this one place: which files are
read, so that no output replaces one of them; and whether they are still what they were, so that no answer is made of
two states of one file.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from html import unescape
from http.client import HTTPException
from typing import IO
from urllib.parse import unquote

#: the file that makes a folder a Sentinel-1 product
MANIFEST = "manifest.safe"
#: files that GDAL reads along with a raster: what it says of itself, masks, overviews, headers, where it lies
_APPENDED = (".aux.xml", ".ovr", ".msk", ".hdr", "-wal", "-journal")
_INSTEAD = (".aux", ".hdr", ".prj", ".wld", ".tfw", ".tifw", ".dbf", ".shx", ".cpg")

_REMOTE = re.compile(
    r"(\b(https?|ftp|s3|gs|gcs|azure|az|adls?|abfss?|oss|swift|webhdfs|hdfs)://"
    r"|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(_streaming)?[/?]"
    r"|^(wms|wmts|wcs|wfs|tms|stacit|stacta|eedai?|ogcapi|oapif|plmosaic|daas|ngw):)",
    re.IGNORECASE,
)
_SERVICES = re.compile(
    rb"<(GDAL_WMT?S|WCS_GDAL|WMS_Tile_Service|WMS_Capabilities|WMT_MS_Capabilities|Capabilities|TileMap"
    rb"|OGRWFSDataSource|(wfs:)?WFS_Capabilities)\b"
)
_DESCRIPTIONS = (b"<VRTDataset", b"<MRF_META", b"<OGRVRTDataSource", b"<GDALTileIndexDataset")
#: elements of a description that name another file
_POINTERS = re.compile(
    r"<(?:SourceFilename|SourceDataset|SrcDataSource|Dataset|IndexDataset|Source|DataFile)\b[^>]*>"
    r"\s*(?:<!\[CDATA\[)?([^<\]]+)"
)
_JSON_LINK = re.compile(rb'"crs"\s*:\s*\{[^}]*"href"\s*:\s*"\s*https?:', re.IGNORECASE)
#: of KML, a link to more of it; icons are links too, which nobody follows
_KML_LINK = re.compile(
    rb"<(?:\w+:)?(NetworkLink|NetworkLinkControl)\b(?:(?!</(?:\w+:)?NetworkLink).){0,3000}?<(?:\w+:)?href>"
    rb"\s*(?:<!\[CDATA\[)?\s*(?:https?|ftp)://",
    re.IGNORECASE | re.DOTALL,
)
#: what programs that show a raster write beside it, and what is empty then: neither changes a pixel
_SEEN = re.compile(rb'<MDI key="STATISTICS_\w+">[^<]*</MDI>|<Histograms>.*?</Histograms>|<\?xml[^>]*>', re.DOTALL)
_EMPTY = re.compile(rb"<(Metadata|PAMRasterBand|PAMDataset)\b[^>]*>\s*</\1>")
_SERVICE = "a web service description"
_PATIENCE = 30  # seconds that a server has to answer
#: seconds to wait before a server that failed is asked once more
PAUSES = (0.5, 1, 2, 4)
_CHUNK = 1 << 20
_NOTHING = hashlib.sha256(b"").hexdigest()

#: (name, size, time of change in ns, inode) of a local file; (address, size, time, tag) of a remote one, as far as the
#: server tells; (name, sha256) of one in GDAL's memory
State = tuple[tuple[str | int, ...], ...]
#: a name, and the state of all that is behind it
FileKey = tuple[str, State]


def is_remote(name: str) -> bool:
    """True if a path or URL leads to the network."""
    return bool(_REMOTE.search(name)) and not re.match(r"(/vsi\w+/)*file:", name)


def file_key(name: str) -> FileKey:
    """Return a name with the state of all that is behind it: equal keys, equal pixels.

    Raises
    ------
    OSError : a file behind it may not be read.
    """
    return name, state(name)


def state(name: str) -> State:
    """Return what changes when a file, or another one that it brings in, changes; see ``State``."""
    found: list[tuple[str | int, ...]] = []
    for source in sources(name):
        if is_remote(source):
            found.append((source, *_answer(source)))
        elif memory := re.search(r"/vsimem/.+?(?=\.zip/|$)(\.zip)?", source):
            found.append((source, _memory(memory[0])))
    for file in files_behind(name):
        status = os.stat(file)
        if file.endswith(".aux.xml"):
            found.append((file, hashlib.sha256(described(file)).hexdigest()))
        elif decides(file):
            found.append((file, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(entry for entry in found if entry[1:] != (_NOTHING,))


def unknown(states: Sequence[State]) -> list[str]:
    """Return the remote files whose state no server tells: whether they are what they were is not known."""
    return [str(name) for found in states for name, *told in found if is_remote(str(name)) and not any(told)]


def decides(file: str) -> bool:
    """True if a change of this file may change pixels: not of overviews, nor of statistics that a viewer left."""
    return not file.endswith(".ovr") and not (file.endswith(".aux.xml") and not described(file))


def described(file: str) -> bytes:
    """Return what an ``.aux.xml`` says of a raster (nodata, scale, where it lies) beside statistics of its values."""
    with open(file, "rb") as opened:
        text = _SEEN.sub(b"", opened.read(_CHUNK))
    while (shorter := _EMPTY.sub(b"", text)) != text:
        text = shorter
    return text.strip()


def files_behind(name: str) -> list[str]:
    """Return every local file that is read where ``name`` is opened, companions too, once each.

    Of a VRT also the files it shows, at any depth; of an archive the archive; of a folder (or the manifest of a SAFE
    product) all files in it. Nothing for what is not on this machine.
    """
    found: dict[str, None] = {}
    for source in sources(name):
        for file in local_files(source):
            folder = file if os.path.isdir(file) else os.path.dirname(file) or "."
            if os.path.isdir(file) or os.path.isfile(os.path.join(folder, MANIFEST)):
                inside = (os.path.join(base, one) for base, _, files in os.walk(folder) for one in sorted(files))
                found |= dict.fromkeys(inside)
            else:
                found |= dict.fromkeys((file, *_companions(file)))
    return list(found)


def local_files(name: str) -> list[str]:
    """Return the file or folder on this machine that a name names, in a list: itself, or what is part of its text.

    Prefixes and suffixes differ from driver to driver, but each name holds the path of its file: the first stretch
    between their separators that is one.
    """
    for text in dict.fromkeys((name, unquote(name))):
        if os.path.exists(text):
            return [text]
        ends = [match.start() for match in re.finditer(r"[\":,=?!&{}()/]|$", text)]
        starts = sorted({*ends, *(end + 1 for end in ends)})
        for start in starts:
            for end in reversed(ends):
                if end > start and os.path.exists(text[start:end]) and not os.path.isdir(text[start:end]):
                    return [text[start:end]]
    return []


def sources(name: str) -> list[str]:
    """Return a name and, where it is a description (VRT, MRF), all names that it leads to, at any depth."""
    found: dict[str, None] = {}
    todo = [name]
    while todo:
        source = todo.pop()
        if source in found:
            continue
        found[source] = None
        todo += _named_in(source)
    return list(found)


def way_to_network(name: str) -> str:
    """Return the first web address that a local file leads to, itself or through others; empty if none does."""
    if is_remote(name):
        return ""
    for source in sources(name):
        if is_remote(source):
            return source if len(source) <= 100 else source[:99] + "…"
        if os.path.isfile(source) and (service := _service(source)):
            return service
    return ""


def _named_in(name: str) -> list[str]:
    """Return the sources that a description names, as GDAL will look for them."""
    if not os.path.isfile(name):
        text, folder = (name, "") if name.lstrip().startswith("<") else ("", "")
    else:
        text, folder = "", os.path.dirname(os.path.realpath(name))
        with open(name, "rb") as file:
            head = file.read(4096)
            if any(mark in head for mark in _DESCRIPTIONS):
                text = (head + file.read(2**26)).decode("utf-8", "replace")
    named = (unescape(match[1]).strip() for match in _POINTERS.finditer(text))
    return [beside if os.path.exists(beside := os.path.join(folder, one)) else one for one in named if one]


def _service(path: str) -> str:
    """Say what in a file would send GDAL to the network though it names no source; empty if nothing does."""
    with open(path, "rb") as file:
        found = _leading_out(file)
    if not found and path.lower().endswith(".kmz"):
        with suppress(zipfile.BadZipFile, NotImplementedError, RuntimeError), zipfile.ZipFile(path) as archive:
            for member in (name for name in archive.namelist() if name.lower().endswith(".kml")):
                with suppress(OSError, EOFError, zlib.error), archive.open(member) as file:
                    found = found or _leading_out(file)
    return found


def _leading_out(file: IO[bytes]) -> str:
    """Say what in a stream leads to the network, as ``_service``; of text that may have links anywhere, all is read."""
    head = file.read(4096)
    if _SERVICES.search(head):
        return _SERVICE
    link = _JSON_LINK if head.lstrip().startswith(b"{") else _KML_LINK if b"<kml" in head else None
    before = head
    while link is not None and before:
        if link.search(before):
            return "a link to its coordinate system" if link is _JSON_LINK else "a NetworkLink"
        chunk = file.read(_CHUNK)
        before = before[-4096:] + chunk if chunk else b""
    return ""


def _companions(file: str) -> Iterator[str]:
    """Yield what is read along with a file, of what is there."""
    stem = os.path.splitext(file)[0]
    for path in (*(file + end for end in _APPENDED), *(stem + end for end in _INSTEAD)):
        if path != file and os.path.isfile(path):
            yield path


def _answer(name: str) -> tuple[str, ...]:
    """Return what a server says of a file that would be another if the file were; nothing if it does not answer."""
    text = unquote(name.partition("url=")[2]) if name.startswith("/vsicurl?") else name
    address = re.search(r"https?://[^\"]+", text)
    if not address:
        return _stored(name)
    archive = re.match(r".+?\.(zip|tar|tgz|gz)(?=/|!|$)", address[0], re.IGNORECASE)
    url = archive[0] if archive and re.search(r"zip|tar", name[: name.index("http")]) else address[0]
    told = _headers(urllib.request.Request(url, headers={"Range": "bytes=0-0", "User-Agent": "geouq"}))
    if not told:
        return ()
    size = told.get("content-range", "").rpartition("/")[2] or told.get("content-length", "")
    return size, told.get("last-modified", ""), told.get("etag", "")


def _headers(request: urllib.request.Request) -> dict[str, str]:
    """Return the headers of a server's answer; none if it has none for us, asked again where it may have later."""
    for pause in (0.0, *PAUSES):
        time.sleep(pause)
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                return {key.lower(): value for key, value in answer.headers.items()}
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                break
        except (OSError, ValueError, HTTPException):
            continue
    return {}


def _stored(name: str) -> tuple[str, ...]:
    """Return what a store of objects says of one: size, time and tag; nothing if it does not, or nothing asks it."""
    match = re.match(r"(?:/vsi)?(s3|gs|az)(?:://|/)([^?]+)", name)
    if not match:
        return ()
    import fsspec  # here, for few names need it

    try:
        files, path = fsspec.core.url_to_fs(f"{match[1]}://{match[2]}")
        files.invalidate_cache()
        told = files.info(path)
    except Exception:  # each store's library has errors of its own, and ImportError: opening it will say what is wrong
        return ()
    changes = (told.get(key) for key in ("size", "LastModified", "updated", "last_modified", "ETag", "etag"))
    return tuple(str(value) for value in changes if value is not None)


def _memory(name: str) -> str:
    """Return the sha256 of a file in GDAL's memory."""
    from rasterio._io import virtual_file_to_buffer  # here, for options are checked before rasterio is needed

    try:
        return hashlib.sha256(virtual_file_to_buffer(name)).hexdigest()
    except Exception:  # rasterio's own error classes, of a file that is not there: opening it will say so
        return ""
