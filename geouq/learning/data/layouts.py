"""Public sets of labelled Sentinel-1 chips, as their publishers lay them out in folders: which files, what they hold.

Each generator looks into one folder of ``data`` and yields nothing where that is missing. All bands are VV and VH. A
place is what splits must keep whole: a named flood, a burst, the patches that share a tile or an acquisition.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from geouq.learning.data.chip import LabelledChip, place_of

BANDS = ("VV", "VH")
#: DFC 2024 chips whose water label is drawn visibly wider than, or beside, the water.
DFC_COARSE = ("3", "9")
#: OPERA crops of land that hold a lake: 2.8 % of it has VH of -26 dB at seven or eight of eight dates, VV -11 to -23
OPERA_LAKES = ("292325-IW1",)
#: SSL4EO acquisitions whose label is not to be trusted: rice may stand in water
SSL4EO_WET = ("20200903",)


def sen1floods11(data: Path) -> Iterator[LabelledChip]:
    """Yield the hand-labelled chips of Sen1Floods11 (Bonafilia et al. 2020), dB."""
    for path in sorted(data.glob("sen1floods11/*_S1Hand.tif")):
        name = path.name.removesuffix("_S1Hand.tif")
        label = path.with_name(f"{name}_LabelHand.tif")
        yield LabelledChip(name, place_of(name), (path,), label, dataset="sen1floods11", bands=BANDS, scale="db")


def stacoverflow(data: Path) -> Iterator[LabelledChip]:
    """Yield those of STAC Overflow (DrivenData, Microsoft 2021) that have a label, dB, nodata 0."""
    for vv in sorted(data.glob("stacoverflow/*_vv.tif")):
        name = vv.name.removesuffix("_vv.tif")
        label, images = vv.with_name(f"{name}.tif"), (vv, vv.with_name(f"{name}_vh.tif"))
        if label.exists():
            yield LabelledChip(name, name, images, label, dataset="stacoverflow", bands=BANDS, scale="db", nodata=0)


def dfc2024(data: Path) -> Iterator[LabelledChip]:
    """Yield those of the IEEE GRSS Data Fusion Contest 2024, linear power times 10⁴, as int16."""
    for path in sorted(data.glob("dfc2024/images/*.tif")):
        if path.stem not in DFC_COARSE:
            name, label = f"dfc-{path.stem}", data / "dfc2024" / "labels" / f"{path.stem}.png"
            chip = LabelledChip(name, name, (path,), label, dataset="dfc2024", bands=BANDS)
            yield replace(chip, scale="power", least=0.5e-4, factor=(1e-4,))


def bigearthnet(data: Path) -> Iterator[LabelledChip]:
    """Yield patches of BigEarthNet (Sumbul et al. 2019, 2021), dB, with water drawn from Sentinel-2 of those days."""
    rows = _rows(data / "bigearthnet" / "chips.csv")
    tiles = [row["s1"].split("_")[5] for row in rows]
    groups = _joined([(row["s1_scene"], tile) for row, tile in zip(rows, tiles, strict=True)])
    for row, group in zip(rows, groups, strict=True):
        path, label = (data / "bigearthnet" / f"{row['id']}_{what}.tif" for what in ("S1", "water"))
        place = f"{row['where']}-{group}"
        yield LabelledChip(f"ben-{row['id']}", place, (path,), label, dataset="bigearthnet", bands=BANDS, scale="db")


def opera_dist(data: Path) -> Iterator[LabelledChip]:
    """Yield crops of OPERA RTC-S1 bursts, linear gamma0, each one class throughout; one that is not is left out."""
    folder = data / "opera-dist-s1"
    for row in _rows(folder / "chips.csv"):
        if row["burst"] in OPERA_LAKES:
            continue
        images = tuple(folder / f"{row['file']}_{band}.tif" for band in BANDS)
        name, place = f"opera-{row['burst']}-{row['date']}", f"opera-{row['burst']}"
        chip = LabelledChip(name, place, images, images[0], dataset="opera-dist-s1", bands=BANDS, scale="power")
        yield replace(chip, throughout=int(row["label"]))


def terramind(data: Path) -> Iterator[LabelledChip]:
    """Yield the dry chips of TerraMind's examples, dB."""
    for label in sorted(data.glob("terramind/*_water.tif")):
        tile = label.name.removesuffix("_water.tif")
        image, name = label.with_name(f"{tile}_S1RTC.tif"), f"terramind-{tile}"
        yield LabelledChip(name, name, (image,), label, dataset="terramind", bands=BANDS, scale="db")


def ssl4eo(data: Path) -> Iterator[LabelledChip]:
    """Yield a place of SSL4EO-S12 (Wang et al. 2023), dB, without the dates that its label does not hold for."""
    for label in sorted(data.glob("ssl4eo-*/water.tif")):
        place = label.parent.name
        for vv in sorted(label.parent.glob("S1*_VV.tif")):
            date = vv.name.split("_")[4][:8]
            if date not in SSL4EO_WET:
                images = (vv, vv.with_name(vv.name.replace("_VV.tif", "_VH.tif")))
                yield LabelledChip(f"{place}-{date}", place, images, label, dataset="ssl4eo", bands=BANDS, scale="db")


LAYOUTS: tuple[Callable[[Path], Iterator[LabelledChip]], ...] = (
    sen1floods11, stacoverflow, dfc2024, bigearthnet, opera_dist, terramind, ssl4eo,
)  # fmt: skip


def public_chips(data: Path) -> list[LabelledChip]:
    """Return the chips of all public sets that a folder holds, set by set."""
    return [chip for layout in LAYOUTS for chip in layout(data)]


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _joined(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return for each (acquisition, tile) the first tile of those that are tied to it by either, directly or not."""
    first = {name: name for pair in pairs for name in pair}

    def root(name: str) -> str:
        while first[name] != name:
            name = first[name]
        return name

    for scene, tile in pairs:
        first[root(scene)] = root(tile)
    least: dict[str, str] = {}
    for _, tile in sorted(pairs, key=lambda pair: pair[1]):
        least.setdefault(root(tile), tile)
    return [least[root(tile)] for _, tile in pairs]
