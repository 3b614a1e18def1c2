"""A map as a STAC Item (1.1): where and when it is, and which files it has, in plain values for a catalogue.

Fields are those of the STAC specification and its extensions projection 2, raster 2, classification 2, file 2.1 and
processing 1.2 (https://stac-extensions.github.io). Addresses are relative to the Item, so that a folder may move, and
the same map gives the same bytes wherever it is made.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.affinity import translate
from shapely.geometry import mapping
from shapely.geometry.polygon import orient

from geouq.errors import InputError, OutputError
from geouq.grid import GeoBox, apply, degrees_per_unit, straight_length
from geouq.maps.bands import MapBand

_EXTENSIONS = {
    "projection": "v2.0.0",
    "raster": "v2.0.0",
    "classification": "v2.0.0",
    "file": "v2.1.0",
    "processing": "v1.2.0",
}
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_MEDIA = {
    ".tif": _COG,
    ".tiff": _COG,
    ".zarr": "application/vnd.zarr; version=2",
    ".gpkg": "application/geopackage+sqlite3",
    ".fgb": "application/vnd.flatgeobuf",
    ".geojson": "application/geo+json",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".qml": "text/xml",
}
#: metres that an edge of the outline may be from where it is, and the most pieces it is cut into for that
_NEAR, _PIECES = 10.0, 256
_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?Z)?")
_DIGITS = 7  # of degrees: about a centimetre


def check_stac(path: Path, geobox: GeoBox) -> None:
    """Raise OutputError unless a map of this grid can be written as a STAC Item of this name."""
    if path.suffix.lower() != ".json":
        raise OutputError(f"{path}: STAC Items are written as .json: give it that suffix")
    outline(geobox, str(path))


def check_dated(path: Path, acquired: object) -> None:
    """Raise InputError for a scene of which nothing says when it was taken: no STAC Item is without a date."""
    said = f"{str(acquired)[:40]!r} is no date" if acquired else "nothing says when the scene was taken"
    try:
        if isinstance(acquired, str) and _DATE.fullmatch(acquired) and datetime.fromisoformat(acquired):
            return
    except ValueError as error:
        said += f" ({error})"
    raise InputError(
        f"{path}: a STAC Item needs a date, and {said}: put YYYYMMDD into the name of the scene's file, or YYYY-MM-DD "
        "into its tag ACQUISITION_DATE (in Python, scene.attrs['acquired'])"
    )


def stac_item(
    name: str, geobox: GeoBox, acquired: str, properties: Mapping[str, Any], assets: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the STAC Item of a map, JSON-able.

    Parameters
    ----------
    name : its id. geobox : the map's grid. acquired : as geouq.rasters.acquired says it; a day without a time is an
        interval from its first to its last second (UTC).
    properties : more of them, and assets : its files, from ``file_asset`` and ``band_fields``.
    """
    geometry, bbox = outline(geobox, name)
    addresses = [f"https://stac-extensions.github.io/{one}/{of}/schema.json" for one, of in _EXTENSIONS.items()]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": addresses,
        "id": name,
        "geometry": geometry,
        "bbox": bbox,
        "properties": _when(acquired) | _projection(geobox) | dict(properties),
        "links": [],
        "assets": dict(assets),
    }


def file_asset(made: Path, final: Path, item: Path, title: str, roles: Sequence[str]) -> dict[str, Any]:
    """Return an asset: the file that lies at ``made`` and will be ``final``, as seen from the folder of ``item``."""
    href = Path(os.path.relpath(final.absolute(), item.absolute().parent)).as_posix()
    asset = {"href": f"./{href}", "title": title, "type": _MEDIA[final.suffix.lower()], "roles": list(roles)}
    if made.is_dir():
        return asset
    with open(made, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return asset | {
        "file:size": made.stat().st_size,
        "file:checksum": f"1220{digest}",
    }  # a multihash: SHA-256, 32 bytes


def band_fields(made: Path, bands: Sequence[MapBand]) -> dict[str, Any]:
    """Return what an asset says of a finished GeoTIFF's bands: names, types, nodata, scales, statistics, classes."""
    with rasterio.open(made) as file:
        return {"bands": [_band(file, number, band) for number, band in enumerate(bands, 1)]}


def _band(file: rasterio.DatasetReader, number: int, band: MapBand) -> dict[str, Any]:
    nodata, scale, tags = file.nodatavals[number - 1], file.scales[number - 1], file.tags(number)
    told: dict[str, Any] = {"name": file.descriptions[number - 1], "data_type": file.dtypes[number - 1]}
    if nodata is not None:
        told["nodata"] = "nan" if math.isnan(nodata) else int(nodata)
    if scale != 1:
        told["raster:scale"] = scale
    names = {"minimum": "MINIMUM", "maximum": "MAXIMUM", "mean": "MEAN", "stddev": "STDDEV"}
    found = {name: float(tags[f"STATISTICS_{tag}"]) for name, tag in names.items() if f"STATISTICS_{tag}" in tags}
    if found:
        told["statistics"] = found
    if band.kind == "class":
        told["classification:classes"] = [
            {"value": value, "name": re.sub(r"[^0-9A-Za-z_-]", "_", name), "title": name}
            for value, name in band.legend.values.items()
        ]
    return told


def _when(acquired: str) -> dict[str, Any]:
    if "T" in acquired:
        return {"datetime": acquired}
    ends = {"start_datetime": f"{acquired}T00:00:00Z", "end_datetime": f"{acquired}T23:59:59Z"}
    return {"datetime": None} | ends


def _projection(geobox: GeoBox) -> dict[str, Any]:
    """Return the grid in the map's own CRS: its code, or where it has none its WKT."""
    crs = CRS.from_user_input(str(geobox.crs))
    authority = crs.to_authority()
    code = {"proj:code": ":".join(authority)} if authority else {"proj:code": None, "proj:wkt2": crs.to_wkt()}
    rows, columns = geobox.shape
    x, y = apply(geobox.affine, np.array([0, columns, 0, columns]), np.array([0, 0, rows, rows]))
    return code | {
        "proj:shape": [rows, columns],
        "proj:transform": [float(number) for number in geobox.affine[:6]],
        "proj:bbox": [float(number) for number in (x.min(), y.min(), x.max(), y.max())],
    }


# --- the outline in degrees ----------------------------------------------------------------------------------


def outline(geobox: GeoBox, name: str) -> tuple[dict[str, Any], list[float]]:
    """Return a grid's outline as a GeoJSON geometry, and its bounds: west, south, east, north in degrees of WGS 84.

    As RFC 7946 demands, what crosses ±180° is cut there; its west is then east of its east.

    Raises
    ------
    OutputError : the grid has no CRS, or its outline is nowhere on the Earth.
    """
    if geobox.crs is None:
        raise OutputError(
            f"{name}: a STAC Item is in degrees, and the scene has no CRS: give it one (gdal_edit -a_srs)"
        )
    crs = CRS.from_user_input(str(geobox.crs))
    try:
        x, y = Transformer.from_crs(crs, 4326, always_xy=True).transform(*_edges(geobox, crs), errcheck=True)
    except ProjError as error:
        raise OutputError(
            f"{name}: the scene's outline has no place on the Earth ({error}): leave out --stac"
        ) from None
    x = np.unwrap(x, period=360)
    if abs(x[-1] - x[0]) > 180:  # once around a pole, which is inside
        pole = math.copysign(90, float(np.mean(y)))
        x, y = np.append(x, [x[-1], x[0]]), np.append(y, [pole, pole])
    return _cut(shapely.Polygon(_rounded(np.stack([x, y], axis=1))))


def _edges(geobox: GeoBox, crs: CRS) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of a grid in its CRS, and between them points that straight lines in degrees may join."""
    rows, columns = geobox.shape
    corners = np.array([(0, 0), (0, rows), (columns, rows), (columns, 0), (0, 0)], float)
    straight = 90 / degrees_per_unit(crs) if crs.is_geographic else straight_length(crs, _NEAR)
    points = [corners[:1]]
    for start, end in zip(corners, corners[1:], strict=False):
        length = math.dist(apply(geobox.affine, *start), apply(geobox.affine, *end))
        pieces = min(math.ceil(length / straight), _PIECES)
        points.append(start + (end - start) * (np.arange(1, pieces + 1) / pieces)[:, None])
    column, row = np.concatenate(points).T
    return apply(geobox.affine, column, row)


def _cut(polygon: shapely.Polygon) -> tuple[dict[str, Any], list[float]]:
    """Return a polygon whose longitudes may go on beyond ±180 as a geometry that is cut there, and its bounds."""
    west, south, east, north = polygon.bounds
    if east - west >= 360:
        bounds = [-180.0, south, 180.0, north]
    else:
        bounds = [_wrapped(west, low=True), south, _wrapped(east, low=False), north]
    parts = []
    for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360)):
        inside = shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)
        parts.append(translate(polygon.intersection(inside), -360 * turn))
    whole = shapely.union_all(parts)  # what goes all the way round meets itself
    parts = [orient(part) for part in shapely.get_parts(whole) if part.geom_type == "Polygon"]
    whole = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return mapping(shapely.transform(whole, _rounded)), bounds


def _rounded(points: np.ndarray) -> np.ndarray:
    return np.round(points, _DIGITS)


def _wrapped(longitude: float, low: bool) -> float:
    """Bring a longitude into -180..180; one on the border belongs to the side that it ends."""
    turned = (longitude + 180) % 360 - 180
    return round(turned, _DIGITS) if low or turned != -180 else 180.0
