"""``geouq classic``: a scene in, a map by a method from before deep learning out; no model is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from geouq.classic.classify import METHODS, classify
from geouq.classic.smooth import SMOOTHS
from geouq.cli.options import (
    FILE,
    band_numbers,
    preprocessing,
    product_options,
    scaling,
    scene_options,
    scene_source,
)
from geouq.cli.show import say
from geouq.scenes.open import open_scene


@click.command("classic")
@scene_options
@product_options
@click.option("-o", "--output", type=FILE, required=True, help="The map, a COG.")
@click.option("--method", type=click.Choice(METHODS), default="otsu", show_default=True, help="How pixels are called.")
@click.option("--threshold", type=float, help="Of --method threshold, in the scene's units.")
@click.option("--regions", default=2, show_default=True, help="How many classes; otsu and threshold know two.")
@click.option("--smooth", type=click.Choice(SMOOTHS), help="Smooth beforehand, backscatter as power. [default: no]")
@click.option("--vector", type=FILE, help="Polygons too: .gpkg, .fgb, .geojson or .parquet.")
@click.option("--above", is_flag=True, help="The brighter class is water. [default: the darker one]")
@click.option("--overwrite", is_flag=True, help="Replace the map if there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON summary on stdout.")
def command(**options: Any) -> None:
    """Map a scene by its pixel values alone, as a yardstick for models: geouq score compares both with a label.

    otsu, threshold and histogram look at the scene's first band (--bidx chooses), the others at all. kmeans goes by
    values, texture by values and how they vary around a pixel; edges, region-growing and split-merge call regions.
    Two classes are land and water; more are numbered from dark to bright. Nothing is said of doubt.
    """
    scene = open_scene(
        scene_source(options["scenes"], options["vv"], options["vh"]),
        scale=options["scale"],
        nodata=options["nodata"],
        bidx=band_numbers(options["bidx"]),
        **scaling(options),
        preprocessing=preprocessing(options),
    )
    keys = ("method", "threshold", "regions", "above", "smooth", "vector", "overwrite")
    told = {key: options[key] for key in keys}
    found = classify(scene, Path(options["output"]), **told)
    if options["as_json"]:
        say(json.dumps(found))
        return
    levels = [found["threshold"]] if "threshold" in found else found.get("thresholds", [])
    about = f"{len(found['areas_m2'])} regions"
    if levels:
        about = f"threshold{'s' * (len(levels) > 1)} {', '.join(f'{level:.6g}' for level in levels)}"
    say("; ".join([f"{found['method']}: {about}", *found["notes"]]))
    total = sum(found["areas_m2"].values()) or 1.0
    for name, area in found["areas_m2"].items():
        say(f"{name}: {100 * area / total:.2f} %")
    say(f"not classified: {found['not_classified_percent']:.4g} %")
    say("\n".join(f"wrote {path}" for path in (options["output"], options["vector"]) if path))
