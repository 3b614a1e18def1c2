"""Finished files to where they are not on this machine: object stores, and whatever else fsspec can write to.

A name appears there with the whole file or not at all. Stores of objects make it so by themselves (S3 and Azure show
what was put when its last part is in, GCS likewise); anywhere else a file is uploaded under a hidden name, which is
changed when it is complete. A Zarr group is many objects: what makes a group of them goes last.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from geouq.errors import GeouqError, OutputError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/]+)/(.*[^/])")
#: what shows an object when all of it is there
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
#: what has no way to write
_READ_ONLY = ("http", "https", "ftp", "file", "local")
#: what makes a folder of objects a Zarr group, in the order in which it is uploaded: after everything else
_GROUP = (".zattrs", ".zgroup", ".zmetadata")
_CHUNK = 1 << 22
#: seconds to wait before what failed is tried once more; libraries for stores have tried it a few times by then
PAUSES = (1.0, 4.0)

T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """Where files go when they are finished, and where they lie before that.

    address : scheme and bucket, ``s3://bucket``. folder : here; paths in it are those in the bucket.
    """

    address: str
    folder: Path

    def here(self, url: str) -> Path:
        """Return the path at which what will be ``url`` is made."""
        return self.folder / url.removeprefix(self.address).strip("/")

    def there(self, path: Path) -> str:
        """Return the URL that a finished file gets."""
        return f"{self.address}/{path.absolute().relative_to(self.folder.absolute()).as_posix()}"


@dataclass(frozen=True)
class Uploaded:
    """What a store says of an object: its size in bytes, and the tag that changes with it, if it has one."""

    size: int
    etag: str


def is_url(name: object) -> bool:
    """True for what names no path: a scheme of two letters or more, and ``://``."""
    return isinstance(name, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) is not None


def store_for(urls: list[str]) -> Store:
    """Return the one store of some URLs, the first of which the folder is called after.

    Raises
    ------
    OutputError : they name no file in a store, or are in several, or nothing is known that writes there.
    """
    addresses = []
    for url in urls:
        match = _URL.fullmatch(url)
        if not match or {"", ".", ".."} & set(match[3].split("/")):
            raise OutputError(f"{url}: names no file in a store: give scheme://bucket/folder/name")
        if match[1].lower() in _READ_ONLY:
            raise OutputError(f"{url}: {match[1]} cannot be written to: give s3://, gs:// or az://, or a local path")
        addresses.append(f"{match[1]}://{match[2]}")
    if len(set(addresses)) > 1:
        raise OutputError(f"{' and '.join(urls[:2])}: are in two stores: all outputs of a run go into one")
    _filesystem(urls[0])  # what is not installed is told now
    name = re.sub(r"[^\w.-]", "_", urls[0].rpartition("/")[2])[:80]
    return Store(addresses[0], Path(f".geouq-upload-{name}-{crc32(urls[0].encode()):08x}"))


def look(url: str) -> Uploaded | None:
    """Return what a store says of an object; None if it is not there.

    Raises
    ------
    OutputError : the store cannot be reached, or does not let one look.
    """
    files = _filesystem(url)
    files.invalidate_cache()

    def ask() -> Uploaded | None:
        try:
            told = files.info(url)
        except FileNotFoundError:
            return None
        return Uploaded(int(told.get("size") or 0), str(told.get("ETag", told.get("etag", ""))).strip('"'))

    return _insisting(url, ask)


def contains(url: str, text: str) -> bool:
    """True if an object is there and holds a text, read up to where that is."""
    sought, before = text.encode(), b""
    if look(url) is None:
        return False
    with opened(url) as file:
        while chunk := file.read(_CHUNK):
            if sought in before + chunk:
                return True
            before = chunk[-len(sought) :]
    return False


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """Yield an object as a file that is read by ranges."""
    with _reaching(url), _filesystem(url).open(url, "rb") as file:
        yield file


def upload(made: Path, url: str, replace: bool) -> Uploaded:
    """Give a finished file, or the folder of a Zarr group, its name in a store; return what that says of it then.

    Without ``replace`` only what is there already and holds the same bytes is left as it is.

    Raises
    ------
    OutputError : something else is there, or the store does not take it: nothing has changed there then.
    """
    if made.is_dir():
        return _upload_group(made, url, replace)
    before = None if replace else look(url)
    if before is not None:
        if _same(made, url, before):
            return before
        raise OutputError(f"{url} exists already: give --overwrite to replace it, or another name")
    files, whole = _filesystem(url), url.partition("://")[0].lower() in _WHOLE
    aside = url if whole else re.sub(r"([^/]+)$", r".\1.geouq-uploading", url)

    def put() -> None:
        files.put_file(str(made), aside)
        if not whole:
            files.mv(aside, url)

    _insisting(url, put)
    found = look(url)
    if found is None or found.size != made.stat().st_size:
        raise OutputError(f"{url} is not what was uploaded: {made.stat().st_size} bytes, there {found}")
    return found


def _upload_group(made: Path, url: str, replace: bool) -> Uploaded:
    """Upload a Zarr group, what makes one of it last; what is in the way is removed, that first."""
    names = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    names.sort(key=lambda name: _GROUP.index(name) if name in _GROUP else -1)
    _check_group(made, url, set(names), replace)
    files = _filesystem(url)

    def clear() -> None:
        for name in reversed(_GROUP):
            with suppress(FileNotFoundError):
                files.rm_file(f"{url}/{name}")
        with suppress(FileNotFoundError):
            files.rm(url, recursive=True)

    _insisting(url, clear)
    found = [upload(made / name, f"{url}/{name}", replace=True) for name in names]
    return Uploaded(sum(one.size for one in found), found[-1].etag)


def _check_group(made: Path, url: str, names: set[str], replace: bool) -> None:
    """Raise OutputError for objects in the way of a group that are no part of it, nor of one that may be replaced."""
    files = _filesystem(url)
    folder = files._strip_protocol(url)
    there = {path.removeprefix(folder).strip("/") for path in _insisting(url, lambda: list(files.find(url)))}
    attributes = f"{url}/{_GROUP[0]}"
    if there - names and not contains(attributes, '"GEOUQ_RUN"'):
        raise OutputError(f"{url} is there, and geouq has not made it: move it away, or give another name")
    if not replace and _GROUP[0] in there and not _same(made / _GROUP[0], attributes, look(attributes)):
        raise OutputError(f"{url} exists already: give --overwrite to replace it, or another name")


def _same(made: Path, url: str, there: Uploaded | None) -> bool:
    """True if an object has the bytes of a file here: it is what an upload left whose end was not seen."""
    if there is None or there.size != made.stat().st_size:
        return False
    with opened(url) as one, open(made, "rb") as other:
        while chunk := other.read(_CHUNK):
            if one.read(len(chunk)) != chunk:
                return False
    return True


def _filesystem(url: str) -> Any:
    """Return what reads and writes there; OutputError if it is not installed."""
    import fsspec  # here, for most runs need none

    try:
        return fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        raise OutputError(f"{url}: {error} (for s3://: pip install 'geouq[remote]')") from error
    except ValueError as error:  # no such scheme
        raise OutputError(f"{url}: nothing is known that writes there ({error}): give a local path") from error


def _insisting(url: str, action: Callable[[], T]) -> T:
    """Return what an action on a store returns; one that fails is tried again after each of ``PAUSES``."""
    for pause in PAUSES:
        try:
            with _reaching(url):
                return action()
        except OutputError as error:
            if isinstance(error.__cause__, PermissionError | FileNotFoundError):
                raise
            time.sleep(pause)
    with _reaching(url):
        return action()


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn whatever a store answers with into an OutputError of one line."""
    try:
        yield
    except GeouqError:
        raise
    except Exception as error:  # each library for a store has a tree of errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OutputError(
            f"{url}: the store does not do what is asked of it ({reason}): check the address, the right to it and "
            "the network; what is finished is kept, and the same command goes on"
        ) from error
