"""Read the votes of samples: which samples call a pixel a class, one bit a sample (geouq.maps.bands).

With two classes a file holds the votes for the positive one, in one band; with more it has a band a class. Each bit is
one plausible map of the whole scene. Sums over pixels are therefore kept a sample at a time, and only their
distribution over the samples is looked at in the end.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from geouq.errors import SceneError
from geouq.gdal import check_projections, gdal_errors, open_dataset
from geouq.grid import Roi
from geouq.layers import LAYERS, MOST_VOTES, Legend, says

#: tags that a map and its votes must share
_RUN = tuple(f"GEOUQ_{name}" for name in ("RUN", "MODEL_HASH", "SEED", "SAMPLES", "SITES", "THRESHOLD"))
_ENDING = "_samples.tif"


class MapFile:
    """A file of a map, open: its tags and what a mask value in it means; a context manager."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with gdal_errors(str(path), "opened"):
            self.file = open_dataset(str(path))
        self.crs = self.file.crs.to_string() if self.file.crs else None
        self.geobox = GeoBox(self.file.shape, self.file.transform, self.crs)
        self.tags = dict(self.file.tags())
        try:
            if self.crs is not None:
                check_projections(str(path))
            self.legend = Legend.of_tags(self.tags, self.path)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, band: int, roi: Roi) -> np.ma.MaskedArray:
        """Return a band's stored values, masked where there is none."""
        with gdal_errors(str(self.path), "read"):
            window = Window(roi.x0, roi.y0, roi.shape[1], roi.shape[0])
            values: np.ma.MaskedArray = self.file.read(band, window=window, masked=True)
            return values

    def band(self, name: str) -> int | None:
        """Return the number of the band that is described as ``name``, if there is one."""
        names = self.file.descriptions
        return names.index(name) + 1 if name in names else None

    @property
    def holds_votes(self) -> bool:
        """True of a samples file."""
        return any(name == "votes" or (name or "").startswith("votes_") for name in self.file.descriptions)

    def number(self, tag: str, default: float) -> float:
        """Return what a tag says as a number, or ``default`` where it is missing."""
        try:
            value = float(self.tags.get(tag, default))
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise SceneError(f"{self.path}: its tag {tag} is {self.tags[tag]!r}, no number: write it anew")
        return value


class Votes(MapFile):
    """A samples file, open: votes of ``samples`` samples, for the classes with these indices (``classes``).

    ``of`` is the class that is asked about: by its name, or the positive one, or the only one there is.

    Raises
    ------
    SceneError : if the file cannot be read or holds no votes, or none for the class asked about.
    InputError : if there is no class of that name.
    """

    def __init__(self, path: str | os.PathLike[str], of: str | None = None) -> None:
        super().__init__(path)
        try:
            self.samples = self._count()
            names = LAYERS["votes"].planes(self.legend.names)
            held = {i: number for i, name in enumerate(names) if (number := self.band(name))}
            self._bands = held or {self.legend.positive: 1}
            self.of = self.legend.positive if of is None else self.legend.index(of)
            if self.of not in self._bands:
                raise SceneError(f"{path} holds votes for {self.legend.positive_name} alone: ask about that class")
        except BaseException:
            self.file.close()
            raise

    def _count(self) -> int:
        samples, dtype = int(min(self.number("GEOUQ_SAMPLES", -1), MOST_VOTES + 1)), self.file.dtypes[0]
        if samples == 0:
            raise SceneError(f"{self.path} holds one map, made without samples: run geouq segment with --samples 20")
        if not 1 <= samples <= MOST_VOTES or dtype not in ("uint32", "uint64"):
            raise SceneError(
                f"{self.path} holds no votes (samples: {max(samples, 0)}, type: {dtype}): give the _samples.tif that "
                "geouq segment writes with --layers mask,uncertainty,confidence,votes"
            )
        return samples

    @property
    def classes(self) -> tuple[int, ...]:
        """Indices of the classes that it holds votes for."""
        return tuple(self._bands)

    def votes(self, roi: Roi, of: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the votes for a class (rows, columns), 0 where not classified, and where they are classified.

        ``of`` : its index; by default that of the class asked about.
        """
        values = self.read(self._bands[self.of if of is None else of], roi)
        return values.filled(0), ~np.ma.getmaskarray(values)

    def check_map(self, found: MapFile) -> None:
        """Raise SceneError unless ``found`` is the map that these votes are of."""
        if (self.file.shape, self.file.transform, self.crs) != (found.file.shape, found.file.transform, found.crs):
            raise SceneError(f"{self.path} has another grid than {found.path}: give the samples of this map")
        if _RUN[0] in self.tags and _RUN[0] not in found.tags:
            raise SceneError(
                f"{self.path} names its run and {found.path} has lost that tag ({_RUN[0]}), so they may be of "
                "different runs: run geouq segment again, or move the votes away to do without them"
            )
        for tag in _RUN:
            if found.tags.get(tag, self.tags.get(tag)) != self.tags.get(tag):
                raise SceneError(f"{self.path} and {found.path} are of different runs ({tag}): give this map's samples")


def open_votes(path: str | os.PathLike[str], of: str | None = None) -> tuple[Votes, MapFile | None]:
    """Open the votes beside a map, ``<stem>_samples.tif``, and the map; or votes alone, given themselves.

    ``of`` : as for ``Votes``.

    Raises
    ------
    SceneError : if there are none, or not of this map.
    """
    found = MapFile(path)
    try:
        if found.holds_votes:
            found.file.close()
            return Votes(path, of), None
        if not beside(found.path).exists():
            raise SceneError(
                f"{path} has no votes beside it ({beside(found.path).name}): run geouq segment again with "
                "--layers mask,uncertainty,confidence,votes"
            )
        votes = Votes(beside(found.path), of)
        votes.check_map(found)
    except BaseException:
        found.file.close()
        raise
    return votes, found


def expectation(found: MapFile) -> str | None:
    """Return what a map says of how wrong it is likely to be (geouq.alarm), or else its warnings; None without any."""
    try:
        told = json.loads(found.tags.get("GEOUQ_EXPECTATION", "null"))
        return str(told or "; ".join(map(str, json.loads(found.tags.get("GEOUQ_WARNINGS", "[]"))))) or None
    except (ValueError, TypeError):
        return None


def beside(map_path: Path) -> Path:
    """Return the name of the samples file of a map."""
    return map_path.with_name(f"{map_path.stem}{_ENDING}")


def maps_beside(votes_path: Path) -> tuple[Path, ...]:
    """Return the names that the map of a samples file may have."""
    stem = votes_path.name.removesuffix(_ENDING)
    return tuple(votes_path.with_name(stem + suffix) for suffix in (".tif", ".tiff"))


def strips(geobox: GeoBox, pixels: int = 1 << 20) -> Iterator[Roi]:
    """Yield whole rows from top to bottom, about so many pixels at a time, a number that fits blocks of 512."""
    rows, columns = geobox.shape
    step = max(1, pixels // columns)
    step = step // 512 * 512 if step >= 512 else 1 << step.bit_length() - 1
    for top in range(0, rows, step):
        yield Roi(top, min(top + step, rows), 0, columns)


def sums(votes: np.ndarray, weight: np.ndarray, owner: np.ndarray, owners: int, samples: int) -> np.ndarray:
    """Sum the weights of pixels for which a sample votes, by owner.

    Where all samples agree, which is nearly everywhere, one sum does for all of them.

    Parameters
    ----------
    votes, weight, owner : (pixels,) each, owner in 0 … owners - 1.

    Returns
    -------
    (owners, samples) float64.
    """
    every = votes.dtype.type((1 << samples) - 1)
    agreed, split = votes == every, (votes != 0) & (votes != every)
    out = np.zeros((owners, samples))
    out += np.bincount(owner[agreed], weight[agreed], owners)[:, None]
    votes, weight, owner = votes[split], weight[split], owner[split]
    for sample in range(samples if len(votes) else 0):
        wet = says(votes, sample)
        out[:, sample] += np.bincount(owner[wet], weight[wet], owners)
    return out
