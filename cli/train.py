"""``geouq train``: labelled data and a recipe in, a model file out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from geouq.cli.options import FILE, PLACES
from geouq.cli.progress import Bar, each_chip
from geouq.cli.show import say
from geouq.errors import InputError
from geouq.learning.data.dataset import read_unlabelled
from geouq.learning.folds import FoldOptions, train_folds
from geouq.learning.judging.left_out_card import summary
from geouq.learning.rounds import Labelled, Labelling, train_rounds
from geouq.learning.training.events import Begun, Ended, Event, Judged, Prepared
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.recipe import Recipe, find_recipe, recipe_names, write_recipe

#: seconds between two lines of steps where there is no terminal
INTERVAL = 60.0


@click.command("train")
@click.argument("data", metavar="DATA", type=FILE, required=False)
@click.option("--recipe", required=True, metavar="NAME", help=f"A TOML file, or one of {', '.join(recipe_names())}.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe: training.rate=1e-3.")
@click.option("--show", is_flag=True, help="Print the complete recipe as TOML, and train nothing.")
@click.option("-o", "--output", type=FILE, help="Folder for model, log, curves and checkpoint.")
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps. [default: as the recipe says]")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="The same seed gives the same model, on the same processor.",
)
@click.option(
    "--val", metavar="PLACE,…", help="Places to hold out, or a share such as 0.2. [default: as DATA and recipe say]"
)
@click.option(
    "--classes", metavar="NAME,…", help="Class names in order. [default: land,water, or as many as there are]"
)
@PLACES
@click.option("--also", type=FILE, metavar="DATA", help="More data to train on, which are never held out or scored.")
@click.option("--init", metavar="MODEL", help="Start from the weights of a model: a file, or a shipped model's name.")
@click.option(
    "--freeze", metavar="PART,…", help="Parts of that model to leave as they are: encoder, or modules by name."
)
@click.option("--resume", is_flag=True, help="Go on from the folder's checkpoint.")
@click.option("--tensorboard", type=FILE, metavar="FOLDER", help="Also leave the log as curves for TensorBoard.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@click.option(
    "--folds",
    metavar="N|PLACES",
    help="Also leave places out, in N folds or in groups: 'a,b;c,d', or a file with a group a line (docs/folds.md).",
)
@click.option(
    "--only", metavar="1,3,all,judge", help="Of the folds' trainings and their judging do these alone (docs/folds.md)."
)
@click.option(
    "--unlabelled", type=FILE, metavar="FOLDER", help="Images that the recipe's rounds label (docs/few_labels.md)."
)
@click.option("--samples", type=click.IntRange(0), default=20, show_default=True, help="Of maps of places left out.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found on places left out as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def command(
    data: Path | None,
    recipe: str,
    changes: tuple[str, ...],
    show: bool,
    output: Path | None,
    steps: int | None,
    seed: int,
    val: str | None,
    classes: str | None,
    place_pattern: str | None,
    also: Path | None,
    init: str | None,
    freeze: str | None,
    resume: bool,
    tensorboard: Path | None,
    device: str,
    quiet: bool,
    **left_out: Any,
) -> None:
    """Train a model on labelled data.

    DATA is a folder with images/ and labels/, or a manifest (.csv, .json). Places are kept whole: those held out judge
    each round, stop the training early where the recipe says so, and are never trained on.

    With --folds the recipe is also trained without each fold of places and judged on them; the model gets the
    temperature and the alarm that were found there, and of two classes the cut and the risk.
    """
    frozen = [] if freeze is None else [f"training.freeze={_names(freeze)}"]
    chosen = find_recipe(recipe, [*changes, *frozen])
    if show:
        say(write_recipe(chosen), nl=False)
        return
    if data is None or output is None:
        raise click.UsageError("DATA and --output are needed to train; --show prints the recipe alone")
    options = FitOptions(
        steps=steps,
        seed=seed,
        validation=_validation(val),
        classes=tuple(_names(classes)) if classes is not None else None,
        place_pattern=place_pattern,
        also=also,
        init=init,
        resume=resume,
        device=device,
        tensorboard=tensorboard,
    )
    if left_out["only"] is not None and left_out["folds"] is None:
        raise click.UsageError("--only is for --folds")
    if left_out["unlabelled"] is not None or chosen.rounds.count:
        if left_out["folds"] is not None:
            raise click.UsageError("--folds is for one training at a time: leave out --unlabelled and rounds")
        _rounds(data, chosen, output, options, left_out["unlabelled"], quiet)
        return
    if left_out["folds"] is None:
        with _Progress(quiet) as progress:
            path = train_model(data, chosen, output, options, progress)
        if not quiet:
            say(f"wrote {path}")
        return
    plan = FoldOptions(_folds(left_out["folds"]), tuple(_names(left_out["only"] or "")), left_out["samples"])
    with _Progress(quiet) as progress:
        found = train_folds(data, chosen, output, options, plan, progress, each_chip(quiet))
    if found is None:
        return
    say(json.dumps(found) if left_out["as_json"] else summary(found))
    if not quiet:
        model = output / f"{chosen.name}.safetensors"
        say(f"wrote {model if model.exists() else output / 'folds.html'}", err=True)


def _rounds(
    data: Path, recipe: Recipe, output: Path, options: FitOptions, unlabelled: Path | None, quiet: bool
) -> None:
    chips = [] if unlabelled is None else read_unlabelled(unlabelled, options.place_pattern)
    with _Progress(quiet) as progress:
        path = train_rounds(data, recipe, output, chips, options, progress)
    if not quiet:
        say(f"wrote {path}")


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _folds(text: str) -> int | tuple[tuple[str, ...], ...]:
    """Parse ``--folds``: a number, or groups of places, given or in a file."""
    if text.strip().isdecimal():
        return int(text)
    try:
        groups = Path(text).read_text("utf-8").splitlines() if Path(text).is_file() else text.split(";")
    except (OSError, ValueError) as error:
        raise InputError(f"--folds {text}: cannot be read: give a text file with a group of places a line") from error
    return tuple(tuple(_names(group)) for group in groups if _names(group))


def _validation(text: str | None) -> tuple[str, ...] | float | None:
    if text is None:
        return None
    names = _names(text)
    if not names:
        raise InputError("--val names no place: give names, or a share such as 0.2")
    try:
        share = float(text)
    except ValueError:
        return tuple(names)
    return share if 0 < share < 1 else tuple(names)  # places may be numbers


class _Progress(Bar):
    """Shows a training run: what begins, a line a round, and how many steps are done, of which training of how many."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet, unit="steps", scale=1.0, interval=INTERVAL)
        self._step: int | None = None
        self._which = ""

    def __call__(self, event: Event | Labelling | Labelled) -> None:
        """Show one event."""
        if isinstance(event, Begun):
            self._begun(event)
        elif isinstance(event, Labelling):
            self.line(f"{event.number} of {event.count}: {event.name}")
        elif isinstance(event, Labelled):
            self.line(
                f"round {event.round}: {event.accepted} of {event.chips} chips labelled, {100 * event.pixels:.0f} % of "
                f"their pixels, {100 * event.positive:.1f} % of these positive"
            )
        elif isinstance(event, Prepared):
            self._prepared(event)
        elif isinstance(event, Judged):
            self.line(", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in event.row.items()))
        elif isinstance(event, Ended):
            self._ended(event)
        else:
            if self._step is None:
                self._step = event.step - 1
                self.begin(event.steps, self._step)
            self.advance(event.step - self._step, f"loss {event.loss:.4f}{self._which}")
            self._step = event.step

    def _begun(self, event: Begun) -> None:
        without = f", without {', '.join(event.without)}" if event.without else ""
        self.line(f"training {event.number} of {event.count}, {event.name}{without}")
        self._which, self._step = f"  {event.name}, {event.number} of {event.count}", None

    def _prepared(self, event: Prepared) -> None:
        training, held = event.places
        left_out = f", {event.left_out} ill-posed left out" if event.left_out else ""
        held_out = f"{event.validation} of {held} places held out" if held else "none held out, so nothing judges it"
        self.line(f"{event.training} chips of {training} places to train on, {held_out}{left_out}; on {event.device}")
        for note in event.notes:
            self.line(note)

    def _ended(self, event: Ended) -> None:
        if event.step < event.steps:
            why = f"{event.patience} rounds brought no lower loss"
            self.line(f"ended at step {event.step} of {event.steps}: {why}")
        if event.kept < event.step:
            self.line(f"kept the weights of step {event.kept}, whose loss was the lowest")
