"""A durable run: tiles → parts → receipts → finished files, and on from where a broken one stopped.

While it runs, a hidden folder beside the output (``.<name>.geouq``) holds parts and their ledger
(geouq.segmentation.ledger). The finished files are made from the parts alone, inside that folder, and renamed into
place at the end: a final name holds a whole file or nothing. The same command continues a broken run and gives the
same bytes; a run with other settings refuses to touch it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from geouq.errors import InputError, OutputError
from geouq.files import check_place, place, refuse_own_scene, scene_files, writing
from geouq.grid import Roi, Tile, geobox_roi, pixel_areas
from geouq.maps.cog import Band, MapWriter, check_options, map_bands, quantise, vote_bands
from geouq.maps.preview import Squares, preview
from geouq.maps.styles import write_qml
from geouq.maps.votes import beside
from geouq.polygons.features import check_vector_path
from geouq.polygons.vectorize import vectorize
from geouq.sampling.estimators import MAX_VOTES, NOT_CLASSIFIED, area_interval
from geouq.segmentation.job import Job, run_attrs
from geouq.segmentation.ledger import Ledger, Receipt, enter, read_part, write_part
from geouq.segmentation.tile import read_window, segment_tile

#: Tiles in flight beside those that compute, one a device: another is read or written meanwhile.
WAITING = 1


@dataclass(frozen=True)
class Outputs:
    """What a run leaves behind; ``None`` = not wanted.

    path : the map (COG); its votes go to ``<stem>_samples.tif`` beside it if that layer is asked for.
    vector : polygons, format by suffix; ``min_area`` in m² drops small ones.
    preview : a PNG.
    float32 : floats instead of percent.
    options : creation options of the COG driver.
    """

    path: Path
    vector: Path | None = None
    preview: Path | None = None
    min_area: float = 0.0
    float32: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def samples(self) -> Path:
        """Where votes go."""
        return beside(self.path)

    @property
    def style(self) -> Path:
        """The QGIS style beside the map."""
        return self.path.with_suffix(".qml")

    @property
    def work(self) -> Path:
        """The hidden folder of parts and ledger."""
        return self.path.with_name(f".{self.path.name}.geouq")


@dataclass(frozen=True)
class Started:
    """The run is about to compute: tiles and pixels in all and already done, promised bytes by term."""

    tiles: int
    done: int
    pixels: int
    done_pixels: int
    promise: Mapping[str, int]


@dataclass(frozen=True)
class TileDone:
    """One more tile is safe on disk."""

    pixels: int


@dataclass(frozen=True)
class BatchHalved:
    """A device had not the memory for ``asked`` samples at once; a tile was computed with ``batch``."""

    batch: int
    asked: int


@dataclass(frozen=True)
class Finishing:
    """All tiles are there; now ``step`` is being made."""

    step: str


Event = Started | TileDone | BatchHalved | Finishing
OnEvent = Callable[[Event], None]


def run(
    scene: xr.DataArray, job: Job, outputs: Outputs, *, overwrite: bool = False, on_event: OnEvent = lambda event: None
) -> dict[str, Any]:
    """Segment ``scene`` into files and return a summary of plain values.

    Raises
    ------
    OutputError : an output exists and ``overwrite`` is False, a broken run with other settings is in the way, or a
        file cannot be written.
    GeouqError : a tile failed; what is finished stays, and the same call continues.
    """
    started = time.perf_counter()
    check_outputs(job, outputs)
    refuse_own_scene(scene, _wanted(job, outputs))
    with Ledger(outputs.work, _identity(scene, job, outputs), _wanted(job, outputs), overwrite) as ledger:
        done = ledger.receipts()
        tiles = list(job.tiling)
        todo = [tile for tile in tiles if tile.index not in done]
        pixels = _pixels(tiles)
        on_event(
            Started(len(tiles), len(done), pixels, pixels - _pixels(todo), job.promise(len(job.devices) + WAITING))
        )
        _compute(_Work(scene, job, outputs, on_event), todo)
        computing = time.perf_counter() - started
        receipts = ledger.receipts()
        summary = _summary(job, outputs, [receipts[tile.index] for tile in tiles])
        finished = _make_outputs(scene, job, outputs, receipts, summary, on_event)
        ledger.note("placing", "yes")  # from here on, finished outputs in place are this run's own
        for path, final in finished:
            with writing(final):
                place(path, final)
        ledger.close()
    return summary | {
        "tiles": len(tiles),
        "tiles_continued": len(done),
        "seconds": round(time.perf_counter() - started, 3),
        "megapixels_per_second": round(_pixels(todo) / 1e6 / computing, 4),
    }


def check_outputs(job: Job, outputs: Outputs) -> None:
    """Raise an error for outputs that cannot be made of the layers asked for, or as told, or have nowhere to go."""
    check_options(outputs.options)
    layers = set(job.question.layers)
    for wanted, needed in ((outputs.vector, {"mask"}), (outputs.preview, {"mask", "uncertainty", "confidence"})):
        if wanted is not None and not needed <= layers:
            raise OutputError(f"{wanted} is made from the layers {', '.join(sorted(needed))}: add them to --layers")
    if outputs.vector is not None:
        check_vector_path(outputs.vector, overwrite=True)
    if not outputs.min_area >= 0:
        raise InputError(f"--min-area is {outputs.min_area}: give an area in m², 0 or more")
    if outputs.path.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{outputs.path}: maps are written as .tif: give it that suffix")
    if outputs.preview is not None and outputs.preview.suffix.lower() != ".png":
        raise OutputError(f"{outputs.preview}: pictures are written as .png: give it that suffix")
    if len(set(_wanted(job, outputs))) < len(_wanted(job, outputs)):
        raise OutputError(f"two outputs have the same name among {', '.join(map(str, _wanted(job, outputs)))}")
    for path in _wanted(job, outputs):
        check_place(path)


def _wanted(job: Job, outputs: Outputs) -> list[Path]:
    """Return every file the run leaves, the map last: when it is there, all is."""
    samples = outputs.samples if "votes" in job.question.layers else None
    style = outputs.style if _map_bands(job, outputs) else None
    path = outputs.path if _map_bands(job, outputs) else None
    return [p for p in (samples, outputs.vector, outputs.preview, style, path) if p is not None]


def _pixels(tiles: list[Tile]) -> int:
    return sum(tile.core.shape[0] * tile.core.shape[1] for tile in tiles)


def _map_bands(job: Job, outputs: Outputs) -> tuple[Band, ...]:
    """Return the bands of the map, one a layer (one a class for ``probabilities``), votes left out."""
    classes = job.sampler.model.spec.classes
    names: list[str] = []
    for layer in job.question.layers:
        many = [f"probability_{name}" for name in classes]
        names += many if layer == "probabilities" else [] if layer == "votes" else [layer]
    return map_bands(names, outputs.float32, len(classes))


def _keeps_votes(job: Job, outputs: Outputs) -> bool:
    """True if parts hold votes: they are asked for, or polygons take their area intervals from them."""
    wanted = outputs.vector is not None and job.intervals and job.sampler.samples <= MAX_VOTES
    return "votes" in job.question.layers or wanted


class _Work:
    """What all tile tasks of a run share; a plain class, so that dask passes it on as it is."""

    def __init__(self, scene: xr.DataArray, job: Job, outputs: Outputs, on_event: OnEvent) -> None:
        self.scene, self.outputs, self.on_event = scene, outputs, on_event
        self.bands, self.votes = _map_bands(job, outputs), _keeps_votes(job, outputs)
        self.squares = None if outputs.preview is None else Squares(_region(scene, job.region))
        layers = dict.fromkeys((*job.question.layers, "mask", *(["votes"] if self.votes else [])))
        self.job = replace(job, question=replace(job.question, layers=tuple(layers)))

    def do(self, tile: Tile) -> None:
        """Read, predict and write one tile, then enter its receipt."""
        values = read_window(self.scene, tile)
        if hasattr(values, "dask"):
            values = values.compute(scheduler="synchronous")
        values = np.asarray(values)
        result = segment_tile(self.job, values, tile)
        mask = result.layers["mask"]
        area = np.broadcast_to(pixel_areas(self.job.geobox, tile.core), mask.shape)
        name = f"{tile.index:06d}.part"
        receipt = Receipt(
            tile.index,
            name,
            write_part(self.outputs.work / name, self._arrays(result.layers) | self._picture(values, tile)),
            result.valid,
            float(area[mask == self.job.question.positive].sum()),
            float(area[mask != NOT_CLASSIFIED].sum()),
            tuple(map(float, result.areas)),
            result.drawn,
        )
        enter(self.outputs.work, receipt)
        if result.batch < self.job.sampler.batch:
            self.on_event(BatchHalved(result.batch, self.job.sampler.batch))
        self.on_event(TileDone(mask.size))

    def _arrays(self, layers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "probabilities" in layers:
            names = [f"probability_{name}" for name in self.job.sampler.model.spec.classes]
            layers = layers | dict(zip(names, layers["probabilities"], strict=True))
        arrays = {"map": quantise(layers, self.bands)} if self.bands else {}
        if self.votes:
            arrays["votes"] = quantise(layers, vote_bands(self.job.sampler.samples))
        return arrays

    def _picture(self, values: np.ndarray, tile: Tile) -> dict[str, np.ndarray]:
        """Return what a picture shows of the scene in a tile, so that the scene is read (or geocoded) only once."""
        if self.squares is None:
            return {}
        corner = tile.core.within(self.job.region)
        shown = values[:, *tile.core.within(tile.window).slices][self.squares.bands]
        if self.job.nodata is not None:
            shown = np.where(shown == self.job.nodata, np.nan, shown)
        return {"picture": self.squares.part(shown, corner.y0, corner.x0)}


def _compute(work: _Work, tiles: list[Tile]) -> None:
    shared = dask.delayed(work, traverse=False)
    tasks = [dask.delayed(_Work.do)(shared, dask.delayed(tile, traverse=False)) for tile in tiles]
    dask.compute(*tasks, scheduler="threads", num_workers=len(work.job.devices) + WAITING)


def _identity(scene: xr.DataArray, job: Job, outputs: Outputs) -> dict[str, Any]:
    """Return all that the parts depend on; a run may only continue one with the very same."""
    values = {
        "scene": [[f, os.stat(f).st_size, os.stat(f).st_mtime_ns] for f in scene_files(scene)],
        "scene as read": dask.base.tokenize(scene.data),  # which bands, what is nodata, files that are not local
        "grid": [job.tiling.shape, list(job.geobox.affine)[:6], str(job.geobox.crs)],
        "bounds": None if job.tiling.bounds is None else asdict(job.tiling.bounds),
        "bands": job.bands,
        "scale": job.units,
        "nodata": job.nodata,
        "layers": job.question.layers,
        "batch": job.sampler.batch,
        "device": ",".join(job.devices),
        **run_attrs(job),
        "float32": outputs.float32,
        "votes": _keeps_votes(job, outputs),
        "picture": outputs.preview is not None,
        "version": version("geouq"),
    }
    return dict(json.loads(json.dumps(values)))


def _summary(job: Job, outputs: Outputs, receipts: list[Receipt]) -> dict[str, Any]:
    """Return what a run found, in plain values; areas in m² (in squared grid units without a CRS)."""
    rows, columns = job.region.shape
    valid = sum(r.valid for r in receipts)
    low, high = area_interval(np.sum([r.areas for r in receipts], axis=0)) if job.intervals else (None, None)
    drawn = sum(r.drawn * r.valid for r in receipts) / max(valid * job.sampler.samples, 1)
    saved = {"samples_saved_percent": round(100 * (1 - drawn), 2)} if job.question.tolerance and valid else {}
    spec = job.sampler.model.spec
    return {
        "map": str(outputs.path) if _map_bands(job, outputs) else None,
        "files": [str(p) for p in _wanted(job, outputs)],
        "rows": rows,
        "columns": columns,
        "crs": None if job.geobox.crs is None else str(job.geobox.crs),
        "not_classified_percent": round(100 * (1 - valid / (rows * columns)), 4),
        "valid_area_m2": sum(r.valid_area for r in receipts),
        "area_m2": sum(r.water_area for r in receipts),
        "area_m2_p05": low,
        "area_m2_p95": high,
        **run_attrs(job),
        **saved,
        "positive_class": spec.positive,
    }


def _make_outputs(
    scene: xr.DataArray,
    job: Job,
    outputs: Outputs,
    receipts: Mapping[int, Receipt],
    summary: Mapping[str, Any],
    on_event: OnEvent,
) -> list[tuple[Path, Path]]:
    """Make every output in the work folder; return (made, final name), the map last."""
    made = {path: outputs.work / path.name for path in _wanted(job, outputs)}
    for path in made.values():
        path.unlink(missing_ok=True)
    tags = {f"GEOUQ_{k.upper()}": v for k, v in run_attrs(job).items()} | {"GEOUQ_VERSION": version("geouq")}
    if scene.attrs.get("notes"):
        tags["GEOUQ_SCENE"] = scene.attrs["notes"]
    finished, votes = outputs.work / outputs.path.name, outputs.work / outputs.samples.name
    bands = _map_bands(job, outputs)
    rasters = {"map": (finished, bands)} if bands else {}
    if _keeps_votes(job, outputs):
        rasters["votes"] = (votes, vote_bands(job.sampler.samples))
    squares = None if outputs.preview is None else Squares(_region(scene, job.region))
    on_event(Finishing(" and ".join(path.name for path, _ in rasters.values())))
    _assemble(job, outputs, receipts, rasters, tags, squares)
    if bands:
        spec = job.sampler.model.spec
        names = [band.name for band in bands]
        write_qml(made[outputs.style], names, outputs.float32, spec.classes, spec.classes.index(spec.positive))
    if outputs.vector is not None:
        on_event(Finishing(outputs.vector.name))
        samples = votes if "votes" in rasters else None
        vectorize(finished, made[outputs.vector], samples_path=samples, min_area=outputs.min_area)
    if squares and outputs.preview:
        on_event(Finishing(outputs.preview.name))
        preview(squares, finished, made[outputs.preview], title=outputs.path.stem, summary=summary)
    return [(path, final) for final, path in made.items()]


def _assemble(
    job: Job,
    outputs: Outputs,
    receipts: Mapping[int, Receipt],
    rasters: Mapping[str, tuple[Path, tuple[Band, ...]]],
    tags: Mapping[str, object],
    squares: Squares | None,
) -> None:
    """Make rasters, and the scene's averages for a picture, in one pass over the parts."""
    geobox = geobox_roi(job.geobox, job.region)
    with ExitStack() as stack:
        writers = {
            what: stack.enter_context(MapWriter(path, geobox, bands, tags, outputs.options))
            for what, (path, bands) in rasters.items()
        }
        for tile in job.tiling:
            part, roi = read_part(outputs.work / receipts[tile.index].part), tile.core.within(job.region)
            for what, writer in writers.items():
                writer.write(roi, part[what])
            if squares is not None:
                squares.add(part["picture"], roi.y0, roi.x0)
        for writer in writers.values():
            writer.finish()


def _region(scene: xr.DataArray, region: Roi) -> xr.DataArray:
    rows, columns = region.slices
    return scene.isel({scene.dims[1]: rows, scene.dims[2]: columns})
