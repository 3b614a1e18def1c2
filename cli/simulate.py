"""``geouq simulate``: a Sentinel-1-like scene with its true water mask."""

from __future__ import annotations

from pathlib import Path

import click

from geouq.cli.options import FILE
from geouq.cli.show import say
from geouq.simulation.simulate import simulate_scene


@click.command("simulate")
@click.argument("out", metavar="OUT.tif", type=FILE)
@click.option("--size", default=2048, show_default=True, help="Rows and columns.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same scene.")
@click.option("--truth", type=FILE, help="Write the true mask there: 0 land, 1 water, 255 outside the swath.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def command(out: Path, size: int, seed: int, truth: Path | None, overwrite: bool) -> None:
    """Make a scene like Sentinel-1 sees (VV and VH in dB), for trials, tests and benchmarks."""
    simulate_scene(out, size=size, seed=seed, truth=truth, overwrite=overwrite)
    say(f"wrote {out}" + (f" and {truth}" if truth else ""))
