"""``geouq segment``: a scene in, a map, its uncertainty and its confidence out."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geouq.cli.batch import is_batch, map_batch
from geouq.cli.options import (
    TTA,
    WEIGHTS,
    band_numbers,
    creation_options,
    models_chosen,
    preprocessing,
    product_options,
    scaling,
    scene_options,
    scene_source,
    voice_options,
)
from geouq.cli.show import say, told_in
from geouq.errors import InputError
from geouq.files import existing, refuse_own
from geouq.layers import DEFAULT_LAYERS, LAYERS
from geouq.sampling.names import AUTO, CHOICES, HELP, PRECISIONS

if TYPE_CHECKING:
    from geouq.segmentation.job import Settings


class SampleCount(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """A number of samples, or ``inf``."""

    name = "integer or inf"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return an integer, or infinity."""
        try:
            return math.inf if value == "inf" else int(value)
        except ValueError:
            self.fail(f"{value!r} is neither an integer nor inf", param, ctx)


SAMPLES = SampleCount()
LAYERS_HELP = f"Bands, in order; also {', '.join(name for name in LAYERS if name not in DEFAULT_LAYERS)}."


@click.command("segment")
@scene_options
@product_options
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="The map, a COG; or a folder; here, or in a store (s3://…). [default: <scene>_water.tif here, _classes.tif of "
    "more than two]",
)
@click.option(
    "--model",
    multiple=True,
    default=["s1-water"],
    show_default=True,
    help="A shipped model's name or a model file; several times: an ensemble.",
)
@WEIGHTS
@click.option(
    "--samples",
    type=SAMPLES,
    default=20,
    show_default=True,
    help="How many to draw; 0 = one pass, dropout off; inf = the closed form of dropout in a linear head.",
)
@click.option("--tolerance", default=0.0, help="Stop a tile when the samples left cannot move a probability by more.")
@click.option(
    "--sampler",
    type=click.Choice(CHOICES),
    default=AUTO,
    show_default=True,
    help=HELP,
)
@TTA
@click.option("--spread", default=1.0, show_default=True, help="Of an SSN's samples about their mean; 0 = the mean.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same map.")
@click.option("--layers", default=",".join(DEFAULT_LAYERS), show_default=True, help=LAYERS_HELP)
@click.option("--sites", help="Dropout sites or groups to sample at. [default: all the model has]")
@click.option("--threshold", type=float, help="Probability from which a pixel is water. [default: the model's, 0.5]")
@click.option(
    "--decide",
    metavar="RULE",
    help="Cut the mask by the scene (iou, area), at 0.5 (accuracy) or at a probability. [default: the model's]",
)
@click.option("--risk", type=float, metavar="R", help="Leave undecided what is needed for at most a share R wrong.")
@click.option(
    "--vector",
    metavar="FILE",
    help="Polygons: .gpkg, .fgb, .geojson or .parquet; of more than two classes those of each (column class).",
)
@click.option("--min-area", default=0.0, help="Leave out polygons smaller than this, m².")
@click.option("--preview", metavar="FILE", help="A picture of scene and map: .png.")
@click.option("--zarr", metavar="FILE", help="The map's layers as a Zarr group too: .zarr.")
@click.option(
    "--stac",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="A STAC Item of map and files: .json. [default: the map's name]",
)
@click.option("--float32", is_flag=True, help="Floats 0..1 instead of percent.")
@click.option("--bounds", nargs=4, type=float, metavar="LEFT BOTTOM RIGHT TOP", help="Only this part, scene CRS.")
@click.option("--tile", type=int, help="Core of a tile in pixels. [default: chosen from memory]")
@click.option("--batch", type=int, help="Samples computed at once. [default: chosen from memory]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 … or several: cuda:0,cuda:1")
@click.option(
    "--precision",
    type=click.Choice([*PRECISIONS, "auto"]),
    default="float32",
    show_default=True,
    help="bfloat16 is about twice as fast where the processor has it, and good to 2 or 3 digits; auto measures.",
)
@click.option(
    "--scheduler",
    metavar="WHERE",
    help="Compute on a cluster of dask: tcp://host:port, its scheduler file (.json), or local:N processes here.",
)
@click.option("--co", multiple=True, metavar="K=V", help="Creation option of GDAL's COG driver.")
@click.option(
    "--mosaic", is_flag=True, help="Scenes of one date on one grid are one; with a folder as output, bursts of a pass."
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist; start a changed run anew.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON summary on stdout.")
@voice_options
def command(**options: Any) -> None:
    """Map water, or the classes of any model, and how sure that is, in a scene.

    SCENE is any raster GDAL reads, with VV and VH in one file, or two files (--vv, --vh), or a Sentinel-1 GRD
    product as ESA delivers it (.SAFE or .zip). An interrupted run goes on where it stopped when the same command is
    given again.

    With a folder as output (-o maps/) many scenes are mapped, one after the other: files, folders of them, lists
    (.txt, a name a line) or STAC items (.json). One that fails does not stop the others; --vector, --preview,
    --zarr and --stac name folders then. With --mosaic scenes that lie beside one another become one.
    """
    if is_batch(options["scenes"], options["output"]):
        map_batch(options, map_scene)
        return
    source = _mosaic(options) if options["mosaic"] else scene_source(options["scenes"], options["vv"], options["vh"])
    summary, pixel = map_scene(source, options)
    if options["as_json"]:
        say(json.dumps(summary))
    elif not options["quiet"]:
        say(describe(summary, pixel))


def _mosaic(options: dict[str, Any]) -> tuple[Any, ...]:
    """Return the scenes that are to be joined, each as ``open_scene`` takes it."""
    if options["vv"] or options["vh"]:
        raise InputError("--vv and --vh are of one scene: with --mosaic give all files by SCENE")
    from geouq.scenes.batch import parts_named

    found, notes = parts_named(options["scenes"])
    for note in () if options["quiet"] else notes:
        say(f"geouq: {note}", err=True)
    return tuple(one.source for one in found)


def map_scene(source: Any, options: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Map one scene as the options say; return the summary, and a pixel's area in squared units of the grid."""
    from geouq.scenes.mosaic import open_mosaic
    from geouq.scenes.open import open_scene

    opening: Callable[..., Any] = open_mosaic if isinstance(source, tuple) else open_scene
    scene = opening(
        source,
        scale=options["scale"],
        nodata=options["nodata"],
        bidx=band_numbers(options["bidx"]),
        **scaling(options),
        preprocessing=preprocessing(options),
    )
    # From here on torch is needed, which takes seconds to import: what cannot be opened has been refused by now.
    from geouq.cli.progress import RunProgress
    from geouq.segmentation.cluster import connected
    from geouq.segmentation.job import prepare
    from geouq.segmentation.results import COMPANIONS, outputs_named
    from geouq.segmentation.run import run

    models = models_chosen(options["model"], options["weights"], options["tta"])
    model = models[0]
    job = prepare(scene, models, _settings(options))
    path = options["output"] or f"{_stem(source)}_{model.spec.legend.subject}.tif"
    names = {"path": path} | {name: options[name] for name in COMPANIONS}
    if options["stac"] == "":
        names["stac"] = f"{os.path.splitext(path)[0]}.json"
    outputs = outputs_named(
        names,
        min_area=options["min_area"],
        float32=options["float32"],
        options=creation_options(options["co"]),
    )
    missing = [name for name, index in zip(model.spec.bands, job.bands, strict=True) if index is None]
    if missing and not options["quiet"]:
        say(f"geouq: the scene has no band {', '.join(missing)}: the model does without, and worse", err=True)
    ignored = [str(name) for i, name in enumerate(scene["band"].values) if i not in job.bands]
    if ignored and not options["quiet"]:
        say(f"geouq: the model does not use the band{'s' * (len(ignored) > 1)} {', '.join(ignored)}", err=True)
    if not options["quiet"]:
        for note in filter(None, scene.attrs.get("notes", "").split("; ")):
            say(f"geouq: {note}", err=True)
    if options["verbose"]:
        _explain(scene, job, options["precision"])
    for wanted in filter(None, (outputs.path, outputs.vector, outputs.preview, outputs.zarr, outputs.stac)):
        refuse_own(wanted, existing((*options["model"], *options["weights"])), "the model")
    with ExitStack() as stack:
        client = stack.enter_context(connected(options["scheduler"])) if options["scheduler"] else None
        progress = stack.enter_context(RunProgress(options["quiet"], options["verbose"]))
        summary = run(scene, job, outputs, overwrite=options["overwrite"], on_event=progress, client=client)
    if not options["quiet"]:
        for warning in summary["warnings"]:
            say(f"geouq: WARNING: {warning}", err=True)
        if summary.get("expectation") not in (None, *summary["warnings"]):
            say(f"geouq: {summary['expectation']}", err=True)
    return summary, abs(job.geobox.affine.determinant)


def _settings(options: dict[str, Any]) -> Settings:
    from geouq.sampling.deviations import Weights
    from geouq.segmentation.job import Settings

    def names(text: str | None) -> tuple[str, ...] | None:
        return None if text is None else tuple(text.replace(",", " ").split())

    return Settings(
        samples=options["samples"],
        seed=options["seed"],
        layers=names(options["layers"]) or DEFAULT_LAYERS,
        threshold=options["threshold"],
        tile=options["tile"],
        batch=options["batch"],
        device=options["device"],
        sites=names(options["sites"]),
        bounds=options["bounds"],
        precision=options["precision"],
        sampler=options["sampler"],
        weights=Weights(options["spread"]),
        tolerance=options["tolerance"],
        decide=options["decide"],
        risk=options["risk"],
    )


def _stem(source: Any) -> str:
    if isinstance(source, tuple):
        return f"{_stem(source[0])}_mosaic"
    first = (
        source if isinstance(source, str) else next(iter(source.values())) if isinstance(source, dict) else source[0]
    )
    from geouq.sources import MANIFEST

    path = Path(os.path.abspath(first))
    return path.parent.stem if path.name == MANIFEST else path.stem


def _explain(scene: Any, job: Any, precision: str) -> None:
    import torch

    from geouq.sampling.precision import choose_precision

    plan = job.sampler.plan()
    lines = [
        f"units: {scene.attrs.get('units')} ({scene.attrs.get('units_reason', 'as given')})",
        f"model: {' + '.join(f'{m.spec.name} {m.hash}' for m in job.sampler.models)} on {job.sampler.device}; "
        f"samples by {job.sampler.name}",
        f"tiles: {job.tiling.size} pixels, halo {job.tiling.halo}, stride {job.tiling.stride}, "
        f"seams {'exact' if job.exact else 'approximate'}",
        f"plan: {len(plan.prefix_nodes)} steps once a window, {len(plan.suffix_nodes)} a sample; sites "
        f"{', '.join(f'{name} {rate:g}' for name, rate in plan.sites.items()) or 'none'}"
        + ("" if plan.traced else "; the network cannot be traced, so each sample is a whole pass"),
        f"at once: {job.sampler.batch} samples on {' and '.join(job.devices)}, {torch.get_num_threads()} cores",
    ]
    if precision == "auto":
        lines.append(f"precision: {choose_precision(job.sampler)}")
    for line in lines:
        say(f"geouq: {line}", err=True)


def describe(summary: dict[str, Any], pixel: float) -> str:
    """Return the summary for people; ``pixel`` is the area of one in squared units of the grid."""
    unit, scale = told_in(summary["crs"], pixel)
    classes = [_of_class(row, summary["samples"], unit, scale) for row in summary.get("by_class", ())]
    area = f"{summary['positive_class']}: {summary['area_m2'] / scale:.6g} {unit}"
    if not summary["valid_area_m2"]:
        area = f"{summary['positive_class']}: nothing was classified"
    elif summary["area_m2_p05"] is not None:
        low, high = (summary[k] / scale for k in ("area_m2_p05", "area_m2_p95"))
        area += f" (5–95 % of {summary['samples']} samples: {low:.6g}–{high:.6g} {unit})"
    elif "samples_saved_percent" in summary:
        area += f" (no interval: the tolerance saved {summary['samples_saved_percent']:g} % of the samples)"
    doubts = {} if classes else {summary["positive_class"]: "mean_uncertainty_positive"}
    doubts |= {"map": "mean_uncertainty"}
    known = [f"{what} {100 * summary[key]:.0f} %" for what, key in doubts.items() if summary[key] is not None]
    verb = "already there, made by this very run:" if summary["already_there"] else "wrote"
    return "\n".join(
        [
            *(classes if classes and summary["valid_area_m2"] else [area]),
            *_decided(summary, unit, scale),
            f"not classified: {summary['not_classified_percent']:g} %",
            *([f"mean uncertainty: {', '.join(known)}"] if known else []),
            *(f"{verb} {file}" for file in summary["files"]),
        ]
    )


def _of_class(row: dict[str, Any], samples: Any, unit: str, scale: float) -> str:
    """Return a line on one of several classes."""
    text = f"{row['name']}: {row['area_m2'] / scale:.6g} {unit}"
    if row["area_m2_p05"] is not None:
        low, high = row["area_m2_p05"] / scale, row["area_m2_p95"] / scale
        text += f" (5–95 % of {samples} samples: {low:.6g}–{high:.6g} {unit})"
    return (
        text if row["mean_uncertainty"] is None else f"{text}, mean uncertainty {100 * row['mean_uncertainty']:.0f} %"
    )


def _decided(summary: dict[str, Any], unit: str, scale: float) -> list[str]:
    """Return lines on where the mask was cut, and what of it is undecided."""
    lines = [f"cut: {summary['cut']:.4g} (--decide {summary['decide']})"] if "cut" in summary else []
    if "undecided_area_m2" not in summary or not summary["valid_area_m2"]:
        return lines
    area, share = summary["undecided_area_m2"] / scale, summary["undecided_area_m2"] / summary["valid_area_m2"]
    promise = f"at most {100 * summary['risk']:g} % of the pixels are expected to be decided and wrong"
    return [*lines, f"undecided: {100 * share:.3g} % ({area:.6g} {unit}), so that {promise}"]
