"""Options that several verbs share, each defined once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geouq.errors import InputError
from geouq.sentinel1.preprocessing import Preprocessing

if TYPE_CHECKING:
    from geouq.networks.model import Model

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


def scene_options(function: F) -> F:
    """Add the scene's path(s) and how to read them."""
    for option in reversed(
        [
            click.argument("scenes", nargs=-1, metavar="SCENE..."),
            click.option("--vv", metavar="FILE", help="VV band, where each band is a file of its own."),
            click.option("--vh", metavar="FILE", help="VH band, likewise."),
            click.option(
                "--scale",
                type=click.Choice(["auto", "db", "power", "amplitude", "dn", "reflectance", "rgb"]),
                default="auto",
                show_default=True,
                help="What the pixel values are; auto decides from metadata and values, and says why.",
            ),
            click.option("--bidx", metavar="I,J,…", help="Bands to read, in the model's order, counted from 1."),
            click.option("--nodata", type=float, help="Value that is not valid, instead of the file's own."),
            click.option(
                "--factor", metavar="F[,F…]", help="Of scaled numbers: value · factor + offset is in the unit."
            ),
            click.option("--offset", metavar="F[,F…]", help="Likewise; one number, or one a band."),
        ]
    ):
        function = option(function)
    return function


def product_options(function: F) -> F:
    """Add how a Sentinel-1 product is calibrated and put on a map."""
    for option in reversed(
        [
            click.option(
                "--calibration", type=click.Choice(["sigma0", "gamma0", "beta0"]), help="Of products. [default: sigma0]"
            ),
            click.option("--noise/--no-noise", default=True, help="Subtract a product's thermal noise, or not."),
            click.option(
                "--speckle",
                type=click.Choice(["boxcar", "lee", "refined-lee", "gamma-map"]),
                help="Filter a product's speckle. [default: no]",
            ),
            click.option("--crs", help="Map that a product is put on. [default: its UTM zone]"),
            click.option("--resolution", type=float, help="Pixels of that map. [default: the product's]"),
            click.option("--dem", metavar="FILE", help="Elevation model to correct a product's terrain with."),
            click.option("--rtc", is_flag=True, help="Flatten the terrain's brightness too: gamma0 (needs --dem)."),
            click.option(
                "--hand", metavar="FILE", help="Heights above the nearest drainage, m: from 15 m up not classified."
            ),
        ]
    ):
        function = option(function)
    return function


def preprocessing(options: dict[str, Any]) -> Preprocessing:
    """Return what ``product_options`` were given."""
    return Preprocessing(**{field.name: options[field.name] for field in fields(Preprocessing)})


WEIGHTS = click.option(
    "--weights", multiple=True, metavar="FILE", help="Of --model package.module:Class, your own code: its model file."
)


PLACES = click.option(
    "--place-pattern",
    metavar="REGEX",
    help="Tells a chip's place from its name by its first group: '^([A-Z]+)'. [default: as DATA say]",
)
TTA = click.option(
    "--tta",
    type=click.Choice(["none", "d4"]),
    default="none",
    show_default=True,
    help="d4: average logits over the eight flips and quarter turns, at eight times the cost.",
)


def models_chosen(names: Sequence[str], weights: Sequence[str], tta: str = "none") -> list[Model]:
    """Return the models of some names, loaded (``models_named``), each averaged over turns if that is asked for."""
    from geouq.networks.combine import turned  # here, for it brings torch
    from geouq.segmentation.job import load_models

    models = load_models(models_named(names, weights))
    return [turned(model) for model in models] if tta == "d4" else models


def models_named(names: Sequence[str], weights: Sequence[str]) -> list[str | Model]:
    """Return names of models as they are, and the models of classes that the user names, each with its weights.

    Raises
    ------
    InputError : not one file of weights for each class. ModelError : they do not fit each other.
    """
    from geouq.networks.own import IMPORTABLE  # here, for it brings torch

    own = [name for name in names if IMPORTABLE.fullmatch(name) and not Path(name).exists()]
    if len(own) != len(weights):
        raise InputError(
            f"--weights is given {len(weights)} times for {len(own)} models named package.module:Class: "
            "give each one, in order"
        )
    files = iter(weights)
    return [_own_model(name, next(files)) if name in own else name for name in names]


@lru_cache(maxsize=8)
def _own_model(name: str, weights: str) -> Model:
    from geouq.networks.model import Model

    if os.getcwd() not in sys.path:  # of the program geouq it is not
        sys.path.append(os.getcwd())
    return Model.load(weights, network=name)


def voice_options(function: F) -> F:
    """Add -v and -q."""
    function = click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")(function)
    return click.option("-v", "--verbose", is_flag=True, help="Say what was decided and why, and the memory promised.")(
        function
    )


def scene_source(scenes: tuple[str, ...], vv: str | None, vh: str | None) -> Any:
    """Return what ``open_scene`` takes: one path, several, or a mapping from band to path.

    A file that is not there is refused here, before anything heavy is imported.
    """
    bands = {name: path for name, path in (("VV", vv), ("VH", vh)) if path is not None}
    if bands and scenes:
        raise InputError("give either SCENE, or --vv and --vh, not both")
    if not bands and not scenes:
        raise InputError("no scene given: name a raster file, or --vv and --vh")
    from geouq.gdal import guard

    for path in bands.values() or scenes:
        guard(path)
    return bands or (scenes[0] if len(scenes) == 1 else list(scenes))


def band_numbers(bidx: str | None) -> list[int] | None:
    """Parse ``--bidx 1,2``."""
    if bidx is None:
        return None
    try:
        return [int(part) for part in bidx.replace(",", " ").split()]
    except ValueError:
        raise InputError(f"--bidx {bidx!r} is not a list of band numbers such as 1,2") from None


def scaling(options: dict[str, Any]) -> dict[str, Any]:
    """Parse ``--factor`` and ``--offset`` where they are given, for ``open_scene``."""
    found: dict[str, Any] = {}
    for name in ("factor", "offset"):
        if options[name] is not None:
            try:
                found[name] = [float(part) for part in options[name].replace(",", " ").split()]
            except ValueError:
                raise InputError(
                    f"--{name} {options[name]!r} is not a number, or numbers such as 0.0001,0.0001"
                ) from None
    return found


def creation_options(pairs: tuple[str, ...]) -> dict[str, str]:
    """Parse ``--co NAME=VALUE``, given any number of times."""
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"--co {pair!r} is not of the form NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
