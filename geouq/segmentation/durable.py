"""``geouq.run``: the durable run of the command line, for Python."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import xarray as xr

from geouq.errors import InputError, SceneError
from geouq.scenes.arrays import scene_array
from geouq.segmentation import run as runs
from geouq.segmentation.arguments import as_settings
from geouq.segmentation.cluster import connected
from geouq.segmentation.events import OnEvent
from geouq.segmentation.job import Models, Settings, load_models, prepare
from geouq.segmentation.results import COMPANIONS, Outputs, outputs_named

if TYPE_CHECKING:
    from distributed import Client


def run(
    scene: xr.DataArray | xr.Dataset,
    model: Models = "s1-water",
    outputs: Outputs | str | os.PathLike[str] = "water.tif",
    *,
    scale: str = "auto",
    scheduler: str | os.PathLike[str] | Client | None = None,
    overwrite: bool = False,
    on_event: OnEvent = runs.silent,
    **settings: Any,
) -> dict[str, Any]:
    """Segment a scene into files, as ``geouq segment`` does: broken off, the same call goes on, to the same bytes.

    Parameters
    ----------
    scene : as for ``geouq.segment``; one date.
    model : as for ``geouq.segment``.
    outputs : the map, or ``geouq.Outputs`` with all that is to be left: paths, or URLs of one store that fsspec writes
        to (``s3://bucket/water.tif``), as text. These files are made in a hidden folder where the program runs, and
        uploaded when all is done.
    scale : unit of the values, in place of what the scene says; or auto.
    scheduler : None: computed here. A client of dask.distributed, the address of a scheduler (``tcp://…``), its file
        (``.json``), or ``local:N`` for N processes on this machine. Workers read the windows and send finished parts
        back; parts, ledger and outputs are written here. A worker that is lost is made up for by the others.
    overwrite : replace outputs that exist; start a changed run anew.
    on_event : called with each event of ``geouq.segmentation.events``, in this thread or another.
    settings : samples, seed, layers, tile …: as for ``geouq.segment``.

    Returns
    -------
    The summary that ``geouq segment --json`` prints. KeyboardInterrupt (or closing the client) ends a run; what is
    finished stays.

    Raises
    ------
    OutputError : an output exists, or cannot be written. GeouqError : a tile failed, or what was given does not fit
        (InputError: no such setting).
    """
    known = [field.name for field in fields(Settings)]
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"geouq.run has no setting {unknown[0]!r}: it has {', '.join(known)}")
    array, where = scene_array(scene, scale), scheduler
    others = {dim: 0 for dim in array.dims[:-3]}
    if any(array.sizes[dim] > 1 for dim in others):
        one = ", ".join(f"{dim}=0" for dim in others)
        raise SceneError(f"these are several scenes, along {' and '.join(map(str, others))}: give one, .isel({one})")
    array = array.isel(others)
    job = prepare(array, load_models(model), Settings(**as_settings(settings)))
    with ExitStack() as stack:
        if isinstance(where, str | os.PathLike):
            where = stack.enter_context(connected(os.fspath(where)))
        return runs.run(array, job, _outputs(outputs), overwrite=overwrite, on_event=on_event, client=where)


def _outputs(given: Outputs | str | os.PathLike[str]) -> Outputs:
    """Return what is to be left, its names as paths."""
    if not isinstance(given, Outputs):
        return outputs_named({"path": given})
    more = {field.name: getattr(given, field.name) for field in fields(given)}
    names = {name: more.pop(name) for name in ("path", *COMPANIONS)}
    return given if more.pop("store") else outputs_named(names, **more)
