"""A mask that goes by the whole scene: what tiles keep for it, and the mask made of that when all of them are there.

Tiles keep the rank of p̄ of every pixel (geouq.decisions), and the sums by rank of areas and doubt. The sums of all
tiles give the cut and the areas of the mask; ranks and cut give the mask itself: no pixel is predicted twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geouq.decisions import NO_RANK, STEPS, Cut, Decision, RankSums, ranks
from geouq.grid import Tile, pixel_areas
from geouq.layers import NOT_CLASSIFIED, UNDECIDED, mask_of_two
from geouq.maps.bands import MapBand, quantise
from geouq.segmentation.job import Job
from geouq.segmentation.tile import segment_tile


def tile_layers(job: Job, values: np.ndarray, tile: Tile) -> dict[str, Any]:
    """Return the layers of a tile; where the mask goes by the whole scene also its ``rank`` (h, w) and their ``sums``.

    That mask is of no account: the decided one is made of the ranks.
    """
    if not job.scene_wide:
        return segment_tile(job, values, tile).layers
    asked = tuple(dict.fromkeys((*job.question.layers, "probability", "uncertainty")))
    layers = segment_tile(replace(job, question=replace(job.question, layers=asked)), values, tile).layers
    return layers | of_ranks(job, layers, tile)


def decided_tiles(
    job: Job, tiles: Iterable[tuple[Tile, np.ndarray]]
) -> Iterator[tuple[Tile, np.ndarray, dict[str, Any]]]:
    """Yield all tiles of a small scene with their values and layers.

    Where the mask goes by the whole scene, all are held in memory until the last of them is there.
    """
    found = ((tile, values, tile_layers(job, values, tile)) for tile, values in tiles)
    if job.decision is None or not job.scene_wide:
        yield from found
        return
    held = list(found)
    cut = scene_cut(job.decision, [layers["sums"] for _, _, layers in held])
    for tile, values, layers in held:
        yield tile, values, layers | {"mask": mask_of_ranks(layers["rank"], cut, job.question.positive)}


def of_ranks(job: Job, layers: Mapping[str, np.ndarray], tile: Tile) -> dict[str, Any]:
    """Return what a mask that goes by the whole scene is made of: each pixel's ``rank`` (h, w), and their ``sums``."""
    probability = layers["probability"]
    area = np.broadcast_to(pixel_areas(job.geobox, tile.core), probability.shape)
    return {"rank": ranks(probability), "sums": RankSums.of(probability, area, layers["uncertainty"])}


def mask_of_ranks(rank: np.ndarray, cut: Cut, positive: int) -> np.ndarray:
    """Return the mask, uint8, of the ranks of p̄ of the positive class of two."""
    probability = rank / np.float32(STEPS)
    mask = np.asarray(mask_of_two(probability >= cut.at, positive), np.uint8)
    mask[cut.undecided(probability)] = UNDECIDED
    mask[rank == NO_RANK] = NOT_CLASSIFIED
    return mask


def decided_part(
    part: Mapping[str, np.ndarray], bands: Sequence[MapBand], cut: Cut, positive: int
) -> dict[str, np.ndarray]:
    """Return the arrays of a tile with the mask, if ``bands`` of the map have one, made by a cut."""
    names = [band.name for band in bands]
    if "mask" not in names:
        return dict(part)
    stored, at = part["map"].copy(), names.index("mask")
    stored[at] = quantise({"mask": mask_of_ranks(part["rank"], cut, positive)}, [bands[at]])[0]
    return {**part, "map": stored}


def scene_cut(decision: Decision, parts: Iterable[RankSums]) -> Cut:
    """Return the cut of a scene, given the sums of all its tiles in their order."""
    return decision.cut(RankSums.total(parts))
