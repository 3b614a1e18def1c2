"""The networks beside each other: what a pass and a map cost, and what each scores after equal minutes of training.

    python benchmarks/networks.py [--samples 20] [--core 512] [--recipes unet-16 fcn-8s …]
    python benchmarks/networks.py --train ../shared/data [--minutes 1] [--seeds 0 1] [--on rgb s1] [--recipes …]

Without --train: random weights; three bands, one logit. A pass is one of the network, without samples, for 512 × 512
pixels. A megapixel is one of a map, all samples drawn by the plan and averaged, scaled from one core of so many pixels
a side in its window (with the halo, or geouq's overlap where the network has no finite halo). The overlap is why a
network that sees far costs more a megapixel than its pass shows; larger tiles pay it less often. One thread.

With --train: pictures of water bodies (rgb), and Sentinel-1 patches of BigEarthNet (s1), a third of whose places is
scored and never trained on, the same for every network and seed. All train alike but for the network: windows of 128²,
batches of 8, BCE, Adam at 1e-3, the average of the last weights (0.95 a step). A training ends with the first step that
finds so many minutes of its thread's processor time spent, data included. IoU of water over all scored pixels, one pass
of each window.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np  # noqa: E402
import rasterio  # noqa: E402
import torch  # noqa: E402
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402

from geouq.grid import Roi  # noqa: E402
from geouq.learning.data.chip import LabelledChip  # noqa: E402
from geouq.learning.data.dataset import read_dataset  # noqa: E402
from geouq.learning.data.examples import Example, Reading, take_census  # noqa: E402
from geouq.learning.data.splits import balanced_folds  # noqa: E402
from geouq.learning.training.batches import held_out, training_examples  # noqa: E402
from geouq.learning.training.fit import score, well_posed  # noqa: E402
from geouq.learning.training.recipe import find_recipe  # noqa: E402
from geouq.learning.training.settle import settle  # noqa: E402
from geouq.learning.training.start import new_model  # noqa: E402
from geouq.learning.training.train import train  # noqa: E402
from geouq.networks.model import Model  # noqa: E402
from geouq.sampling.engine import predict_tile  # noqa: E402
from geouq.sampling.estimators import Question  # noqa: E402
from geouq.sampling.samplers import make_sampler  # noqa: E402
from geouq.sampling.window import Window  # noqa: E402
from geouq.segmentation.job import GENEROUS_OVERLAP  # noqa: E402

RECIPES = ("fcn-32s", "fcn-16s", "fcn-8s", "unet-16", "linknet", "deeplabv3+", "pspnet")
SIDE = 512  # pixels of a pass
#: what all networks have alike when they are trained
ALIKE = ("batch=8", "epochs=0", "training.every=1000000")
MOST = 1_000_000  # steps, of which minutes allow far fewer
DATA = ("rgb", "s1")


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


def sides_of(data: Path, kind: str) -> tuple[list[LabelledChip], list[LabelledChip]]:
    """Return chips to train on and to score: of other places, as many of them with both classes."""
    if kind == "rgb":
        chips = read_dataset(data / "seeds" / "water-bodies-rgb", r"^(.+)$")  # each picture is a place
        chips = well_posed(chips, take_census(chips, 128), find_recipe(RECIPES[0]), 1)
    else:
        chips = [chip for chip in read_dataset(data / "s1") if chip.dataset == "bigearthnet"]
    census = take_census(chips, 128)
    kinds = {c.place: "mixed" if 0.02 <= census.share(c, 1) <= 0.98 else "pure" for c in chips}
    held = balanced_folds(kinds, Counter(c.place for c in chips), 3)[0]
    return [c for c in chips if c.place not in held], [c for c in chips if c.place in held]


class Spent(Exception):
    """The minutes of a training are over."""


def score_after(name: str, sides: Sequence[Sequence[LabelledChip]], seed: int, minutes: float) -> tuple[str, ...]:
    """Train one recipe's network so many minutes, score it, and return the cells of its row."""
    recipe = settle(find_recipe(name, ALIKE), sides[0], 2, MOST, seed)
    reading = Reading(recipe.bands, recipe.units, recipe.size, recipe.view, True, recipe.padding)
    draw = training_examples(recipe, reading, sides[0])
    model = new_model(recipe, ("land", "water"), seed)
    averaged = AveragedModel(model.network, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=True)
    batch = partial(normalised, model)
    batch(draw(0))
    start, steps = time.thread_time(), 0

    def stop(step: int, loss: float) -> None:
        nonlocal steps
        steps = step + 1
        averaged.update_parameters(model.network)
        if time.thread_time() - start >= 60 * minutes:
            raise Spent

    with suppress(Spent):
        train(model.network, lambda step: batch(draw(step)), recipe.training, on_step=stop)
    found = score(averaged.module.eval(), (batch([make()]) for make in held_out(reading, sides[1])), recipe.training)
    return name, str(seed), str(steps), f"{found['val_iou']:.3f}", f"{found['val_accuracy']:.3f}"


def normalised(model: Model, examples: Sequence[Example]) -> tuple[np.ndarray, ...]:
    """Return a batch as the network sees it: pixels (N, K, H, W), label and valid (N, H, W)."""
    pixels, label, valid = (np.stack(part) for part in zip(*examples, strict=True))
    return np.stack([model.normalise(p) for p in pixels]), label, valid


def compare_trained(data: Path, kinds: Sequence[str], recipes: Sequence[str], seeds: Sequence[int], minutes: float):
    """Print the table of what each network scores after equal minutes, row by row."""
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    for kind in kinds:
        sides = sides_of(data, kind)
        print(f"{kind}: {len(sides[0])} chips to train on, {len(sides[1])} scored")
        print("| recipe | seed | steps | IoU of water | accuracy |\n|---|---|---|---|---|", flush=True)
        for name in recipes:
            for seed in seeds:
                print("| " + " | ".join(score_after(name, sides, seed, minutes)) + " |", flush=True)


def main() -> None:
    """Print one of the tables, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--core", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--train", type=Path, metavar="DATA", help="train instead, on data in this folder")
    parser.add_argument("--minutes", type=float, default=1.0, help="of processor time, a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--on", nargs="+", choices=DATA, default=DATA)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.train:
        compare_trained(asked.train, asked.on, asked.recipes, asked.seeds, asked.minutes)
        return
    print(f"| recipe | parameters | stride | halo, px | a pass of {SIDE}², ms | s/Mpx, S = {asked.samples} | dropout |")
    print("|---|---|---|---|---|---|---|")
    for name in asked.recipes:
        print(row(name, asked.samples, asked.core, asked.runs), flush=True)


if __name__ == "__main__":
    main()
