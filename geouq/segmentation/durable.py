"""``geouq.run``: the durable run of the command line, for Python."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from geouq.scenes.arrays import scene_array
from geouq.segmentation import run as runs
from geouq.segmentation.cluster import connected
from geouq.segmentation.events import OnEvent
from geouq.segmentation.job import Models, Settings, load_models, prepare
from geouq.segmentation.results import Outputs

if TYPE_CHECKING:
    from distributed import Client


def run(
    scene: xr.DataArray,
    model: Models = "s1-water",
    outputs: Outputs | str | os.PathLike[str] = "water.tif",
    *,
    scheduler: str | Client | None = None,
    overwrite: bool = False,
    on_event: OnEvent = runs.silent,
    **settings: Any,
) -> dict[str, Any]:
    """Segment a scene into files, as ``geouq segment`` does: broken off, the same call goes on, to the same bytes.

    Parameters
    ----------
    scene : such as ``open_scene`` gives; one date.
    model : as for ``geouq.segment``.
    outputs : the map, or ``geouq.Outputs`` with all that is to be left.
    scheduler : None: computed here. A client of dask.distributed, the address of a scheduler (``tcp://…``), its file
        (``.json``), or ``local:N`` for N processes on this machine. Workers read the windows and send finished parts
        back; parts, ledger and outputs are written here. A worker that is lost is made up for by the others.
    overwrite : replace outputs that exist; start a changed run anew.
    on_event : called with each event of ``geouq.segmentation.events``, in this thread or another.
    settings : samples, seed, layers, tile …: those of ``geouq.segmentation.job.Settings``.

    Returns
    -------
    The summary that ``geouq segment --json`` prints. KeyboardInterrupt (or closing the client) ends a run; what is
    finished stays.

    Raises
    ------
    OutputError : an output exists, or cannot be written. GeouqError : a tile failed, or what was given does not fit.
    """
    array = scene_array(scene)
    job = prepare(array, load_models(model), Settings(**settings))
    wanted = outputs if isinstance(outputs, Outputs) else Outputs(Path(outputs))
    with ExitStack() as stack:
        client = stack.enter_context(connected(scheduler)) if isinstance(scheduler, str) else scheduler
        return runs.run(array, job, wanted, overwrite=overwrite, on_event=on_event, client=client)
