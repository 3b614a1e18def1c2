"""Further labels of a chip, made from pixels by rule: what several raters would say, for networks that learn from all.

"otsu" : VH, averaged over 5 pixels, below Otsu's threshold (chips of 2 % water or more).
"mndwi" : MNDWI > 0, (green − SWIR) / (green + SWIR) (Xu 2006, doi 10.1080/01431160600589179), of the optical image of
the same day that Sen1Floods11 has beside its radar chips (bands 3 and 12 of ``*_S2Hand.tif``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geouq.learning.data.augment import WET
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.examples import Example
from geouq.learning.judging.baselines import boxcar, otsu
from geouq.rasters.raster import inspect_raster, read_window
from geouq.scores.confusion import Confusion

#: a label made by rule joins where its IoU with the chip's own is at least this
NEAR = 0.5


def labels_by_rule(chip: LabelledChip, example: Example, rules: Sequence[str]) -> list[np.ndarray]:
    """Return the labels that ``rules`` ("otsu", "mndwi") make of a chip, (h, w) uint8, those near its own label.

    Parameters
    ----------
    example : the chip, whole: VV and VH in dB, and its label.
    """
    found = []
    if "otsu" in rules and example.valid.any() and (example.label[example.valid] == 1).mean() >= WET:
        smooth = boxcar(example.pixels[1], 5)
        found.append(smooth < otsu(smooth))
    optical = chip.images[0].with_name(chip.images[0].name.replace("_S1Hand", "_S2Hand"))
    if "mndwi" in rules and optical not in chip.images and optical.exists():
        found.append(_mndwi(optical))
    near = [label for label in found if Confusion().add(label, example.label == 1, example.valid).iou >= NEAR]
    return [label.astype(np.uint8) for label in near]


def _mndwi(path: Path) -> np.ndarray:
    raster = inspect_raster(path, [3, 12])
    green, infrared = read_window(raster, raster.bands, *(slice(0, n) for n in raster.shape))
    return np.asarray(green > infrared)
