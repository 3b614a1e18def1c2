"""``geouq info``: what a scene is, and what segment would do with it."""

from __future__ import annotations

import json
from typing import Any

import click

from geouq.cli.options import band_numbers, preprocessing, product_options, scaling, scene_options, scene_source
from geouq.cli.show import table


@click.command("info")
@scene_options
@product_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> None:
    """Say what a scene is: grid, bands, units and why, validity; or what a Sentinel-1 product is."""
    source = scene_source(options["scenes"], options["vv"], options["vh"])
    from geouq.scenes.info import scene_info  # here, for it takes longer than to refuse a file that is not there

    info = scene_info(
        source,
        scale=options["scale"],
        nodata=options["nodata"],
        bidx=band_numbers(options["bidx"]),
        **scaling(options),
        preprocessing=preprocessing(options),
    )
    click.echo(json.dumps(info) if options["as_json"] else table(info))
