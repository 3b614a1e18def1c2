"""The lazy step: a scene in, a Dataset of layers out, one task a tile, nothing computed yet."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import product

import dask.array as da
import dask.threaded
import xarray as xr

from geouq.forks import in_child
from geouq.layers import DEFAULT_LAYERS, LAYERS
from geouq.maps.cf import CONVENTIONS, layer_attrs, layer_encoding, map_coords
from geouq.sampling.ssn import Weights
from geouq.scenes.arrays import scene_array
from geouq.segmentation.arguments import as_settings
from geouq.segmentation.graph import layer_arrays
from geouq.segmentation.job import Job, Models, Settings, load_models, prepare, run_attrs
from geouq.segmentation.matching import looked_at, scene_name


def segment(
    scene: xr.DataArray | xr.Dataset,
    model: Models = "s1-water",
    *,
    samples: float = 20,
    seed: int = 0,
    layers: Sequence[str] = DEFAULT_LAYERS,
    threshold: float | None = None,
    tile: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    sites: Sequence[str] | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    precision: str = "float32",
    sampler: str = "auto",
    weights: Weights = Weights(),  # noqa: B008 (frozen)
    tolerance: float = 0.0,
    scale: str = "auto",
    decide: str | float | None = None,
    risk: float | None = None,
) -> xr.Dataset:
    """Segment a scene, lazily: nothing is read or computed until the result is.

    Parameters
    ----------
    scene : a DataArray of bands, rows and columns, in any order, or a Dataset of bands (``geouq.scenes.arrays``); in
        memory, in dask's chunks, or opened and not read yet. With a grid (odc-geo or rioxarray style, or plain
        coordinates) and ``attrs["units"]`` (dB, power, amplitude, dn, reflectance, rgb). Of further dimensions (time)
        each entry is a scene of its own, with the same draws. Not valid: NaN, infinite, or the value of
        ``_FillValue``/``nodata`` in its attrs or encoding; what cannot be a measurement in these units; and undeclared
        constant fill (``geouq.validity``; a warning tells what, if the scene is in memory, and the first task looks
        for it otherwise).
    model : a shipped model's name, a model file, or a :class:`geouq.Model`; several are a deep ensemble.
    samples : how many are drawn; 0 is one deterministic pass of (the first) model with dropout off; ``math.inf`` the
        closed form, where dropout is in a linear head alone.
    seed : the same seed gives the same map; sample 7 of 20 is sample 7 of 50.
    layers : names of geouq.layers.LAYERS: mask, uncertainty, confidence, probability and the others
        (definitions in geouq.layers).
    threshold : probability at and above which a pixel is positive, in each sample, and in the mask unless ``decide`` is
        given; the model's own (mostly 0.5) by default.
    tile : core size in pixels; chosen from memory by default. Another size changes nothing but rounding.
    batch : samples computed at once; chosen from memory by default.
    device : "auto", "cpu", "cuda", "cuda:1", … or several, divided by commas, that take tiles in turn.
    sites : dropout sites or groups to sample at; all with a rate by default.
    bounds : (left, bottom, right, top) in the scene's CRS; the pixels are those of the full run. A slice of the scene
        (``scene.isel``) is not: within a halo of its edges it lacks what the network would have seen beyond them.
    precision : "float32"; "bfloat16": about twice as fast where the processor has it, good to 2 or 3 digits;
        "float16" on a GPU; "auto": bfloat16 where a measurement says that it pays (geouq.sampling.precision).
    sampler : a name of the table in geouq.sampling.samplers ("dropout", "ssn", "ensemble" …), or "auto": what the
        model or models are made for (docs/samplers.md).
    weights : how an SSN's samples are made to differ from its own: spread, and factors by class and rank.
    tolerance : a tile may stop sampling when the samples left can move no probability by more than this.
    scale : unit of the values, in place of what the scene says; or auto.
    decide : how the mask of two classes is cut: "accuracy" (p̄ ≥ 0.5), a probability, or by the whole scene, so that
        the mask needs all tiles: "iou", where the expected intersection over union is largest, "area", where its area
        is the expected one (docs/decisions.md). By default what the model says, if ``threshold`` is not given.
    risk : the share of pixels decided and wrong that is promised as the most to expect; the mask is 254 (undecided)
        where neither class can be said at that. Only with a model whose risk was measured on places left out.

    Returns
    -------
    Dataset with one dask-backed variable a layer, along the scene's further dimensions and on its own grid: float32 in
    0..1 with NaN where not valid; mask uint8 with 255; votes uint32 or uint64 (0 where not valid); probabilities, and
    with more than two classes votes, have a dimension ``class``. A mask that goes by
    the whole scene comes with the coordinate ``cut``. Attributes and encoding are those of the CF conventions, for
    ``to_netcdf`` and ``to_zarr``; read back with ``decode_coords="all"``, else the CRS is lost.

    Raises
    ------
    SceneError, UnitsError, ModelError, InputError : what was given does not fit together.
    """
    given = dict(
        samples=samples,
        seed=seed,
        layers=layers,
        threshold=threshold,
        tile=tile,
        batch=batch,
        device=device,
        sites=sites,
        bounds=bounds,
        precision=precision,
        sampler=sampler,
        weights=weights,
        tolerance=tolerance,
        decide=decide,
        risk=risk,
    )
    settings = Settings(**as_settings(given))
    models, scene = load_models(model), scene_array(scene, scale)
    jobs = []
    for one in _each(scene):
        jobs.append(prepare(one, models, settings))  # its warnings point at who called this function
        if looked_at(one) and jobs[-1].validity.unlike:
            warnings.warn(f"{scene_name(one)}: {jobs[-1].validity.unlike}", stacklevel=2)
    return _lazy_dataset(scene, jobs)


def _forget_pool() -> None:
    dask.threaded.default_pool = None  # the parent's: its threads are not here, and tasks would wait for ever


in_child(_forget_pool)


def _each(scene: xr.DataArray) -> Iterator[xr.DataArray]:
    """Yield the scenes (band, y, x) of an array (…, band, y, x)."""
    for place in product(*(range(scene.sizes[dim]) for dim in scene.dims[:-3])):
        yield scene.isel(dict(zip(scene.dims[:-3], place, strict=True)))


def _lazy_dataset(scene: xr.DataArray, jobs: Sequence[Job]) -> xr.Dataset:
    """One array a layer, in chunks of a tile; a job for each of the scenes."""
    job, others = jobs[0], scene.dims[:-3]
    coords, mapping = map_coords(scene, job.geobox, job.region)
    maps = [
        layer_arrays(_dask_array(one, job.tiling.size), own, scene_name(scene))
        for one, own in zip(_each(scene), jobs, strict=True)
    ]
    variables, names = {}, job.sampler.model.spec.classes
    if "cut" in maps[0]:
        coords["cut"] = (others, _stacked([one["cut"] for one in maps], [scene.sizes[dim] for dim in others]))
    for layer in job.question.layers:
        what, arrays = LAYERS[layer], [one[layer] for one in maps]
        array = _stacked(arrays, [scene.sizes[dim] for dim in others])
        planes = what.planes(names)
        dims = (*others, *(("class",) if planes else ()), *scene.dims[-2:])
        labels = {"class": list(names)} if planes else {}
        variables[layer] = xr.DataArray(array, dims=dims, coords=coords | labels, attrs=layer_attrs(what, job.legend))
        variables[layer].encoding = layer_encoding(what, mapping)
    return xr.Dataset(variables, attrs=run_attrs(job) | CONVENTIONS)


def _stacked(arrays: Sequence[da.Array], sizes: Sequence[int]) -> da.Array:
    """Return arrays, one a scene in the order of ``_each``, as one with further dimensions of these sizes."""
    for count in reversed(sizes):
        arrays = [da.stack(arrays[start : start + count]) for start in range(0, len(arrays), count)]
    return arrays[0]


def _dask_array(scene: xr.DataArray, size: int) -> da.Array:
    """Return the scene's values as a dask array: what is in memory in chunks of ``size``."""
    chunked = scene if scene.chunks is not None else scene.chunk(dict.fromkeys(scene.dims[1:], size))
    array: da.Array = chunked.data
    return array
