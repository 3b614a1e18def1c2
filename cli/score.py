"""``geouq score``: a map and a label in, how right the map is out; no model is needed."""

from __future__ import annotations

import json
from pathlib import Path

import click

from geouq.cli.options import FILE
from geouq.cli.show import say
from geouq.errors import InputError
from geouq.files import check_free, refuse_own
from geouq.scores.score import Score, positive_class, score


@click.command("score")
@click.argument("map_path", metavar="MAP")
@click.argument("label_path", metavar="LABEL")
@click.option("--classes", metavar="NAME,…", help="Names of class 0, 1 … [default: those in the files' tags]")
@click.option("--label-values", metavar="V,…", help="Values in LABEL of class 0, 1 …: 0,255 if black and white.")
@click.option("--ignore", metavar="V,…", help="Values that say nothing, beside nodata, 255 and 254.")
@click.option("--picture", type=FILE, metavar="PNG", help="Draw what is right, false and missed.")
@click.option("--overwrite", is_flag=True, help="Replace the picture if there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    map_path: str,
    label_path: str,
    classes: str | None,
    label_values: str | None,
    ignore: str | None,
    picture: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Score MAP, any raster of class indices, against LABEL, another on the same grid.

    Accuracy, IoU, Dice (F1), precision and recall of each class, their means, and the confusion matrix. Nodata, 255
    (not classified) and 254 (undecided) of either are left out.
    """
    squares = None
    if picture is not None:
        refuse_own(picture, [map_path, label_path])
        check_free(picture, overwrite)
        from geouq.rasters.raster import inspect_raster
        from geouq.scores.picture import ErrorSquares  # here, for it brings matplotlib

        squares = ErrorSquares(inspect_raster(map_path), positive_class([map_path, label_path]))
    found = score(
        map_path,
        label_path,
        names=classes.split(",") if classes else None,
        label_values=_numbers("--label-values", label_values),
        ignore=_numbers("--ignore", ignore) or (),
        on_window=squares.add if squares else None,
    )
    say(json.dumps(found.to_dict()) if as_json else text(found))
    one_class = (found.counts.counts.sum(1) > 0).sum() == 1
    if one_class and label_values is None and found.left_out["not_labelled"] and not as_json:
        say(f"{label_path}: one class alone is left; if 255 is the other, say --label-values 0,255", err=True)
    if squares and picture:
        squares.write(found, picture, Path(map_path).name, overwrite)
        if not as_json:
            say(f"wrote {picture}", err=True)


def _numbers(option: str, given: str | None) -> list[float] | None:
    try:
        return [float(part) for part in given.split(",")] if given else None
    except ValueError:
        raise InputError(f"{option} {given!r} is not numbers such as 0,255") from None


def text(found: Score) -> str:
    """Return the scores as tables."""
    told = found.to_dict()
    left = ", ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in told["left_out"].items() if count)
    lines = [f"{found.pixels:,} pixels count" + (f"; left out: {left}" if left else "")]
    lines.append("  ".join(f"{name} {_score(told[key])}" for name, key in _MEANS.items()))
    wide = max(map(len, (*found.names, "class")))
    keys = {"IoU": "iou", "Dice=F1": "dice", "precision": "precision", "recall": "recall"}
    lines += ["", "  ".join([f"{'class':<{wide}}", *(f"{name:>9}" for name in keys)])]
    for row in told["classes"]:
        lines.append("  ".join([f"{row['name']:<{wide}}", *(f"{_score(row[key]):>9}" for key in keys.values())]))
    cells = [[f"{count:,}" for count in row] for row in told["confusion"]]
    column = max(max(len(cell) for row in cells for cell in row), wide)
    lines += ["", "pixels: rows are the label's classes, columns the map's"]
    lines.append("  ".join([" " * wide, *(f"{name:>{column}}" for name in found.names)]))
    lines += [
        "  ".join([f"{name:<{wide}}", *(f"{cell:>{column}}" for cell in row)])
        for name, row in zip(found.names, cells, strict=True)
    ]
    return "\n".join(lines)


_MEANS = {"accuracy": "accuracy", "mIoU": "miou", "mean Dice": "dice"}


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
