"""``geouq evaluate``: how good a model is on labelled data, and how well it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from geouq.cli.options import FILE, PLACES, TTA, WEIGHTS, models_chosen
from geouq.cli.progress import each_chip
from geouq.cli.show import say
from geouq.errors import InputError
from geouq.files import existing, refuse_own
from geouq.learning.data.dataset import data_files, read_dataset
from geouq.learning.data.loading import unlike_note
from geouq.sampling.names import AUTO, CHOICES, HELP


@click.command("evaluate")
@click.argument("model")
@click.argument("data", type=FILE)
@click.option("-o", "--output", type=FILE, help="Folder for evaluation.html, one page, and evaluation.json.")
@click.option("--also", multiple=True, metavar="MODEL", help="A further member of an ensemble; may be repeated.")
@WEIGHTS
@click.option("--samples", default=20, show_default=True, help="How many to draw, at most 64; 0 = one pass.")
@click.option("--sampler", type=click.Choice(CHOICES), default=AUTO, show_default=True, help=HELP)
@PLACES
@TTA
@click.option("--decide", metavar="RULE", help="Cut the mask as segment does: iou, area, accuracy or a probability.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same scores.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@click.option("--overwrite", is_flag=True, help="Replace the report if there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but the scores.")
def command(model: str, data: Path, **options: Any) -> None:
    """Score MODEL (a shipped model's name or a model file) on DATA.

    DATA is a folder with images/ and labels/, or a manifest (docs/calibration.md). Chips of the split test are taken
    if there are any, else all but those of the split train.
    """
    try:
        from geouq.learning.judging.evaluate import evaluate
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("skimage", "sklearn"):
            raise
        raise InputError("evaluate needs scikit-image and scikit-learn: pip install 'geouq[train]'") from None
    from geouq.learning.judging.report import DATA, PAGE, check_folder, write_report
    from geouq.learning.judging.summary import summary

    if options["output"]:
        check_folder(options["output"], options["overwrite"])

    chips = read_dataset(data, options["place_pattern"])
    models = (model, *options["also"])
    read = [*data_files(data, chips), *map(Path, existing((*models, *options["weights"])))]
    for name in (PAGE, DATA) if options["output"] else ():
        refuse_own(options["output"] / name, read)
    if note := unlike_note(chips):
        say(f"geouq: {note}", err=True)
    found = evaluate(
        models_chosen(models, options["weights"], options["tta"]),
        chips,
        samples=options["samples"],
        seed=options["seed"],
        device=options["device"],
        sampler=options["sampler"],
        decide=options["decide"],
        most_pictures=48 if options["output"] else 0,
        on_chip=each_chip(options["quiet"]),
    )
    say(json.dumps(found.scores) if options["as_json"] else summary(found.scores))
    if options["output"]:
        page = write_report(found, options["output"], data.resolve().name, overwrite=options["overwrite"])
        if not options["quiet"]:
            say(f"wrote {page}", err=True)
