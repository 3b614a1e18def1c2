"""``geouq preprocess``: a Sentinel-1 product in, its backscatter on a map out."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from geouq.cli.options import FILE, band_numbers, creation_options, preprocessing, product_options
from geouq.cli.progress import Bar
from geouq.cli.show import say
from geouq.errors import InputError
from geouq.maps.backscatter import write_backscatter
from geouq.scenes.open import open_scene
from geouq.sentinel1.safe import is_product


@click.command("preprocess")
@click.argument("product", metavar="PRODUCT")
@click.option("-o", "--output", type=FILE, required=True, help="The backscatter in dB, a COG.")
@product_options
@click.option("--bidx", metavar="I,J,…", help="Bands to write, counted from 1. [default: all]")
@click.option("--co", multiple=True, metavar="K=V", help="Creation option of GDAL's COG driver.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON summary on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def command(product: str, output: Path, **options: Any) -> None:
    """Write what segment would see of a Sentinel-1 GRD product: calibrated, on a map, in dB.

    PRODUCT is a .SAFE folder or a .zip. The file can be segmented as it is; the steps are in its tags.
    """
    if not is_product(product):
        raise InputError(f"{product}: is no Sentinel-1 product (a .SAFE folder or a .zip): segment reads it as it is")
    steps = preprocessing(options)
    scene = open_scene(product, bidx=band_numbers(options["bidx"]), preprocessing=steps)
    notes = scene.attrs["notes"]
    if not options["quiet"]:
        for note in notes.split("; "):
            say(f"geouq: {note}", err=True)
    tags = {
        "GEOUQ_SCENE": notes,
        "GEOUQ_SOURCE": Path(product).name,
        "GEOUQ_UNITS": scene.attrs["units_reason"],
        "GEOUQ_VERSION": version("geouq"),
    }
    pixels = scene.shape[1] * scene.shape[2]
    with Bar(options["quiet"]) as bar:
        bar.begin(pixels)
        summary = write_backscatter(
            scene,
            output,
            tags=tags,
            options=creation_options(options["co"]),
            overwrite=options["overwrite"],
            on_pixels=bar.advance,
        )
    if options["as_json"]:
        say(json.dumps(summary | {"steps": notes.split("; ")}))
    elif not options["quiet"]:
        say(f"valid: {summary['valid_percent']:g} % of {pixels / 1e6:.1f} megapixels\nwrote {output}")
