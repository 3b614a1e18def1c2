"""``geouq vectorize``: a map in, polygons with area intervals out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from geouq.cli.options import FILE
from geouq.cli.show import say
from geouq.polygons.vectorize import vectorize


@click.command("vectorize")
@click.argument("map_path", metavar="MAP.tif", type=FILE)
@click.argument("out_path", metavar="OUT.gpkg", type=FILE)
@click.option(
    "--samples", "samples_path", type=FILE, help="Votes, for area intervals. [default: MAP_samples.tif if there]"
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="Polygons of this class alone; may be repeated. [default: the positive one of two, else all]",
)
@click.option("--min-area", default=0.0, help="Leave out polygons smaller than this, m².")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON summary on stdout.")
def command(
    map_path: Path,
    out_path: Path,
    samples_path: Path | None,
    classes: tuple[str, ...],
    min_area: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn a map into polygons, whole across tile seams, in .gpkg, .fgb, .geojson or .parquet.

    Of two classes the polygons are those of the positive one (water). Of more they are those of every class, in one
    layer with a column "class": land cover has no background. --class chooses.
    """
    summary = vectorize(
        map_path,
        out_path,
        samples_path=samples_path,
        classes=classes or None,
        min_area=min_area,
        overwrite=overwrite,
    )
    if as_json:
        say(json.dumps(asdict(summary)))
    else:
        say(f"wrote {out_path}: {summary}")
