"""Finding a Sentinel-1 product: its folder, its manifest, or its zip, which is read where it is, never unpacked.

What the manifest says decides what a product is; its files are then found by where they lie and by the
polarisation in their names, which holds for products as ESA packs them and as buckets on the web rename them.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from geouq.errors import SceneError
from geouq.sentinel1.annotation import parse, xml_errors
from geouq.sources import MANIFEST, FileKey, file_key, is_remote

#: in the order that bands have
POLARISATIONS = ("VV", "VH", "HH", "HV")
#: No XML file of a product comes near it: EW annotations, the largest, have 3 MB.
_LARGEST_XML = 64 << 20
_AGAIN = "copy or download the product again"
#: folders in a product that are looked into
_FOLDERS = ("annotation", "annotation/calibration", "measurement")
#: where each kind of file lies, and how its name starts and ends
_KINDS = {
    "annotation": re.compile(r"annotation/[^/]*\.xml$"),
    "calibration": re.compile(r"annotation/calibration/calibration-[^/]*\.xml$"),
    "noise": re.compile(r"annotation/calibration/noise-[^/]*\.xml$"),
    "measurement": re.compile(r"measurement/[^/]*\.tiff?$"),
}
_POLARISATION = re.compile(r"-(vv|vh|hh|hv)(?=[-.][^/]*$)")
#: product types that are refused, and what each one is
_OTHERS = {
    "SLC": "complex (SLC) and not detected",
    "OCN": "ocean winds and waves (OCN)",
    "RAW": "raw echoes (level 0)",
    "ETA": "bursts extracted from an SLC (ETAD)",
}


@dataclass(frozen=True)
class Files:
    """The files of a product: ``sizes`` by name within it; ``prefix`` is its folder in a zip, with a slash."""

    path: str
    prefix: str
    zipped: bool
    sizes: dict[str, int]

    def gdal_name(self, name: str) -> str:
        """What GDAL knows a file by."""
        if not self.zipped:
            return os.path.join(self.path, name)
        archive = self.path if self.path.lower().endswith(".zip") else f"{{{self.path}}}"
        return f"/vsizip/{archive}/{self.prefix}{name}"

    def key(self, name: str) -> FileKey:
        """What tells one state of a file from another; in a zip, the state of the zip."""
        return file_key(self.gdal_name(name))

    def read(self, name: str) -> bytes:
        """Read an XML file whole.

        Raises
        ------
        SceneError : it cannot be read, is empty, or larger than such a file can be.
        """
        shown = self.gdal_name(name)
        size = self.sizes[name]
        if not size:
            raise SceneError(f"{shown}: is empty (0 bytes): {_AGAIN}")
        if size > _LARGEST_XML:
            raise SceneError(f"{shown}: has {size >> 20} MB, which is no file of a Sentinel-1 product: {_AGAIN}")
        with _read_errors(shown):
            if not self.zipped:
                with open(shown, "rb") as file:
                    data = file.read(_LARGEST_XML + 1)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.prefix + name) as member:
                    data = member.read(_LARGEST_XML + 1)  # what the archive says of sizes may be false
        if len(data) > _LARGEST_XML:
            raise SceneError(f"{shown}: has over {_LARGEST_XML >> 20} MB, which is no file of a product: {_AGAIN}")
        return data

    def by_polarisation(self, kind: str) -> dict[str, str]:
        """Names of annotation, calibration, noise or measurement files by VV, VH, HH or HV.

        Raises
        ------
        SceneError : two files for one polarisation.
        """
        found: dict[str, str] = {}
        for name in sorted(self.sizes):
            match = _POLARISATION.search(name)
            if not match or not _KINDS[kind].match(name):
                continue
            polarisation = match[1].upper()
            if polarisation in found:
                raise SceneError(f"{self.path}: has two {kind} files for {polarisation}: give a product as ESA made it")
            found[polarisation] = name
        return found


@contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, LookupError) as error:
        # RuntimeError: encrypted; NotImplementedError, one of them: an unknown way of packing
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise SceneError(f"{name}: cannot be read ({reason}): {_AGAIN}") from error
    except zlib.error as error:
        raise SceneError(f"{name}: cannot be unpacked ({error}): {_AGAIN}") from error


def is_product(path: str) -> bool:
    """True for what is, or calls itself, a SAFE product: its folder, its manifest, or an archive of it."""
    if re.search(r"(\.SAFE/?|(^|/)manifest\.safe)$", path, re.IGNORECASE) or path.startswith("SENTINEL1_"):
        return True
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, MANIFEST))
    archive, inside = _archive(path)
    if not archive or is_remote(path):
        return False
    return any(PurePosixPath(name).name == MANIFEST and name.startswith(inside) for name in zip_members(archive))


def _archive(path: str) -> tuple[str, str]:
    """The zip file on disk that a path names or leads into, and the folder in it (with a slash, or empty)."""
    match = re.match(r"/vsizip/\{(?P<braced>[^}]+)\}(?P<a>.*)|/vsizip/(?P<plain>.+?\.zip)(?P<b>/.*)?$", path, re.I)
    if match:
        archive, inside = match["braced"] or match["plain"], (match["a"] or match["b"] or "").strip("/")
        inside = inside.removesuffix(MANIFEST).rstrip("/")
        return archive, inside + "/" if inside else ""
    return (path, "") if path.lower().endswith(".zip") and os.path.isfile(path) else ("", "")


def zip_members(path: str) -> list[str]:
    """Names of the files in a zip, but for what a Mac adds.

    Raises
    ------
    SceneError : if it is no whole zip, or a file in it would lie outside of it.
    """
    with _read_errors(path):
        if not os.path.getsize(path):
            raise SceneError(f"{path}: is empty (0 bytes): copy or download it again")
        if not zipfile.is_zipfile(path):
            raise SceneError(f"{path}: is no whole zip archive: the download broke off, get it again")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    for name in names:
        if ".." in PurePosixPath(name.replace("\\", "/")).parts or name.startswith(("/", "\\")):
            raise SceneError(f"{path}: holds a file named {name[:80]!r}, outside of itself: do not use this archive")
    return [name for name in names if not name.startswith("__MACOSX/") and "/._" not in f"/{name}"]


def find_files(path: str) -> Files:
    """List the files of a product.

    Parameters
    ----------
    path : its folder, its manifest, its zip, or ``/vsizip/…`` and the folder in the zip.

    Raises
    ------
    SceneError : there is none, more than one, or it is damaged.
    """
    if path.startswith("SENTINEL1_"):
        raise SceneError(f"{path}: is GDAL's name for a part of a product: give the product's own folder or zip")
    if is_remote(path):
        raise SceneError(f"{path}: Sentinel-1 products are read from this machine only: download it first")
    archive, inside = _archive(path)
    if archive:
        return _in_zip(archive, inside)
    folder = os.path.dirname(path) or "." if os.path.basename(path).lower() == MANIFEST else path
    if not os.path.exists(path):
        raise SceneError(f"{path}: no such file or folder: check the path")
    if not os.path.isdir(folder):
        raise SceneError(f"{path}: is no folder, though a .SAFE product is one: {_AGAIN}")
    if not os.path.isfile(os.path.join(folder, MANIFEST)):
        raise SceneError(f"{path}: has no {MANIFEST}: give a whole Sentinel-1 SAFE product")
    sizes = {MANIFEST: os.path.getsize(os.path.join(folder, MANIFEST))}
    for part in _FOLDERS:
        if os.path.isdir(os.path.join(folder, part)):
            with os.scandir(os.path.join(folder, part)) as entries:
                sizes |= {f"{part}/{one.name}": one.stat().st_size for one in entries if one.is_file()}
    return Files(folder, "", False, {name: size for name, size in sizes.items() if "/._" not in name})


def _in_zip(path: str, inside: str) -> Files:
    if not os.path.isfile(path):
        raise SceneError(f"{path}: no such file: check the path")
    members = zip_members(path)
    roots = [n.removesuffix(MANIFEST) for n in members if PurePosixPath(n).name == MANIFEST and n.startswith(inside)]
    if not roots:
        raise SceneError(f"{path}: holds no {MANIFEST}: give a whole Sentinel-1 SAFE product")
    if len(roots) > 1:
        raise SceneError(f"{path}: holds {len(roots)} products: give one of them, such as /vsizip/{path}/{roots[0]}")
    with _read_errors(path), zipfile.ZipFile(path) as archive:
        sizes = {one.filename: one.file_size for one in archive.infolist() if not one.is_dir()}
    within = [name for name in members if name in sizes and name.startswith(roots[0])]
    return Files(path, roots[0], True, {name.removeprefix(roots[0]): sizes[name] for name in within})


@dataclass(frozen=True)
class Manifest:
    """What a manifest says. ``footprint`` is (latitude, longitude) of the corners."""

    name: str
    polarisations: tuple[str, ...]
    ipf: str
    footprint: tuple[tuple[float, float], ...]


def read_manifest(files: Files) -> Manifest:
    """Read the manifest of a detected, ground range (GRD) Sentinel-1 product.

    Raises
    ------
    SceneError : it is damaged, or that of another product, which is named.
    """
    shown = files.gdal_name(MANIFEST)
    data = files.read(MANIFEST)
    with xml_errors(shown, "manifest of a Sentinel-1 product"):
        root = parse(data, "XFDU")
        families = {value.upper().replace(" ", "-") for value in _values(root, "familyName")}
        kinds, classes = _values(root, "productType"), _values(root, "productClass")
        if "SENTINEL-1" not in families:
            other = "Sentinel-" + _values(root, "number")[0] if "SENTINEL" in families else "another mission"
            raise SceneError(f"{files.path}: is a product of {other}, not of Sentinel-1: give a Sentinel-1 GRD product")
        _refuse_other_types(files.path, kinds[0] if kinds else _level(root), classes[0] if classes else "")
        versions = [one.get("version", "") for one in _elements(root, "software") if "IPF" in one.get("name", "")]
        return Manifest(
            name=_product_name(files),
            polarisations=tuple(value.upper() for value in _values(root, "transmitterReceiverPolarisation")),
            ipf=versions[0] if versions else "",
            footprint=_footprint(root),
        )


def _refuse_other_types(path: str, kind: str, class_: str) -> None:
    if kind != "GRD":
        what = _OTHERS.get(kind, f"of type {kind}" if kind else "of no type that its manifest tells")
        raise SceneError(f"{path}: is a Sentinel-1 product, but {what}: give the GRD product of the same scene")
    if class_ == "A":
        raise SceneError(f"{path}: is an annotation product (class A), which has no image: give the standard one")


def _level(root: ET.Element) -> str:
    """RAW where the manifest is that of a level-0 product, which has no product type."""
    return "RAW" if "level-0" in str(root.get("version", "")) else ""


def _elements(root: ET.Element, name: str) -> list[ET.Element]:
    """All elements of a name, in whatever namespace."""
    return [element for element in root.iter() if element.tag.rpartition("}")[2] == name]


def _values(root: ET.Element, name: str) -> list[str]:
    return [element.text.strip() for element in _elements(root, name) if element.text and element.text.strip()]


def _footprint(root: ET.Element) -> tuple[tuple[float, float], ...]:
    pairs = " ".join(_values(root, "coordinates")[:1]).split()
    return tuple((float(pair.split(",")[0]), float(pair.split(",")[1])) for pair in pairs)


def _product_name(files: Files) -> str:
    folder = files.prefix.rstrip("/") or os.path.abspath(files.path)
    return re.sub(r"(\.SAFE|\.zip)$", "", PurePosixPath(folder).name, flags=re.IGNORECASE)
