"""The job: a scene and a model matched to each other, and all settled that a run needs to know before the first pixel.

``prepare`` decides bands, units, tiling and memory, and refuses what does not fit together.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from os import PathLike
from typing import Any

import numpy as np
import xarray as xr

from geouq import units
from geouq.decisions import Decision, level_for
from geouq.errors import InputError, ModelError
from geouq.grid import GeoBox, Roi, Tile, Tiling
from geouq.layers import DEFAULT_LAYERS, Legend, check_layers, check_tolerance
from geouq.networks.model import Model
from geouq.rasters.coords import scene_geobox
from geouq.sampling.cores import windows_at_once
from geouq.sampling.deviations import Weights
from geouq.sampling.devices import choose_batch, choose_devices, choose_tile
from geouq.sampling.estimators import Question
from geouq.sampling.precision import choose_precision
from geouq.sampling.sampler import Sampler
from geouq.sampling.samplers import make_sampler
from geouq.scenes.arrays import declared_nodata
from geouq.segmentation.arguments import check_types, rule_for, rule_of
from geouq.segmentation.matching import (
    bounds_roi,
    check_array,
    looked_at,
    match_bands,
    scene_name,
    scene_units,
    scene_validity,
    scene_windows,
    used_names,
)
from geouq.validity import Validity, possible

#: a shipped model's name, a model file, a Model, or several of these: an ensemble
Models = str | PathLike[str] | Model | Sequence[str | PathLike[str] | Model]
#: Overlap for networks without a finite receptive field, in pixels: generous, and still not exact.
GENEROUS_OVERLAP = 128
#: beyond this the quantiles of areas gain nothing, and the receipts of tiles, which hold an area a sample, get large
MOST_SAMPLES = 10_000
#: of a run: some 4·10¹² pixels in tiles of 1024
MOST_TILES = 4_000_000


@dataclass(frozen=True)
class Settings:
    """How a scene is to be segmented; see :func:`segment` for the meaning of each."""

    samples: float = 20
    seed: int = 0
    layers: tuple[str, ...] = DEFAULT_LAYERS
    threshold: float | None = None
    tile: int | None = None
    batch: int | None = None
    device: str = "auto"
    sites: tuple[str, ...] | None = None
    bounds: tuple[float, float, float, float] | None = None
    precision: str = "float32"
    sampler: str = "auto"
    weights: Weights = Weights()
    tolerance: float = 0.0
    decide: str | float | None = None
    risk: float | None = None


@dataclass(frozen=True)
class Job:
    """A scene and a model matched to each other: all that a tile needs beside its pixels.

    bands : for each of the model's bands its index in the scene, or None where the scene has it not.
    units : unit of the scene's pixels.
    exact : False if the network's receptive field is not finite, so that seams are approximate.
    devices : those that tiles go to in turn; the sampler's is the first.
    validity : which values of the scene's bands used can be measurements.
    looked : False if the scene is still to be looked at for fill, when its first pixels are read.
    decision : how the mask is decided, where settings or model say so. None: positive from the threshold on.
    """

    sampler: Sampler
    question: Question
    tiling: Tiling
    geobox: GeoBox
    bands: tuple[int | None, ...]
    units: str
    nodata: float | None
    exact: bool
    devices: tuple[str, ...] = ("cpu",)
    validity: Validity = Validity(())
    looked: bool = True
    decision: Decision | None = None

    @property
    def scene_wide(self) -> bool:
        """True if the mask can be made only when all of the scene is known."""
        return self.decision is not None and self.decision.scene_wide

    @property
    def legend(self) -> Legend:
        """What values of the mask mean."""
        undecided = self.decision is not None and self.decision.risk is not None
        return replace(self.sampler.model.spec.legend, undecided=undecided)

    @property
    def intervals(self) -> bool:
        """True if each sample was drawn everywhere, so that their areas have quantiles."""
        return self.sampler.samples > 0 and not self.sampler.quadrature and self.question.tolerance == 0

    def sampler_of(self, tile: Tile) -> Sampler:
        """Return the sampler on the device whose turn it is."""
        device = self.devices[tile.index % len(self.devices)]
        return self.sampler if device == self.sampler.device else self.sampler.changed(device=device)

    @property
    def region(self) -> Roi:
        """The pixels asked for: the scene, or the part of it inside the bounds."""
        return self.tiling.bounds or Roi(0, self.tiling.shape[0], 0, self.tiling.shape[1])

    @property
    def at_once(self) -> int:
        """Windows that all devices together compute side by side."""
        return sum(map(windows_at_once, self.devices))

    def promise(self, in_flight: int = 1) -> dict[str, int]:
        """Return the bytes a run takes at most, term by term, beside the interpreter and its libraries.

        tensors : live tensors of the windows that are computed at once (from the plan), in their devices' memory.
        windows : pixels of the windows in flight, as read and in the model's units, and the network's input.
        layers : running sums of the cores being computed; areas, layers and parts of the cores in flight.
        buffers : GDAL's block cache, the blocks of the files being written, the picture.
        """
        window = self.tiling.largest_window
        core = min(self.tiling.size, self.region.shape[0]) * min(self.tiling.size, self.region.shape[1])
        bands, layers = 4 * len(self.bands), 4 * (len(self.question.layers) + 1)
        planes = self.question.classes if self.question.classes > 2 else 1
        votes = 8 * (planes - 1)  # those of one class are in the figures below
        return {
            "tensors": self.at_once * self.sampler.bytes_for(window),
            "windows": (in_flight + 1) * window * (2 * bands + 2),
            "layers": self.at_once * core * (20 * planes + 32 + votes)
            + in_flight * core * (2 * layers + 8 + 2 * votes),
            "buffers": 384 << 20,
        }


def load_models(model: Models) -> list[Model]:
    """Return the models named or given, at least one."""
    several: list[Any] = list(model) if isinstance(model, list | tuple) else [model]
    if not several:
        raise InputError("no model is given: name one")
    for one in several:
        if not isinstance(one, str | PathLike | Model):
            raise InputError(f"a {type(one).__name__} is no model: give geouq.Model(network, spec), a name or a file")
    return [one if isinstance(one, Model) else _kept(os.fspath(one), _version(one)) for one in several]


@lru_cache(maxsize=8)
def _kept(name: str, version: tuple[int, ...]) -> Model:
    """Load a model once: measuring its halo, hash and plan takes longer than to build the graph of a large map."""
    return Model.load(name)


def _version(name: str | PathLike[str]) -> tuple[int, ...]:
    """Return what changes with a model file; nothing for a shipped model's name."""
    try:
        status = os.stat(name)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_numbers(settings: Settings) -> None:
    """Raise InputError for numbers that make no run: it would not end, or not be the one that is asked for."""
    if MOST_SAMPLES < settings.samples < math.inf:
        raise InputError(
            f"{settings.samples} samples cost as many passes of the network over the scene: give at most "
            f"{MOST_SAMPLES}, whose quantiles are as good, or math.inf (--samples inf) where a model has a closed form"
        )
    if not 0 <= settings.seed < 2**64:
        raise InputError(f"seed {settings.seed}: give a whole number from 0 to 2⁶⁴ − 1; beyond, seeds would repeat")


def check_tiles(tiling: Tiling) -> None:
    """Raise InputError for a run that would not end in a human life, or before its tiles are listed."""
    rows, columns = tiling.bounds.shape if tiling.bounds else tiling.shape
    tiles = -(-rows // tiling.size) * -(-columns // tiling.size)
    if tiles > MOST_TILES:
        raise InputError(
            f"{rows} x {columns} pixels in tiles of {tiling.size} are {tiles:.3g} tiles: give --bounds, a larger "
            "--tile, or of a product a coarser --resolution"
        )


def prepare(scene: xr.DataArray, model: Model | Sequence[Model], settings: Settings) -> Job:
    """Match a scene with a model or an ensemble; all that can be refused is refused here, before any pixel is read."""
    models = [model] if isinstance(model, Model) else list(model)
    spec = models[0].spec
    check_types(settings)
    check_array(scene)
    check_layers(settings.layers, settings.samples)
    check_tolerance(settings.tolerance, settings.layers)
    _check_numbers(settings)
    geobox = scene_geobox(scene)
    devices = choose_devices(settings.device)
    sampler = settled_sampler(models, settings, devices[0])
    threshold = spec.threshold if settings.threshold is None else settings.threshold
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not between 0 and 1")
    decision = _decision(models, settings, threshold)
    cut = None if decision is None or decision.scene_wide else decision.cut()
    question = Question(
        settings.layers, len(spec.classes), spec.legend.positive, threshold, spec.temperature, settings.tolerance, cut
    )
    unit = scene_units(scene)
    units.check_convertible(unit, spec.units, scene_name(scene))
    stride = math.lcm(*(m.spec.stride for m in models))
    halos = [m.halo for m in models]
    overlap = max(GENEROUS_OVERLAP if halo is None else halo for halo in halos)
    overlap = -(-overlap // stride) * stride
    shape = (scene.shape[1], scene.shape[2])
    size = choose_tile(sampler, shape, overlap) if settings.tile is None else settings.tile
    if size < 1:
        raise InputError(f"tile size {size} must be 1 or more")
    if settings.batch is None:
        sampler = sampler.changed(batch=choose_batch(sampler, shape, overlap, size))
    for device in devices:  # now, because torch traces a network by a patch that other threads would feel
        sampler.changed(device=device).bytes_for(1)
    roi = None if settings.bounds is None else bounds_roi(geobox, shape, settings.bounds)
    tiling = Tiling(shape, size, overlap, stride, roi)
    check_tiles(tiling)
    bands = [match_bands(scene, m) for m in models][0]
    nodata, exact = declared_nodata(scene), None not in halos
    looked = looked_at(scene) or isinstance(scene.data, np.ndarray)
    validity = _validity(scene, models[0], bands, unit, nodata)
    return Job(sampler, question, tiling, geobox, bands, unit, nodata, exact, devices, validity, looked, decision)


def _decision(models: Sequence[Model], settings: Settings, threshold: float) -> Decision | None:
    """Return how the mask is decided, if settings or model say so; a threshold that is given cuts the mask too."""
    spec = models[0].spec
    rule = rule_of(settings.decide) or (spec.decide if settings.threshold is None else None)
    if rule is None and settings.risk is None:
        return None
    if len(spec.classes) > 2:
        several = f"model {spec.name!r} has {len(spec.classes)}"
        raise InputError(f"--decide and --risk are for two classes, and {several}: leave them out")
    rule = rule or rule_for(threshold)
    if settings.risk is None:
        return Decision(rule)
    return Decision(rule, level_for(_risk(models), rule, settings.risk), settings.risk)


def _risk(models: Sequence[Model]) -> Mapping[str, Any]:
    """Return what a model knows of its risk; raise ModelError if it knows nothing, as an ensemble does."""
    spec = models[0].spec
    if spec.risk is None or len(models) > 1:
        what = f"model {spec.name!r} has" if len(models) == 1 else "an ensemble has"
        raise ModelError(f"{what} no risk measured on places left out: leave --risk out, or take a model that has one")
    return spec.risk


def _validity(
    scene: xr.DataArray, model: Model, bands: Sequence[int | None], unit: str, nodata: float | None
) -> Validity:
    """Return which values can be measurements, as far as that can be known without reading a lazy scene."""
    if looked_at(scene) or not isinstance(scene.data, np.ndarray):
        known = possible(sum(index is not None for index in bands), unit)
        return replace(known, unlike=str(scene.attrs.get("unlike", ""))) if looked_at(scene) else known
    validity = scene_validity(scene_windows(scene, bands), unit, nodata, scene_name(scene), used_names(model, bands))
    for note in validity.notes:
        warnings.warn(f"{scene_name(scene)}: {note}", stacklevel=4)
    return validity


def settled_sampler(models: Sequence[Model], settings: Settings, device: str) -> Sampler:
    """Return the sampler that settings ask for, its precision measured if that is ``auto``."""
    sampler = make_sampler(
        models,
        settings.sampler,
        samples=settings.samples,
        seed=settings.seed,
        batch=settings.batch or 1,
        device=device,
        precision="float32" if settings.precision == "auto" else settings.precision,
        sites=settings.sites,
        weights=settings.weights,
    )
    return sampler.changed(precision=choose_precision(sampler).precision) if settings.precision == "auto" else sampler


def run_attrs(job: Job) -> dict[str, Any]:
    """Return what a map must say about its origin: plain values, for Dataset attrs and file tags."""
    sampler, spec = job.sampler, job.sampler.model.spec
    return {
        "model": "+".join(model.spec.name for model in sampler.models),
        "model_hash": "+".join(model.hash for model in sampler.models),
        "sampler": sampler.name,
        **sampler.tags(),
        "samples": "inf" if math.isinf(sampler.samples) else sampler.samples,
        **({"tolerance": job.question.tolerance} if job.question.tolerance else {}),
        "seed": sampler.seed,
        "sites": ",".join(sampler.active),
        "threshold": job.question.threshold,
        **_decided(job),
        "temperature": spec.temperature,
        **job.legend.tags(),
        "tile": job.tiling.size,
        "halo": job.tiling.halo,
        "precision": job.sampler.precision,
        "seams": "exact" if job.exact else f"approximate: {spec.architecture} sees the whole image",
    }


def _decided(job: Job) -> dict[str, Any]:
    """Return what a map must say of how its mask was decided; a cut by the whole scene is not known before it is."""
    decision, cut = job.decision, job.question.cut
    if decision is None:
        return {}
    promised = {} if decision.risk is None else {"risk": decision.risk, "confidence_level": decision.level}
    return {"decide": decision.rule} | ({} if cut is None else {"cut": cut.at}) | promised
