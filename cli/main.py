"""The command ``geouq``: finds the verb, imports only what it needs, turns errors into one line and an exit code."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from types import TracebackType

import click

from geouq.cli.show import say

#: verb → (module with its ``command``, one line of help)
VERBS = {
    "segment": ("geouq.cli.segment", "Map water, and how sure that is, in a scene."),
    "vectorize": ("geouq.cli.vectorize", "Turn a map into polygons with area intervals."),
    "zonal": ("geouq.cli.zonal", "Say how much of each polygon is water, and how sure that is."),
    "samples": ("geouq.cli.samples", "List, export and draw the samples of a map: each one a plausible map."),
    "calibrate": (
        "geouq.cli.calibrate",
        "Fit temperature, cut, alarm and risk of a model on places it was not trained on.",
    ),
    "evaluate": ("geouq.cli.evaluate", "Score a model on labelled data: its maps, and how well it knows."),
    "classic": ("geouq.cli.classic", "Map a scene by thresholds, clusters, edges or regions; no model is needed."),
    "score": ("geouq.cli.score", "Score a map against a label on the same grid; no model is needed."),
    "info": ("geouq.cli.info", "Say what a scene or a model is, and what segment would do with it."),
    "models": ("geouq.cli.models", "List the models that come with geouq."),
    "train": ("geouq.cli.train", "Train a model on labelled data, by recipe."),
    "preprocess": ("geouq.cli.preprocess", "Write a Sentinel-1 product's backscatter, calibrated and on a map."),
    "doctor": ("geouq.cli.doctor", "Say whether a map can be made here, and if not, what to do."),
    "simulate": ("geouq.cli.simulate", "Make a Sentinel-1-like scene with its true water mask."),
}


#: what can be done after a verb was interrupted, where something can
INTERRUPTED = {verb: "; no output is left half-written" for verb in VERBS if verb not in ("info", "models")} | {
    "segment": "; the same command continues the run",
    "train": "; --resume goes on from the last checkpoint, if there is one",
}


class Verbs(click.Group):
    """A group whose verbs are imported when they are called, so that ``--help`` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a user's day."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        command = import_module(VERBS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        say(f"geouq {version('geouq')}")
        ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Print the version."
)
def geouq() -> None:
    """Large satellite rasters into water maps that say how sure they are.

    \b
    geouq segment scene.tif           writes scene_water.tif: mask, uncertainty, confidence
    geouq segment scene.tif --vector water.gpkg --preview water.png
    """  # noqa: D301 (click reads the backspace as "keep these lines")


def main() -> None:
    """Run the command line; errors geouq raises on purpose become one line on stderr and their exit code."""
    prepare_process()
    from geouq.errors import GeouqError

    try:
        geouq.main(standalone_mode=False)
        if sys.stdout is not None:  # it is None where the caller closed it
            sys.stdout.flush()
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue(), err=True, nl=False)
        sys.exit(error.exit_code)
    except GeouqError as error:
        say(f"geouq: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if not _is_of_printing(error):
            raise
        with suppress(OSError):
            say(f"geouq: standard output cannot be written: {error.strerror}", err=True)
        os._exit(2)  # at the usual end, Python would try to write what is left once more
    except (click.Abort, KeyboardInterrupt) as error:
        with suppress(OSError):
            verb = next((word for word in sys.argv[1:] if word in VERBS), "")
            say(f"geouq: interrupted{INTERRUPTED.get(verb, '')}", err=True)
            sys.stdout.flush()
        told = error.args or getattr(error.__cause__, "args", ())
        os._exit(
            128 + int(told[0] if told else signal.SIGINT)
        )  # without waiting for tiles in flight: their parts are whole or absent


def _is_of_printing(error: OSError) -> bool:
    """True if an error came from printing (a full disk, a closed pipe), and from no file that geouq reads or makes."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__") in (click.utils.__name__, __name__)


def _write_any_letter() -> None:
    """Write letters that the output's encoding has not (as Latin-1; or those of no encoding) as backslash and code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave_out_what_cannot_be_logged() -> None:
    """Do not print that rasterio could not log a message of GDAL's that is not UTF-8; an error is raised all the same.

    Its handler has no caller to raise to, so Cython prints there, once without any traceback and once as unraisable.
    """

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if kind is not UnicodeDecodeError or trace is not None:
            sys.__excepthook__(kind, error, trace)

    def unraisable(told: sys.UnraisableHookArgs) -> None:
        if told.exc_type is not UnicodeDecodeError or "rasterio" not in str(told.object):
            sys.__unraisablehook__(told)

    sys.excepthook, sys.unraisablehook = uncaught, unraisable


def _stop_alike() -> None:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: what it has begun beside its outputs is cleared away."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is ignored
            signal.signal(number, stop)


def prepare_process() -> None:
    """Set what only a program, not a library, may set; must come before torch and GDAL are imported.

    Waiting threads sleep instead of spinning (3 times faster beside another busy process, nothing lost alone), torch
    takes no more threads than a container has processors and asks for huge pages (fewer page faults on large
    tensors), GDAL's block cache, by default 5 % of the machine's memory, is held to a size that the promise of memory
    can count on, and memory that is freed goes back.
    """
    _stop_alike()
    _write_any_letter()
    _leave_out_what_cannot_be_logged()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    os.environ["MPLBACKEND"] = "agg"  # Jupyter's own, inherited from a notebook, may not exist here
    quota = _processor_quota()
    if quota is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(quota))
    if sys.platform == "linux":
        _tame_allocator()


def _processor_quota(path: str = "/sys/fs/cgroup/cpu.max") -> int | None:
    """Return the processors that a container may use at once, where that is less than the machine has (cgroup v2)."""
    try:
        with open(path) as file:
            quota, period = file.read().split()
        allowed = max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):  # none, or "max"
        return None
    return allowed if allowed < (os.cpu_count() or 1) else None


def _tame_allocator() -> None:
    """Keep one arena, give back what is free at its top, and windows at once, where the C library is glibc.

    What one sample needs (up to some 10 MiB) is taken from the arena again and again, at no cost. Windows and what the
    prefix makes of them come and go at any time, would leave holes there that nothing fits, and get pages of their own.
    """
    arena_max, trim_threshold, mmap_threshold = -8, -1, -3  # names of mallopt(3)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(arena_max, 1)
        mallopt(trim_threshold, 64 << 20)
        mallopt(mmap_threshold, 12 << 20)


if __name__ == "__main__":
    main()
