"""From parts to files: every output of a run made in its work folder, from the parts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geouq.files import remove
from geouq.grid import Tile, geobox_roi
from geouq.maps.bands import MapBand
from geouq.maps.styles import write_qml, write_votes_qml
from geouq.maps.votes import beside
from geouq.maps.writer import open_writer
from geouq.segmentation.item import write_item
from geouq.segmentation.job import Job
from geouq.segmentation.results import Results

if TYPE_CHECKING:
    from geouq.maps.preview import Squares


@dataclass(frozen=True)
class FileToMake:
    """A raster to make: of which array of the parts ("map", "votes"), under which name, in which bands."""

    part: str
    path: Path
    bands: tuple[MapBand, ...]


def assemble(
    job: Job,
    results: Results,
    part_of: Callable[[Tile], Mapping[str, np.ndarray]],
    squares: Squares | None,
    summary: Mapping[str, Any],
    on_step: Callable[[str], None],
) -> None:
    """Make every file of ``results`` in the work folder; ``on_step`` is told what is being made."""
    for final in results.files:
        remove(results.made(final))
    finished = results.made(results.path)
    rasters = [FileToMake("map", finished, results.bands)] if results.bands else []
    if results.vote_bands:
        rasters.append(FileToMake("votes", beside(finished), results.vote_bands))
    if results.zarr is not None:
        rasters.append(FileToMake("map", results.made(results.zarr), results.bands))
    on_step(" and ".join(path.name for path in (results.map, results.votes, results.zarr) if path is not None))
    _write_rasters(job, results, part_of, rasters, squares)
    _write_styles(job, results, summary.get("expectation") or "; ".join(summary["warnings"]))
    if results.vector is not None:
        from geouq.polygons.vectorize import vectorize  # here, as in geouq.segmentation.results

        on_step(results.vector.name)
        samples = beside(finished) if results.vote_bands else None
        vectorize(finished, results.made(results.vector), samples_path=samples, min_area=results.min_area)
    if results.preview is not None and squares is not None:
        from geouq.maps.preview import preview  # here, for matplotlib

        on_step(results.preview.name)
        preview(squares, finished, results.made(results.preview), title=results.path.stem, summary=summary)
    write_item(job, results, summary)


def _write_styles(job: Job, results: Results, notes: str) -> None:
    legend = job.legend
    if results.style is not None:
        names = [band.name for band in results.bands]
        write_qml(results.made(results.style), names, results.float32, legend, notes)
    if results.votes_style is not None:
        write_votes_qml(results.made(results.votes_style), results.vote_bands[0].samples, legend)
    for final in (results.style, results.votes_style):
        if final is not None:
            with open(results.made(final), "a", encoding="utf-8") as file:
                file.write(f"<!-- geouq run {results.tags['GEOUQ_RUN']} -->\n")


def _write_rasters(
    job: Job,
    results: Results,
    part_of: Callable[[Tile], Mapping[str, np.ndarray]],
    rasters: Sequence[FileToMake],
    squares: Squares | None,
) -> None:
    """Make rasters, and the scene's averages for a picture, in one pass over the parts."""
    geobox = geobox_roi(job.geobox, job.region)
    with ExitStack() as stack:
        writers = [
            (one.part, stack.enter_context(open_writer(one.path, geobox, one.bands, results.tags, results.options)))
            for one in rasters
        ]
        for tile in job.tiling:
            part, roi = part_of(tile), tile.core.within(job.region)
            for what, writer in writers:
                writer.write(roi, part[what])
            if squares is not None:
                squares.add(part["picture"], roi.y0, roi.x0)
        for _, writer in writers:
            writer.finish()
