"""A durable run: tiles → parts → receipts → finished files, and on from where a broken one stopped.

While it runs, a hidden folder beside the output (``.<name>.geouq``) holds parts and their ledger
(geouq.segmentation.ledger). The finished files are made from the parts alone, inside that folder, and renamed into
place at the end: a final name holds a whole file or nothing. The same command continues a broken run and gives the
same bytes; a run with other settings refuses to touch it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import dask
import dask.threaded
import numpy as np
import xarray as xr

from geouq.alarm import OPEN
from geouq.decisions import Cut, RankSums
from geouq.errors import OutputError
from geouq.files import refuse_own_scene, scene_sources, write_bytes
from geouq.grid import Roi, Tile, pixel_areas
from geouq.layers import NOT_CLASSIFIED, UNDECIDED
from geouq.maps.bands import by_band, quantise
from geouq.maps.stac import check_dated
from geouq.sampling.engine import TileResult
from geouq.segmentation.assemble import assemble
from geouq.segmentation.cluster import compute_on
from geouq.segmentation.deciding import decided_part, of_ranks
from geouq.segmentation.delivery import check_free_in_store, deliver, found_in_store, refuse_own_in_store, staged
from geouq.segmentation.events import BatchHalved, Event, Finishing, Noted, OnEvent, Started, TileDone
from geouq.segmentation.identity import Identity, identify
from geouq.segmentation.job import Job
from geouq.segmentation.ledger import Ledger, Receipt, digest_of, enter, pack, read_part, tidy
from geouq.segmentation.mapgrid import grid_of_map
from geouq.segmentation.matching import scene_name, scene_origin, scene_windows
from geouq.segmentation.publishing import found_before, publish_results
from geouq.segmentation.results import Outputs, Results, resolve
from geouq.segmentation.summary import as_tags, findings, summarise
from geouq.segmentation.tile import look_first, segment_tile, tile_values

if TYPE_CHECKING:
    from distributed import Client

    from geouq.maps.preview import Squares

#: Tiles in flight beside those that compute: another is read or written meanwhile.
WAITING = 1


def silent(event: Event) -> None:
    """Show nothing."""


def run(
    scene: xr.DataArray,
    job: Job,
    outputs: Outputs,
    *,
    overwrite: bool = False,
    on_event: OnEvent = silent,
    client: Client | None = None,
) -> dict[str, Any]:
    """Segment ``scene`` into files and return a summary of plain values.

    A run whose files are all there already, made by this very run, is done: nothing is computed or written. With a
    ``client`` of dask.distributed its workers compute the tiles (geouq.segmentation.cluster), to the same bytes.

    Raises
    ------
    OutputError : an output exists and ``overwrite`` is False, a broken run with other settings is in the way, or a
        file cannot be written.
    GeouqError : a tile failed; what is finished stays, and the same call continues.
    """
    with staged(outputs):
        return _run(scene, job, outputs, overwrite, on_event, client)


def _run(
    scene: xr.DataArray, job: Job, outputs: Outputs, overwrite: bool, on_event: OnEvent, client: Client | None
) -> dict[str, Any]:
    started = time.perf_counter()
    results = resolve(job, outputs)
    refuse_own_scene(scene, results.files)
    refuse_own_in_store(scene_sources(scene), results)
    if results.stac is not None:
        check_dated(results.stac, scene_origin(scene).get("acquired", ""))
    if not job.looked:
        windows = dask.compute(*scene_windows(scene, job.bands), scheduler="synchronous")
        job = look_first(job, windows, scene_name(scene))
    grid = grid_of_map(job.geobox, scene_name(scene))
    job = replace(job, geobox=grid, question=replace(job.question, layers=results.layers))
    identity, tiles = identify(scene, job, results), list(job.tiling)
    before = _before(identity, scene, results, overwrite)
    if before is not None:
        tidy(results.work, identity.values)
        summary = summarise(job, results, identity.run, before) | scene_origin(scene)
        told = deliver(results, overwrite, on_event)
        return summary | {"already_there": not told} | told | _effort(tiles, [], started)
    if results.store is not None:
        check_free_in_store(results, overwrite)
        on_event(Noted(f"{results.store.folder} holds this run until it is done and in {results.store.address}"))
    with Ledger(results.work, identity.values, results.files, overwrite) as ledger:
        done = ledger.receipts()
        todo = [tile for tile in tiles if tile.index not in done]
        for note in (*ledger.notes, *map(_not_known, identity.unknown)):
            on_event(Noted(note))
        promise = job.promise(job.at_once + WAITING)
        on_event(Started(len(tiles), len(done), _pixels(tiles), _pixels(tiles) - _pixels(todo), promise))
        squares = None if results.preview is None else _squares(_region(scene, job.region))
        work = _Work(scene, job, results, squares, on_event)
        receipts = _compute(work, ledger, tiles, todo, client)
        effort = _effort(tiles, todo, started)
        work = work.decided(receipts, tiles)
        found = findings(job, [receipts[tile.index] for tile in tiles], work.cut, work.sums)
        summary = summarise(job, results, identity.run, found) | scene_origin(scene)
        tags = {**results.tags, "GEOUQ_RUN": identity.run, **_scene_tags(scene), **as_tags(found)}
        results = replace(results, tags=tags)
        assemble(job, results, lambda tile: work.part(receipts[tile.index], tile), squares, summary, work.finishing)
        ledger.note("publishing", "yes")  # from here on, finished outputs under final names are this run's own
        for note in publish_results(results, overwrite):
            on_event(Noted(note))
        ledger.close()
    effort |= deliver(results, overwrite, on_event)
    seconds = {"seconds": round(time.perf_counter() - started, 3)}
    return summary | {"already_there": False} | effort | seconds


def _before(identity: Identity, scene: xr.DataArray, results: Results, overwrite: bool) -> dict[str, Any] | None:
    """Return what this very run found before, if its files are there: where they are made, or where they go."""
    if identity.unknown or (overwrite and results.store is None):
        return None
    found = found_before(identity.run, scene, results)  # for a store: finished, and still to be uploaded
    if found is None and results.store is not None and not overwrite:
        found = found_in_store(identity.run, results)
    return found


def _not_known(name: str) -> str:
    return f"no server tells in which state {name} is: if this run is interrupted, it cannot be continued"


def _effort(tiles: list[Tile], computed: list[Tile], started: float) -> dict[str, Any]:
    """Return what computing took so far."""
    seconds = time.perf_counter() - started
    return {
        "tiles": len(tiles),
        "tiles_continued": len(tiles) - len(computed),
        "seconds": round(seconds, 3),
        "megapixels_per_second": round(_pixels(computed) / 1e6 / seconds, 4),
    }


def _scene_tags(scene: xr.DataArray) -> dict[str, str]:
    origin = scene_origin(scene)
    told = {"SCENE": scene.attrs.get("notes"), "SOURCE": ", ".join(origin.get("source", ()))}
    told["ACQUIRED"] = origin.get("acquired")
    return {f"GEOUQ_{name}": value for name, value in told.items() if value}


def _pixels(tiles: list[Tile]) -> int:
    return sum(tile.core.shape[0] * tile.core.shape[1] for tile in tiles)


def _squares(region: xr.DataArray) -> Squares:
    """Return what gathers a picture of the scene, nothing yet in it."""
    from geouq.maps.preview import Squares  # here, for matplotlib

    return Squares(region)


def _region(scene: xr.DataArray, region: Roi) -> xr.DataArray:
    rows, columns = region.slices
    return scene.isel({scene.dims[1]: rows, scene.dims[2]: columns})


@dataclass(frozen=True)
class _Made:
    """A tile that is computed: its part, and the receipt for it; how many samples were computed at once; its pixels."""

    packed: bytes
    receipt: Receipt
    batch: int
    pixels: int


@dataclass(frozen=True)
class _Work:
    """What all tile tasks of a run share; where the mask is cut if not at the threshold, and the scene's ``sums`` by
    rank if it goes by these: both are known when all tiles are there (``decided``).
    """

    scene: xr.DataArray
    job: Job
    results: Results
    squares: Squares | None
    on_event: OnEvent
    cut: Cut | None = None
    sums: RankSums | None = None

    def decided(self, receipts: Mapping[int, Receipt], tiles: list[Tile]) -> _Work:
        """Return the same with the cut of the finished scene."""
        if self.job.decision is None or not self.job.scene_wide:
            return replace(self, cut=self.job.question.cut)
        parts = (self.part(receipts[tile.index], tile) for tile in tiles)
        sums = RankSums.total(RankSums(*part["sums"]) for part in parts)
        return replace(self, cut=self.job.decision.cut(sums), sums=sums)

    def finishing(self, step: str) -> None:
        """Tell that all tiles are there, and what is being made of them."""
        self.on_event(Finishing(step))

    def do(self, tile: Tile) -> None:
        """Compute one tile, and keep it."""
        self.keep(self.compute(tile))

    def compute(self, tile: Tile) -> _Made:
        """Read and predict one tile."""
        values = tile_values(self.scene, tile)
        if hasattr(values, "dask"):
            values = values.compute(scheduler=dask.get)
        values = np.asarray(values)
        result = segment_tile(self.job, values, tile)
        packed = pack(self._arrays(result.layers) | self._ranks(result.layers, tile) | self._picture(values, tile))
        receipt = self._receipt(tile, f"{tile.index:06d}.part", digest_of(packed), result)
        return _Made(packed, receipt, result.batch, tile.core.shape[0] * tile.core.shape[1])

    def keep(self, made: _Made) -> None:
        """Write a tile's part, then enter its receipt."""
        write_bytes(self.results.work / made.receipt.part, made.packed)
        enter(self.results.work, made.receipt)
        if made.batch < self.job.sampler.batch:
            self.on_event(BatchHalved(made.batch, self.job.sampler.batch))
        self.on_event(TileDone(made.pixels))

    def part(self, receipt: Receipt, tile: Tile) -> Mapping[str, np.ndarray]:
        """Return the arrays of a finished tile; if its part was lost meanwhile, it is computed again."""
        bands = 4 * len(self.results.bands) + 8 * len(self.results.vote_bands) + 40  # bytes of a pixel, at most
        most = tile.core.shape[0] * tile.core.shape[1] * bands + (1 << 20)
        arrays = read_part(self.results.work / receipt.part, receipt.digest, most)
        if arrays is None:
            self.on_event(Noted(f"{receipt.part} in {self.results.work.name} is damaged or gone: computed again"))
            self.do(tile)
            arrays = read_part(self.results.work / receipt.part, receipt.digest, most)
        if arrays is None:
            raise OutputError(f"{self.results.work / receipt.part} cannot be read back: is the disk failing?")
        if self.cut is None or self.sums is None:
            return arrays
        return decided_part(arrays, self.results.bands, self.cut, self._positive)

    @property
    def _positive(self) -> int:
        return self.job.question.positive

    def _receipt(self, tile: Tile, part: str, digest: str, result: TileResult) -> Receipt:
        mask, doubt = result.layers["mask"], result.layers["uncertainty"]
        area = np.broadcast_to(pixel_areas(self.job.geobox, tile.core), mask.shape)
        water, classified = mask == self._positive, mask != NOT_CLASSIFIED
        return Receipt(
            index=tile.index,
            part=part,
            digest=digest,
            valid=result.valid,
            water_area=float(area[water].sum()),
            valid_area=float(area[classified].sum()),
            areas=tuple(map(float, result.areas)),
            drawn=result.drawn,
            doubt=float((area * doubt)[classified].sum()),
            water_doubt=float((area * doubt)[water].sum()),
            undecided_area=float(area[mask == UNDECIDED].sum()),
            **self._by_class(result, area),
            open_area=float(area[doubt > OPEN].sum()),  # not where NaN
        )

    def _by_class(self, result: TileResult, area: np.ndarray) -> dict[str, Any]:
        """Return what a receipt says of each of more than two classes; area : of the pixels, (h, w)."""
        if self.job.legend.binary:
            return {}
        mask, doubt, count = result.layers["mask"], result.layers["uncertainty"], len(self.job.legend.names)
        known = mask != NOT_CLASSIFIED
        weights = {"mask_areas": area[known], "mask_doubts": (area * doubt)[known]}
        sums = {name: tuple(np.bincount(mask[known], w, count).tolist()) for name, w in weights.items()}
        return sums | {"class_areas": tuple(map(tuple, result.class_areas.T.tolist()))}

    def _arrays(self, layers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the files store of a tile: of the map, of the votes."""
        planes = by_band(layers, self.job.legend)
        files = {"map": self.results.bands, "votes": self.results.vote_bands}
        return {what: quantise(planes, bands) for what, bands in files.items() if bands}

    def _ranks(self, layers: dict[str, np.ndarray], tile: Tile) -> dict[str, np.ndarray]:
        """Return what a mask that goes by the whole scene is made of."""
        if not self.job.scene_wide:
            return {}
        made = of_ranks(self.job, layers, tile)
        return made | {"sums": np.stack(astuple(made["sums"]))}

    def _picture(self, values: np.ndarray, tile: Tile) -> dict[str, np.ndarray]:
        """Return what a picture shows of the scene in a tile, so that the scene is read (or geocoded) only once."""
        if self.squares is None:
            return {}
        corner = tile.core.within(self.job.region)
        shown = values[:, *tile.core.within(tile.window).slices][self.squares.bands]
        if self.job.nodata is not None:
            shown = np.where(shown == self.job.nodata, np.nan, shown)
        return {"picture": self.squares.part(shown, corner.y0, corner.x0)}


def _compute(
    work: _Work, ledger: Ledger, tiles: list[Tile], todo: list[Tile], client: Client | None
) -> dict[int, Receipt]:
    """Compute tiles and return the receipts of all; what is lost on the way is computed once more."""
    for _ in range(2):
        if client is None:
            _compute_once(work, todo)
        else:
            for made in compute_on(client, _Work.compute, replace(work, on_event=silent), todo):
                work.keep(made)
        receipts = ledger.receipts()
        todo = [tile for tile in tiles if tile.index not in receipts]
        if not todo:
            return receipts
        work.on_event(Noted(f"{len(todo)} finished tiles are damaged or gone from {ledger.work.name}: computed again"))
    raise OutputError(f"{ledger.work} does not keep what is written to it: is the disk failing?")


def _compute_once(work: _Work, tiles: list[Tile]) -> None:
    """Compute tiles, a few at a time; of a run that fails, those in flight are waited for, but not when interrupted."""
    shared = dask.delayed(work, traverse=False)
    tasks = [dask.delayed(_Work.do)(shared, dask.delayed(tile, traverse=False)) for tile in tiles]
    pool = ThreadPoolExecutor(work.job.at_once + WAITING)
    try:
        dask.compute(*tasks, scheduler=dask.threaded.get, pool=pool)
    except BaseException as error:
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()
