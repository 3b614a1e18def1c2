"""Write polygons with attributes to .gpkg, .fgb, .geojson or .parquet, in batches, whole or not at all.

Polygons go into a plain GeoPackage first, a batch at a time, which is then streamed into the final format in one
pass (FlatGeobuf and GeoParquet cannot be appended to, and a GeoPackage's spatial index is three times faster built
in one go). Memory is that of a batch. The same polygons give the same bytes: no file carries the time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyogrio
import pyogrio.errors
import pyogrio.raw
import shapely
from pyproj import CRS

from geouq.errors import OutputError
from geouq.files import check_free, publish, scratch, unmarked, writing
from geouq.gdal import OFFLINE, guard
from geouq.grid import straight_length
from geouq.layers import Legend
from geouq.maps.styles import polygon_qml
from geouq.sources import is_remote

try:
    import pyarrow
    from pyarrow import parquet
except ImportError:  # an extra: only .parquet needs it
    pyarrow = parquet = None

#: the layer of polygons of the positive class, that of polygons of several, and the attribute with each one's class
LAYER, CLASSES, CLASS = "water", "classes", "class"
#: QGIS's table of styles in a GeoPackage
STYLES = "layer_styles"
_EPOCH = "1970-01-01T00:00:00.000Z"
_BATCH = 50_000
_DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON", ".parquet": None}
#: what pyogrio raises when a file cannot be read or written
FAILURES = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.GeometryError,
    pyogrio._err.CPLE_BaseError,
    sqlite3.Error,
    RuntimeError,  # a stream of features that ends in an error
)


def check_vector_path(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Return ``path`` if polygons can be written there.

    Raises
    ------
    OutputError : if its suffix is not a known one, what writes it is not installed, its folder is missing, or it
        exists and is not to be replaced.
    """
    path = Path(path)
    if path.suffix.lower() not in _DRIVERS:
        raise OutputError(f"{path}: polygons are written as {', '.join(_DRIVERS)}: give one of these suffixes")
    if path.suffix.lower() == ".parquet" and pyarrow is None:
        raise OutputError(f'{path}: .parquet needs pyarrow: pip install "geouq[parquet]", or write .gpkg')
    return check_free(path, overwrite)


class FeatureWriter:
    """Polygons being written to ``path``: ``append`` batches, then ``finish``; nothing at ``path`` before that.

    A context manager, at whose end all temporary files are gone.

    Parameters
    ----------
    path : from ``check_vector_path``; an existing file is replaced by ``finish``, in one step.
    fields : names of the float attributes and what they are called for people; NaN is written as null.
    description : what the file's metadata say it is.
    crs : of the coordinates, anything pyproj understands, or None. GeoJSON is always written in longitude and
        latitude (RFC 7946), if there is a CRS.
    legend : of the map, where polygons are of several classes: they have a text attribute ``class`` then.

    Raises
    ------
    OutputError : in any method, if the file cannot be written; the message names ``path``.
    """

    def __init__(
        self,
        path: Path,
        fields: Mapping[str, str],
        crs: str | None,
        description: str = "",
        legend: Legend | None = None,
    ) -> None:
        self.path, self.fields, self.crs, self.description = path, list(fields), crs, description
        self.legend, self.layer = legend, LAYER if legend is None else CLASSES
        self.aliases = ({} if legend is None else {CLASS: "class"}) | dict(fields)
        self.count = 0
        # Edges that become degrees by their ends alone: a centimetre from where they were, ten times that at 84° N.
        degrees = path.suffix.lower() == ".geojson" and crs is not None
        self._straight = straight_length(CRS(crs), 0.01) if degrees else 0.0
        # begins with no features: a layer without any is a valid result
        self._pending = [(np.empty(0, object), np.empty((0, len(self.fields))), np.empty(0, object))]
        self._stack = ExitStack()
        with writing(path):
            self._folder = self._stack.enter_context(unmarked(self._stack.enter_context(scratch(path))))
        self._stage = self._folder / "stage.gpkg"

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def append(self, polygons: np.ndarray, values: np.ndarray, of: str = "") -> None:
        """Add ``polygons`` (n,) with their attributes ``values`` (n, fields), all of the class of that name."""
        if self._straight:
            polygons = shapely.segmentize(polygons, self._straight)
        self._pending.append((shapely.to_wkb(polygons), values, np.full(len(polygons), of, object)))
        self.count += len(polygons)
        if sum(len(wkb) for wkb, _, _ in self._pending) >= _BATCH:
            self._flush()

    def finish(self, replace: bool = True) -> Path:
        """Write the final format and give it its name (``files.publish``)."""
        self._flush()
        made = self._folder / f"finished{self.path.suffix.lower()}"
        with writing(self.path, *FAILURES), quiet():
            convert(self._stage, made, self.layer, description=self.description)
            if made.suffix == ".gpkg":
                add_style(made, self.layer, polygon_qml(self.legend))
                _add_aliases(made, self.layer, self.aliases)
            check_whole(made, self.layer, self.count)
            publish(made, self.path, replace)
        return self.path

    def _flush(self) -> None:
        if not self._pending:
            return
        wkb, values, classes = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        named = {} if self.legend is None else {CLASS: classes}
        self._pending = []
        with writing(self.path, *FAILURES), quiet():
            pyogrio.raw.write(
                self._stage,
                geometry=wkb,
                field_data=[*named.values(), *np.ascontiguousarray(values.T)],
                fields=[*named, *self.fields],
                layer=self.layer,
                driver="GPKG",
                geometry_type="Polygon",
                crs=self.crs,
                append=self._stage.exists(),
                layer_options={"SPATIAL_INDEX": "NO"},
            )


def convert(stage: Path, made: Path, layer: str, sql: str | None = None, description: str = "") -> None:
    """Write a layer of a GeoPackage (or what ``sql`` asks of it, a table without shapes) as a layer of ``made``.

    The format goes by the suffix of ``made``; to a GeoPackage that exists the layer is added.
    ``description`` goes into the file's metadata.
    """
    suffix = made.suffix.lower()
    read: dict[str, Any] = {"sql": sql} if sql else {"layer": layer}
    if suffix == ".parquet":
        with pyogrio.open_arrow(stage, batch_size=_BATCH, use_pyarrow=True, **read) as (meta, batches):
            _to_parquet(batches, meta, made, description)
        return
    with pyogrio.open_arrow(stage, batch_size=_BATCH, **read) as (meta, stream):
        options = {"RFC7946": "YES"} if suffix == ".geojson" else _column_names(meta) if suffix == ".gpkg" else {}
        options |= {"DESCRIPTION": description} if description else {}
        pyogrio.write_arrow(
            stream,
            made,
            layer=layer,
            driver=_DRIVERS[suffix],
            geometry_name=None if sql else meta["geometry_name"] or "wkb_geometry",
            geometry_type=None if sql else meta["geometry_type"],
            crs=meta["crs"],
            layer_options=options,
        )


def add_style(made: Path, layer: str, qml: str) -> None:
    """Put a style into a GeoPackage, in the table where QGIS looks first (and before any ``.qml`` beside the file).

    A map and its polygons may be called alike (``water.tif``, ``water.gpkg``): ``water.qml`` is then the map's.
    """
    with closing(sqlite3.connect(made)) as database, database:
        database.execute(
            f"CREATE TABLE {STYLES} (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),"
            " f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30),"
            " styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),"
            " update_time DATETIME)"
        )
        database.execute(
            f"INSERT INTO {STYLES} (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
            " styleQML, useAsDefault, description, owner, update_time) SELECT '', '', table_name, column_name, ?, ?, 1,"
            " 'by geouq', '', ? FROM gpkg_geometry_columns WHERE table_name = ?",
            (layer, qml, _EPOCH, layer),
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change, srs_id)"
            " VALUES (?, 'attributes', ?, '', ?, 0)",
            (STYLES, STYLES, _EPOCH),
        )


def _add_aliases(made: Path, layer: str, aliases: Mapping[str, str]) -> None:
    """Put what columns are called for people into a GeoPackage: its schema extension (OGC 12-128r18, F.9)."""
    with closing(sqlite3.connect(made)) as database, database:
        database.execute(
            "CREATE TABLE gpkg_data_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL, name TEXT,"
            " title TEXT, description TEXT, mime_type TEXT, constraint_name TEXT, CONSTRAINT pk_gdc"
            " PRIMARY KEY (table_name, column_name), CONSTRAINT gdc_tn UNIQUE (table_name, name))"
        )
        rows = [(layer, column, alias, alias) for column, alias in aliases.items()]
        database.executemany(
            "INSERT INTO gpkg_data_columns (table_name, column_name, name, title) VALUES (?, ?, ?, ?)", rows
        )
        database.execute(
            "CREATE TABLE IF NOT EXISTS gpkg_extensions (table_name TEXT, column_name TEXT, extension_name TEXT"
            " NOT NULL, definition TEXT NOT NULL, scope TEXT NOT NULL, CONSTRAINT ge_tce UNIQUE (table_name,"
            " column_name, extension_name))"
        )
        database.execute(
            "INSERT INTO gpkg_extensions VALUES ('gpkg_data_columns', NULL, 'gpkg_schema',"
            " 'http://www.geopackage.org/spec121/#extension_schema', 'read-write')"
        )


def _column_names(meta: dict[str, Any]) -> dict[str, str]:
    """Return names for a GeoPackage's own two columns that none of the attributes has."""
    taken = {str(name).lower() for name in meta["fields"]}
    names = {"FID": ("fid", "ogc_fid", "gpkg_fid"), "GEOMETRY_NAME": ("geom", "shape", "gpkg_geom")}
    return {option: next(name for name in among if name not in taken) for option, among in names.items()}


def _to_parquet(batches: Any, meta: dict[str, Any], made: Path, description: str) -> None:
    """Write GeoParquet 1.1 (geoparquet.org): WKB in a column, and a JSON text about it in the metadata."""
    crs = None if meta["crs"] is None else CRS.from_user_input(meta["crs"]).to_json_dict()
    types = [] if meta["geometry_type"] == "Unknown" else [meta["geometry_type"]]
    column = {"encoding": "WKB", "geometry_types": types, "crs": crs}
    shape = next(name for name in ("geometry", "geom", "wkb_geometry") if name not in set(meta["fields"]))
    geo = {"version": "1.1.0", "primary_column": shape, "columns": {shape: column}}
    name = meta["geometry_name"] or "wkb_geometry"
    fields = [pyarrow.field(field.name, field.type) for field in batches.schema if field.name != name]
    fields.append(pyarrow.field(shape, pyarrow.binary()))
    told = {"geo": json.dumps(geo)} | ({"description": description} if description else {})
    schema = pyarrow.schema(fields, metadata=told)
    with parquet.ParquetWriter(made, schema, compression="zstd") as writer:
        for batch in batches:
            arrays = [batch.column(field.name) for field in fields[:-1]]
            shapes = batch.column(name).cast(pyarrow.binary())
            _refuse_curves(shapes.to_pylist(), made.suffix)
            writer.write_batch(pyarrow.record_batch([*arrays, shapes], schema=schema))


def _refuse_curves(wkb: Sequence[bytes | None], suffix: str) -> None:
    """Raise OutputError for curves and surfaces of triangles (OGC 06-103r4, types 8 to 17): GeoParquet has none."""
    kinds = {int.from_bytes(one[1:5], "little" if one[0] else "big") & 0x0FFFFFFF for one in wkb if one}
    if any(kind % 1000 > 7 for kind in kinds):
        raise OutputError(f"places have curves or surfaces of triangles, which {suffix} cannot hold: write .gpkg")


def check_whole(made: Path, layer: str, count: int) -> None:
    """Raise OSError unless a file has ``count`` features: what GDAL loses on closing a file may raise nothing."""
    suffix = made.suffix.lower()
    if suffix == ".parquet":  # read from its end
        whole = parquet.read_metadata(made).num_rows == count
    elif suffix == ".geojson":
        whole = _tail(made).rstrip().endswith(b"}")
    else:
        info = pyogrio.read_info(made, layer=layer)
        whole = max(info["features"], 0) == count  # -1: an empty FlatGeobuf
        if count:
            whole = whole and info["capabilities"]["fast_spatial_filter"]
            pyogrio.raw.read(made, layer=layer, skip_features=count - 1, max_features=1)
    if not whole:
        raise OSError("the finished file does not hold all polygons and their index, is the disk full?")


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-min(16, path.stat().st_size), os.SEEK_END)
        return file.read()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the date out of GeoPackages, and pyogrio from warning of a map without CRS."""
    with _settings({"OGR_CURRENT_DATE": _EPOCH}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*crs.* was not provided")
        yield


@contextmanager
def reading(source: str | os.PathLike[str]) -> Iterator[str]:
    """Yield a name by which pyogrio may read a vector file: what ``guard`` lets pass, and no way to the network.

    Raises
    ------
    SceneError : the file is not there, may not be read, is a pipe, or leads to the network.
    """
    name = os.fspath(source)
    guard(name)
    with ExitStack() as stack:
        if not is_remote(name):
            stack.enter_context(_settings(OFFLINE))
        if os.path.exists(name):
            name = str(stack.enter_context(unmarked(Path(name))))
        yield name


@contextmanager
def _settings(options: Mapping[str, str]) -> Iterator[None]:
    """Set configuration options of pyogrio's GDAL, which is another one than rasterio's, for a while."""
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(dict(options))
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)
