"""An evaluation as text for a terminal: a table by place, one of the methods without a model, and lines of facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

#: (heading, key, how it is written)
COLUMNS = (
    ("accuracy", "accuracy", ".3f"),
    ("precision", "precision", ".3f"),
    ("recall", "recall", ".3f"),
    ("FPR", "false_positive_rate", ".4f"),
    ("F1", "f1", ".3f"),
    ("IoU", "iou", ".3f"),
    ("mIoU", "miou", ".3f"),
    ("ECE", "ece", ".4f"),
    ("Brier", "brier", ".4f"),
    ("NLL", "nll", ".4f"),
    ("AURC", "aurc", ".4f"),
)
#: scores of one class; those among ``COLUMNS``
KEYS = ("precision", "recall", "f1", "iou")
ONE_CLASS = (*KEYS, "false_positive_rate")


def summary(scores: dict[str, Any]) -> str:
    """Return the scores as tables for a terminal."""
    rows = [["", "pixels", f"{scores['model']['positive']} %", *heads(scores)]]
    rows += [row(r["place"], r) for r in scores["places"]]
    if len(scores["datasets"]) > 1:
        rows += [row(r["dataset"], r) for r in scores["datasets"]]
    rows += [row("all, pooled", scores["pooled"]), row("all, one pass", scores["one_pass"])]
    rows += [row("all, mean of chips", scores["chip_mean"])]
    blocks = [heading(scores), columns(rows)]
    if "by_class" in scores["pooled"]:
        names = scores["model"]["classes"]
        blocks.append(columns([["class", "precision", "recall", "F1", "IoU"], *class_rows(scores)]))
        table = [["% of the label's pixels", "pixels", *names], *confusion_rows(scores)]
        blocks.append("label (a row) and map (a column):\n" + columns(table))
    if scores["baselines"]:
        table = [["on the same pixels", "", "precision", "recall", "F1", "IoU"]]
        table += [[name, details, *numbers] for name, details, *numbers in methods(scores)]
        blocks.append(columns(table, left=2))
    return "\n\n".join([*blocks, "\n".join(facts(scores))])


def heads(scores: dict[str, Any]) -> list[str]:
    """Return the headings of ``COLUMNS``; with more than two classes they name the one that some of them are of."""
    model = scores["model"]
    several = len(model["classes"]) > 2
    return [f"{h} {model['positive']}" if several and key in ONE_CLASS else h for h, key, _ in COLUMNS]


def class_rows(scores: dict[str, Any]) -> list[list[str]]:
    """Return a line a class: name, precision, recall, F1, IoU, of all pixels."""
    named = zip(scores["model"]["classes"], scores["pooled"]["by_class"], strict=True)
    return [[name, *(number(one[key]) for key in KEYS)] for name, one in named]


def confusion_rows(scores: dict[str, Any]) -> list[list[str]]:
    """Return a line a class of the label: name, pixels, and of them the percentage that is each class in the map."""
    named = zip(scores["model"]["classes"], scores["pooled"]["confusion"], strict=True)
    return [[name, str(sum(c)), *(number(100 * n / max(sum(c), 1), ".1f") for n in c)] for name, c in named]


def heading(scores: dict[str, Any]) -> str:
    """Return which model was scored on what."""
    model, chips = scores["model"], scores["chips"]
    places = len({(c["dataset"], c["place"]) for c in chips})
    return (
        f"{model['name']} ({model['hash']}) on {len(chips)} chips of {places} place{'s' if places > 1 else ''}, "
        f"{scores['pooled']['pixels'] / 1e6:.2f} labelled megapixels, "
        f"{scores['samples']} samples, seed {scores['seed']}"
        + (f", --decide {model['decide']}" if "decide" in model else "")
    )


def row(name: str, r: dict[str, Any]) -> list[str]:
    """Return a line of the table by place: name, pixels, share of the positive class in percent, the ``COLUMNS``."""
    share = number(None if r["positive_share"] is None else 100 * r["positive_share"], ".1f")
    return [name, f"{r['pixels']}", share, *(number(r[key], form) for _, key, form in COLUMNS)]


def number(value: float | None, form: str = ".3f") -> str:
    """Write a number; a dash for a ratio without a meaning."""
    return "–" if value is None else format(value, form)


def methods(scores: dict[str, Any]) -> Iterable[list[str]]:
    """Yield name, details, precision, recall, F1 and IoU of the model, its one pass and each method without a model."""
    yield [scores["model"]["name"], "", *(number(scores["pooled"][k]) for k in KEYS)]
    yield ["… one pass, dropout off", "", *(number(scores["one_pass"][k]) for k in KEYS)]
    for r in scores["baselines"]:
        yield [r["method"], r["details"], *(number(r[k]) for k in KEYS)]


def facts(scores: dict[str, Any]) -> list[str]:
    """Return what no table holds, a line each."""
    pooled, once, noise, area = (scores[k] for k in ("pooled", "one_pass", "noise", "areas"))
    lines = [
        f"calibration: ECE {number(pooled['ece'], '.4f')} in 15 bins of equal mass, "
        f"{number(pooled['ece_equal_width'], '.4f')} in 15 of equal width (one pass {number(once['ece'], '.4f')})",
        f"doubt finds errors: AUROC {number(pooled['error_auroc'])}, average precision "
        f"{number(pooled['error_average_precision'])} (one pass {number(once['error_auroc'])}, "
        f"{number(once['error_average_precision'])})",
        f"doubt finds added noise: AUROC {number(noise['auroc'])} "
        f"(without noise {number(noise['auroc_without_noise'])})",
    ]
    if area:
        lines.append(
            f"areas: the samples' 90 % interval covers the label's area on {area['covered']} of {area['chips']} chips, "
            f"and misses it by at most 1 % of the labelled area on {area['nearly']} more; "
            f"mean width {100 * area['mean_width']:.2f} %"
        )
    agreement = scores["agreement"]
    lines.append(
        f"samples against raters, mean over chips, S = {max(scores['samples'], 1)} by {scores['sampler']}: "
        f"GED² {number(agreement['ged'])} (unbiased {number(agreement['ged_unbiased'])}), "
        f"diversity {number(agreement['diversity'])}, Dice {number(agreement['dice_raters'])}"
    )
    if scores["trained_on"]:
        lines.insert(0, seen_before(scores["trained_on"], len(scores["chips"])))
    if scores["skipped"]:
        lines.append(f"left out, no pixel both valid and labelled: {', '.join(scores['skipped'])}")
    return lines


def seen_before(count: int, of: int) -> str:
    """Say that chips are judged by a model that was trained on them."""
    return (
        f"{count} of {of} chips bear names that the model was trained on: what is found on them flatters it; give "
        "others (a split in a manifest tells them), or leave places out (geouq train --folds)"
    )


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return rows as lines whose columns stand below one another, the first ``left`` of them to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for line in rows:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
