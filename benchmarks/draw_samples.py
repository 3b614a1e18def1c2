r"""Draw docs/img/plausible.png: a scene, four plausible maps of its flood, and the histogram of their areas.

    OMP_NUM_THREADS=1 python benchmarks/draw_samples.py DATA \
        --model build/s1-water-ssn/Spain/s1-water-ssn.safetensors --chip Spain_7370579 --out docs/img/plausible.png

The model is that of a fold which has not seen the chip's place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from compare_samplers import stack
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from score_s1_water import read_chips

from geouq.layers import area_interval
from geouq.networks.model import Model
from geouq.sampling.samplers import make_sampler

SAMPLES = 100
PIXEL_KM2 = 1e-4
WATER, LAND, GREY = (0.16, 0.42, 0.75), (0.93, 0.91, 0.86), "0.35"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labelled chips")
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--chip", default="Spain_7370579")
    parser.add_argument("--out", type=Path, default=Path("docs/img/plausible.png"))
    arguments = parser.parse_args()
    chip = next(c for c in read_chips(arguments.data) if c.name == arguments.chip)
    wet = stack(make_sampler(Model.load(arguments.model), samples=SAMPLES), chip) >= 0
    areas = wet[:, chip.valid].sum(1) * PIXEL_KM2
    order = np.argsort(areas)
    chosen = [int(order[int(q * (SAMPLES - 1))]) for q in (0.05, 0.35, 0.65, 0.95)]
    figure = Figure(figsize=(12, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 6, width_ratios=[1, 1, 1, 1, 1, 1.25])
    low, high = np.nanpercentile(chip.pixels[1], (1, 99))
    axes[0].imshow(chip.pixels[1], cmap="gray", vmin=low, vmax=high)
    axes[0].set_title("Sentinel-1 VH", fontsize=9)
    for panel, s in zip(axes[1:5], chosen, strict=True):
        picture = np.where(wet[s][..., None], WATER, LAND)
        picture[~chip.valid] = 1
        panel.imshow(picture, interpolation="nearest")
        panel.set_title(f"sample {s}: {areas[s]:.1f} km²", fontsize=9)
    for panel in axes[:5]:
        panel.set(xticks=[], yticks=[])
    axes[5].hist(areas, bins=20, color=WATER)
    for value in area_interval(areas):
        axes[5].axvline(value, color=GREY, linestyle="--", linewidth=1)
    axes[5].axvline(chip.label[chip.valid].sum() * PIXEL_KM2, color="black", linewidth=1.2)
    axes[5].set_title(f"area of {SAMPLES} samples, km²", fontsize=9)
    axes[5].set_xlabel("dashed: 5 and 95 %; solid: label", fontsize=8)
    axes[5].tick_params(labelsize=8)
    axes[5].set_yticks([])
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
