"""How a map looks: the colours of its classes, and the style that QGIS picks up with the file.

QGIS reads ``map.qml`` beside ``map.tif`` by itself and then shows what a person wants to see first: water in
blue over whatever lies below, land transparent, grey what is not classified.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

from geouq.files import whole
from geouq.layers import DOUBT, LIKELY, UNDECIDED, Legend, band_layer
from geouq.maps.palette import distinct

LAND, WATER = LIKELY[0], LIKELY[-1]
#: of votes that contradict one another: bright is unsure
DIFFER = DOUBT[3]
#: of what is not classified, and of what is undecided: no class has them
UNKNOWN, OPEN = "#c4c4c4", DOUBT[3]
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def class_colours(legend: Legend) -> list[str]:
    """Return one ``#rrggbb`` a class: the positive one water blue, class 0 (or 1) land, others told apart."""
    rest = iter((LAND, *distinct(len(legend.names) - 2, (LAND, WATER, UNKNOWN))))
    return [WATER if i == legend.positive else next(rest) for i in range(len(legend.names))]


def value_colours(legend: Legend) -> dict[int, str]:
    """Return the ``#rrggbb`` of each value of a mask, but that of not classified."""
    return dict(enumerate(class_colours(legend))) | ({UNDECIDED: OPEN} if legend.undecided else {})


def colour_table(legend: Legend) -> dict[int, tuple[int, int, int, int]]:
    """Return the colours of mask values as a TIFF holds them: red, green, blue, opacity."""
    rgb = {value: bytes.fromhex(colour[1:]) for value, colour in value_colours(legend).items()}
    return {value: (red, green, blue, 255) for value, (red, green, blue) in rgb.items()}


def write_qml(
    path: str | os.PathLike[str],
    layers: Sequence[str],
    float_values: bool,
    legend: Legend = Legend(),  # noqa: B008 (frozen)
    notes: str = "",
    replace: bool = True,
) -> None:
    """Write a QGIS 3 style for a map; what is not classified is grey, so that it does not look like dry land.

    Parameters
    ----------
    path : the ``.qml`` file.
    layers : names of the map's bands in order. The mask is shown, or else the first band, as its layer's ramp.
    float_values : the mask is float32 with NaN and not uint8 with 255. Float bands get a ramp of exact values:
        QGIS before 3.18 knows palettes for integers only.
    legend : of the mask's values: the positive class is shown as water, the other of two is transparent.
    notes : what QGIS is to show of the layer beside its name (layer notes, from 3.20 on).
    replace : as of geouq.files.whole.

    Raises
    ------
    OutputError : if the file cannot be written.
    """
    if "mask" not in layers:
        steps = _steps(layers[0], len(legend.names))
        _write(path, lambda pipe: _ramp(pipe, "1", steps, "INTERPOLATED"), notes, replace)
        return
    band = str(list(layers).index("mask") + 1)
    _write(path, lambda pipe: (_exact if float_values else _palette)(pipe, band, _entries(legend)), notes, replace)


def write_votes_qml(
    path: str | os.PathLike[str],
    samples: int,
    legend: Legend = Legend(),  # noqa: B008 (frozen)
    replace: bool = True,
) -> None:
    """Write a QGIS 3 style for votes: no sample says the positive class (transparent), all do, or they differ.

    With more than two classes it shows the band of the positive one.

    Raises
    ------
    OutputError : if the file cannot be written.
    """
    name, every = legend.positive_name, (1 << samples) - 1
    # QGIS has doubles: beyond 53 samples some differences in the lowest bits alone are shown as agreement
    differ = min(every - 1, int(math.nextafter(every, 0)))
    entries: list[_Entry] = [(0, f"{name} in no sample", LAND, 0)]
    entries += [(differ, "samples differ", DIFFER, 255)] if samples > 1 else []
    entries += [(every, f"{name} in all {samples} samples", WATER, 255)]
    band = "1" if legend.binary else str(legend.positive + 1)
    _write(path, lambda pipe: _ramp(pipe, band, entries, "DISCRETE"), replace=replace)


def _write(
    path: str | os.PathLike[str],
    render: Callable[[ElementTree.Element], None],
    notes: str = "",
    replace: bool = True,
) -> None:
    """Write a style whose renderer ``render`` adds to the pipe."""
    categories = "Symbology|Notes" if notes else "Symbology"
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories=categories)
    pipe = ElementTree.SubElement(root, "pipe")
    render(pipe)
    ElementTree.SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    ElementTree.SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0")
    ElementTree.SubElement(pipe, "rasterresampler", maxOversampling="2")
    ElementTree.SubElement(root, "blendMode").text = "0"
    if notes:
        ElementTree.SubElement(root, "userNotes", value=notes)
    ElementTree.indent(root)
    text = _DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"
    with whole(path, replace=replace) as made:
        made.write_text(text, encoding="utf-8")


def polygon_qml(legend: Legend | None = None) -> str:
    """Return a QGIS 3 style for polygons: filled, seen through, with an outline.

    legend : of several classes; their colours go by the attribute ``class``. None: all are water.
    """
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    kind = {"type": "singleSymbol"} if legend is None else {"type": "categorizedSymbol", "attr": "class"}
    renderer = ElementTree.SubElement(root, "renderer-v2", kind, symbollevels="0")
    if legend is not None:
        categories = ElementTree.SubElement(renderer, "categories")
        for number, name in enumerate(legend.names):
            told = {"symbol": str(number), "value": name, "label": name, "render": "true"}
            ElementTree.SubElement(categories, "category", told)
    symbols = ElementTree.SubElement(renderer, "symbols")
    for number, colour in enumerate([WATER] if legend is None else class_colours(legend)):
        _fill_symbol(symbols, str(number), colour)
    return _DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"


def _fill_symbol(symbols: ElementTree.Element, name: str, colour: str) -> None:
    channels = ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    symbol = ElementTree.SubElement(symbols, "symbol", type="fill", name=name, alpha="1")
    fill = {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"}
    options = ElementTree.SubElement(ElementTree.SubElement(symbol, "layer", fill), "Option", type="Map")
    for option, value in (
        ("color", f"{channels},110"),
        ("outline_color", f"{channels},255"),
        ("outline_width", "0.26"),
        ("style", "solid"),
    ):
        ElementTree.SubElement(options, "Option", type="QString", name=option, value=value)


_Entry = tuple[float, str, str, int]  # value, label, colour, alpha; votes are whole numbers, of which all digits count


def _entries(legend: Legend) -> list[_Entry]:
    background = 1 - legend.positive if len(legend.names) == 2 else None
    colours = value_colours(legend)
    return [(i, name, colours[i], 0 if i == background else 255) for i, name in legend.values.items()]


def _steps(band: str, classes: int) -> list[_Entry]:
    """Return the ramp of a band's layer, from its lowest value to its highest."""
    layer = band_layer(band)
    (low, high), ramp = (layer.limits(classes), layer.ramp) if layer else ((0.0, 1.0), DOUBT)
    values = [low + (high - low) * i / (len(ramp) - 1) for i in range(len(ramp))]
    return [(value, f"{100 * value:.3g} %", colour, 255) for value, colour in zip(values, ramp, strict=True)]


def _palette(pipe: ElementTree.Element, band: str, entries: Sequence[_Entry]) -> None:
    palette = ElementTree.SubElement(_renderer(pipe, "paletted", band), "colorPalette")
    for value, label, colour, alpha in entries:
        item = {"value": f"{value:g}", "label": label, "color": colour, "alpha": str(alpha)}
        ElementTree.SubElement(palette, "paletteEntry", item)


def _exact(pipe: ElementTree.Element, band: str, entries: Sequence[_Entry]) -> None:
    _ramp(pipe, band, entries, "EXACT")


def _ramp(pipe: ElementTree.Element, band: str, entries: Sequence[_Entry], kind: str) -> None:
    limits = {"minimumValue": _number(entries[0][0]), "maximumValue": _number(entries[-1][0])}
    renderer = _renderer(pipe, "singlebandpseudocolor", band)
    renderer.set("classificationMin", limits["minimumValue"])
    renderer.set("classificationMax", limits["maximumValue"])
    shader = ElementTree.SubElement(renderer, "rastershader")
    ramp = {"colorRampType": kind, "classificationMode": "1", "clip": "0", **limits}
    shader = ElementTree.SubElement(shader, "colorrampshader", ramp)
    for value, label, colour, alpha in entries:
        ElementTree.SubElement(
            shader, "item", {"value": _number(value), "label": label, "color": colour, "alpha": str(alpha)}
        )


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _opaque(colour: str) -> str:
    """Return ``#rrggbb`` as QGIS writes a colour: red, green, blue, opacity."""
    return ",".join(map(str, (*bytes.fromhex(colour[1:]), 255)))


def _renderer(pipe: ElementTree.Element, kind: str, band: str) -> ElementTree.Element:
    renderer = ElementTree.SubElement(
        pipe,
        "rasterrenderer",
        {"type": kind, "band": band, "opacity": "1", "alphaBand": "-1", "nodataColor": _opaque(UNKNOWN)},
    )
    ElementTree.SubElement(renderer, "rasterTransparency")
    return renderer
