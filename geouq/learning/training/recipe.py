"""Recipes: everything about a training run but the data, as files that can be read, shown and changed.

``recipes/*.toml`` beside this module are those that come with geouq; a user's own has the same keys, and what it leaves
out is as :class:`Recipe` says. ``notes`` of the recipes that follow public systems say what was not copied, because it
would have flattered the scores or blurred the labels.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from math import inf
from operator import attrgetter
from pathlib import Path
from typing import Any

from geouq.errors import InputError
from geouq.learning.data.augment import Augmentation
from geouq.learning.training.train import TrainConfig
from geouq.networks.architectures import ARCHITECTURES, OF_OTHERS
from geouq.units import DB, RGB, SCALES

#: Where the recipes that come with geouq lie.
RECIPES = Path(__file__).with_name("recipes")
VIEWS = ("window", "crop", "fit", "stretch")
AUGMENTS = ("none", "turn", "backscatter", "water")
OUTLINES = ("etci2021", "labels", "none")
BALANCES = ("chips", "places")
RATERS = ("otsu", "mndwi")
#: pixels of a batch, and simulated chips, that a machine holds
MOST_PIXELS, MOST_SIMULATED = 1 << 26, 10_000
#: beyond these nothing is learnt any more
MOST_ROUNDS = 20


@dataclass(frozen=True)
class Rounds:
    """How a model trains on labels of its own making (geouq.learning.rounds).

    count : rounds; 0: none. labels : "pixels" of images without any, or "images": a chip is known to hold the positive
        class, or not to.
    confidence : above it, 0..1, a pixel is sure. per : "tile": an image counts as a whole, if more than ``share`` of
        its valid pixels are sure; "pixel": those pixels that are sure.
    turns : label by the mean over the eight flips and quarter turns.
    crf : with "pixels", smooth the maps by the labels around each pixel (geouq.learning.crf) before they are labels.
    least : with "images", the share of a chip's pixels that is labelled positive at least.
    """

    count: int = 0
    labels: str = "pixels"
    confidence: float = 0.95
    per: str = "tile"
    share: float = 0.9
    turns: bool = True
    crf: bool = False
    least: float = 0.05

    def __post_init__(self) -> None:
        for key, known in (("labels", ("pixels", "images")), ("per", ("tile", "pixel"))):
            if getattr(self, key) not in known:
                raise InputError(f"{key} {getattr(self, key)!r} is none of {', '.join(known)}")
        for key in ("confidence", "share", "least"):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"{key} is {getattr(self, key)}: it must be at least 0 and below 1")
        if self.crf and self.labels == "images":
            raise InputError('crf is for labels "pixels": it would take away what least keeps')
        if not 0 <= self.count <= MOST_ROUNDS:
            raise InputError(f"count is {self.count}: it must be 0 to {MOST_ROUNDS}")


@dataclass(frozen=True)
class Teacher:
    """A model that sees other images of the same ground, whose features guide the training (extra.Guided).

    model : its file; "": no teacher. data : labelled data of its bands, under the same names as the chips.
    at : dropout sites, of both networks, whose features are compared. weight : of their difference in the loss.
    """

    model: str = ""
    data: str = ""
    at: tuple[str, ...] = ("bottleneck", "decoder")
    weight: float = 0.5

    def __post_init__(self) -> None:
        if bool(self.model) != bool(self.data):
            raise InputError("teacher needs both model and data: its file, and images that it sees")
        if not 0 <= self.weight < inf:
            raise InputError(f"weight is {self.weight}: it must be 0 or more")


@dataclass(frozen=True)
class Recipe:
    """Settings of a model to be trained.

    name : of the model and its file. notes : for people. description, licence : as in a model file.
    architecture, arguments : as in a model file, without bands and classes, which the data decide.
    sampled : dropout rates, by site, that the written model samples; empty: those it was trained with.
    smoothed : of a U-Net, ``smooth`` of the written model (geouq.networks.unet); 0: as it was trained.
    size, view, batch : of examples. view "window": windows of size² pixels, balanced by class; "crop": squares from
        anywhere in a chip; "fit", "stretch": whole chips resized (geouq.learning.data.examples.Reading).
    bands : wanted, in order; empty: all that the data have. units, mean, std, clip : as in a model file; one mean and
        std stand for every band.
    black : in RGB, pixels none of whose bands is above it are padding, not valid; below 0: none are.
    missing_bands : "zero" or "refuse".
    augment : "none"; "turn": flips and quarter turns; "backscatter": also dB offsets and extra speckle;
        "water": all of geouq.learning.data.augment, as far and as often as ``augmentation`` says.
    outlines : what painted water ("water") is shaped by: "etci2021", the labels in that folder of the data, or where
        there is none, "labels", the training labels'; "none": smooth noise alone; else a folder of masks, not 0 on
        water, such as those of optical images.
    balance : of view "crop": "chips" are drawn evenly; or "places", by the root of their pixels, and then their chips.
    simulated : simulated chips that join the training ("water" only).
    raters : further labels ("water" only), made from the pixels of each chip and used where they come near its own:
        "otsu", "mndwi" (geouq.learning.training.raters).
    leave_out : chips whose names begin so are not used.
    most_positive : chips labelled with the positive class over more than this share are ill-posed and left out.
    validation : share of places held out where neither data nor user say which; 0: none, all is trained on.
    epochs : passes over the chips; 0: as many steps as ``training`` says.
    round_steps : with epochs a round is a pass, but at least so many steps: a pass over few chips is but one or two.
    training : the loop's settings. rounds, teacher : for few labels (docs/few_labels.md).
    classes : names, where there are two.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    notes: str = ""
    description: str = ""
    licence: str = ""
    sampled: Mapping[str, float] = field(default_factory=dict)
    smoothed: int = 0
    size: int = 128
    view: str = "window"
    batch: int = 32
    bands: tuple[str, ...] = ()
    units: str = RGB
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    clip: tuple[float, ...] = (0.0, 255.0)
    black: float = -1.0
    missing_bands: str = "refuse"
    augment: str = "turn"
    outlines: str = "etci2021"
    balance: str = "chips"
    simulated: int = 0
    raters: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    most_positive: float = 1.0
    validation: float = 0.2
    epochs: int = 0
    round_steps: int = 25
    classes: tuple[str, ...] = ("land", "water")
    augmentation: Augmentation = field(default_factory=Augmentation)
    training: TrainConfig = field(default_factory=TrainConfig)
    rounds: Rounds = field(default_factory=Rounds)
    teacher: Teacher = field(default_factory=Teacher)

    @property
    def _normalised_as_rgb(self) -> bool:
        return {*self.mean} == {0.0} and {*self.std} == {255.0} and self.clip == (0.0, 255.0)

    @property
    def padding(self) -> float | None:
        """``black`` as a model file has it: None where nothing is padding."""
        return self.black if self.black >= 0 else None

    def __post_init__(self) -> None:
        for key, known in (
            ("architecture", tuple(name for name in ARCHITECTURES if name not in OF_OTHERS)),
            ("view", VIEWS),
            ("augment", AUGMENTS),
            ("balance", BALANCES),
            ("units", tuple(SCALES.values())),
            ("missing_bands", ("zero", "refuse")),
        ):
            if getattr(self, key) not in known:
                raise InputError(f"recipe {self.name}: {key} {getattr(self, key)!r} is none of {', '.join(known)}")
        if self.outlines not in OUTLINES and not Path(self.outlines).is_dir():
            names = ", ".join(OUTLINES)
            raise InputError(
                f"recipe {self.name}: outlines {self.outlines!r} is none of {names}, nor a folder of masks"
            )
        if set(self.raters) - set(RATERS):
            raise InputError(f"recipe {self.name}: raters {', '.join(self.raters)}: {', '.join(RATERS)} are known")
        for key, ok, rule in (
            ("name", Path(self.name).name == self.name != "" and self.name[0] != ".", "a name that a file can have"),
            ("size", 8 <= self.size <= MOST_PIXELS**0.5, f"8 to {MOST_PIXELS**0.5:.0f}"),
            ("batch", 1 <= self.batch <= MOST_PIXELS // self.size**2, f"1 or more, of {MOST_PIXELS} pixels at most"),
            ("epochs", self.epochs >= 0, "0 or more"),
            ("simulated", 0 <= self.simulated <= MOST_SIMULATED, f"0 to {MOST_SIMULATED}"),
            ("validation", 0 <= self.validation < 1, "at least 0 and below 1"),
            ("round_steps", self.round_steps >= 1, "1 or more"),
            ("clip", len(self.clip) == 2 and self.clip[0] < self.clip[1], "two numbers, the lower first"),
            ("std", min(self.std, default=0) > 0, "above 0"),
            ("mean", len(self.mean) == len(self.std), "as many numbers as std"),
            (
                "units",
                self.units == RGB or not self._normalised_as_rgb,
                "left to the data, or mean, std and clip be given",
            ),
            ("bands", len({name.upper() for name in self.bands}) == len(self.bands), "names that differ"),
            ("classes", len(set(self.classes)) == 2, "two different names"),
        ):
            if not ok:
                raise InputError(f"recipe {self.name}: {key} is {getattr(self, key)}: it must be {rule}")
        if self.augment == "water" and (self.units != DB or tuple(b.upper() for b in self.bands) != ("VV", "VH")):
            raise InputError(f'recipe {self.name}: augment "water" is for the bands VV, VH in dB')
        if self.rounds.crf and not self.rounds.count:
            raise InputError(f"recipe {self.name}: rounds.crf is for rounds, and rounds.count is 0: say how many")
        if self.teacher.model and (self.augment == "water" or self.training.sparse):
            raise InputError(f'recipe {self.name}: a teacher goes neither with augment "water" nor with sparse losses')
        if self.raters and self.augment != "water":
            raise InputError(f'recipe {self.name}: raters are for augment "water"')


# --- names and files


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with geouq."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def find_recipe(name: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Return a recipe by its name or by its file, with changes such as ``"training.rate=1e-3"``.

    Raises
    ------
    InputError : there is none, it cannot be read, or a key or value in it or in ``changes`` is not known.
    """
    shipped = str(name) in recipe_names()
    path = RECIPES / f"{name}.toml" if shipped else Path(name)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a file: give a recipe in TOML, or one of {', '.join(recipe_names())}")
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"no recipe {str(name)!r}: give a file, or one of {', '.join(recipe_names())}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no recipe in TOML: {' '.join(str(error).split())}") from None
    source = f"recipe {name}" if shipped else str(path)
    before = copy.deepcopy(table)
    for change in changes:
        _set(table, change)
    recipe = read_recipe(table, source)
    if changes:
        _refuse_idle(recipe, read_recipe(before, source), source)
    return recipe


#: keys → what makes them count, and how that is said
_IDLE: tuple[tuple[tuple[str, ...], Callable[[Recipe], bool], str], ...] = (
    (("augmentation", "simulated", "outlines"), lambda r: r.augment == "water", 'augment = "water"'),
    (("balance",), lambda r: r.view == "crop", 'view = "crop"'),
    (
        ("training.steps", "training.every"),
        lambda r: not r.epochs,
        "epochs = 0, a length by steps (--steps and round_steps are for passes)",
    ),
    (("training.plateau", "training.factor"), lambda r: r.training.schedule == "plateau", "schedule = plateau"),
    (("training.draws", "training.antithetic", "training.mean_steps"), lambda r: r.training.loss == "ssn", "loss ssn"),
    (("rounds",), lambda r: r.rounds.count > 0, "rounds.count"),
    (("teacher",), lambda r: bool(r.teacher.model), "teacher.model"),
)


def _refuse_idle(recipe: Recipe, before: Recipe, source: str) -> None:
    """Refuse what was changed of a recipe and does nothing in it."""
    for key in ("bands", "classes"):
        if recipe.arguments.get(key) != before.arguments.get(key):
            raise InputError(f"{source}: arguments.{key} is set, and the data decide it (--set bands=…, --classes …)")
    for keys, counts, needs in _IDLE:
        for key in keys:
            if not counts(recipe) and attrgetter(key)(recipe) != attrgetter(key)(before):
                raise InputError(f"{source}: {key} is set, and does nothing here: it is for {needs}")


def read_recipe(table: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Return the recipe that a table of plain values holds; raise InputError, naming ``source``, if it holds none."""
    missing = [key for key in ("name", "architecture", "arguments") if key not in table]
    if missing:
        raise InputError(f"{source}: a recipe has a key {missing[0]}")
    recipe: Recipe = _read(Recipe, table, source, "")
    return recipe


def write_recipe(recipe: Recipe) -> str:
    """Return the complete recipe as TOML that reads back to the same."""
    plain, tables = [], []
    for key, value in _values(recipe).items():
        if isinstance(value, dict) and key in TABLES:
            tables += ["", f"[{key}]", *(f"{k} = {_toml(v)}" for k, v in value.items())]
        else:
            plain.append(f"{key} = {_toml(value)}")
    return "\n".join([*plain, *tables]) + "\n"


def _set(table: dict[str, Any], change: str) -> None:
    """Set a key of a table by its dotted name; a value that is no TOML is a word."""
    key, given, text = change.partition("=")
    *above, last = key.strip().split(".")
    if not given or not last:
        raise InputError(f"{change!r} sets nothing: say KEY=VALUE, such as training.rate=1e-3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    for name in above:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InputError(f"{change!r}: {name} is a value, not a table")
    table[last] = value


def _read(kind: type, table: Mapping[str, Any], source: str, prefix: str) -> Any:
    """Build a dataclass from a table, each value of the kind its field has."""
    known = {f.name: f for f in fields(kind)}
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InputError(f"{source}: no key {prefix}{unknown[0]}: {_nearest(unknown[0], prefix, list(known))}")
    values = {key: _value(str(known[key].type), value, source, prefix + key) for key, value in table.items()}
    try:
        return kind(**values)
    except InputError as error:
        told = str(error).removeprefix(f"{source}: ")
        within = prefix if told.partition(" ")[0] in known else ""
        raise InputError(f"{source}: {within}{told}") from None


def _nearest(key: str, prefix: str, known: Sequence[str]) -> str:
    """Return the key nearest to one that is none: of its own table, else of all; if none is near, all of its table."""
    every = [(f.name, f.name) for f in fields(Recipe)]
    every += [(f.name, f"{table}.{f.name}") for table, kind in TABLES.items() for f in fields(kind)]
    exact = [(name, whole) for name, whole in every if name == key]
    for some in (exact, [(name, prefix + name) for name in known], every):
        near = get_close_matches(key, [name for name, _ in some], 1, 0.75)
        if near:
            return f"the nearest is {dict(some)[near[0]]}"
    return f"keys are {', '.join(prefix + name for name in known)}"


#: key → what its table holds
TABLES: dict[str, type] = {"augmentation": Augmentation, "training": TrainConfig, "rounds": Rounds, "teacher": Teacher}
#: annotation → what a value must be, and what makes it so
_KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "str": ("text", str),
    "bool": ("true or false", bool),
    "int": ("a whole number", int),
    "float": ("a number", (int, float)),
}


def _value(kind: str, value: Any, source: str, key: str) -> Any:
    if kind.endswith(" | str"):
        if isinstance(value, str):
            return value
        kind = kind.removesuffix(" | str")
    if key in TABLES and isinstance(value, Mapping):
        return _read(TABLES[key], value, source, f"{key}.")
    if kind.startswith("tuple[") and isinstance(value, list | tuple):
        one = kind.removeprefix("tuple[").split(",")[0].rstrip("]")
        return tuple(_value(one, part, source, key) for part in value)
    if kind.startswith("Mapping[") and isinstance(value, Mapping):
        return dict(value)
    what, types = _KINDS.get(kind, ("a list" if kind.startswith("tuple") else "a table", ()))
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
        raise InputError(f"{source}: {key} is {value!r}: it must be {what}")
    return float(value) if isinstance(value, int) and kind == "float" else value


def _values(value: Any) -> Any:
    """Return a dataclass as plain values, keys in order."""
    if is_dataclass(value):
        return {f.name: _values(getattr(value, f.name)) for f in fields(value)}
    return value


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        lines = [json.dumps(line, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f") for line in value.split("\n")]
        return f'"{lines[0]}"' if len(lines) == 1 else '"""\n{}"""'.format("\n".join(lines))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float) and abs(value) == inf:
        return "inf" if value > 0 else "-inf"
    return repr(value)
