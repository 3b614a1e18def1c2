"""The one module that chooses among samplers; their table is geouq.sampling.names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from geouq.errors import InputError, ModelError
from geouq.networks.model import Model
from geouq.sampling.closed import ClosedForm
from geouq.sampling.dropout import Dropout
from geouq.sampling.ensemble import Ensemble
from geouq.sampling.names import AUTO, SAMPLERS
from geouq.sampling.one_model import OneModel
from geouq.sampling.sampler import Sampler


def make_sampler(models: Model | Sequence[Model], kind: str = AUTO, **told: Any) -> Sampler:
    """Return what draws from one model, or from several.

    Parameters
    ----------
    models : of an ensemble several, with the same bands, units and classes.
    kind : a name of the table, or "auto": an ensemble of several models; of one model, what its spec says.
    told : ``samples`` (``math.inf``: the closed form of dropout), ``seed``, ``batch``, ``device``, ``precision``,
        ``sites`` and ``weights``, as in geouq.sampling.one_model.

    Raises
    ------
    InputError, ModelError : what is asked does not fit together, or the model cannot draw so.
    """
    several = [models] if isinstance(models, Model) else list(models)
    if told.get("samples") == math.inf:
        if kind not in (AUTO, Dropout.name):
            raise InputError(f"--samples inf is for dropout, not for the sampler {kind}: give a number")
        return ClosedForm(_only(several, ClosedForm.name), **told)
    if kind == AUTO and len(several) > 1 or kind == Ensemble.name:
        samples = told.pop("samples", OneModel.samples)
        members = (_of_one(model, model.spec.sampler, told | {"samples": min(samples, 1)}) for model in several)
        return Ensemble(tuple(members), samples)
    return _of_one(_only(several, kind), several[0].spec.sampler if kind == AUTO else kind, told)


def _only(models: Sequence[Model], kind: str) -> Model:
    if len(models) > 1:
        raise ModelError(f"sampler {kind} takes one model, {len(models)} are given: use ensemble")
    return models[0]


def _of_one(model: Model, kind: str, told: dict[str, Any]) -> OneModel:
    row = SAMPLERS.get(kind)
    cls = getattr(import_module(row.module), row.cls) if row else None
    if cls is None or not issubclass(cls, OneModel):
        raise ModelError(f"no sampler {kind!r}: choose among {', '.join(SAMPLERS)}, {AUTO}")
    made: OneModel = cls(model, **told)
    return made
