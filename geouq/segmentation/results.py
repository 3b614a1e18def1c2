"""What a run leaves, resolved once: which files, what is in each, and what its tiles must therefore compute."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from geouq.errors import InputError, OutputError
from geouq.files import check_writable
from geouq.layers import LAYERS, MOST_VOTES
from geouq.maps.bands import MapBand, map_bands, vote_bands
from geouq.maps.cog import check_options
from geouq.maps.stac import check_stac
from geouq.maps.votes import beside
from geouq.maps.zarr import check_zarr
from geouq.segmentation.job import Job, run_attrs
from geouq.uploads import Store, is_url, store_for

#: outputs of a run whose names its map's name does not tell; the map's tags do
COMPANIONS = ("vector", "preview", "zarr", "stac")


@dataclass(frozen=True)
class Outputs:
    """What is asked of a run; ``None`` = not wanted. ``outputs_named`` takes URLs too.

    path : the map (COG); its votes go to ``<stem>_samples.tif`` beside it if that layer is asked for.
    vector : polygons, format by suffix; ``min_area`` in m² drops small ones.
    preview : a PNG.
    zarr : the layers of the map as a Zarr group too.
    stac : a STAC Item that tells a catalogue of all these files.
    float32 : floats instead of percent.
    options : creation options of the COG driver.
    store : where all files go when they are finished, if not to stay here; their names are then in its folder.
    """

    path: Path
    vector: Path | None = None
    preview: Path | None = None
    zarr: Path | None = None
    stac: Path | None = None
    min_area: float = 0.0
    float32: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    store: Store | None = None


def outputs_named(names: Mapping[str, str | os.PathLike[str] | None], **more: Any) -> Outputs:
    """Return the outputs of these names, paths or URLs, by ``path`` and ``COMPANIONS``; ``more`` as in ``Outputs``.

    Raises
    ------
    OutputError : some are URLs and some are not, or they are in several stores, or in one that nothing writes to.
    """
    asked = {output: os.fspath(name) for output, name in names.items() if name is not None}
    urls = [name for name in asked.values() if is_url(name)]
    if not urls:
        return Outputs(**more | {output: Path(name) for output, name in asked.items()})
    for name in asked.values():
        if name not in urls:
            raise OutputError(f"{name} is on this machine, and {urls[0]} is not: give all outputs of a run to one")
    store = store_for(urls)
    return Outputs(**more | {output: store.here(url) for output, url in asked.items()}, store=store)


@dataclass(frozen=True)
class Results:
    """What a run leaves; from ``resolve``.

    path : what the run is called by, whether or not a map is left.
    map, style, votes, votes_style, vector, preview, zarr, stac : final names; None = not left.
    bands : of the map; empty if it is not left.
    vote_bands : of the votes that parts hold; empty if they hold none. Polygons take their area intervals from
        votes, also where the votes themselves are not left.
    layers : what each tile must compute for all this, and for the summary.
    tags : what the files say about how they were made, and which files elsewhere belong to them.
    store : where files go when they are finished; None = they stay.
    """

    path: Path
    map: Path | None
    style: Path | None
    votes: Path | None
    votes_style: Path | None
    vector: Path | None
    preview: Path | None
    zarr: Path | None
    stac: Path | None
    bands: tuple[MapBand, ...]
    vote_bands: tuple[MapBand, ...]
    layers: tuple[str, ...]
    tags: Mapping[str, str]
    min_area: float
    float32: bool
    options: Mapping[str, str]
    store: Store | None = None

    @property
    def names(self) -> dict[Path, str]:
        """What every file is called where it is in the end."""
        return {path: str(path) if self.store is None else self.store.there(path) for path in self.files}

    @property
    def files(self) -> list[Path]:
        """Every file the run leaves, the map last: when it is there, all is."""
        beside = (self.votes, self.votes_style, self.vector, self.preview, self.zarr, self.stac, self.style)
        return [path for path in (*beside, self.map) if path is not None]

    @property
    def work(self) -> Path:
        """The hidden folder of parts and ledger."""
        return self.path.with_name(f".{self.path.name}.geouq")

    def made(self, final: Path) -> Path:
        """Return the name under which a file is made, in the work folder, before it gets its final one."""
        return self.work / f"made-{final.name}"


def resolve(job: Job, outputs: Outputs) -> Results:
    """Return what a run of ``job`` leaves.

    Raises
    ------
    OutputError, InputError : outputs that cannot be made of the layers asked for, or as told, or have nowhere to go.
    """
    asked, path = job.question.layers, outputs.path
    _check_asked(outputs, set(asked))
    if outputs.stac is not None:
        check_stac(outputs.stac, job.geobox)
    bands = map_bands(_band_names(job), outputs.float32, job.legend)
    for_polygons = outputs.vector is not None and job.intervals and job.sampler.samples <= MOST_VOTES
    keeps_votes = "votes" in asked or for_polygons
    votes = beside(path) if "votes" in asked else None
    results = Results(
        path=path,
        map=path if bands else None,
        style=path.with_suffix(".qml") if bands else None,
        votes=votes,
        votes_style=votes.with_suffix(".qml") if votes else None,
        vector=outputs.vector,
        preview=outputs.preview,
        zarr=outputs.zarr,
        stac=outputs.stac,
        bands=bands,
        vote_bands=vote_bands(len(job.sampler.numbers), job.legend) if keeps_votes else (),
        layers=tuple(dict.fromkeys((*asked, *_needed(job, keeps_votes)))),
        tags=_tags(job) | _companions(outputs),
        min_area=outputs.min_area,
        float32=outputs.float32,
        options=outputs.options,
        store=outputs.store,
    )
    if len(set(results.files)) < len(results.files):
        raise OutputError(f"two outputs have the same name among {', '.join(map(str, results.files))}")
    for file in results.files:
        check_writable(file)
        if results.zarr is not None and results.zarr.absolute() in file.absolute().parents:
            raise OutputError(f"{file} lies in {results.zarr}, which is made anew: give it another place")
    return results


def _needed(job: Job, votes: bool) -> list[str]:
    """Return the layers that the summary and outputs beside the map are made of."""
    return ["mask", "uncertainty", *(["votes"] if votes else []), *(["probability"] if job.scene_wide else [])]


def _tags(job: Job) -> dict[str, str]:
    told = run_attrs(job) | {"version": version("geouq")}
    return {f"GEOUQ_{name.upper()}": str(value) for name, value in told.items()}


def companion_tag(output: str) -> str:
    """Return the tag that names one of ``COMPANIONS``."""
    return f"GEOUQ_{output.upper()}"


def _companions(outputs: Outputs) -> dict[str, str]:
    """Return tags that name, as seen from the map's folder, the files of a run that the map's name does not tell."""
    named = {companion_tag(output): getattr(outputs, output) for output in COMPANIONS}
    folder = outputs.path.absolute().parent
    return {tag: Path(os.path.relpath(path.absolute(), folder)).as_posix() for tag, path in named.items() if path}


def _check_asked(outputs: Outputs, layers: set[str]) -> None:
    """Raise an error for what can be seen to be wrong from what is asked alone."""
    check_options(outputs.options)
    if outputs.vector is not None and "mask" not in layers:
        raise OutputError(f"{outputs.vector} is made from the layer mask: add it to --layers")
    if outputs.preview is not None and layers <= {"votes"}:
        raise OutputError(f"{outputs.preview} shows layers of the map, and votes are none: add mask to --layers")
    if outputs.zarr is not None:
        if layers <= {"votes"}:
            raise OutputError(f"{outputs.zarr} holds layers of the map, and votes are none: add mask to --layers")
        check_zarr(outputs.zarr)
    if outputs.vector is not None:
        from geouq.polygons.features import check_vector_path  # here, for pyogrio brings pandas and more with it

        check_vector_path(outputs.vector, overwrite=True)
    if not outputs.min_area >= 0:
        raise InputError(f"--min-area is {outputs.min_area}: give an area in m², 0 or more")
    if outputs.path.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{outputs.path}: maps are written as .tif: give it that suffix")
    if outputs.preview is not None and outputs.preview.suffix.lower() != ".png":
        raise OutputError(f"{outputs.preview}: pictures are written as .png: give it that suffix")


def _band_names(job: Job) -> list[str]:
    """Return the names of the map's bands: one a layer, one a class for ``probabilities``, none for votes."""
    classes = job.sampler.model.spec.classes
    return [band for layer in job.question.layers for band in LAYERS[layer].bands(classes)]
