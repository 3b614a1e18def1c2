"""The files of a run that are not to stay on this machine: found in their store, or brought there when all is done."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geouq.errors import OutputError
from geouq.files import writing
from geouq.segmentation.events import Finishing, Noted, OnEvent
from geouq.segmentation.identity import marks
from geouq.segmentation.publishing import companions_named, map_tags
from geouq.segmentation.results import COMPANIONS, Outputs, Results
from geouq.segmentation.summary import from_tags
from geouq.uploads import contains, look, opened, upload


def found_in_store(run: str, results: Results) -> dict[str, Any] | None:
    """Return what a run found if all its files are in the store; None if not, or not all of this very run."""
    if not all(contains(_told_in(results, file), text) for file, text in marks(run, results).items()):
        return None
    try:
        return from_tags(_tags_there(results))
    except (ValueError, KeyError):
        return None


def refuse_own_in_store(sources: Iterable[str], results: Results) -> None:
    """Raise OutputError if a file of a run would take the place of one that the scene is read from, in its store."""
    own = {re.sub(r"^/vsi(s3|gs|az)/", r"\1://", name) for name in sources}
    for url in results.names.values():
        if results.store is not None and url in own:
            raise OutputError(f"{url} is the scene itself: give the output another name")


def check_free_in_store(results: Results, overwrite: bool) -> None:
    """Raise OutputError if a file of a run is in its store already and is not to be replaced, or that is not there."""
    for file, url in results.names.items():
        if look(_told_in(results, file)) is not None and not overwrite:
            raise OutputError(f"{url} exists already: give --overwrite to replace it, or another name")


@contextmanager
def staged(outputs: Outputs) -> Iterator[None]:
    """Make the folders in which files for a store are made; at the end nothing is left but what is to be gone on with.

    Raises
    ------
    OutputError : they cannot be made.
    """
    if outputs.store is None:
        yield
        return
    try:
        for path in filter(None, (getattr(outputs, name) for name in ("path", *COMPANIONS))):
            with writing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        _remove_empty(outputs.store.folder)


def deliver(results: Results, overwrite: bool, on_event: OnEvent) -> dict[str, Any]:
    """Upload the finished files of a run, the map last, and remove them here; return what the store says of them.

    Raises
    ------
    OutputError : the store does not take a file; what is finished stays here.
    """
    store, told = results.store, []
    if store is None or not all(file.exists() for file in results.files):
        return {}
    for note in _left_over(results) if overwrite else ():
        on_event(Noted(note))
    for file, url in results.names.items():
        on_event(Finishing(url))
        found = upload(file, url, replace=overwrite)
        told.append({"url": url, "size": found.size, "etag": found.etag})
    shutil.rmtree(store.folder, ignore_errors=True)
    return {"uploaded": told}


def _told_in(results: Results, file: Path) -> str:
    """Return the URL of what holds the metadata of a file: itself; of a Zarr group its attributes."""
    url = results.names[file]
    return f"{url}/.zattrs" if file == results.zarr else url


def _tags_there(results: Results) -> Mapping[str, str]:
    """Return the tags of the map in the store, or of the votes where no map is left."""
    with opened(results.names[results.map or results.files[0]]) as file:
        return map_tags(file)


def _left_over(results: Results) -> Iterator[str]:
    """Say what belongs to the map that is to be replaced in the store, and not to the one that replaces it."""
    if results.map is None or look(results.names[results.map]) is None:
        return
    ours = {file.absolute() for file in results.files}
    for path in companions_named(results.map, _tags_there(results)):
        if path.absolute() not in ours and results.store is not None and look(url := results.store.there(path)):
            yield f"{url} belongs to the map that is replaced, and no longer to {results.path.name}: remove it"


def _remove_empty(folder: Path) -> None:
    """Remove folders in which nothing is, the deepest first."""
    for path in (*sorted((one for one in folder.rglob("*") if one.is_dir()), reverse=True), folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
