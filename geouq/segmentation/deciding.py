"""A mask that goes by the whole scene: what tiles keep for it, and the mask made of that when all of them are there.

Tiles keep the rank of p̄ of every pixel (geouq.decisions), and the sums by rank of areas and doubt. The sums of all
tiles give the cut; ranks and cut give the mask, and a tile's sums and the cut its areas: no pixel is predicted twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from geouq.decisions import NO_RANK, STEPS, Cut, Decision, RankSums
from geouq.layers import NOT_CLASSIFIED, UNDECIDED, mask_of_two
from geouq.maps.bands import MapBand, quantise
from geouq.segmentation.ledger import Receipt


def rank_sums(layers: Mapping[str, np.ndarray], area: np.ndarray) -> RankSums:
    """Return the sums by rank of a tile's layers probability and uncertainty, (h, w); ``area`` of its pixels in m²."""
    return RankSums.of(layers["probability"], area, layers["uncertainty"])


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


def scene_cut(decision: Decision, parts: Sequence[RankSums]) -> Cut:
    """Return the cut of a scene, given the sums of all its tiles in their order."""
    return decision.cut(RankSums.total(parts))


def decided(receipt: Receipt, cut: Cut) -> Receipt:
    """Return the receipt of a tile whose mask is made by ``cut``."""
    sums = RankSums(*map(np.asarray, receipt.ranks))
    low, high = (round(end * STEPS) for end in (cut.low, cut.high))  # from high on is positive, between is undecided
    return replace(
        receipt,
        water_area=float(sums.area[high:].sum()),
        water_doubt=float(sums.doubt[high:].sum()),
        undecided_area=float(sums.area[low:high].sum()),
    )
