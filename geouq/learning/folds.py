"""Cross-validation by place: a recipe trained once without each fold of places, and judged on what was left out.

Each place is left out once. From the maps of the places left out, by models that never saw them, come temperature and
strength (place's effect, or an SSN's spread), the cut, the alarm and the risk that the final model, trained on all
places, is written with. A chip is judged with a temperature and a strength fitted on the other folds.

A folder holds ``fold-1`` … and ``all``, a training run each (geouq.learning.training.records), and beside them the
final model, ``folds.json`` with every number, a page and a card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geouq.errors import InputError, OutputError
from geouq.files import refuse_own, whole
from geouq.learning.data.augment import WET
from geouq.learning.data.chip import LabelledChip, class_names_of
from geouq.learning.data.dataset import data_files, read_dataset
from geouq.learning.data.examples import take_census
from geouq.learning.data.splits import balanced_folds, check_folds, without_tests
from geouq.learning.judging.left_out import LAYERS, OnChip, draw_picture
from geouq.learning.judging.left_out_card import card
from geouq.learning.judging.left_out_classes import RULE
from geouq.learning.judging.left_out_classes_page import page as page_of_more
from geouq.learning.judging.left_out_judge import judge, stored_fields
from geouq.learning.judging.left_out_page import page as page_of_two
from geouq.learning.judging.tally import Picture
from geouq.learning.training.events import Begun, Event
from geouq.learning.training.fit import FitOptions, check_free, train_model, well_posed
from geouq.learning.training.recipe import Recipe, find_recipe
from geouq.learning.training.settle import class_names, positive_name
from geouq.networks.model import Model
from geouq.segmentation.job import Settings

#: the folder of the training on all places, and what is written beside the final model
ALL, DATA, PAGE = "all", "folds.json", "folds.html"
#: the step that trains nothing
JUDGE = "judge"
#: chips that the page has pictures of
WORST = 5


@dataclass(frozen=True)
class FoldOptions:
    """How places are left out, and how maps of them are made.

    folds : how many, or groups of places; a place in none of the groups is trained on by all, and judged by none.
    only : steps to do alone: trainings ("1", "2" …, "all"), for several processes side by side; "judge" judges the
        folds that are trained, and writes no model.
    samples : as many as maps will be made of.
    """

    folds: int | tuple[tuple[str, ...], ...] = 5
    only: tuple[str, ...] = ()
    samples: int = 20


@dataclass(frozen=True)
class _Fold:
    """A training: its folder's name, the places that it goes without, and their chips, which are judged."""

    name: str
    places: tuple[str, ...] = ()
    chips: tuple[LabelledChip, ...] = ()


def train_folds(
    data: str | Path,
    recipe: str | Recipe,
    out: str | Path,
    options: FitOptions | None = None,
    plan: FoldOptions | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_chip: OnChip | None = None,
) -> dict[str, Any] | None:
    """Train a recipe without each fold and on everything, judge, and write the model that knows what was found.

    Parameters
    ----------
    options : as for ``train_model``, but ``without``. ``init`` may be a folder that this has written, for the same
        folds: each training then starts from the weights of its own fold.

    Returns
    -------
    What ``folds.json`` holds; None if ``plan.only`` leaves out the judging.

    Raises
    ------
    InputError : data, recipe, folds or options cannot be used as given. OutputError : as ``train_model``.
    """
    options, plan, out = options or FitOptions(), plan or FoldOptions(), Path(out)
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if recipe.rounds.count:
        raise InputError(f"recipe {recipe.name}: folds are of one training each, not of rounds (rounds.count = 0)")
    chips = read_dataset(data, options.place_pattern)
    options = replace(options, classes=_classes(chips, recipe, options))
    folds = [*_folds(chips, recipe, options, plan.folds), _Fold(ALL)]
    chosen = _chosen(folds, plan.only)
    model, beside = (out / f"{recipe.name}{end}" for end in (".safetensors", ".md"))
    made = [model, beside, out / DATA, out / PAGE]
    _check_output(out, chosen, options, made, data_files(data, chips))
    for number, fold in enumerate(chosen):
        on_event(Begun(fold.name, number + 1, len(chosen), fold.places))
        told = replace(options.within(fold.name), without=fold.places, init=_start(options.init, fold))
        train_model(data, recipe, out / fold.name, told, on_event)
    if plan.only and JUDGE not in plan.only:
        return None
    whole_run = not plan.only or model.exists()  # a finished model quotes what it was judged by, so it is made anew
    settings = Settings(plan.samples, options.seed, LAYERS, device=options.device)
    groups = [(Model.load(_trained(out, fold)), fold.chips) for fold in folds[:-1]]
    fitted, found = judge(groups, settings, on_chip)
    final = Model.load(_trained(out, folds[-1])) if whole_run else groups[0][0].with_spec(training="")
    found = {**_told(final, settings, folds[:-1]), **found}
    _write(out / DATA, json.dumps(found, indent=1) + "\n")
    page = page_of_two if "decide" in found else page_of_more
    _write(out / PAGE, page(found, _worst(groups, found, settings)))
    if whole_run:
        scores = {**final.spec.scores, "left_out": _short(found)}
        _write(beside, card(found, beside.read_text("utf-8") if beside.exists() else ""))
        final.with_spec(**fitted, **stored_fields(found), scores=scores).save(model)
    return found


def _write(path: Path, text: str) -> None:
    with whole(path) as made:
        made.write_text(text, "utf-8")


# --- folds


def _classes(chips: Sequence[LabelledChip], recipe: Recipe, options: FitOptions) -> tuple[str, ...]:
    """Return the names of all classes, which a training has that goes without the only place of one."""
    also = [] if options.also is None else read_dataset(options.also, options.place_pattern)
    chips = [*chips, *also]
    chips = [chip for chip in chips if chip.split != "test" and not chip.name.startswith(recipe.leave_out)]
    if not chips:
        return options.classes or recipe.classes
    found = [int(i) for i in np.flatnonzero(take_census(chips, recipe.size).counts.sum(0))]
    return class_names(recipe, found, class_names_of(chips, options.classes) or None)


def _folds(
    chips: Sequence[LabelledChip], recipe: Recipe, options: FitOptions, wanted: int | Sequence[Sequence[str]]
) -> list[_Fold]:
    """Return the folds: of places that are neither for tests nor hold out chips that judge the rounds."""
    held = options.validation if isinstance(options.validation, tuple) else ()
    chips = [
        chip
        for chip in without_tests(chips)
        if not (chip.split == "validation" or chip.place in held or chip.name.startswith(recipe.leave_out))
    ]
    if not chips:
        raise InputError("no chip can be left out: all are for tests or validation")
    census, names = take_census(chips, recipe.size), options.classes or ()
    chips = [chip for chip in chips if census.of(chip).any()]  # a place without a label judges nothing
    positive = names.index(positive_name(names))
    chips = well_posed(chips, census, recipe, positive)
    places = [chip.place for chip in chips]
    if isinstance(wanted, int):
        counts = np.array([census.of(chip) for chip in chips])
        of_place = {p: counts[[q == p for q in places]].sum(0) for p in places}
        kinds = {p: _kind(of_place[p], positive, len(names)) for p in places}
        pixels = {p: int(of_place[p].sum()) for p in places}
        wanted = balanced_folds(kinds, pixels, wanted, options.seed)
    check_folds(wanted, places)
    return [
        _Fold(f"fold-{number}", tuple(fold), tuple(chip for chip in chips if chip.place in fold))
        for number, fold in enumerate(wanted, 1)
    ]


def _kind(counts: np.ndarray, positive: int, classes: int) -> str:
    """Return what a place with so many pixels of each class counts as: of more than two its most frequent one."""
    if classes > 2:
        return str(counts.argmax())
    share = counts[positive] / max(int(counts.sum()), 1)
    return "dry" if share < WET else "wet" if share > 1 - WET else "mixed"


def _chosen(folds: Sequence[_Fold], only: Sequence[str]) -> list[_Fold]:
    """Return the trainings of the steps that are named: by the numbers of folds, and "all"."""
    names = {fold.name.removeprefix("fold-"): fold for fold in folds}
    unknown = [name for name in only if name not in names and name != JUDGE]
    if unknown:
        raise InputError(f"--only {unknown[0]}: there are {', '.join(names)} and {JUDGE}")
    return [fold for name, fold in names.items() if not only or name in only]


def _start(init: str | Path | None, fold: _Fold) -> str | Path | None:
    """Return the model whose weights a fold starts from: of a folder of folds its own."""
    return init if init is None or not Path(init).is_dir() else _trained(Path(init), fold)


def _trained(folder: Path, fold: _Fold) -> Path:
    """Return the model of a fold, which must not have seen what the fold leaves out."""
    folder = folder / fold.name
    models = sorted(folder.glob("*.safetensors"))
    try:
        settings = json.loads((folder / "settings.json").read_bytes())
        seen = {*settings["training"], *settings["validation"]} & {chip.name for chip in fold.chips}
    except (OSError, ValueError, KeyError, TypeError):
        seen, models = set(), []
    if len(models) != 1:
        raise InputError(f"{folder}: holds no finished training of {fold.name}: train it there first")
    if seen:
        raise InputError(f"{models[0]}: has seen {sorted(seen)[0]}, which {fold.name} leaves out: train it alike")
    return models[0]


def _check_output(
    out: Path, folds: Sequence[_Fold], options: FitOptions, made: Sequence[Path], sources: Sequence[Path]
) -> None:
    """Refuse what would be lost, before hours are spent."""
    for path in made:
        refuse_own(path, sources, "part of the data")
        if path.exists() and not options.resume:
            raise OutputError(f"{path} exists: give --resume to go on with its folds, or another folder")
    for fold in folds:
        check_free(out / fold.name, options.within(fold.name))


# --- what is said


def _worst(
    groups: Sequence[tuple[Model, Sequence[LabelledChip]]], found: dict[str, Any], settings: Settings
) -> list[Picture]:
    """Return pictures of the chips that are most wrong, each as it was judged, by the decision that is stored."""
    rule = found.get("decide", RULE)
    chips = {chip.name: (model, chip) for model, several in groups for chip in several}
    rows = sorted(found["chips"], key=lambda row: -row["wrong"][rule])[:WORST]
    pictures = []
    for row in rows:
        model, chip = chips[row["name"]]
        fitted = model.with_spec(**found["fitted_by_fold"][row["fold"] - 1])
        pictures.append(draw_picture(fitted, chip, settings, row["cut"][rule] if "cut" in row else None))
    return pictures


def _told(model: Model, settings: Settings, folds: Sequence[_Fold]) -> dict[str, Any]:
    spec = model.spec
    return {
        "model": {"name": spec.name, "classes": list(spec.classes), "positive": spec.positive}
        | {"bands": list(spec.bands), "units": spec.units, "training": spec.training, "licence": spec.licence}
        | {"description": spec.description},
        "samples": settings.samples,
        "seed": settings.seed,
        "folds": [{"number": n, "places": list(f.places), "chips": len(f.chips)} for n, f in enumerate(folds, 1)],
    }


def _short(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the model file quotes: of two classes what its own rule gives on places left out."""
    if "decide" in found:
        row = next(row for row in found["decisions"] if row["decide"] == found["decide"])
        quoted = {key: row[key] for key in ("iou", "iou_mixed", "false_positive_rate", "worst", "accuracy")}
        quoted |= {"ece": found["calibration"]["ece"], "areas_covered": found["areas"]["all"]["places"]}
    else:
        quoted = {"miou": found["miou_places"], "accuracy": found["pooled"]["accuracy"]}
        quoted |= {"ece": found["calibration"]["ece"], "areas_covered": found["areas"]["places"]}
    rounded = {key: value if value is None else round(value, 4) for key, value in quoted.items()}
    return rounded | {"places": len(found["places"]), "chips": len(found["chips"])}
