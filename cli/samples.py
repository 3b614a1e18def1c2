"""``geouq samples``: the samples of a map: their areas, one of them as a file, a picture, a question of paths."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from geouq.answers.samples import Samples, samples
from geouq.cli.options import FILE
from geouq.cli.show import say
from geouq.errors import InputError


@click.command("samples")
@click.argument("path", metavar="MAP_samples.tif", type=FILE)
@click.option("--class", "of", metavar="NAME", help="Which class is asked about. [default: the positive one]")
@click.option("--sample", metavar="K", help="Export sample K (from 0), or: least, median, most.")
@click.option(
    "-o", "--output", type=FILE, help="Where to: .tif for a mask, .gpkg or another vector format for polygons."
)
@click.option("--preview", type=FILE, metavar="OUT.png", help="Draw least, median and most water, and all areas.")
@click.option("--connects", nargs=4, type=float, metavar="X1 Y1 X2 Y2", help="How likely is a path between two points?")
@click.option("--through", type=click.Choice(["water", "land"]), default="water", show_default=True, help="Over what.")
@click.option("--overwrite", is_flag=True, help="Replace what exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON summary on stdout.")
def command(
    path: Path,
    of: str | None,
    sample: str | None,
    output: Path | None,
    preview: Path | None,
    connects: tuple[float, float, float, float] | None,
    through: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """List, export and draw the samples of a map; each is one plausible map of the whole scene."""
    if (sample is None) != (output is None):
        raise InputError("--sample K and -o FILE go together: which sample, and where to")
    found = samples(path, of)
    facts = _facts(found)
    if sample is not None and output is not None:
        facts["exported"] = found.export(sample, output, overwrite=overwrite)
    if preview is not None:
        found.preview(preview, overwrite=overwrite)
    if connects is not None:
        paths = found.connected(connects[:2], connects[2:], through=through)
        facts["connected"] = {"through": through, "probability": float(paths.mean()), "samples": paths.tolist()}
    if as_json:
        say(json.dumps(facts))
        return
    if connects is not None:
        say(f"connected by {through} in {paths.sum()} of {len(paths)} samples")
    if output is not None:
        say(f"wrote {output}: sample {facts['exported']}")
    if preview is not None:
        say(f"wrote {preview}")
    if output is None and preview is None and connects is None:
        _list(found)


def _facts(found: Samples) -> dict[str, object]:
    low, high = found.interval
    names = {name: found.number(name) for name in ("least", "median", "most")}
    return {
        "samples": len(found),
        "areas_m2": found.areas.tolist(),
        "area_m2_p05": low,
        "area_m2_p95": high,
        "valid_area_m2": found.valid_area,
        "unit": found.unit,
        **names,
    }


def _list(found: Samples) -> None:
    low, high = found.interval
    marks = {found.number(name): name for name in ("most", "median", "least")}
    for sample in np.argsort(found.areas, kind="stable"):
        say(f"sample {sample:2d}  {found.areas[sample]:14.6g} {found.unit}  {marks.get(int(sample), '')}".rstrip())
    mean, unit = found.areas.mean(), found.unit
    say(f"{len(found)} samples, mean {mean:.6g} {unit}, 5–95 %: {low:.6g}–{high:.6g} {unit}")
