"""Models made of models: test-time augmentation, and several models as one (geouq.networks.several)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from geouq.errors import ModelError
from geouq.networks.architectures import ARCHITECTURES
from geouq.networks.model import Model
from geouq.networks.several import Turned
from geouq.networks.ssn import SSN

#: what must agree for networks to see the same and to say the same
_ALIKE = ("bands", "units", "mean", "std", "clip", "black", "classes", "positive")


def turned(model: Model) -> Model:
    """Return the model that averages logits over the eight flips and quarter turns of what it sees.

    What was fitted to the model on places left out (temperature, cut, alarm, risk) stays, though it was fitted to one
    pass: ``geouq calibrate --tta d4`` fits it anew.

    Raises
    ------
    ModelError : its samples come from elsewhere than dropout.
    """
    _refuse_others(model, "the mean over turns")
    spec, network = model.spec, model.network
    if spec.architecture not in ARCHITECTURES:  # a user's own class, which a file cannot name inside another
        return Model(Turned(network, spec.stride), replace(spec, architecture="custom", arguments={}))
    arguments = {"architecture": spec.architecture, "arguments": spec.arguments}
    return Model(Turned(network, spec.stride), replace(spec, architecture="turned", arguments=arguments))


def combined(models: Sequence[Model], name: str) -> Model:
    """Return one model whose logits are the mean of several models' logits, each at its own temperature.

    It has nothing fitted: calibrate it on places that none of them has seen.

    Raises
    ------
    ModelError : fewer than two, or they do not see, or say, the same.
    """
    if len(models) < 2:
        raise ModelError("one model is no mean of several: name two or more")
    first = models[0].spec
    for model in models:
        _refuse_others(model, "a mean of logits")
        if model.spec.architecture not in ARCHITECTURES:
            raise ModelError(f"model {model.spec.name!r}: its network is not geouq's: map with several --model instead")
        for key in _ALIKE:
            ours, theirs = getattr(first, key), getattr(model.spec, key)
            if ours != theirs:
                raise ModelError(
                    f"models {first.name!r} and {model.spec.name!r} make no mean: {key} are {ours} and {theirs}: "
                    "map with several --model instead (an ensemble)"
                )
        if model.logits != models[0].logits:
            raise ModelError(f"models {first.name!r} and {model.spec.name!r} have different numbers of logits")
    scales = [1 / model.spec.temperature for model in models]
    members = [{"architecture": m.spec.architecture, "arguments": m.spec.arguments} for m in models]
    network = ARCHITECTURES["mean"]({"members": members, "scales": scales})
    for made, model in zip(network.members, models, strict=True):  # type: ignore[arg-type]
        made.load_state_dict(model.network.state_dict())
    spec = replace(
        first,
        name=name,
        architecture="mean",
        arguments={"members": members, "scales": scales},
        stride=int(network.stride),  # type: ignore[arg-type]
        missing_bands="zero" if all(m.spec.missing_bands == "zero" for m in models) else "refuse",
        temperature=1.0,
        place_effect=0.0,
        threshold=0.5,
        decide=None,
        alarm=None,
        risk=None,
        laplace=None,
        scores={},
        description=f"Mean of the logits of {' and '.join(m.spec.name for m in models)}.",
        training=" ".join(f"{m.spec.name}: {m.spec.training}" for m in models),
        licence=" ".join(dict.fromkeys(m.spec.licence for m in models)),
        trained_on=tuple(sorted({number for m in models for number in m.spec.trained_on or ()})) or None,
    )
    return Model(network, spec)


def _refuse_others(model: Model, what: str) -> None:
    if isinstance(model.network, SSN) or model.spec.sampler != "dropout":
        raise ModelError(
            f"model {model.spec.name!r}: {what} is for samples by dropout, and its own are by {model.spec.sampler}"
        )
