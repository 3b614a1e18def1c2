"""A layer of features with attributes, to which columns are added: all else in it comes out as it went in.

GDAL copies the layer into a GeoPackage beside the output, a stream in and a stream out. That is an SQLite file, so
columns are added and filled in place; GDAL then streams it into its final format (geouq.polygons.features). Attributes
keep their types, shapes all their coordinates, and memory is that of a batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import count, repeat
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyogrio
import pyogrio.raw
import shapely
from pyproj import CRS

from geouq.answers.surfaces import flat
from geouq.errors import InputError, SceneError
from geouq.files import publish, scratch, unmarked, writing
from geouq.grid import straight_length
from geouq.polygons.features import FAILURES, STYLES, check_whole, convert, quiet, reading

LAYER = "places"
SAMPLES = "samples"
_ID = "geouq_fid"  # of the copy, where no attribute has that name
_READ, _FEATURES, _VERTICES = 2_000, 25_000, 500_000  # read at a time; worked on at a time


class LayerCopy:
    """A copy of the layer ``layer`` of ``source``, on its way to ``out``; a context manager.

    Attributes
    ----------
    count, crs, fields : number of features, their CRS or None, names of the attributes.
    renamed : attributes that differ from an earlier one in the case of letters alone, which is no difference to
        databases: the name each of them has in the copy and in the end.

    Raises
    ------
    InputError : if the source cannot be read, has no shapes, or several layers and none is named.
    OutputError : if something cannot be written; the message names ``out``.
    """

    def __init__(self, source: str | Path, layer: str | None, out: Path) -> None:
        self.source, self.out = source, out
        with ExitStack() as stack:
            name = stack.enter_context(_reading(source))
            info = _info(name, source, layer)
            self.fields, self.crs = list(info["fields"]), _known(info["crs"])
            self.renamed, self._classes = _apart(self.fields), False
            stack.enter_context(writing(out, *FAILURES))
            self._copy_into(out, name, info["layer_name"])
        self.count = int(self._table.execute(f"SELECT count(*) FROM {LAYER}").fetchone()[0])

    def _copy_into(self, out: Path, name: str, layer: str) -> None:
        """Copy the layer into a table beside ``out`` that columns can be added to."""
        with ExitStack() as stack:
            self._folder = stack.enter_context(unmarked(stack.enter_context(scratch(out))))
            self._stage = self._folder / "stage.gpkg"
            with quiet():
                self._copy(name, layer)
            self._table = stack.enter_context(closing(sqlite3.connect(self._stage)))
            self._table.execute("PRAGMA synchronous=OFF")  # it is gone after a crash anyway
            self._table.execute(f"CREATE TABLE {SAMPLES} (place INTEGER, class TEXT, sample INTEGER, area_m2 REAL)")
            self._stack = stack.pop_all()

    def __enter__(self) -> LayerCopy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _copy(self, name: str, layer: str) -> None:
        what = {"sql": _selecting(self.fields, self.renamed, layer)} if self.renamed else {"layer": layer}
        with pyogrio.open_arrow(name, **what) as (meta, stream):
            pyogrio.write_arrow(
                stream,
                self._stage,
                layer=LAYER,
                driver="GPKG",
                geometry_name=meta["geometry_name"] or "wkb_geometry",
                geometry_type=meta["geometry_type"],
                crs=meta["crs"],
                dataset_options={"DATETIME_FORMAT": "UTC"},  # the one that GeoPackages may have
                layer_options={"SPATIAL_INDEX": "NO", "FID": _ID, "GEOMETRY_NAME": "geouq_geom"},
            )

    def batches(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number of the first feature, shapes), features being numbered from 1 in the order of the source."""
        first, parts, vertices = 1, [], 0
        for start in range(1, self.count + 1, _READ):
            where = f"{_ID} BETWEEN {start} AND {start + _READ - 1}"
            with writing(self.out, *FAILURES), quiet():
                wkb = pyogrio.raw.read(self._stage, layer=LAYER, columns=[], where=where, force_2d=True)[2]
            with np.errstate(invalid="ignore"):  # coordinates that are NaN
                parts.append(shapely.from_wkb([flat(one) for one in wkb], on_invalid="ignore"))
            vertices += int(shapely.get_num_coordinates(parts[-1]).sum())
            if vertices >= _VERTICES or len(parts) * _READ >= _FEATURES:
                yield first, np.concatenate(parts)
                first, parts, vertices = start + _READ, [], 0
        if parts:
            yield first, np.concatenate(parts)

    def add_columns(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Add columns (name: SQLite type); return the name each one got: with _2, _3 … if the layer has it already."""
        taken = {name.lower() for name in (*self.fields, *self.renamed.values(), _ID, "geouq_geom")}
        names = {}
        with writing(self.out, sqlite3.Error), self._table:
            for name, kind in columns.items():
                names[name] = _free(name, taken)
                self._table.execute(f"ALTER TABLE {LAYER} ADD COLUMN {_quoted(names[name])} {kind}")
        return names

    def fill(self, first: int, columns: Mapping[str, Sequence[Any]]) -> None:
        """Set the values of added columns for features from number ``first`` on; NaN is written as null."""
        sets = ", ".join(f"{_quoted(name)}=?" for name in columns)
        rows = zip(*columns.values(), count(first))  # noqa: B905 (endless)
        with writing(self.out, sqlite3.Error), self._table:
            self._table.executemany(f"UPDATE {LAYER} SET {sets} WHERE {_ID}=?", rows)

    def add_samples(self, first: int, areas: np.ndarray, of: str = "") -> None:
        """Add the ``areas`` (features, samples) of features from number ``first`` on to the table of samples.

        ``of`` : name of the class that they are of, where there are several.
        """
        number, sample = np.indices(areas.shape)
        self._classes |= bool(of)
        rows = zip((number + first).ravel().tolist(), repeat(of), sample.ravel().tolist(), areas.ravel().tolist())  # noqa: B905 (endless)
        with writing(self.out, sqlite3.Error), self._table:
            self._table.executemany(f"INSERT INTO {SAMPLES} VALUES (?, ?, ?, ?)", rows)

    def repeated(self, name: str) -> int:
        """Return how many features have a value of the attribute ``name`` that an earlier one has too."""
        quoted = _quoted(self.renamed.get(name, name))
        query = f"SELECT count({quoted}) - count(DISTINCT {quoted}) FROM {LAYER}"
        return int(self._table.execute(query).fetchone()[0])

    def finish(self, samples: bool = False, name: str | None = None, replace: bool = True) -> None:
        """Write the final format and give it its name (``files.publish``).

        Parameters
        ----------
        samples : also write the table of samples, as a layer without shapes (GeoPackages only).
        name : attribute to repeat in it, as ``id``.
        """
        made = self._folder / f"finished{self.out.suffix.lower()}"
        if self.crs is not None and made.suffix == ".geojson":
            with writing(self.out, sqlite3.Error), self._table:
                self._cut_edges(straight_length(CRS.from_user_input(self.crs), 0.01))
        with writing(self.out, sqlite3.Error, *FAILURES), quiet():
            convert(self._stage, made, LAYER)
            if samples:
                self._add_ids(name)
                columns = ["place", *["id"] * bool(name), *["class"] * self._classes, "sample", "area_m2"]
                convert(self._stage, made, SAMPLES, f"SELECT {', '.join(columns)} FROM {SAMPLES} ORDER BY rowid")
            check_whole(made, LAYER, self.count)
            publish(made, self.out, replace)

    def _add_ids(self, name: str | None) -> None:
        """Repeat an attribute in the table of samples, as a column of it: in a join GDAL mistakes its type."""
        if name is None:
            return
        column = self.renamed.get(name, name)
        kinds = {row[1]: row[2] for row in self._table.execute(f"PRAGMA table_info({LAYER})")}
        with self._table:
            self._table.execute(f"ALTER TABLE {SAMPLES} ADD COLUMN id {kinds[column]}")
            found = f"(SELECT {_quoted(column)} FROM {LAYER} WHERE {_ID} = {SAMPLES}.place)"
            self._table.execute(f"UPDATE {SAMPLES} SET id = {found}")

    def _cut_edges(self, longest: float) -> None:
        """Give edges that will become degrees by their ends alone more of them, so that they stay within a centimetre.

        Shapes are GeoPackage blobs (OGC 12-128r18, 2.1.3): "GP", version, flags (bits 1 to 3: kind of envelope), the
        CRS's number, the envelope, WKB.
        """
        envelopes = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}
        select = f"SELECT {_ID}, geouq_geom FROM {LAYER} WHERE {_ID} BETWEEN ? AND ?"
        for start in range(1, self.count + 1, _READ):
            for number, blob in self._table.execute(select, (start, start + _READ - 1)).fetchall():
                wkb = blob and blob[8 + envelopes.get(blob[3] >> 1 & 7, 0) :]
                shape = shapely.from_wkb(wkb, on_invalid="ignore") if wkb else None
                cut = None if shape is None else shapely.segmentize(shape, longest)
                if cut is not None and shapely.get_num_coordinates(cut) > shapely.get_num_coordinates(shape):
                    new = blob[:3] + bytes([blob[3] & 0b11110001]) + blob[4:8] + shapely.to_wkb(cut)
                    self._table.execute(f"UPDATE {LAYER} SET geouq_geom=? WHERE {_ID}=?", (new, number))


def _known(crs: str | None) -> str | None:
    """Return a CRS; None for one that stands for none, as in GeoPackages (srs_id -1 and 0)."""
    if crs is None:
        return None
    found = CRS.from_user_input(crs)
    return None if found.is_engineering or found.name.lower().startswith("undefined") else crs


def _apart(fields: Sequence[str]) -> dict[str, str]:
    """Return new names for those fields that differ from an earlier one in the case of letters alone."""
    taken = {name.lower() for name in fields}
    seen, renamed = set[str](), {}
    for name in fields:
        if name.lower() in seen:
            renamed[name] = _free(name, taken)
        seen.add(name.lower())
    return renamed


def _free(name: str, taken: set[str]) -> str:
    """Return a name, or the first of name_2, name_3 … that is not among those ``taken`` in any case; it is then."""
    free = (name if k == 1 else f"{name}_{k}" for k in count(1))
    found = next(each for each in free if each.lower() not in taken)
    taken.add(found.lower())
    return found


def _selecting(fields: Sequence[str], renamed: Mapping[str, str], layer: str) -> str:
    """Return what asks GDAL for a layer with some fields renamed; in its SQL, unlike in SQLite's, case makes names."""
    quote = {name: '"' + name.replace('"', '\\"') + '"' for name in (*fields, *renamed.values(), layer)}
    columns = (f"{quote[name]} AS {quote[renamed[name]]}" if name in renamed else quote[name] for name in fields)
    return f"SELECT {', '.join(columns)} FROM {quote[layer]}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _reading(source: str | Path) -> Iterator[str]:
    """Yield the name to read a vector file by; what cannot be read is the caller's mistake, an InputError."""
    try:
        with reading(source) as name:
            yield name
    except SceneError as error:
        raise InputError(str(error)) from error


def _info(name: str, source: str | Path, layer: str | None) -> dict[str, Any]:
    """Return what pyogrio says of a layer, the only one or the one named."""
    try:
        layers = [str(layer_name) for layer_name, _ in pyogrio.list_layers(name) if layer_name != STYLES]
        if not layers:
            raise InputError(f"{source} has no layer: give a vector file with polygons")
        if layer is None and len(layers) > 1:
            raise InputError(f"{source} has the layers {', '.join(layers)}: choose one with --layer")
        if layer is not None and layer not in layers:
            raise InputError(f"{source} has no layer {layer!r}: it has {', '.join(layers)}")
        info = pyogrio.read_info(name, layer=layer or (layers[0] if layers else None))
    except FAILURES as error:
        raise InputError(f"{source} cannot be read as a vector file: {' '.join(str(error).split())}") from error
    if info["geometry_type"] is None:
        raise InputError(f"{source}: the layer {info['layer_name']} is a table without shapes: give polygons")
    return dict(info)
