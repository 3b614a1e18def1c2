"""``geouq zonal``: a map and polygons in, the polygons with the water in each out."""

from __future__ import annotations

import json
from pathlib import Path

import click

from geouq.answers.places import Places
from geouq.answers.zonal import zonal
from geouq.cli.options import FILE
from geouq.cli.show import say


@click.command("zonal")
@click.argument("map_path", metavar="MAP.tif", type=FILE)
@click.argument("places", metavar="PLACES.gpkg")
@click.option("-o", "--output", type=FILE, required=True, help=".gpkg, .fgb, .geojson or .parquet.")
@click.option("--layer", help="Which layer of PLACES, where it has several.")
@click.option("--buffer", default=0.0, metavar="M", help="Widen places by M metres: for roads and points.")
@click.option(
    "--share",
    "shares",
    type=float,
    multiple=True,
    default=(50.0,),
    metavar="X",
    show_default=True,
    help="How likely more than X % is water; repeat it for several X.",
)
@click.option("--samples-table", is_flag=True, help="Add the area in every sample, so that places can be added up.")
@click.option("--id", "id_field", metavar="FIELD", help="Attribute to repeat in that table.")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON summary on stdout.")
def command(
    map_path: Path,
    places: str,
    output: Path,
    layer: str | None,
    buffer: float,
    shares: tuple[float, ...],
    samples_table: bool,
    id_field: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Say how much of each polygon is water, with an interval, from a map and its votes (MAP_samples.tif).

    Of a map of more than two classes each class has its own columns: forest_area_m2, forest_p_over_50 …
    """
    summary = zonal(
        map_path,
        Places(places, layer, buffer, id_field),
        output,
        shares=shares,
        with_samples=samples_table,
        overwrite=overwrite,
    )
    if as_json:
        say(json.dumps(summary.to_dict()))
        return
    for name, got in summary.renamed.items():
        say(f"the places have a column {name} already: the other one is called {got}", err=True)
    say(f"wrote {output}: {summary}")
