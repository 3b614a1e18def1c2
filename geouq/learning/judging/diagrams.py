"""Diagrams of an evaluation as SVG, and pictures of its chips as data URIs, to be put into a page as they are."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter

from geouq.alarm import TOO_WRONG, expected_wrong
from geouq.layers import DOUBT, NOT_CLASSIFIED, Legend
from geouq.learning.judging.tally import Picture
from geouq.maps.plotting import own_settings
from geouq.maps.styles import class_colours
from geouq.units import AMPLITUDE, DB, POWER, REFLECTANCE, RGB, convert

SAMPLED, ONCE, IDEAL = "#1f78b4", "#d9820f", "#9a9a9a"
#: colours of the picture of errors: right land, right positive, missed, false, and nothing known
RIGHT, HIT, MISSED, FALSE, NOTHING = "#eceae4", "#9dc3de", "#e69f00", "#c2185b", "#ffffff"
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def reliability(curves: dict[str, Any], event: str) -> str:
    """Draw how often ``event`` came true against its predicted probability, and how many pixels have which."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=IDEAL, lw=0.8, ls="--", label="calibrated")
        for name, colour, label in _both(curves):
            table = np.array(curves[name]["reliability"], float)
            upper.plot(table[:, 1], table[:, 2], color=colour, lw=1.2, marker="o", ms=3, label=label)
            count = np.array(curves[name]["histogram"], float)
            if name == "sampled":
                lower.bar((np.arange(50) + 0.5) / 50, np.maximum(count, 0.5), 0.018, color=colour, lw=0)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel=f"observed frequency of {event}", aspect="auto")
        upper.legend(loc="upper left")
        lower.set(yscale="log")
        lower.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
        lower.set(ylabel="pixels", xlabel=f"predicted probability of {event}")

    return svg("reliability", draw)


def risk_coverage(curves: dict[str, Any], error_rate: float) -> str:
    """Draw the share of wrong pixels among the most certain ones, as their share grows."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for name, colour, label in _both(curves):
            axes.plot(*np.array(curves[name]["risk_coverage"]).T, color=colour, lw=1.3, label=label)
        coverage = np.linspace(0.001, 1, 400)
        best = np.maximum(0, coverage - (1 - error_rate)) / coverage
        axes.plot(coverage, best, color=IDEAL, lw=0.8, ls="--", label="all errors last: the best there is")
        axes.axhline(error_rate, color=IDEAL, lw=0.8, ls=":", label="doubt that says nothing")
        axes.set(xlim=(0, 1), ylim=(0, None), xlabel="coverage: share of pixels kept, most certain first")
        axes.set_ylabel("risk: share of them that is wrong")
        axes.legend(loc="best")

    return svg("risk", draw)


def error_detection(curves: dict[str, Any], error_rate: float) -> str:
    """Draw precision and recall of calling the uncertain pixels wrong."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for name, colour, label in _both(curves):
            axes.plot(*np.array(curves[name]["error_precision_recall"], float).T, color=colour, lw=1.3, label=label)
        axes.axhline(error_rate, color=IDEAL, lw=0.8, ls=":", label="doubt that says nothing")
        axes.set(
            xlim=(0, 1), ylim=(0, 1), xlabel="share of the errors found", ylabel="share of errors among those flagged"
        )
        axes.legend(loc="upper right")

    return svg("errors", draw)


def areas(chips: Sequence[dict[str, Any]], positive: str) -> str:
    """Draw the label's area of each chip and the samples' 90 % interval, in percent of the labelled area."""
    rows = [c for c in chips if c.get("area_labelled")]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, c in enumerate(rows):
            low, high, truth = (100 * c[k] / c["area_labelled"] for k in ("area_low", "area_high", "area"))
            axes.plot([low, high], [y, y], color=SAMPLED, lw=4, alpha=0.55, solid_capstyle="butt")
            axes.plot([low, high], [y, y], "|", ms=7, color=SAMPLED)  # an interval of no width shows as well
            axes.plot(truth, y, "o", ms=4, color="black" if c["area_covered"] else FALSE)
        axes.set_yticks(range(len(rows)), [c["name"] for c in rows])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-2, 102), xlabel=f"{positive}, % of the labelled area")
        axes.grid(axis="x", lw=0.4, color="#dddddd")
        axes.set_axisbelow(True)

    return svg("areas", draw, (7.2, 0.8 + 0.22 * max(len(rows), 3)))


def alarm(chips: Sequence[dict[str, Any]], rule: str) -> str:
    """Draw the share wrong of each chip against its doubt, and the curve of what is to be expected."""
    doubt, wrong = (np.array(v) for v in zip(*((c["doubt"], c["wrong"][rule]) for c in chips), strict=True))
    wet = np.array([chip.get("wet", True) for chip in chips])
    kinds = (
        ((wet, SAMPLED, "wet chips"), (~wet, ONCE, "dry chips")) if "wet" in chips[0] else ((wet, SAMPLED, "chips"),)
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for where, colour, label in kinds:
            axes.plot(100 * doubt[where], 100 * wrong[where], "o", ms=3, alpha=0.6, color=colour, label=label)
        x, y = expected_wrong(np.array([chip["place"] for chip in chips]), doubt, wrong)
        axes.plot(100 * x, 100 * y, color="black", lw=1.2, label="expected")
        axes.axhline(100 * TOO_WRONG, color=IDEAL, lw=0.8, ls=":")
        axes.set(xlabel="doubt of the chip, %", ylabel="wrong pixels, %", xlim=(0, None), ylim=(0, 100))
        axes.legend(loc="upper right")

    return svg("alarm", draw)


def reliability_of_places(table: Sequence[Sequence[float]], event: str) -> str:
    """Draw how often ``event`` came true against its predicted probability, every place weighing the same."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=IDEAL, lw=0.8, ls="--", label="calibrated")
        _, predicted, observed = np.array(table, float).T
        axes.plot(predicted, observed, color=SAMPLED, lw=1.2, marker="o", ms=3, label="places left out")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"predicted probability of {event}")
        axes.set_ylabel(f"observed frequency of {event}")
        axes.legend(loc="upper left")

    return svg("left-out-reliability", draw)


def panels(picture: Picture, legend: Legend) -> list[tuple[str, str]]:
    """Return (title, data URI) of each picture of a chip: scene, label, mask, uncertainty, errors."""
    known, mapped = picture.label >= 0, picture.mask != NOT_CLASSIFIED
    palette = np.array([to_rgb(c) for c in class_colours(legend)])
    label = np.where(known[..., None], palette[np.maximum(picture.label, 0)], 1.0)
    mask = np.where(mapped[..., None], palette[np.where(mapped, picture.mask, 0)], 1.0)
    doubt = LinearSegmentedColormap.from_list("doubt", DOUBT)(np.nan_to_num(picture.uncertainty))[..., :3]
    doubt = np.where(np.isfinite(picture.uncertainty)[..., None], doubt, 1.0)
    wrong = _errors(picture, known & mapped, legend.positive, len(legend.names))
    return [
        *_scene(picture),
        ("label", _uri(label, "png")),
        ("mask", _uri(mask, "png")),
        ("uncertainty", _uri(doubt, "jpeg")),
        ("errors", _uri(wrong, "png")),
    ]


def _errors(picture: Picture, known: np.ndarray, positive: int, classes: int) -> np.ndarray:
    truth, said = picture.label == positive, picture.mask == positive
    wrong = picture.label != picture.mask
    if classes > 2:
        truth, said = np.zeros_like(truth), wrong
    out = np.empty((*truth.shape, 3))
    out[...] = to_rgb(RIGHT)
    for where, colour in ((truth & said, HIT), (truth & wrong, MISSED), (said & wrong, FALSE), (~known, NOTHING)):
        out[where] = to_rgb(colour)
    return out


def _scene(picture: Picture) -> list[tuple[str, str]]:
    values, units = picture.scene, picture.units
    if units in (RGB, REFLECTANCE) and len(values) == 3:
        scaled = values / 255 if units == RGB else _stretch(values)
        return [("scene", _uri(np.moveaxis(np.nan_to_num(scaled, nan=1.0), 0, -1), "jpeg"))]
    shown = []
    for name, band in zip(picture.bands[:2], values, strict=False):
        band = convert(band, units, DB) if units in (POWER, AMPLITUDE) else band
        grey = np.nan_to_num(_stretch(band), nan=1.0)
        shown.append((name, _uri(np.repeat(grey[..., None], 3, axis=2), "jpeg")))
    return shown


def _stretch(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, (0.01, 0.99)) if finite.size else (0.0, 1.0)
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1)


def _power_of_ten(value: float, _: int) -> str:
    """Write 1000 as 10³, in letters: text is not mathematics here."""
    return "10" + str(round(np.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _both(curves: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [("one_pass", ONCE, "one pass, dropout off"), ("sampled", SAMPLED, "mean of the samples")]


def _uri(image: np.ndarray, kind: str) -> str:
    """Encode (rows, columns, 3) floats 0..1; JPEG for what is noise, PNG for what is drawn."""
    file = BytesIO()
    array = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    options = {"quality": 82} if kind == "jpeg" else {"optimize": True}
    imsave(file, array, format=kind, pil_kwargs=options)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"


def svg(name: str, draw: Callable[[Figure], None], size: tuple[float, float] = (4.3, 3.6)) -> str:
    """Return what ``draw`` draws into a figure of so many inches; the same for the same ``name`` and drawing."""
    file = StringIO()
    with own_settings({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
