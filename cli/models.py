"""``geouq models``: what is shipped, what each expects, how good it was."""

from __future__ import annotations

import json
from pathlib import Path

import click

from geouq.cli.options import FILE, WEIGHTS, models_chosen
from geouq.cli.show import say, shortened, table
from geouq.errors import InputError
from geouq.files import check_free, existing, refuse_own
from geouq.networks.model import read_spec, shipped_models


@click.group("models", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the models that come with geouq."""
    if ctx.invoked_subcommand is not None:
        return
    specs = {name: read_spec(path) for name, path in shipped_models().items()}
    if as_json:
        say(json.dumps({name: spec.to_dict() for name, spec in specs.items()}))
        return
    for name, spec in specs.items():
        say(f"{name:<16} {', '.join(spec.bands)} in {spec.units} → {', '.join(spec.classes)}: {spec.description}")


@command.command("combine")
@click.argument("names", metavar="MODEL...", nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, required=True, help="The one model: .safetensors.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def combine(names: tuple[str, ...], output: Path, overwrite: bool) -> None:
    """Make one model of several: the mean of their logits. Calibrate it on places that none of them has seen."""
    from geouq.networks.combine import combined

    check_free(output, overwrite)
    refuse_own(output, existing(names))
    combined(models_chosen(names, ()), output.stem).save(output, replace=overwrite)
    say(f"wrote {output}")


@command.command("export")
@click.argument("name", metavar="MODEL")
@click.argument("output", metavar="OUT", type=FILE)
@WEIGHTS
@click.option("--format", "kind", type=click.Choice(["onnx", "torch"]), help="[default: by OUT, .onnx or .pt2]")
@click.option("--size", type=int, help="Fixed rows and columns. [default: any multiple of the model's stride]")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(name: str, output: Path, weights: tuple[str, ...], kind: str | None, size: int | None, **how: bool) -> None:
    """Write MODEL as one graph for other programs: pixels in its units in, probabilities out, checked against torch.

    It is one pass without samples; what a map needs beside (tiles, validity, doubt) is not in it (docs/networks.md).
    """
    from geouq.networks.export import MOST_DIFFERENCE, export_model

    kind = kind or {".onnx": "onnx", ".pt2": "torch"}.get(output.suffix.lower())
    if kind is None:
        raise InputError(f"{output}: .onnx and .pt2 say what is written: give one of these, or --format")
    check_free(output, how["overwrite"])
    refuse_own(output, existing([name, *weights]))
    (model,) = models_chosen([name], weights)
    made = export_model(model, output, kind, size, how["overwrite"])
    if how["as_json"]:
        told = {"difference": made.difference, "dynamic": made.dynamic, "size": made.size}
        say(json.dumps({"path": str(output), "format": kind, **told}))
        return
    alone = f"{made.size} x {made.size} pixels alone (--size chooses)"
    sizes = f"any multiples of {model.spec.stride}" if made.dynamic else alone
    say(f"largest difference of a probability to torch {made.difference:.1e} (at most {MOST_DIFFERENCE:g}); {sizes}")
    say(f"wrote {output}")


@command.command("show")
@click.argument("name")
@WEIGHTS
def show(name: str, weights: tuple[str, ...]) -> None:
    """Show one model: what it expects, how its samples are drawn and computed, its scores."""
    from geouq.sampling.samplers import make_sampler

    (model,) = models_chosen([name], weights)
    sites = model.active_sites()
    hidden = ("arguments", "format") + (() if model.spec.sampler == "ssn" else ("correlation", "spread"))
    plan = make_sampler(model, samples=1).plan()
    say(
        table(
            {k: v for k, v in shortened(model.spec.to_dict()).items() if k not in hidden}
            | {
                "hash": model.hash,
                "parameters": sum(p.numel() for p in model.network.parameters()),
                "halo": model.halo if model.halo is not None else "not finite: seams are approximate",
                "sites": sites,
                "once_a_window": list(plan.prefix_nodes),
                "once_a_sample": list(plan.suffix_nodes),
                "skip_halves_cached": list(plan.splits),
                "bytes_per_pixel": plan.bytes_per_pixel,
            }
        )
    )
