"""The networks beside each other: parameters, halo, a pass, and a megapixel of map at S = 20, on one thread of a CPU.

    python benchmarks/networks.py [--samples 20] [--core 512] [--recipes unet-16 fcn-8s …]

Random weights; three bands, one logit. A pass is one of the network, without samples, for 512 × 512 pixels. A megapixel
is one of a map, all samples drawn by the plan and averaged, scaled from one core of so many pixels a side
in its window (with the halo, or geouq's overlap where the network has no finite halo). The overlap is why a network
that sees far costs more a megapixel than its pass shows; larger tiles pay it less often.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from geouq.grid import Roi  # noqa: E402
from geouq.learning.training.recipe import find_recipe  # noqa: E402
from geouq.learning.training.start import new_model  # noqa: E402
from geouq.networks.model import Model  # noqa: E402
from geouq.sampling.engine import predict_tile  # noqa: E402
from geouq.sampling.estimators import Question  # noqa: E402
from geouq.sampling.samplers import make_sampler  # noqa: E402
from geouq.sampling.window import Window  # noqa: E402
from geouq.segmentation.job import GENEROUS_OVERLAP  # noqa: E402

RECIPES = ("fcn-32s", "fcn-16s", "fcn-8s", "unet-16", "linknet", "deeplabv3+", "pspnet")
SIDE = 512  # pixels of a pass


def model_of(name: str) -> Model:
    """Return a recipe's untrained model of three bands and one logit."""
    recipe = find_recipe(name)
    arguments = {**recipe.arguments, "bands": 3, "classes": 1}
    settled = replace(recipe, arguments=arguments, bands=("red", "green", "blue"), mean=(0.0,) * 3, std=(255.0,) * 3)
    return new_model(settled, ("land", "water"))


def seconds(call: Callable[[], object], runs: int) -> float:
    """Return the least processor time of some calls, after one that warms up; others on the machine count little."""
    call()
    took = []
    for _ in range(runs):
        start = time.process_time()
        call()
        took.append(time.process_time() - start)
    return min(took)


def row(name: str, samples: int, core: int, runs: int) -> str:
    """Measure one recipe's network."""
    model = model_of(name)
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        a_pass = seconds(lambda: model.network(x), runs)
    halo = GENEROUS_OVERLAP if model.halo is None else model.halo
    side = core + 2 * halo
    pixels = np.random.default_rng(0).uniform(0, 255, (3, side, side)).astype(np.float32)
    window = Window(pixels, np.ones((side, side), bool), Roi(halo, halo + core, halo, halo + core))
    sampler, question = make_sampler(model, samples=samples), Question(("probability",), 2, 1, 0.5, 1.0)
    a_core = seconds(lambda: predict_tile(sampler, question, window, np.ones((1, 1))), runs)
    parameters = sum(weight.numel() for weight in model.network.parameters())
    reach = f"{halo}" if model.halo is not None else f"none ({halo})"
    rates = ", ".join(f"{site} {rate:g}" for site, rate in model.active_sites().items())
    cells = (
        name,
        f"{parameters:,}",
        model.spec.stride,
        reach,
        f"{1e3 * a_pass:.0f}",
        f"{a_core * 1e6 / core**2:.2f}",
        rates,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--core", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| recipe | parameters | stride | halo, px | a pass of {SIDE}², ms | s/Mpx, S = {asked.samples} | dropout |")
    print("|---|---|---|---|---|---|---|")
    for name in asked.recipes:
        print(row(name, asked.samples, asked.core, asked.runs), flush=True)


if __name__ == "__main__":
    main()
