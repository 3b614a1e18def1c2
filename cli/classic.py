"""``geouq classic``: a scene in, a map by a method from before deep learning out; no model is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from geouq.classic.classify import METHODS, classify
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
@click.option("--regions", default=2, show_default=True, help="Of --method kmeans.")
@click.option("--above", is_flag=True, help="The brighter class is water. [default: the darker one]")
@click.option("--overwrite", is_flag=True, help="Replace the map if there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON summary on stdout.")
def command(**options: Any) -> None:
    """Map a scene by its pixel values alone, as a yardstick for models: geouq score compares both with a label.

    otsu and threshold look at the scene's first band (--bidx chooses), kmeans at all. Nothing is said of doubt.
    """
    scene = open_scene(
        scene_source(options["scenes"], options["vv"], options["vh"]),
        scale=options["scale"],
        nodata=options["nodata"],
        bidx=band_numbers(options["bidx"]),
        **scaling(options),
        preprocessing=preprocessing(options),
    )
    told = {key: options[key] for key in ("method", "threshold", "regions", "above", "overwrite")}
    found = classify(scene, Path(options["output"]), **told)
    if options["as_json"]:
        say(json.dumps(found))
        return
    about = f"threshold {found['threshold']:.6g}" if "threshold" in found else f"{len(found['centres'])} regions"
    say(f"{found['method']}: {about}" + (", fitted on a lattice of pixels" if found["approximate"] else ""))
    total = sum(found["areas_m2"].values()) or 1.0
    for name, area in found["areas_m2"].items():
        say(f"{name}: {100 * area / total:.2f} %")
    say(f"not classified: {found['not_classified_percent']:.4g} %\nwrote {options['output']}")
