"""How a map looks: the colours of its classes, and the style that QGIS picks up with the file.

QGIS reads ``map.qml`` beside ``map.tif`` by itself and then shows what a person wants to see first: water in
blue over whatever lies below, land and all that is not classified transparent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from xml.etree import ElementTree

from geouq.files import whole

WATER = "#1f78b4"
LAND = "#f1eee6"
#: for further classes: the qualitative palette of Okabe and Ito 2008, told apart by colour-blind readers too
OTHERS = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#999999", "#56b4e9")
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_VIRIDIS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")


def class_colours(classes: Sequence[str], positive: int = 1) -> list[str]:
    """Return one ``#rrggbb`` a class: the positive one water blue, class 0 (or 1) land, others told apart."""
    rest = iter(LAND if i == 0 else OTHERS[(i - 1) % len(OTHERS)] for i in range(len(classes)))
    return [WATER if i == positive else next(rest) for i in range(len(classes))]


def write_qml(
    path: str | os.PathLike[str],
    layers: Sequence[str],
    float_values: bool,
    classes: Sequence[str] = ("land", "water"),
    positive: int = 1,
) -> None:
    """Write a QGIS 3 style for a map.

    Parameters
    ----------
    path : the ``.qml`` file; an existing one is replaced.
    layers : names of the map's bands in order. The mask is shown, or else the first band, as a ramp over 0..1.
    float_values : the mask is float32 with NaN and not uint8 with 255. Float bands get a ramp of exact values:
        QGIS before 3.18 knows palettes for integers only.
    classes, positive : names of the mask's values, and which of them is shown as water; the first of the
        others is transparent.

    Raises
    ------
    OutputError : if the file cannot be written.
    """
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    if "mask" in layers:
        entries = _entries(classes, positive)
        band = str(list(layers).index("mask") + 1)
        (_exact if float_values else _palette)(pipe, band, entries)
    else:
        steps = [(i / 4, f"{25 * i} %", colour, 255) for i, colour in enumerate(_VIRIDIS)]
        _ramp(pipe, "1", steps, "INTERPOLATED")
    ElementTree.SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    ElementTree.SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0")
    ElementTree.SubElement(pipe, "rasterresampler", maxOversampling="2")
    ElementTree.SubElement(root, "blendMode").text = "0"
    ElementTree.indent(root)
    text = _DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"
    with whole(path) as made:
        made.write_text(text, encoding="utf-8")


def polygon_qml(colour: str = WATER) -> str:
    """Return a QGIS 3 style for polygons: filled, seen through, with an outline; the colour as ``#rrggbb``."""
    channels = ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = ElementTree.SubElement(root, "renderer-v2", type="singleSymbol", symbollevels="0")
    symbols = ElementTree.SubElement(renderer, "symbols")
    symbol = ElementTree.SubElement(symbols, "symbol", type="fill", name="0", alpha="1")
    fill = {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"}
    options = ElementTree.SubElement(ElementTree.SubElement(symbol, "layer", fill), "Option", type="Map")
    for name, value in (
        ("color", f"{channels},110"),
        ("outline_color", f"{channels},255"),
        ("outline_width", "0.26"),
        ("style", "solid"),
    ):
        ElementTree.SubElement(options, "Option", type="QString", name=name, value=value)
    return _DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"


_Entry = tuple[float, str, str, int]  # value, label, colour, alpha


def _entries(classes: Sequence[str], positive: int) -> list[_Entry]:
    background = 0 if positive != 0 else 1
    colours = class_colours(classes, positive)
    return [(i, name, colours[i], 0 if i == background else 255) for i, name in enumerate(classes)]


def _palette(pipe: ElementTree.Element, band: str, entries: Sequence[_Entry]) -> None:
    palette = ElementTree.SubElement(_renderer(pipe, "paletted", band), "colorPalette")
    for value, label, colour, alpha in entries:
        item = {"value": f"{value:g}", "label": label, "color": colour, "alpha": str(alpha)}
        ElementTree.SubElement(palette, "paletteEntry", item)


def _exact(pipe: ElementTree.Element, band: str, entries: Sequence[_Entry]) -> None:
    _ramp(pipe, band, entries, "EXACT")


def _ramp(pipe: ElementTree.Element, band: str, entries: Sequence[_Entry], kind: str) -> None:
    limits = {"minimumValue": f"{entries[0][0]:g}", "maximumValue": f"{entries[-1][0]:g}"}
    renderer = _renderer(pipe, "singlebandpseudocolor", band)
    renderer.set("classificationMin", limits["minimumValue"])
    renderer.set("classificationMax", limits["maximumValue"])
    shader = ElementTree.SubElement(renderer, "rastershader")
    ramp = {"colorRampType": kind, "classificationMode": "1", "clip": "0", **limits}
    shader = ElementTree.SubElement(shader, "colorrampshader", ramp)
    for value, label, colour, alpha in entries:
        ElementTree.SubElement(
            shader, "item", {"value": f"{value:g}", "label": label, "color": colour, "alpha": str(alpha)}
        )


def _renderer(pipe: ElementTree.Element, kind: str, band: str) -> ElementTree.Element:
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", {"type": kind, "band": band, "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    )
    ElementTree.SubElement(renderer, "rasterTransparency")
    return renderer
