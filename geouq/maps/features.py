"""Write polygons with attributes to .gpkg, .fgb, .geojson or .parquet, in batches, whole or not at all.

Polygons go into a plain GeoPackage first, a batch at a time, which is then streamed into the final format in one
pass (FlatGeobuf and GeoParquet cannot be appended to, and a GeoPackage's spatial index is three times faster built
in one go). Memory is that of a batch. The same polygons give the same bytes: no file carries the time.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import pyogrio
import pyogrio.errors
import pyogrio.raw
import shapely
from pyproj import CRS

from geouq.errors import OutputError
from geouq.maps.whole import discard, publish, scratch, writing

try:
    import pyarrow
    from pyarrow import parquet
except ImportError:  # an extra: only .parquet needs it
    pyarrow = parquet = None

LAYER = "water"
_BATCH = 50_000
_DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON", ".parquet": None}
_FAILURES = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.GeometryError,
    pyogrio._err.CPLE_BaseError,
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
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist: make it first")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another name, or overwrite it with --overwrite")
    return path


class FeatureWriter:
    """Polygons being written to ``path``: ``append`` batches, then ``finish``; nothing at ``path`` before that.

    A context manager, at whose end all temporary files are gone.

    Parameters
    ----------
    path : from ``check_vector_path``; an existing file is replaced by ``finish``, in one step.
    fields : names of the float attributes; NaN is written as null.
    crs : of the coordinates, anything pyproj understands, or None. GeoJSON is always written in longitude and
        latitude (RFC 7946), if there is a CRS.

    Raises
    ------
    OutputError : in any method, if the file cannot be written; the message names ``path``.
    """

    def __init__(self, path: Path, fields: Sequence[str], crs: str | None) -> None:
        self.path, self.fields, self.crs = path, list(fields), crs
        self.count = 0
        # begins with no features: a layer without any is a valid result
        self._pending = [(np.empty(0, object), np.empty((0, len(self.fields))))]
        with writing(path):
            self._folder = scratch(path)
        self._stage = self._folder / "stage.gpkg"

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        discard(self._folder)

    def append(self, polygons: np.ndarray, values: np.ndarray) -> None:
        """Add ``polygons`` (n,) with their attributes ``values`` (n, fields)."""
        self._pending.append((shapely.to_wkb(polygons), values))
        self.count += len(polygons)
        if sum(len(wkb) for wkb, _ in self._pending) >= _BATCH:
            self._flush()

    def finish(self) -> Path:
        """Write the final format and give it its name."""
        self._flush()
        suffix = self.path.suffix.lower()
        made = self._folder / f"finished{suffix}"
        with writing(self.path, *_FAILURES), _quiet():
            if suffix == ".parquet":
                self._to_parquet(made)
            else:
                self._convert(made, suffix)
            self._check(made, suffix)
            publish(made, self.path)
        return self.path

    def _flush(self) -> None:
        if not self._pending:
            return
        wkb, values = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        self._pending = []
        with writing(self.path, *_FAILURES), _quiet():
            pyogrio.raw.write(
                self._stage,
                geometry=wkb,
                field_data=list(np.ascontiguousarray(values.T)),
                fields=self.fields,
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=self.crs,
                append=self._stage.exists(),
                layer_options={"SPATIAL_INDEX": "NO"},
            )

    def _convert(self, made: Path, suffix: str) -> None:
        with pyogrio.open_arrow(self._stage, layer=LAYER, batch_size=_BATCH) as (meta, stream):
            pyogrio.write_arrow(
                stream,
                made,
                layer=LAYER,
                driver=_DRIVERS[suffix],
                geometry_name=meta["geometry_name"] or "wkb_geometry",
                geometry_type="Polygon",
                crs=self.crs,
                layer_options={"RFC7946": "YES"} if suffix == ".geojson" else {},
            )

    def _to_parquet(self, made: Path) -> None:
        """Write GeoParquet 1.1 (geoparquet.org): WKB in a column, and a JSON text about it in the metadata."""
        crs = None if self.crs is None else CRS.from_user_input(self.crs).to_json_dict()
        column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": crs}
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        fields = [pyarrow.field(name, pyarrow.float64()) for name in self.fields]
        fields.append(pyarrow.field("geometry", pyarrow.binary()))
        schema = pyarrow.schema(fields, metadata={"geo": json.dumps(geo)})
        with pyogrio.open_arrow(self._stage, layer=LAYER, batch_size=_BATCH, use_pyarrow=True) as (meta, batches):
            with parquet.ParquetWriter(made, schema, compression="zstd") as writer:
                for batch in batches:
                    arrays = [batch.column(name) for name in self.fields]
                    shapes = batch.column(meta["geometry_name"] or "wkb_geometry").cast(pyarrow.binary())
                    writer.write_batch(pyarrow.record_batch([*arrays, shapes], schema=schema))

    def _check(self, made: Path, suffix: str) -> None:
        """Raise OSError unless the file is whole: what GDAL loses on closing a file may raise nothing."""
        if suffix == ".parquet":  # read from its end
            whole = parquet.read_metadata(made).num_rows == self.count
        elif suffix == ".geojson":
            whole = _tail(made).rstrip().endswith(b"}")
        else:
            info = pyogrio.read_info(made, layer=LAYER)
            whole = max(info["features"], 0) == self.count  # -1: an empty FlatGeobuf
            if self.count:
                whole = whole and info["capabilities"]["fast_spatial_filter"]
                pyogrio.raw.read(made, layer=LAYER, skip_features=self.count - 1, max_features=1)
        if not whole:
            raise OSError("the finished file does not hold all polygons and their index, is the disk full?")


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-min(16, path.stat().st_size), os.SEEK_END)
        return file.read()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the date out of GeoPackages, and pyogrio from warning of a map without CRS."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*crs.* was not provided")
            yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
