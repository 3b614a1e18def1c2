"""Make labelled sets of grey pictures (ETCI 2021, OMBRIA, CEMS EMSR795) readable for ``geouq evaluate``.

    python benchmarks/grey_sets.py DATA OUT
    geouq evaluate s1-water OUT/manifest.csv -o report/
    python benchmarks/grey_sets.py DATA OUT --sets etci2021       # for: geouq train DATA --also OUT …

Their backscatter was stretched to bytes, by rules that were not handed down, so no exact way leads back to dB. What
this does instead: one linear map a stretch and band, dB = factor · grey + offset, under which dry pixels have the
median and the interquartile range that dry pixels have in the chips in dB (Sen1Floods11, STAC Overflow). A stretch is
an acquisition (ETCI, CEMS), or a picture (OMBRIA). Labels are used to know what is dry, and for nothing else; water's
own level is not fitted. Scores on such data say how far a model carries, not how good it is.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from scipy import ndimage

from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load

#: EMSR795 was enlarged about so many times before it was handed on (nearest neighbour); undone here
CEMS_ENLARGED = 3.5


@dataclass(frozen=True)
class Grey:
    """One picture: set, place, stretch, a file a band, bytes (K, h, w), water (h, w), the byte of no data, if any."""

    dataset: str
    place: str
    stretch: str
    bands: tuple[str, ...]
    files: tuple[Path, ...]
    pixels: np.ndarray
    water: np.ndarray
    nodata: int | None

    @property
    def dry(self) -> np.ndarray:
        """Where the label says land, (h, w) bool."""
        return ~self.water & (True if self.nodata is None else (self.pixels != self.nodata).all(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with etci2021/, ombria/, ombria-2021/, cems/, sen1floods11/ …")
    parser.add_argument("out", type=Path, help="folder for labels and manifest.csv")
    sets = {"etci2021": etci, "ombria": ombria, "cems": cems}
    parser.add_argument("--sets", nargs="+", choices=sets, default=[*sets], help="those to read; all by default")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pictures = [picture for name in arguments.sets for picture in sets[name](arguments.data, arguments.out)]
    reference = dry_levels(arguments.data)
    rows = []
    for stretch in dict.fromkeys(p.stretch for p in pictures):
        group = [p for p in pictures if p.stretch == stretch]
        dry = [np.concatenate([p.pixels[k][p.dry] for p in group]) for k in range(len(group[0].bands))]
        maps = [line(grey, levels) for grey, levels in zip(dry, reference, strict=False)]
        told = ", ".join(f"{b} = {f:.4f} · grey {o:+.2f} dB" for b, (f, o) in zip(group[0].bands, maps, strict=True))
        print(f"{stretch}: {len(group)} pictures; {told}")
        rows += [row(picture, maps, arguments.out) for picture in group]
    with open(arguments.out / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def dry_levels(data: Path) -> list[np.ndarray]:
    """Return the quartiles in dB of the dry pixels of the chips in dB, VV and VH."""
    chips = [load(c, ("VV", "VH"), "dB") for c in read_dataset(data) if c.dataset != "dfc2024"]
    dry = [pixels[:, valid & (label == 0)] for pixels, label, valid in chips]
    return list(np.nanpercentile(np.concatenate(dry, axis=1), (25, 50, 75), axis=1).T)


def line(grey: np.ndarray, decibels: np.ndarray) -> tuple[float, float]:
    """Return factor and offset that take the quartiles' range and the median of ``grey`` to those in dB."""
    low, middle, high = np.percentile(grey, (25, 50, 75))
    factor = (decibels[2] - decibels[0]) / max(high - low, 1)
    return float(factor), float(decibels[1] - factor * middle)


def row(picture: Grey, maps: list[tuple[float, float]], out: Path) -> dict[str, str]:
    """Write a picture's label and return its row of the manifest."""
    name = f"{picture.dataset}-{picture.files[0].parent.parent.name}-{picture.files[0].stem}"
    write(out / "labels" / f"{name}.tif", picture.water.astype(np.uint8)[None])
    return {
        "image": ";".join(os.path.relpath(f, out) for f in picture.files),
        "label": f"labels/{name}.tif",
        "name": name,
        "dataset": picture.dataset,
        "place": picture.place,
        "bands": ";".join(picture.bands),
        "units": "db",
        "factor": ";".join(f"{f:.5f}" for f, _ in maps),
        "offset": ";".join(f"{o:.3f}" for _, o in maps),
        "nodata": "" if picture.nodata is None else str(picture.nodata),
    }


def etci(data: Path, _: Path) -> Iterator[Grey]:
    """Yield ETCI 2021: VV and VH; water is flood or permanent water; white in both bands is no data."""
    for vv in sorted(data.glob("etci2021/*/vv/*.png")):
        group = vv.parent.parent
        files = (vv, group / "vh" / vv.name)
        water = (read(group / "flood" / vv.name) > 0) | (read(group / "water" / vv.name) > 0)
        yield Grey(
            "etci2021", group.name, group.name, ("VV", "VH"), files, np.stack([read(f) for f in files]), water, 255
        )


def ombria(data: Path, _: Path) -> Iterator[Grey]:
    """Yield OMBRIA: one polarisation, taken as VV; flood alone is labelled, so permanent water counts as an error.

    No byte stands for no data: 0 is the darkest water of a picture.
    """
    for folder in ("ombria", "ombria-2021"):
        for vv in sorted((data / folder / "vv").glob("*.png")):
            water = read(data / folder / "flood" / vv.name) > 0
            if water.mean() < 0.9:  # else there is too little dry land to tell the stretch by
                yield Grey(folder, folder, f"{folder}/{vv.stem}", ("VV",), (vv,), read(vv)[None], water, None)


def cems(data: Path, out: Path) -> Iterator[Grey]:
    """Yield EMSR795, made as small again as its detail is, as GeoTIFF; flood alone is labelled.

    0 is both what lies outside, in large pieces, and the darkest water, which becomes 1 here.
    """
    folder = data / "cems" / "EMSR795_AOI06"
    if not folder.is_dir():
        return
    layers = [read(folder / f"{name}.png") for name in ("vv", "vh", "flood")]
    index = [((np.arange(int(n / CEMS_ENLARGED)) + 0.5) * CEMS_ENLARGED).astype(int) for n in layers[0].shape]
    vv, vh, flood = (layer[np.ix_(*index)] for layer in layers)
    pieces, _ = ndimage.label((vv == 0) & (vh == 0))
    outside = (np.bincount(pieces.ravel()) > 10_000)[pieces] & (pieces > 0)
    pixels = np.where(outside, 0, np.maximum(np.stack([vv, vh]), 1)).astype(np.uint8)
    files = tuple(out / "cems" / "EMSR795" / f"{name}.tif" for name in ("vv", "vh"))
    for file, layer in zip(files, pixels, strict=True):
        write(file, layer[None])
    yield Grey("cems", "EMSR795", "cems", ("VV", "VH"), files, pixels, flood > 0, 0)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype="uint8", compress="deflate"
    ) as file:
        file.write(values)


if __name__ == "__main__":
    main()
