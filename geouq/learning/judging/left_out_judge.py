"""Chips of places left out, judged: what is fitted to the model that saw all places, and what was found.

A chip is judged with what was fitted on the other groups of chips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from geouq.errors import InputError
from geouq.learning.data.chip import LabelledChip
from geouq.learning.judging.decide import found_on, stored
from geouq.learning.judging.labelled import pixels_share
from geouq.learning.judging.left_out import OnChip, each_chip_of, map_chips
from geouq.learning.judging.left_out_classes import found_on_classes, map_classes, stored_of_classes
from geouq.learning.judging.strength import Shaken, fit_strength, shake, strength_field, strength_rows
from geouq.learning.judging.temperature import Part, collect, fit_temperature
from geouq.networks.model import Model
from geouq.segmentation.job import Settings

T = TypeVar("T")
#: models, each with chips of places that it has not seen
Groups = Sequence[tuple[Model, Sequence[LabelledChip]]]
#: fields of a model's spec
Fields = dict[str, Any]


def judge(groups: Groups, settings: Settings, on_chip: OnChip | None = None) -> tuple[Fields, dict[str, Any]]:
    """Fit on chips left out, and map each chip with what was fitted on the other groups.

    Of two classes temperature and strength are fitted, of more the temperature alone: a place's effect is one of two
    classes, and an SSN's spread stays as it was trained. ``on_chip`` : in both passes, called before each chip with its
    name, its number from 0, and how many there are.

    Returns
    -------
    The fields of the spec fitted on all, and what was found (``decide.found_on``, or of more than two classes
    ``left_out_classes.found_on_classes``), which has a key "decide" if there are two.

    Raises
    ------
    InputError : no pixel can be used, or a label holds a class that the model has not.
    """
    return (_of_two if groups[0][0].binary else _of_more)(groups, settings, on_chip)


def stored_fields(found: dict[str, Any]) -> Fields:
    """Return the fields of a model's spec that are made from what was found."""
    return stored(found) if "decide" in found else stored_of_classes(found)


def _of_two(groups: Groups, settings: Settings, on_chip: OnChip | None) -> tuple[Fields, dict[str, Any]]:
    model, share = groups[0][0], _share(groups)
    field, positive = strength_field(model.spec), model.spec.legend.positive
    shaken: list[list[Shaken]] = [[] for _ in groups]
    for fold, one, chip in each_chip_of(groups, on_chip):
        shaken[fold - 1] += [s] if (s := shake(one, chip, settings, share)) is not None else []

    def fit(chips: Sequence[Shaken]) -> Fields:
        strength = fit_strength(chips, field)
        temperature = fit_temperature([chip.at(strength, positive) for chip in chips], positive, checked=False)
        return {field: strength, "temperature": round(temperature, 4)}

    fitted, by_group = _fit(shaken, fit)
    rows = list(strength_rows([chip for group in shaken for chip in group], field))
    found = found_on(map_chips(_with(groups, by_group), settings, on_chip))
    return fitted, {"fitted": fitted, "fitted_by_fold": by_group, "strengths": rows, **found}


def _of_more(groups: Groups, settings: Settings, on_chip: OnChip | None) -> tuple[Fields, dict[str, Any]]:
    spec, share, told = groups[0][0].spec, _share(groups), replace(settings, layers=("mask",))
    parts: list[list[Part]] = [[] for _ in groups]
    for fold, one, chip in each_chip_of(groups, on_chip):
        part = collect(one, chip, told, share)
        parts[fold - 1] += [part] if part.label.size else []

    def fit(chips: Sequence[Part]) -> Fields:
        return {"temperature": round(fit_temperature(chips, spec.legend.positive, checked=False), 4)}

    fitted, by_group = _fit(parts, fit)
    found = found_on_classes(map_classes(_with(groups, by_group), settings, on_chip), spec.classes)
    return fitted, {"fitted": fitted, "fitted_by_fold": by_group, **found}


def _share(groups: Groups) -> float:
    """Return which share of all pixels is kept to fit on."""
    return pixels_share([chip for _, chips in groups for chip in chips])


def _fit(groups: Sequence[Sequence[T]], fit: Callable[[Sequence[T]], Fields]) -> tuple[Fields, list[Fields]]:
    """Return what is fitted on the chips of all groups, and for each group what is fitted on those of the others."""
    known = [chip for group in groups for chip in group]
    if not known:
        raise InputError("none of the chips left out has a pixel that is both valid and labelled")
    by_group = [fit([chip for group in groups if group is not held for chip in group] or known) for held in groups]
    return fit(known), by_group


def _with(groups: Groups, fields: Sequence[Fields]) -> Groups:
    """Return the groups, each with its model told otherwise."""
    return [(one.with_spec(**told), chips) for (one, chips), told in zip(groups, fields, strict=True)]
