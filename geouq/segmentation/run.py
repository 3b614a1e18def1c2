"""A durable run: tiles → parts → receipts → finished files, and on from where a broken one stopped.

While it runs, a hidden folder beside the output (``.<name>.geouq``) holds parts and their ledger
(geouq.segmentation.ledger). The finished files are made from the parts alone, inside that folder, and renamed into
place at the end: a final name holds a whole file or nothing. The same command continues a broken run and gives the
same bytes; a run with other settings refuses to touch it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask
import dask.threaded
import numpy as np
import xarray as xr

from geouq.files import place, refuse_own_scene, writing
from geouq.grid import Roi, Tile, pixel_areas
from geouq.maps.cog import quantise
from geouq.maps.preview import Squares
from geouq.sampling.estimators import NOT_CLASSIFIED
from geouq.segmentation.assemble import assemble
from geouq.segmentation.identity import identity
from geouq.segmentation.job import Job
from geouq.segmentation.ledger import Ledger, Receipt, enter, write_part
from geouq.segmentation.results import Outputs, Results, class_bands, resolve
from geouq.segmentation.summary import summarise
from geouq.segmentation.tile import read_window, segment_tile

#: Tiles in flight beside those that compute, one a device: another is read or written meanwhile.
WAITING = 1


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
    results = resolve(job, outputs)
    job = replace(job, question=replace(job.question, layers=results.layers))
    refuse_own_scene(scene, results.files)
    with Ledger(results.work, identity(scene, job, results), results.files, overwrite) as ledger:
        done, tiles = ledger.receipts(), list(job.tiling)
        todo = [tile for tile in tiles if tile.index not in done]
        promise = job.promise(len(job.devices) + WAITING)
        on_event(Started(len(tiles), len(done), _pixels(tiles), _pixels(tiles) - _pixels(todo), promise))
        squares = None if results.preview is None else Squares(_region(scene, job.region))
        _compute(_Work(scene, job, results, squares, on_event), todo)
        computing = time.perf_counter() - started
        receipts = ledger.receipts()
        summary = summarise(job, results, [receipts[tile.index] for tile in tiles])
        assemble(job, results, receipts, squares, summary, lambda step: on_event(Finishing(step)))
        ledger.note("placing", "yes")  # from here on, finished outputs in place are this run's own
        for final in results.files:
            with writing(final):
                place(results.made(final), final)
        ledger.close()
    return summary | {
        "tiles": len(tiles),
        "tiles_continued": len(done),
        "seconds": round(time.perf_counter() - started, 3),
        "megapixels_per_second": round(_pixels(todo) / 1e6 / computing, 4),
    }


def _pixels(tiles: list[Tile]) -> int:
    return sum(tile.core.shape[0] * tile.core.shape[1] for tile in tiles)


def _region(scene: xr.DataArray, region: Roi) -> xr.DataArray:
    rows, columns = region.slices
    return scene.isel({scene.dims[1]: rows, scene.dims[2]: columns})


@dataclass(frozen=True)
class _Work:
    """What all tile tasks of a run share."""

    scene: xr.DataArray
    job: Job
    results: Results
    squares: Squares | None
    on_event: OnEvent

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
            write_part(self.results.work / name, self._arrays(result.layers) | self._picture(values, tile)),
            result.valid,
            float(area[mask == self.job.question.positive].sum()),
            float(area[mask != NOT_CLASSIFIED].sum()),
            tuple(map(float, result.areas)),
            result.drawn,
        )
        enter(self.results.work, receipt)
        if result.batch < self.job.sampler.batch:
            self.on_event(BatchHalved(result.batch, self.job.sampler.batch))
        self.on_event(TileDone(mask.size))

    def _arrays(self, layers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the files store of a tile: of the map, of the votes."""
        if "probabilities" in layers:
            layers = layers | dict(zip(class_bands(self.job), layers["probabilities"], strict=True))
        files = {"map": self.results.bands, "votes": self.results.vote_bands}
        return {what: quantise(layers, bands) for what, bands in files.items() if bands}

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
    dask.compute(*tasks, scheduler=dask.threaded.get, num_workers=len(work.job.devices) + WAITING)
