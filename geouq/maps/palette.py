"""Colours that are told apart: a fixed few for the first classes, then as many as there are classes."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np

#: for the first further classes: of Okabe and Ito 2008 (Color Universal Design), told apart by colour-blind readers too
FIRST = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#56b4e9")
#: of sRGB a channel, from which further colours are chosen
_LEVELS = np.linspace(0, 255, 9).round().astype(int)
#: of CIELAB: neither black nor white, no grey, which stands for no class, and nothing that glares
_LIGHTNESS, _CHROMA = (25.0, 88.0), (20.0, 75.0)
# linear sRGB to CIE XYZ over the white of D65 (IEC 61966-2-1)
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = _XYZ.sum(1)


@cache
def distinct(count: int, taken: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return ``count`` colours, ``#rrggbb`` each: ``FIRST``, then always the one farthest from all before it.

    Distances are those of CIELAB (Glasbey et al. 2007, doi 10.1002/col.20327). The first colours stay the same however
    many follow.

    taken : colours that are used already.
    """
    chosen = list(FIRST[:count])
    if count <= len(FIRST):
        return tuple(chosen)
    rgb = np.array(list(product(_LEVELS, repeat=3)))
    lab = _lab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = np.logical_and.reduce(
        [lab[:, 0] > _LIGHTNESS[0], lab[:, 0] < _LIGHTNESS[1], chroma > _CHROMA[0], chroma < _CHROMA[1]]
    )
    rgb, lab = rgb[usable], lab[usable]
    known = _lab(np.array([list(bytes.fromhex(colour[1:])) for colour in (*taken, *chosen)]))
    nearest = np.min([np.linalg.norm(lab - one, axis=1) for one in known], axis=0)
    while len(chosen) < count:
        best = int(nearest.argmax())
        chosen.append("#{:02x}{:02x}{:02x}".format(*rgb[best]))
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[best], axis=1))
    return tuple(chosen)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIELAB (n, 3) of sRGB 0..255 (n, 3)."""
    unit = rgb / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
