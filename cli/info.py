"""``geouq info``: what a scene is, and what segment would do with it."""

from __future__ import annotations

import json

import click

from geouq.cli.options import band_numbers, scene_options, scene_source
from geouq.cli.show import table
from geouq.scenes.info import scene_info


@click.command("info")
@scene_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    scenes: tuple[str, ...],
    vv: str | None,
    vh: str | None,
    scale: str,
    bidx: str | None,
    nodata: float | None,
    as_json: bool,
) -> None:
    """Say what a scene is: grid, bands, units and why, validity."""
    info = scene_info(scene_source(scenes, vv, vh), scale=scale, nodata=nodata, bidx=band_numbers(bidx))
    click.echo(json.dumps(info) if as_json else table(info))
