"""The rows of ``log.csv`` as scalars for TensorBoard, which is an extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from geouq.errors import InputError, OutputError
from geouq.learning.training.train import Row

#: what TensorBoard calls its files
EVENTS = "*tfevents*"


def check_event_files(folder: Path, goes_on: bool) -> None:
    """Refuse what could not be written, before hours are spent.

    goes_on : the run that the folder is for has begun, so that what it holds is of that run.

    Raises
    ------
    InputError : TensorBoard is not installed. OutputError : the folder holds curves of another run, or is a file.
    """
    if find_spec("tensorboard") is None:
        raise InputError("curves for TensorBoard need it installed: pip install 'geouq[tensorboard]'")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise OutputError(f"{there} is a file: give a folder for TensorBoard's curves")
    if not goes_on and any(folder.glob(EVENTS)):
        raise OutputError(f"{folder} holds curves of another run: give another folder for TensorBoard's")


@contextmanager
def event_files(folder: str | Path | None) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Give what is called with all rows so far, and writes each number that is not in the folder yet.

    So a run that goes on goes on in its curves, wherever it was broken off. ``folder`` : None: nothing is written.
    """
    if folder is None:
        yield lambda rows: None
        return
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from None
    written, files = _written(folder), None
    with ExitStack() as opened:

        def write(rows: Sequence[Row]) -> None:
            nonlocal files
            for row in rows:
                step = int(row["step"])
                for name in [name for name in row if name != "step" and (name, step) not in written]:
                    files = files or opened.enter_context(_new_file(folder))
                    files.add_scalar(name, row[name], step)
                    written.add((name, step))
            if files is not None:
                files.flush()

        yield write


def _new_file(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def _written(folder: Path) -> set[tuple[str, int]]:
    """Return (name, step) of each scalar in a folder's event files; one that was cut short counts as far as it goes."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted(path for path in folder.glob(EVENTS) if path.is_file())
    events = (event for path in files for event in EventFileLoader(str(path)).Load())
    return {(value.tag, event.step) for event in events for value in event.summary.value}
