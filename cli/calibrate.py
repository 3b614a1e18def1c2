"""``geouq calibrate``: what is fitted to a model on places that it was not trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from geouq.cli.options import FILE, PLACES, TTA, WEIGHTS, models_chosen
from geouq.cli.progress import each_chip
from geouq.cli.show import say
from geouq.files import check_free, existing, refuse_own
from geouq.learning.data.dataset import data_files, read_dataset
from geouq.learning.data.loading import unlike_note
from geouq.learning.data.splits import of_split
from geouq.learning.judging.calibrate import Fit, calibrate, fit_laplace
from geouq.learning.judging.decide import FEWEST
from geouq.learning.judging.labelled import trained_on
from geouq.learning.judging.left_out_text import decisions
from geouq.learning.judging.summary import seen_before


@click.command("calibrate")
@click.argument("model")
@click.argument("data", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The calibrated model: .safetensors.")
@WEIGHTS
@click.option("--samples", default=20, show_default=True, help="As many as you will map with.")
@PLACES
@TTA
@click.option("--laplace", is_flag=True, help="First fit a posterior of the last layer, which samples come from then.")
@click.option("--seed", default=0, show_default=True, help="Of samples, pixels and folds.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but the result.")
def command(model: str, data: Path, **options: Any) -> None:
    """Fit MODEL to DATA, places it was not trained on: temperature, cut, alarm and risk; write the model that has them.

    DATA is a folder with images/ and labels/, or a manifest (docs/calibration.md). Chips of the split validation are
    taken if there are any, else all but those of the split train.
    """
    output = options["output"]
    check_free(output, options["overwrite"])
    chips = read_dataset(data, options["place_pattern"])
    refuse_own(output, [*existing([model, *options["weights"]]), *data_files(data, chips)])

    settings = {key: options[key] for key in ("seed", "device")} | {"on_chip": each_chip(options["quiet"])}
    (loaded,) = models_chosen([model], options["weights"], options["tta"])
    if note := unlike_note(chips):
        say(f"geouq: {note}", err=True)
    asked = of_split(chips, "validation")
    if seen := trained_on([loaded], (chip.name for chip in asked)):
        say(f"geouq: {seen_before(seen, len(asked))}", err=True)
    if options["laplace"]:
        loaded = fit_laplace(loaded, chips, **settings)
    calibrated, fit = calibrate(loaded, chips, samples=options["samples"], **settings)
    calibrated.save(output, replace=options["overwrite"])
    if options["as_json"]:
        found = {key: value for key, value in fit.left_out.items() if key not in ("levels", "places", "chips")}
        values: dict[str, Any] = (
            asdict(fit) | {"left_out": found} | ({"laplace": calibrated.spec.laplace} if options["laplace"] else {})
        )
        say(json.dumps(values))
        return
    if options["laplace"] and calibrated.spec.laplace:
        fitted = calibrated.spec.laplace
        say(
            f"posterior of the last layer ({fitted['layer']}): {fitted['pixels']} pixels, prior precision "
            f"{fitted['prior_precision']:.4g}"
        )
    say(f"{describe(fit)}{decided(fit, loaded.spec.positive)}\nwrote {output}")


def decided(fit: Fit, positive: str) -> str:
    """Return what was decided on these places, for people."""
    if not fit.left_out:
        return ""
    if fit.places < FEWEST:
        return f"\na cut, an alarm and a risk need {FEWEST} places or more: the model gets none"
    if "decide" not in fit.left_out:
        wrong = fit.left_out["alarm"]["wrong"]["accuracy"]
        return (
            f"\nalarm: made from {len(wrong)} maps of {fit.places} places, each with the temperature of the others; "
            f"wrong on {100 * min(wrong):.3g} to {100 * max(wrong):.3g} % of their pixels"
        )
    return f"\n\n{decisions(fit.left_out, positive)}"


def describe(fit: Fit) -> str:
    """Return what was found, for people."""
    names = ("ece", "ece_equal_width", "brier", "nll")
    lines = [
        f"temperature {fit.before:.4g} -> {fit.temperature:.4g}, fitted on {fit.pixels} pixels of {fit.chips} chips, "
        f"{fit.places} place{'s' if fit.places > 1 else ''}",
        f"{'':<7} {'ECE':>8} {'ECE, equal width':>17} {'Brier':>8} {'NLL':>8}",
    ]
    for name, scores in (("before", fit.scores_before), ("after", fit.scores_after)):
        a, b, c, d = (f"{scores[key]:.4f}" for key in names)
        lines.append(f"{name:<7} {a:>8} {b:>17} {c:>8} {d:>8}")
    if fit.held_out:
        low, high = min(fit.fold_temperatures), max(fit.fold_temperatures)
        lines.append(f"each place judged with a temperature fitted on the others ({low:.3g} to {high:.3g})")
    else:
        lines.append("only one place: it was fitted and judged on the same pixels, so 'after' is too good")
    if fit.kept:
        lines.append("no temperature did better on held-out places: the old one is kept")
    lines.append(
        f"areas: the 90 % interval of the samples covers the label on {fit.areas_covered} of {fit.chips} chips"
    )
    return "\n".join(lines)
