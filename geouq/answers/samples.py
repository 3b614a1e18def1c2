"""Work with the samples of a map: each bit of its votes is one plausible map of the whole scene.

Samples are numbered from 0, as their bits are. ``least``, ``median`` and ``most`` stand for the sample with the least
water, the one in the middle (the lower of two), and the one with the most. Of a map of more than two classes "water" is
whichever class is asked about.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from pyproj import CRS

from geouq.alarm import EXPECTED
from geouq.answers.connected import connected
from geouq.errors import InputError, OutputError
from geouq.files import check_free, refuse_own, scratch
from geouq.grid import Roi, area_unit, pixel_areas
from geouq.layers import NOT_CLASSIFIED, Legend, area_interval, mask_of_two, says
from geouq.maps.bands import map_bands, quantise
from geouq.maps.cog import MapWriter
from geouq.maps.figure import Grid, Histogram, Panel, area_text, draw, reduction, save
from geouq.maps.styles import LAND, WATER, class_colours
from geouq.maps.votes import Votes, maps_beside, open_votes, strips, sums
from geouq.polygons.features import check_vector_path
from geouq.polygons.vectorize import vectorize

_RASTERS = (".tif", ".tiff")
#: tags of how the map's mask was made, which no sample shares
_DECIDED = ("decide", "cut", "risk", "confidence_level", "undecided", "undecided_area_m2")
_OF_THE_MASK = {f"GEOUQ_{name.upper()}" for name in (*_DECIDED, *EXPECTED)}


@dataclass(frozen=True)
class Samples:
    """The samples of a map: from ``samples``.

    path : the votes file.
    areas : (samples,) area in m² that each calls water (squared units of the grid without a CRS).
    valid_area : area that is classified.
    unit : of areas: m²; without a CRS px where a pixel's area is 1, else squared units of the grid.
    of : name of the class that they speak of; empty: the positive one.
    """

    path: Path
    areas: np.ndarray
    valid_area: float
    unit: str = "m²"
    of: str = ""

    def __len__(self) -> int:
        return len(self.areas)

    @property
    def interval(self) -> tuple[float, float]:
        """5 % and 95 % quantiles of the area over the samples."""
        low, high = area_interval(self.areas)
        return low, high

    def number(self, which: int | str) -> int:
        """Return the number of a sample given by number, or as least, median or most."""
        order = np.argsort(self.areas, kind="stable")
        named = {"least": order[0], "median": order[(len(order) - 1) // 2], "most": order[-1]}
        if which in named:
            return int(named[str(which)])
        with suppress(ValueError):
            if 0 <= int(which) < len(self):
                return int(which)
        raise InputError(f"{self.path} has no sample {which}: give 0 to {len(self) - 1}, least, median or most")

    def export(self, which: int | str, out_path: str | os.PathLike[str], *, overwrite: bool = False) -> int:
        """Write one sample as a mask (.tif) or as polygons (.gpkg, .fgb, .geojson, .parquet); return its number.

        A sample is a map of all classes; the class asked about only says which is ``most``.

        Raises
        ------
        InputError : if there is no such sample.
        OutputError : if the file exists and is not to be replaced, or cannot be written.
        """
        sample, out = self.number(which), Path(out_path)
        refuse_own(out, (self.path, *maps_beside(self.path)), "what is to be read")
        if out.suffix.lower() in _RASTERS:
            self._mask(sample, check_free(out, overwrite), overwrite)
            return sample
        check_vector_path(out, overwrite)
        with scratch(out) as folder:
            self._mask(sample, folder / "mask.tif")
            vectorize(folder / "mask.tif", out, overwrite=overwrite)
        return sample

    def _mask(self, sample: int, out: Path, replace: bool = False) -> None:
        with Votes(self.path) as votes:
            told = {name for name in votes.tags if name.startswith("GEOUQ_")} - _OF_THE_MASK
            tags = {name: value for name, value in votes.tags.items() if name in told}
            legend = _whole_legend(votes)
            tags |= {"GEOUQ_SAMPLE": str(sample)}
            tags |= {f"GEOUQ_{name.upper()}": str(value) for name, value in legend.tags().items()}
            bands = map_bands(["mask"], legend=legend)
            with MapWriter(out, votes.geobox, bands, tags) as writer:
                for roi in strips(votes.geobox):
                    mask = _sample_mask(votes, roi, sample, legend)
                    writer.write(roi, quantise({"mask": mask}, bands))
                writer.finish(replace)

    def connected(self, a: Sequence[float], b: Sequence[float], *, through: str = "water") -> np.ndarray:
        """Return (samples,) bool: is there a path over water, or land, from a to b? See geouq.answers.connected."""
        with Votes(self.path, self.of or None) as votes:
            return connected(votes, a, b, through)

    def preview(self, out_png: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Draw the least, a median and the most watery sample side by side, and all areas as a histogram.

        Raises
        ------
        OutputError : if the picture exists and is not to be replaced, or cannot be written.
        """
        out = Path(out_png)
        if out.suffix.lower() != ".png":
            raise OutputError(f"{out}: pictures are written as .png: give it that suffix")
        refuse_own(out, (self.path, *maps_beside(self.path)))
        check_free(out, overwrite)
        with Votes(self.path, self.of or None) as votes:
            (rows, columns), crs = votes.geobox.shape, votes.crs
            grid = Grid((rows, columns), votes.geobox.affine, CRS.from_user_input(crs) if crs else None)
            panels, facts = _panels(self, votes, grid), _facts(self, votes, grid)
        unit, one = ("km²", 1e6) if grid.crs else (self.unit, 1.0)
        low, high = self.interval
        bars = Histogram(
            f"How many of {len(self)} samples have which area", self.areas / one, low / one, high / one, unit
        )
        save(draw([*panels, bars], grid, self.path.stem, facts), out, replace=overwrite)


def samples(path: str | os.PathLike[str], of: str | None = None) -> Samples:
    """Open the samples of a map.

    Parameters
    ----------
    path : a votes file (``<stem>_samples.tif``), or the map it lies beside.
    of : name of the class that is asked about; default: the positive one.

    Raises
    ------
    SceneError : if there are no votes. InputError : if there is no class of that name.
    """
    votes, found = open_votes(path, of)
    if found is not None:
        found.file.close()
    with votes:
        areas, valid_area = np.zeros(votes.samples), 0.0
        for roi in strips(votes.geobox):
            bits, valid = votes.votes(roi)
            area = np.broadcast_to(pixel_areas(votes.geobox, roi), roi.shape)[valid]
            areas += sums(bits[valid], area, np.zeros(len(area), np.int64), 1, votes.samples)[0]
            valid_area += float(area.sum())
    return Samples(votes.path, areas, valid_area, area_unit(votes.crs, votes.geobox.affine.determinant), of or "")


def _legend(votes: Votes) -> Legend:
    """Return what a picture of samples shows: the map's classes if they are two, else all else and the one asked about.

    A sample is one plausible map, in which every pixel has a class.
    """
    found = replace(votes.legend, undecided=False)
    return found if found.binary else Legend(("all else", found.names[votes.of]), 1)


def _whole_legend(votes: Votes) -> Legend:
    """Return what the values of a sample's mask mean: the map's classes, where there are votes for each of them."""
    found = replace(votes.legend, undecided=False)
    return found if found.binary or len(votes.classes) == len(found.names) else _legend(votes)


def _sample_mask(votes: Votes, roi: Roi, sample: int, legend: Legend) -> np.ndarray:
    """Return what a sample says of a part of the map, (rows, columns) uint8 by ``legend``."""
    if legend.binary:
        bits, valid = votes.votes(roi)
        mask = mask_of_two(says(bits, sample), legend.positive)
    else:
        planes = [votes.votes(roi, number) for number in votes.classes]
        mask, valid = np.argmax([says(bits, sample) for bits, _ in planes], axis=0), planes[0][1]
    return np.where(valid, mask, NOT_CLASSIFIED).astype(np.uint8)


def _panels(found: Samples, votes: Votes, grid: Grid) -> list[Panel]:
    chosen = {name: found.number(name) for name in ("least", "median", "most")}
    legend = _legend(votes)
    patches = list(zip(legend.names, class_colours(legend), strict=True))
    panels = []
    for (name, sample), picture in zip(chosen.items(), _pictures(votes, list(chosen.values())), strict=True):
        title = f"{name.capitalize()}: sample {sample}, {area_text(found.areas[sample], grid)}"
        hatched = [] if picture[..., 3].all() else [("not classified", "")]
        panels.append(Panel(title, picture, grid.shape, patches=(*patches, *hatched)))
    return panels


def _pictures(votes: Votes, chosen: Sequence[int]) -> list[np.ndarray]:
    """Return RGBA pictures of some samples: each of their pixels the mean colour of the classified ones it covers."""
    rows, columns = votes.geobox.shape
    factor = reduction((rows, columns))
    shape = (-(-rows // factor), -(-columns // factor))
    wet, known = np.zeros((len(chosen), *shape)), np.zeros(shape)
    edges = np.arange(0, columns, factor)
    for roi in strips(votes.geobox):
        bits, valid = votes.votes(roi)
        line = np.arange(roi.y0, roi.y1) // factor
        np.add.at(known, line, np.add.reduceat(valid, edges, axis=1, dtype=np.float64))
        for i, sample in enumerate(chosen):
            np.add.at(wet[i], line, np.add.reduceat(says(bits, sample), edges, axis=1, dtype=np.float64))
    land, water = np.array(to_rgb(LAND)), np.array(to_rgb(WATER))
    share = wet / np.maximum(known, 1)
    return [np.dstack([land + (water - land) * each[..., None], known > 0]) for each in share]


def _facts(found: Samples, votes: Votes, grid: Grid) -> list[str]:
    """Return what is told below the pictures, piece by piece."""
    low, high = (area_text(value, grid) for value in found.interval)
    mean, what = area_text(float(found.areas.mean()), grid), found.of or "water"
    facts = [f"{len(found)} samples: {mean} of {what} on average, 5–95 % {low} to {high}"]
    facts.append(f"classified: {area_text(found.valid_area, grid)}")
    return facts + ([f"model {votes.tags['GEOUQ_MODEL']}"] if "GEOUQ_MODEL" in votes.tags else [])
