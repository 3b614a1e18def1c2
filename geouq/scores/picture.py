"""A picture of where a map is right and where it is wrong, of a map of any size: pixels averaged over squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from pyproj import CRS

from geouq.grid import Roi
from geouq.maps.figure import Grid, Panel, draw, reduction, save
from geouq.rasters.raster import Pixels, Raster
from geouq.scores.score import Score

#: what a pixel can be, and its colour; {} is the positive class
KINDS = (
    ("right: not {}", "#e8e6df"),
    ("right: {}", "#1f78b4"),
    ("false {}", "#d7301f"),
    ("missed {}", "#fdae3d"),
    ("another class", "#8856a7"),
)


class ErrorSquares:
    """Counts of the kinds of pixels in the squares of a picture, from windows that come in any order."""

    def __init__(self, raster: Raster, positive: int) -> None:
        """Start with nothing of a map on the grid of ``raster``, whose positive class is ``positive``."""
        self.raster, self.positive = raster, positive
        self.factor = reduction(raster.shape)
        self.counts = np.zeros((len(KINDS), *(-(-n // self.factor) for n in raster.shape)), np.int64)

    def add(self, roi: Roi, found: np.ndarray, truth: np.ndarray) -> None:
        """Take a window of class indices of map and label (h, w), -1 where the pixel does not count."""
        kind = kinds(found, truth, self.positive)
        rows, columns = (np.arange(s.start, s.stop) // self.factor for s in roi.slices)
        cell = rows[:, None] * self.counts.shape[2] + columns  # (h, w)
        for number, plane in enumerate(self.counts):
            plane += np.bincount(cell[kind == number], minlength=plane.size).reshape(plane.shape)

    def write(self, score: Score, path: Path, title: str, replace: bool = True) -> None:
        """Draw the squares with the mean colour of their pixels, and the scores below them, into a PNG.

        Raises
        ------
        OutputError : it cannot be written.
        """
        palette = np.array([to_rgb(colour) for _, colour in KINDS])
        total = self.counts.sum(0)
        colours = np.moveaxis(self.counts, 0, -1) @ palette / np.maximum(total, 1)[..., None]  # (h, w, 3)
        image = np.dstack([colours, total > 0]).astype(np.float32)
        name, rest = score.names[self.positive], not self.counts[-1].any()
        patches = [(text.format(name), colour) for text, colour in (KINDS[:-1] if rest else KINDS)]
        patches += [] if total.all() else [("left out", "")]
        rows, columns = self.counts.shape[1:]
        reach = rows * self.factor, columns * self.factor
        crs = CRS.from_user_input(self.raster.crs) if self.raster.crs else None
        grid = Grid(self.raster.shape, Pixels(self.raster).geobox.affine, crs)
        save(
            draw([Panel("Errors", image, reach, patches=tuple(patches))], grid, title, _facts(score)), path, "", replace
        )


def kinds(found: np.ndarray, truth: np.ndarray, positive: int) -> np.ndarray:
    """Return the number of each pixel's kind, as in ``KINDS``; -1 where it does not count (class index -1)."""
    said, true = found == positive, truth == positive
    kind = np.where(said & true, 1, np.where(said, 2, np.where(true, 3, np.where(found == truth, 0, 4))))
    return np.where(found < 0, -1, kind)


def _facts(score: Score) -> list[str]:
    one = score.counts.one(score.positive)
    name = score.names[score.positive]
    values = {"accuracy": score.counts.accuracy, "mIoU": score.counts.miou, f"IoU of {name}": one.iou}
    return [f"{what} {value:.3f}" for what, value in values.items()] + [f"{score.pixels:,} pixels count"]
