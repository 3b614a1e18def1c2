"""``geouq info``: what a scene is, and what segment would do with it."""

from __future__ import annotations

import json
from typing import Any

import click

from geouq.cli.options import band_numbers, scene_options, scene_source
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


def table(values: dict[str, Any]) -> str:
    """Return names and values in two columns; what is empty is left out."""
    rows = {k: v for k, v in values.items() if v not in (None, "", [], {})}
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name.replace('_', ' '):<{width}}  {_text(value)}" for name, value in rows.items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.8g}" if isinstance(value, float) else str(value)
