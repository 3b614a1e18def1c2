"""The model a recipe starts from, and the one it ends as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from geouq.errors import InputError, ModelError
from geouq.layers import misplaced
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.dataset import read_dataset
from geouq.learning.training.extra import Guided, Sparse
from geouq.learning.training.recipe import Recipe
from geouq.learning.training.settle import positive_name
from geouq.learning.training.train import seed_weights
from geouq.networks.architectures import ARCHITECTURES, sketch_network
from geouq.networks.model import Model, ModelSpec
from geouq.networks.sites import expand_sites, find_sites
from geouq.networks.ssn import SSN

#: weights that a machine can train: with gradients and moments 16 bytes each
MOST_WEIGHTS = 1 << 29


def new_model(recipe: Recipe, names: tuple[str, ...], seed: int = 0, init: str | Path | None = None) -> Model:
    """Return the untrained model of a settled recipe, its weights drawn by ``seed`` or taken from the model ``init``.

    Raises
    ------
    InputError : the recipe's arguments make no network, its examples are of a size that this cannot be trained on, or
        ``init`` does not fit it. ModelError : ``init`` is no model.
    """
    network = _network(recipe, recipe.arguments)
    _check_size(recipe, int(network.stride))  # type: ignore[arg-type]
    spec = ModelSpec(
        name=recipe.name,
        architecture=recipe.architecture,
        arguments=recipe.arguments,
        bands=recipe.bands,
        units=recipe.units,
        mean=recipe.mean,
        std=recipe.std,
        clip=(recipe.clip[0], recipe.clip[1]),
        stride=int(network.stride),  # type: ignore[arg-type]
        missing_bands=recipe.missing_bands,
        black=recipe.padding,
        format=1 if recipe.padding is None else 2,
        classes=names,
        positive=positive_name(names),
        **_sampled_by(network, recipe),
        description=recipe.description,
        licence=recipe.licence,
    )
    model = Model(seed_weights(network, seed), spec)
    if init:
        _start_from(Model.load(init), model)
    return model


def normalised_as(recipe: Recipe, init: str | Path) -> Recipe:
    """Return a recipe with the normalisation of the model it starts from, in place of one measured on other chips."""
    spec = Model.load(init).spec
    if (spec.bands, spec.units) != (recipe.bands, recipe.units):
        return recipe  # refused where weights are taken over
    return replace(recipe, mean=spec.mean, std=spec.std, clip=spec.clip)


def with_extra_loss(model: Model, recipe: Recipe, teacher: Model | None, device: str) -> nn.Module:
    """Return the network to train, on its device: the model's own, with a loss of its features where that is wanted.

    Raises
    ------
    InputError : the network is none that such a loss is for.
    """
    network, sparse = model.network, recipe.training.sparse
    if (sparse or teacher) and isinstance(network, SSN):
        raise InputError(f"recipe {recipe.name}: sparse losses and teachers are for other networks than SSNs")
    if sparse:
        try:
            network = Sparse(network, model.head.name, sparse)
        except ModelError as error:
            raise InputError(
                f"recipe {recipe.name}: sparse losses are of the features before the head: {error}"
            ) from None
    if teacher:
        network = _guided(model, recipe, teacher.network.to(device))
    return network.to(device)


def _guided(model: Model, recipe: Recipe, teacher: nn.Module) -> Guided:
    named = [expand_sites(recipe.teacher.at, find_sites(network)) for network in (model.network, teacher)]
    sites = [name for name in named[0] if name in named[1]]
    if not sites:
        raise InputError(
            f"recipe {recipe.name}: teacher and network have none of the sites {recipe.teacher.at} in common"
        )
    return Guided(model.network, teacher, sites, recipe.teacher.weight, recipe.training.seed)


def paired(chips: Sequence[LabelledChip], data: str | Path) -> list[LabelledChip]:
    """Return chips with those of the same names in ``data`` beside them; some may have none.

    Raises
    ------
    InputError : none has one.
    """
    beside = {chip.name: chip for chip in read_dataset(data)}
    if not any(chip.name in beside for chip in chips):
        raise InputError(
            f"{data}: has none of the names of the chips ({chips[0].name} …): they tell what belongs together"
        )
    return [replace(chip, beside=beside.get(chip.name)) for chip in chips]


def _network(recipe: Recipe, arguments: Mapping[str, Any]) -> nn.Module:
    sketch = sketch_network(f"recipe {recipe.name}", recipe.architecture, arguments)
    weights = sum(weight.numel() for weight in sketch.parameters())
    if weights > MOST_WEIGHTS:
        raise InputError(f"recipe {recipe.name}: its network has {weights:.3g} weights: at most {MOST_WEIGHTS} fit")
    return ARCHITECTURES[recipe.architecture](arguments)


def _check_size(recipe: Recipe, stride: int) -> None:
    """Refuse examples whose halves and quarters do not fit each other, or whose batch norm would be of one number."""
    size, below = recipe.size, recipe.size // stride * stride
    if size % stride:
        fits = " or ".join(str(n) for n in (below, below + stride) if n)
        raise InputError(f"recipe {recipe.name}: size is {size}: its network is for multiples of {stride}: give {fits}")
    if size == stride and recipe.batch == 1:
        raise InputError(
            f"recipe {recipe.name}: one example of {size} pixels is a single number to its network's innermost layer, "
            f"which cannot be normalised: give a batch of 2 or more, or a size of {2 * stride}"
        )


def _sampled_by(network: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """Return how an SSN is to draw z over a scene, as fields of its spec; nothing for other networks.

    In training one z served a whole window. Twice the window's side as correlation length keeps pixels a side apart at
    a correlation of 0.78. Trained on whole chips, one z serves the whole scene.
    """
    if not isinstance(network, SSN):
        return {}
    whole = recipe.view in ("fit", "stretch")
    return {"sampler": "ssn", "correlation": "scene" if whole else 2.0 * recipe.size}


def _start_from(old: Model, model: Model) -> None:
    """Give the network the weights of another model; an SSN's deviations stay as they were drawn."""
    for key in ("bands", "units", "mean", "std", "clip", "black"):
        if getattr(old.spec, key) != getattr(model.spec, key):
            raise InputError(
                f"--init {old.spec.name}: its {key} are {getattr(old.spec, key)}, and the recipe's "
                f"{getattr(model.spec, key)}: set the recipe's to the model's"
            )
    name = misplaced(old.spec.classes, model.spec.classes)
    if name is not None:
        raise InputError(
            f"--init {old.spec.name}: its classes are {', '.join(old.spec.classes)}, and here {name} is class "
            f"{model.spec.classes.index(name)}: give label values and names in the order of the model (classes)"
        )
    network, state = model.network, old.network.state_dict()
    widened = isinstance(network, SSN) and not isinstance(old.network, SSN)
    target = (network.network if widened else network).state_dict()  # type: ignore[union-attr]
    for name, value in state.items():
        into = target.get(name)
        if into is not None and widened and name.startswith("head."):
            into = into[: len(value)]
        if into is None or into.shape != value.shape:
            raise InputError(
                f"--init {old.spec.name}: its {name} does not fit the recipe's network: give its arguments"
            )
        into.copy_(value)


def as_sampled(model: Model, recipe: Recipe) -> Model:
    """Return the model as it is written: with the dropout and the mean that the recipe has for maps, if it has any."""
    changed = ({"dropout": dict(recipe.sampled)} if recipe.sampled else {}) | (
        {"smooth": recipe.smoothed} if recipe.smoothed else {}
    )
    if not changed:
        return model
    arguments = {**model.spec.arguments, **changed}
    network = _network(recipe, arguments)
    network.load_state_dict(model.network.state_dict())
    return Model(network, replace(model.spec, arguments=arguments))
