"""Progress on stderr, of every verb that shows any: a bar (rich) on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from geouq.cli.show import plain, say
from geouq.segmentation.events import BatchHalved, Event, Finishing, Noted, Started, TileDone

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar:
    """How far something is that has a total; a context manager. Safe to call from several threads.

    quiet : show nothing at all.
    unit, scale : what is counted, and how many of it are one on the display.
    interval : seconds between two plain lines.
    """

    def __init__(
        self, quiet: bool = False, unit: str = "megapixels", scale: float = 1e6, interval: float = 10.0
    ) -> None:
        self.quiet, self.unit, self.scale, self.interval = quiet, unit, scale, interval
        self._lock, self._rich = threading.Lock(), None if quiet or not sys.stderr.isatty() else _rich_bar()
        self._total = self._done = self._before = 0
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def begin(self, total: int, done: int = 0) -> None:
        """Start to count, from what has been done before."""
        self._total, self._done, self._before = total, done, done
        self._began = self._last = time.monotonic()
        if self._rich is not None:
            self._rich.start()
            self._rich.add_task("", total=total, completed=done)

    def advance(self, amount: int, note: str = "") -> None:
        """Count on; ``note`` is shown beside."""
        with self._lock:
            self._done += amount
            now, finished = time.monotonic(), self._done >= self._total
            text = f"{self._text(now)}  {note}".rstrip()
            if self._rich is not None:
                self._rich.update(self._rich.task_ids[-1], completed=self._done, description=text)
            elif now - self._last >= self.interval or finished:
                self._last = now
                self.line(f"{100 * self._done / max(self._total, 1):3.0f} %  {text}")

    def line(self, text: str) -> None:
        """Say something in a line of its own."""
        if self._rich is not None:
            self._rich.console.print(plain(f"geouq: {text}"), markup=False, highlight=False, soft_wrap=True)
        elif not self.quiet:
            say(f"geouq: {text}", err=True)

    def _text(self, now: float) -> str:
        speed = (self._done - self._before) / self.scale / max(now - self._began, 1e-6)
        left = (self._total - self._done) / self.scale / speed if speed else 0
        return f"{speed:.2f} {self.unit}/s  {_clock(left)} left"


def _rich_bar() -> Progress:
    # here, because only a terminal needs it: it takes a tenth of a second to import
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
    return Progress(*columns, console=Console(stderr=True))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def each_chip(quiet: bool) -> Callable[[str, int, int], None]:
    """Return what says which chip comes next: called with its name, its number from 0, and how many there are."""
    bar = Bar(quiet)

    def tell(name: str, number: int, count: int) -> None:
        bar.line(f"{number + 1} of {count}: {name}")

    return tell


class RunProgress(Bar):
    """Shows a run's events; call it with each of them."""

    def __init__(self, quiet: bool, verbose: bool, interval: float = 10.0) -> None:
        super().__init__(quiet, interval=interval)
        self.verbose = verbose
        self._batch: int | None = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, TileDone):
            self.advance(event.pixels)
        elif isinstance(event, BatchHalved) and event.batch != self._batch:
            self._batch = event.batch
            self.line(f"memory holds {event.batch} samples at once, not {event.asked}")
        elif isinstance(event, Noted):
            self.line(event.text)
        elif isinstance(event, Finishing):
            self.line(f"writing {event.step}")

    def _start(self, event: Started) -> None:
        if self.verbose:
            terms = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in event.promise.items())
            total = sum(event.promise.values()) / 2**20
            self.line(f"memory: at most {total:.0f} MiB ({terms}) beside some 600 MiB for Python and its libraries")
        note = f", {event.done} of them already done" if event.done else ""
        self.line(f"{event.tiles} tiles, {event.pixels / 1e6:.1f} megapixels{note}")
        self.begin(event.pixels, event.done_pixels)
