"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import click

from geouq.segmentation.run import BatchHalved, Event, Finishing, Noted, Started, TileDone


def each_chip(quiet: bool) -> Callable[[str, int, int], None]:
    """Return what says which chip comes next: called with its name, its number from 0, and how many there are."""

    def say(name: str, number: int, count: int) -> None:
        if not quiet:
            click.echo(f"geouq: {number + 1} of {count}: {name}", err=True)

    return say


class Progress:
    """Shows a run's events; call it with each of them. Safe to call from several threads."""

    def __init__(self, quiet: bool, verbose: bool, interval: float = 10.0) -> None:
        self.quiet, self.verbose, self.interval = quiet, verbose, interval
        self.lock = threading.Lock()
        self.bar = sys.stderr.isatty() and not quiet
        self.total = self.done = self.continued = 0
        self.batch: int | None = None
        self.began = self.last = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self.lock:
            if isinstance(event, Started):
                self._start(event)
            elif isinstance(event, TileDone):
                self.done += event.pixels
                self._advance()
            elif isinstance(event, BatchHalved) and event.batch != self.batch:
                self.batch = event.batch
                self._line(f"memory holds {event.batch} samples at once, not {event.asked}")
            elif isinstance(event, Noted):
                self._line(event.text)
            elif isinstance(event, Finishing):
                self._line(f"writing {event.step}")

    def _start(self, event: Started) -> None:
        self.began = self.last = time.monotonic()
        self.total = event.pixels
        self.done = self.continued = event.done_pixels
        if self.verbose:
            terms = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in event.promise.items())
            total = sum(event.promise.values()) / 2**20
            self._line(f"memory: at most {total:.0f} MiB ({terms}) beside some 600 MiB for Python and its libraries")
        note = f", {event.done} of them already done" if event.done else ""
        self._line(f"{event.tiles} tiles, {event.pixels / 1e6:.1f} megapixels{note}")

    def _advance(self) -> None:
        now = time.monotonic()
        finished = self.done >= self.total
        if now - self.last < (0.2 if self.bar else self.interval) and not finished:
            return
        self.last = now
        speed = (self.done - self.continued) / 1e6 / max(now - self.began, 1e-6)
        left = (self.total - self.done) / 1e6 / speed if speed else 0
        text = f"{100 * self.done / self.total:3.0f} %  {speed:.2f} megapixels/s  {_clock(left)} left"
        if self.bar:
            filled = int(30 * self.done / self.total)
            click.echo(f"\r{'█' * filled}{'░' * (30 - filled)} {text}\x1b[K", err=True, nl=finished)
        elif not self.quiet:
            click.echo(f"geouq: {text}", err=True)

    def _line(self, text: str) -> None:
        if not self.quiet:
            click.echo(f"geouq: {text}", err=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
