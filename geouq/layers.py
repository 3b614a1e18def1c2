"""The table of layers, and the one meaning of class, positive, mask value, vote and interval.

A new layer is one row here and one function of running sums in geouq.sampling.estimators: bands, styles, pictures,
help, docs/uncertainty.md and checks read the row.

*Mask value*: the index of a class, in binary maps too; 254 is undecided (classified, but neither class can be said at
the risk that was asked for: geouq.decisions), 255 is not classified. *Positive*: the one class that
``probability`` and ``std`` speak of, and of two classes votes, areas and polygons too (of more, these are of each); a
model names it, a map's tags give its index, and it may stand at any index. *One logit* for two classes is that of
class 1, for labels are class indices and the losses of training take them as the share of class 1: p(class 1) =
sigmoid(logit).

In formulas p_s are the class probabilities of sample s of S (after the place's effect and temperature), p̄ their mean,
C the number of classes, H the entropy in nats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geouq.errors import InputError, SceneError

#: mask values that are no class: nothing is known of the pixel; neither class can be said of it
NOT_CLASSIFIED, UNDECIDED = 255, 254
#: samples that votes can hold: one bit each
MOST_VOTES = 64
#: the interval of an area: these quantiles over the samples
AREA_QUANTILES = (0.05, 0.95)
DEFAULT_LAYERS = ("mask", "uncertainty", "confidence")

#: colours from a layer's lowest value to its highest. Dark is sure and bright is unsure, in every layer of doubt
#: (magma of matplotlib); how likely the positive class is goes from land to water.
DOUBT = ("#000004", "#51127c", "#b73779", "#fc8961", "#fcfdbf")
SURE = DOUBT[::-1]
LIKELY = ("#f1eee6", "#bcd1da", "#87b3ce", "#529ec1", "#1f78b4")

Limits = Callable[[int], tuple[float, float]]


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    name : of the layer, and of its band in a map.
    formula, reads : what is computed, and what it says to a reader.
    kind : "class": a mask value; "percent": a number in 0..1, which files hold as whole percent unless they hold
        floats; "votes": a bit a sample, in a file of its own.
    needs : the running sums that it is made from, beside the mean: "entropy", "squares", "counts", "votes".
    limits : its lowest and highest value with C classes.
    ramp, legend : colours between these, and what a colour bar of percent says.
    plane, several : what one of its planes is called that it has for each class, from ``several`` classes on.
    source : paper of the formula.
    """

    name: str
    formula: str
    reads: str
    kind: str = "percent"
    needs: frozenset[str] = frozenset()
    limits: Limits = lambda classes: (0.0, 1.0)
    ramp: tuple[str, ...] = ()
    legend: str = ""
    plane: str = ""
    several: int = 2
    source: str = ""

    def dtype(self, samples: float) -> np.dtype:
        """Return the type of its values in memory, with so many samples."""
        return votes_dtype(samples) if self.kind == "votes" else np.dtype(np.uint8 if self.kind == "class" else "f4")

    def planes(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return what its planes are called, one a class, given the names of the classes; none if it is one plane."""
        return tuple(f"{self.plane}_{name}" for name in names) if self.plane and len(names) >= self.several else ()

    def bands(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return what its bands in a map are called, given the names of the classes; votes have none there."""
        return () if self.kind == "votes" else self.planes(names) or (self.name,)

    def attrs(self, legend: Legend) -> dict[str, Any]:
        """Return the attributes of its array, given what mask values mean (CF conventions 1.11, 3.1 to 3.5)."""
        named = {"long_name": self.legend.split(",")[0] or self.formula, "comment": self.reads}
        if self.kind == "class":
            values, words = np.array(list(legend.values), np.uint8), map(_word, legend.values.values())
            flags = {"flag_values": values, "flag_meanings": " ".join(words)}
            return named | {"long_name": "class", "classes": list(legend.names)} | flags
        return named | {"units": "1"} if self.kind == "percent" else named

    @property
    def fill(self) -> np.generic | None:
        """The value that stands where it says nothing; of votes none is free for that."""
        if self.kind == "votes":
            return None
        return np.uint8(NOT_CLASSIFIED) if self.kind == "class" else np.float32(np.nan)


def _word(name: str) -> str:
    """Return a name as one word, as CF conventions want the meaning of a value."""
    return re.sub(r"[^\w.+@-]+", "_", name)


_DEPEWEG = "Depeweg et al. 2018, arXiv 1710.07283"
_ROWS = (
    Layer(
        "mask",
        "positive where p̄ of it ≥ the cut (0.5; docs/decisions.md); with more than two classes argmax of p̄",
        "the class, by its index; 254 = undecided, where a risk is given; 255 = not classified",
        "class",
    ),
    Layer(
        "uncertainty",
        "H(p̄) / ln C",
        "0 = certain, 1 = no idea; all doubt there is",
        ramp=DOUBT,
        legend="predictive entropy, % of its maximum",
        source=_DEPEWEG,
    ),
    Layer(
        "confidence",
        "max over classes of p̄",
        "probability of the likeliest class; 50 % is a coin toss between two",
        limits=lambda classes: (1 / classes, 1.0),
        ramp=SURE,
        legend="probability of the mapped class, %",
    ),
    Layer(
        "probability",
        "p̄ of the positive class",
        "how likely water is, all samples together",
        ramp=LIKELY,
        legend="probability of the positive class, %",
    ),
    Layer(
        "probabilities",
        "p̄ of each class",
        "the same, of each class",
        ramp=LIKELY,
        legend="probability, %",
        plane="probability",
    ),
    Layer(
        "aleatoric",
        "mean of H(p_s) / ln C",
        "doubt each sample has by itself: the image leaves it open",
        needs=frozenset({"entropy"}),
        ramp=DOUBT,
        legend="mean entropy of the samples, % of the maximum",
        source=_DEPEWEG,
    ),
    Layer(
        "epistemic",
        "uncertainty − aleatoric",
        "doubt because samples disagree: the model has not learnt it (mutual information)",
        needs=frozenset({"entropy"}),
        ramp=DOUBT,
        legend="mutual information, % of the maximum",
        source=_DEPEWEG,
    ),
    Layer(
        "std",
        "standard deviation of p_s of the positive class",
        "the same disagreement on the scale of probability",
        needs=frozenset({"squares"}),
        limits=lambda classes: (0.0, 0.5),
        ramp=DOUBT,
        legend="standard deviation over the samples, %",
        source="Welford 1962",
    ),
    Layer(
        "variation_ratio",
        "1 − share of samples whose class is the most frequent one",
        "how many samples contradict the majority",
        needs=frozenset({"counts"}),
        limits=lambda classes: (0.0, 1 - 1 / classes),
        ramp=DOUBT,
        legend="samples against the majority, %",
        source="Freeman 1965",
    ),
    Layer(
        "votes",
        "bit s = sample s says the positive class; with more than two classes a band a class",
        "all samples' maps, in a file of their own",
        "votes",
        frozenset({"votes"}),
        plane="votes",
        several=3,
    ),
)
#: the table: name → row, in the order of its rows
LAYERS: Mapping[str, Layer] = {row.name: row for row in _ROWS}


def band_layer(band: str) -> Layer | None:
    """Return the layer that a map's band of that name holds, if any."""
    return LAYERS["probabilities"] if band.startswith("probability_") else LAYERS.get(band)


def needed(layers: Sequence[str]) -> frozenset[str]:
    """Return the running sums that these layers are made from, beside the mean."""
    return frozenset().union(*(LAYERS[name].needs for name in layers))


def check_layers(layers: Sequence[str], samples: float) -> None:
    """Raise InputError for a layer that does not exist or is asked for twice, or votes of more samples than bits."""
    if len(set(layers)) < len(layers):
        raise InputError(f"a layer is asked for twice among {', '.join(layers)}: name each once")
    for layer in layers:
        if layer not in LAYERS:
            raise InputError(f"no layer {layer!r}: choose among {', '.join(LAYERS)}")
    drawn = [layer for layer in layers if LAYERS[layer].needs & {"votes", "counts"}]
    if drawn and samples == math.inf:
        raise InputError(f"{', '.join(drawn)}: made of samples, of which inf draws none: give a number, or leave out")
    if "votes" in layers and samples > MOST_VOTES:
        raise InputError(f"votes hold one bit a sample, at most {MOST_VOTES}: {samples} samples are too many for it")


def check_tolerance(tolerance: float, layers: Sequence[str]) -> None:
    """Raise InputError for a tolerance that is no probability, or that says nothing about one of the layers."""
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance {tolerance} is not a difference of probabilities: give 0 (none) or more, below 1")
    unbounded = [layer for layer in layers if LAYERS[layer].needs]
    if tolerance and unbounded:
        raise InputError(
            f"a tolerance bounds the probability, not {', '.join(unbounded)}: leave these layers out, or the tolerance"
        )


# --- classes


def misplaced(names: Sequence[str], others: Sequence[str]) -> str | None:
    """Return the first of ``names`` that stands at another index among ``others``; None if the two go together."""
    return next((name for i, name in enumerate(names) if name in others and others.index(name) != i), None)


@dataclass(frozen=True)
class Legend:
    """What mask values mean: value i is class ``names[i]``, and ``positive`` is the index of the class that counts.

    undecided : the mask may hold 254 too.

    Raises
    ------
    InputError : for names that are not 2 to 254 different ones, of letters that can be shown, without a comma; or a
        positive class that is none of them.
    """

    names: tuple[str, ...] = ("land", "water")
    positive: int = 1
    undecided: bool = False

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= UNDECIDED or len(set(self.names)) < len(self.names):
            raise InputError(f"classes are {len(set(self.names))} different names: give 2 to {UNDECIDED}, each once")
        for name in self.names:
            if not name.isprintable() or not name.strip() or "," in name:
                raise InputError(f"{name!r} cannot be the name of a class: give letters that can be shown, no comma")
        if not 0 <= self.positive < len(self.names):
            raise InputError(f"positive class {self.positive} is none of {', '.join(self.names)}, counted from 0")

    @classmethod
    def of_tags(cls, tags: Mapping[str, str], path: object) -> Legend:
        """Return what a map's tags say, or that 0 is land and 1 water; SceneError naming ``path`` if they are bad."""
        try:
            positive = int(tags.get("GEOUQ_POSITIVE_CLASS", 1))
            unnamed = ["land", "water", *(f"class {i}" for i in range(2, min(positive, UNDECIDED) + 1))]
            names = tuple(tags.get("GEOUQ_CLASSES", ",".join(unnamed)).split(","))
            return cls(names, positive, "GEOUQ_UNDECIDED" in tags)
        except (InputError, ValueError) as error:
            raise SceneError(f"{path}: its tags on classes cannot be used ({error}): write the map anew") from None

    def tags(self) -> dict[str, Any]:
        """Return what ``of_tags`` reads, without the tags' prefix."""
        undecided = {"undecided": UNDECIDED} if self.undecided else {}
        return {"positive_class": self.positive, "classes": ",".join(self.names)} | undecided

    @property
    def values(self) -> dict[int, str]:
        """What each value of a mask says, but that of not classified."""
        return dict(enumerate(self.names)) | ({UNDECIDED: "undecided"} if self.undecided else {})

    @property
    def positive_name(self) -> str:
        """The name of the class that counts."""
        return self.names[self.positive]

    @property
    def binary(self) -> bool:
        """True of two classes: a map is of the positive one; of more it is of all of them alike."""
        return len(self.names) == 2

    @property
    def subject(self) -> str:
        """What a map is called after: the positive class of two, else "classes"."""
        return self.positive_name if self.binary else "classes"

    def index(self, name: str) -> int:
        """Return the index of a class by its name; raise InputError if there is none of that name."""
        if name not in self.names:
            raise InputError(f"no class {name!r}: the map has {', '.join(self.names)}")
        return self.names.index(name)


def positive_logit(logit: Any, positive: int) -> Any:
    """Return the positive class's logit, given the one of a network with one logit, which is that of class 1."""
    return logit if positive else -logit


def by_class(probability: Any, positive: int) -> tuple[Any, Any]:
    """Return the probabilities of classes 0 and 1, given that of the positive one of two."""
    return (1 - probability, probability) if positive else (probability, 1 - probability)


def says_positive(probabilities: Any, positive: int, threshold: float) -> Any:
    """Return where the positive class is chosen, bool.

    Parameters
    ----------
    probabilities : (C, …) in the order of classes, or (1, …) of the positive class of two. Of two classes the positive
        one is chosen at and above the threshold, of more where it is the likeliest.
    """
    if len(probabilities) > 2:
        return probabilities.argmax(0) == positive
    return probabilities[positive if len(probabilities) == 2 else 0] >= threshold


def mask_of_two(chosen: Any, positive: int) -> Any:
    """Return the mask of two classes, bool (True is 1): the positive one's index where it is chosen."""
    return chosen if positive else ~chosen


# --- samples


def votes_dtype(samples: float) -> np.dtype:
    """Return the type that votes of so many samples are stored in."""
    return np.dtype(np.uint32 if samples <= 32 else np.uint64)


def says(votes: np.ndarray, sample: int) -> np.ndarray:
    """Return where a sample votes for the positive class, bool."""
    return np.asarray((votes >> votes.dtype.type(sample)) & votes.dtype.type(1) != 0)


def area_interval(areas: np.ndarray) -> tuple[Any, Any]:
    """Return the 5 % and 95 % quantiles of areas over the samples, (…, S) → (…) each, in the areas' own unit."""
    low, high = np.quantile(np.asarray(areas, np.float64), AREA_QUANTILES, axis=-1)
    return (low, high) if np.ndim(low) else (float(low), float(high))
