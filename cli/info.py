"""``geouq info``: what a scene, a map or a model file is, and what segment would do with it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import click

from geouq.cli.options import band_numbers, preprocessing, product_options, scaling, scene_options, scene_source
from geouq.cli.show import say, shortened, table


@click.command("info")
@scene_options
@product_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> None:
    """Say what a scene is: grid, bands, units and why, validity; or what a Sentinel-1 product, a map or a model is."""
    source = scene_source(options["scenes"], options["vv"], options["vh"])
    info = _own(source) or _scene(source, options)
    say(json.dumps(info) if options["as_json"] else table(shortened(info)))


def _own(source: Any) -> dict[str, Any] | None:
    """Return what a file that geouq wrote itself is, by its name's ending: a model, or a map."""
    if not isinstance(source, str):
        return None
    if source.endswith(".safetensors"):
        from geouq.networks.model import read_spec  # here, for it brings torch

        return {"file": source, "is": "a model file of geouq"} | asdict(read_spec(source))
    if source.lower().endswith((".tif", ".tiff")):
        from geouq.errors import SceneError
        from geouq.maps.info import map_info

        with suppress(SceneError):  # a damaged file: the scene's words for it are better
            return map_info(source)
    return None


def _scene(source: Any, options: dict[str, Any]) -> dict[str, Any]:
    from geouq.scenes.info import scene_info  # here, for it takes longer than to refuse a file that is not there

    return scene_info(
        source,
        scale=options["scale"],
        nodata=options["nodata"],
        bidx=band_numbers(options["bidx"]),
        **scaling(options),
        preprocessing=preprocessing(options),
    )
