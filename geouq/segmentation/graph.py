"""The dask graph of a map: a tile is one task that reads its window, one that samples it, and one a layer.

The names of tasks are what dask's dashboard shows: ``geouq-read``, ``geouq-sample``, ``geouq-layers``. Their keys go by
scene, model and question, so that equal calls share all work. A mask that goes by the whole scene
(geouq.segmentation.deciding) has two more a tile, for ranks and their sums, and one for the scene, ``geouq-cut``.

There are as many tasks as tiles ask for, whatever the scene's chunks. Chunks that are about as many as tiles are
tasks of their own, each computed once for all windows that meet it. Where there are many more, and each is made of what
lies near it, a tile's task computes its window as a slice of the lazy scene. What every chunk is made from (the scene's
mean, say) is never computed once a tile.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, product
from operator import getitem, itemgetter
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from geouq.decisions import Cut
from geouq.grid import Roi
from geouq.layers import LAYERS
from geouq.rasters.windowed import first_windows
from geouq.segmentation.deciding import mask_of_ranks, scene_cut, tile_layers
from geouq.segmentation.job import Job
from geouq.segmentation.tile import look_first

#: more chunks than this for each tile are not worth a task each
_MANY = 8
#: how often, on average, what chunks are made of may be computed where tasks read for themselves: windows overlap
_AGAIN = 3.0
#: of a chunk with more bytes a worker is sent the part that it needs, and not all
_LARGE = 16 << 20


@dataclass(frozen=True)
class LazyScene:
    """A scene (bands, rows, columns) that tasks read windows of, each for itself."""

    data: da.Array

    def read(self, roi: Roi) -> np.ndarray:
        """Compute a window."""
        return np.asarray(self.data[:, *roi.slices].compute(scheduler=dask.get))


def layer_arrays(data: da.Array, job: Job, name: str) -> dict[str, da.Array]:
    """Return the layers that a job asks for, (h, w) or (classes, h, w) each, in chunks of a tile.

    Annotations in force (``dask.annotate``) hold for all tasks; ``resources`` for those alone that sample.

    Parameters
    ----------
    data : the scene, (bands, rows, columns). name : what to call it in messages.

    Returns
    -------
    The layers by name; with a mask that goes by the whole scene also ``cut``, where it was cut, without dimensions.
    """
    token, tiles = tokenize("geouq", data, job, name), list(job.tiling)
    scene, shared, first, looked, read, sample = (
        f"geouq-{what}-{token}" for what in ("scene", "job", "first", "look", "read", "sample")
    )
    whole = Roi(0, data.shape[1], 0, data.shape[2])
    windows = [tile.window.intersect(whole) for tile in tiles]
    if _read_apart(data, windows):
        graph = HighLevelGraph({}, {})
        source, reading = scene, partial(_slices, scene)
        _add(graph, scene, {scene: LazyScene(data)})
    else:
        graph = HighLevelGraph(dict(data.dask.layers), dict(data.dask.dependencies))
        source, reading = data.name, partial(_pieces, data)
    _add(graph, shared, {shared: job})
    if not job.looked:
        rois = [Roi(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in first_windows(whole.shape)]
        _add(graph, first, reading(first, rois), source)
        found = [(first, number) for number in range(len(rois))]
        _add(graph, looked, {looked: (partial(_look, name=name), shared, found)}, shared, first)
        shared = looked
    _add(graph, read, reading(read, windows), source)
    sampling = {
        (sample, number): (partial(tile_layers, tile=tile), shared, (read, number)) for number, tile in enumerate(tiles)
    }
    _add(graph, sample, sampling, shared, read, resources=True)
    layers = {layer: _layer_array(graph, sample, job, layer) for layer in job.question.layers}
    return layers | (_decided(graph, sample, job, len(tiles)) if job.scene_wide and "mask" in layers else {})


def _add(graph: HighLevelGraph, name: str, tasks: dict[Any, Any], *needs: str, resources: bool = False) -> None:
    """Add tasks that need those of other names to a graph; only some ask for the ``resources`` in force."""
    layer = MaterializedLayer(tasks)
    layer.annotations = _annotations(resources)
    graph.layers[name], graph.dependencies[name] = layer, set(needs)  # type: ignore[index]  # dicts of ours


def _annotations(resources: bool = False) -> dict[str, Any] | None:
    return {what: told for what, told in dask.get_annotations().items() if resources or what != "resources"} or None


def _look(job: Job, windows: Sequence[np.ndarray], name: str) -> Job:
    used = [index for index in job.bands if index is not None]
    return look_first(job, [window[used] for window in windows], name)


# --- reading ---------------------------------------------------------------------------------------------


def _read_apart(data: da.Array, windows: Sequence[Roi]) -> bool:
    """True if each task is to read its window for itself: chunks are many, and made of what lies near them.

    Not what is on a cluster already, which is kept there as it is.
    """
    if math.prod(data.numblocks) <= _MANY * len(windows):
        return False
    if _on_cluster(data):
        return False
    met = _chunks_met(data, windows[len(windows) // 2])
    needed = data.dask.cull({(data.name, *(block for block, _ in chunk)) for chunk in product(*met)})
    return len(windows) * _tasks(needed) <= _AGAIN * _tasks(data.dask)


def _on_cluster(data: da.Array) -> bool:
    """True if a cluster holds some of it, as after ``persist``; no tasks are made to see that."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    return bool(distributed.futures_of([dict(made) for made in data.dask.layers.values() if made.is_materialized()]))


def _tasks(graph: HighLevelGraph) -> int:
    """Return the number of tasks of a graph, without making them."""
    return sum(map(len, graph.layers.values()))


def _slices(scene: str, name: str, rois: Sequence[Roi]) -> dict[Any, Any]:
    """Return tasks that compute windows of the ``LazyScene`` under the key ``scene``."""
    return {(name, number): (LazyScene.read, scene, roi) for number, roi in enumerate(rois)}


def _pieces(data: da.Array, name: str, rois: Sequence[Roi]) -> dict[Any, Any]:
    """Return tasks that put windows together from the chunks that they meet."""
    tasks: dict[Any, Any] = {}

    def piece(number: int, met: Sequence[tuple[int, slice]]) -> Any:
        chunk = tuple(block for block, _ in met)
        part = (getitem, (data.name, *chunk), tuple(inside for _, inside in met))
        if math.prod(sizes[block] for sizes, block in zip(data.chunks, chunk, strict=True)) * data.itemsize <= _LARGE:
            return part
        tasks[name, number, *chunk] = part
        return name, number, *chunk

    for number, roi in enumerate(rois):
        bands, rows, columns = _chunks_met(data, roi)
        tasks[name, number] = (_join, [[[piece(number, (b, r, c)) for c in columns] for r in rows] for b in bands])
    return tasks


def _chunks_met(data: da.Array, roi: Roi) -> list[list[tuple[int, slice]]]:
    """Return by axis the chunks that a window meets, and which part of each lies in it."""
    return [
        _met(sizes, *span)
        for sizes, span in zip(data.chunks, ((0, len(data)), (roi.y0, roi.y1), (roi.x0, roi.x1)), strict=True)
    ]


def _met(sizes: tuple[int, ...], start: int, stop: int) -> list[tuple[int, slice]]:
    ends = list(accumulate(sizes))
    first, last = bisect_right(ends, start), bisect_left(ends, stop)
    return [
        (block, slice(max(start - end + size, 0), min(stop - end + size, size)))
        for block, (size, end) in enumerate(zip(sizes[first : last + 1], ends[first : last + 1], strict=True), first)
    ]


def _join(pieces: list[list[list[np.ndarray]]]) -> np.ndarray:
    """Return pieces of a window, band by row by column, as one array."""
    return np.block([[[np.asarray(piece) for piece in row] for row in band] for band in pieces])


# --- layers ----------------------------------------------------------------------------------------------


def _decided(graph: HighLevelGraph, sample: str, job: Job, tiles: int) -> dict[str, da.Array]:
    """Return the mask made of the ranks of all tiles, and where it was cut."""
    token = tokenize(sample)
    sums, ranked, cut, place = (f"geouq-{what}-{token}" for what in ("sums", "ranks", "cut", "place"))
    graph = HighLevelGraph(dict(graph.layers), dict(graph.dependencies))
    for name, what in ((sums, "sums"), (ranked, "rank")):  # of a tile's result no more than is needed is kept
        _add(graph, name, {(name, number): (itemgetter(what), (sample, number)) for number in range(tiles)}, sample)
    _add(graph, cut, {cut: (scene_cut, job.decision, [(sums, number) for number in range(tiles)])}, sums)
    _add(graph, place, {(place,): (_place, cut)}, cut)
    decide = partial(mask_of_ranks, positive=job.question.positive)
    mask = _layer_array(graph, ranked, job, "mask", lambda number: (decide, (ranked, number), cut), cut)
    return {"mask": mask, "cut": da.Array(graph, place, (), meta=np.empty((), np.float64))}


def _place(cut: Cut) -> np.ndarray:
    """Return where a cut is, as an array without dimensions."""
    return np.array(cut.at)


def _layer_array(
    graph: HighLevelGraph,
    source: str,
    job: Job,
    layer: str,
    task: Callable[[int], Any] | None = None,
    *needs: str,
) -> da.Array:
    """Return one layer, each chunk of which is taken, or made by a ``task``, from what one task of ``source`` gives."""
    what, size = LAYERS[layer], job.tiling.size
    planes = what.planes(job.legend.names)
    dtype, lead = what.dtype(job.sampler.samples), (len(planes),) if planes else ()
    rows = {tile.core.y0: tile.core.shape[0] for tile in job.tiling}
    columns = {tile.core.x0: tile.core.shape[1] for tile in job.tiling}
    chunks = (*((n,) for n in lead), tuple(rows.values()), tuple(columns.values()))
    places = product(*(range(len(sizes)) for sizes in chunks))
    name = f"geouq-layers-{tokenize(source, layer)}"
    take = task or (lambda number: (itemgetter(layer), (source, number)))
    own = {(name, *place): take(number) for number, place in enumerate(places)}
    graph = HighLevelGraph(dict(graph.layers), dict(graph.dependencies))
    _add(graph, name, own, source, *needs)
    array = da.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), dtype))
    even: da.Array = array.rechunk(
        (*lead, size, size)
    )  # with bounds the first tiles are cut, and zarr wants even chunks
    for added in even.dask.layers.keys() - graph.layers.keys():
        even.dask.layers[added].annotations = _annotations()
    return even
