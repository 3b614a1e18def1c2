"""The networks beside each other: what a pass and a map cost, and what each scores after equal minutes of training.

    python benchmarks/networks.py [--samples 20] [--core 512] [--recipes unet-16 fcn-8s …]
    python benchmarks/networks.py --train ../shared/data [--minutes 1] [--seeds 0 1] [--on rgb s1] [--recipes …]

Without --train: random weights; three bands, one logit. A pass is one of the network, without samples, for 512 × 512
pixels. A megapixel is one of a map, all samples drawn by the plan and averaged, scaled from one core of so many pixels
a side in its window (with the halo, or geouq's overlap where the network has no finite halo). The overlap is why a
network that sees far costs more a megapixel than its pass shows; larger tiles pay it less often. One thread.

With --train: pictures of water bodies (rgb), and Sentinel-1 patches of BigEarthNet (s1), a quarter of whose places is
scored and never trained on, the same for every network and seed. All train alike but for the network: windows of 128²,
batches of 8, BCE, Adam at 1e-3 falling along half a cosine. As many steps as fit into so many minutes of the training
thread's processor time by a measure of its first steps; the seconds really spent are printed. IoU of water over all
scored pixels, one pass of each window.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np  # noqa: E402
import rasterio  # noqa: E402
import torch  # noqa: E402

from geouq.grid import Roi  # noqa: E402
from geouq.learning.data.chip import LabelledChip  # noqa: E402
from geouq.learning.data.dataset import read_dataset  # noqa: E402
from geouq.learning.data.examples import Example, Reading, take_census  # noqa: E402
from geouq.learning.data.splits import split_by_place  # noqa: E402
from geouq.learning.training.batches import held_out, training_examples  # noqa: E402
from geouq.learning.training.fit import score, well_posed  # noqa: E402
from geouq.learning.training.recipe import Recipe, find_recipe  # noqa: E402
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
ALIKE = ("batch=8", "epochs=0", "training.schedule=cosine", "training.warmup=20", "training.patience=0")
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
    """Return chips to train on and to score."""
    if kind == "rgb":
        chips = read_dataset(data / "seeds" / "water-bodies-rgb", r"^(.+)$")  # each picture is a place
    else:
        chips = [chip for chip in read_dataset(data / "s1") if chip.dataset == "bigearthnet"]
    chips = well_posed(chips, take_census(chips, 128), find_recipe(RECIPES[0]), 1)
    training, scored = split_by_place([replace(chip, split="") for chip in chips], 0.25)
    return training, scored


def settled(name: str, chips: Sequence[LabelledChip], steps: int, seed: int) -> Recipe:
    """Return a recipe for the chips, with all but the network as the others have it."""
    recipe = find_recipe(name, [*ALIKE, f"training.every={steps}"])
    return settle(recipe, chips, 2, steps, seed)


def score_after(name: str, sides: Sequence[Sequence[LabelledChip]], seed: int, minutes: float) -> tuple[str, ...]:
    """Train one recipe's network so many minutes, score it, and return the cells of its row."""
    recipe = settled(name, sides[0], 1, seed)
    reading = Reading(recipe.bands, recipe.units, recipe.size, recipe.view, True, recipe.padding)
    draw = training_examples(recipe, reading, sides[0])
    model = new_model(recipe, ("land", "water"), seed)

    def batch(examples: Sequence[Example]) -> tuple[np.ndarray, ...]:
        pixels, label, valid = (np.stack(part) for part in zip(*examples, strict=True))
        return np.stack([model.normalise(p) for p in pixels]), label, valid

    def judged() -> Iterator[tuple[np.ndarray, ...]]:
        for make in held_out(reading, sides[1]):
            yield batch([make()])

    def spend(steps: int) -> list[float]:
        """Train from the start, and return the thread's seconds at the end of each step."""
        network = new_model(recipe, ("land", "water"), seed).network
        model.network.load_state_dict(network.state_dict())
        ends = [time.thread_time()]
        config = settled(name, sides[0], steps, seed).training
        train(model.network, lambda i: batch(draw(i)), config, on_step=lambda i, loss: ends.append(time.thread_time()))
        return ends

    steps = max(1, round(60 * minutes / statistics.median(np.diff(spend(8))[2:])))
    ends = spend(steps)
    found = score(model.network, judged(), recipe.training)
    told = (found["val_iou"], found["val_accuracy"])
    return name, str(seed), str(steps), f"{ends[-1] - ends[0]:.0f}", *(f"{value:.3f}" for value in told)


def compare_trained(data: Path, kinds: Sequence[str], recipes: Sequence[str], seeds: Sequence[int], minutes: float):
    """Print the table of what each network scores after equal minutes, row by row."""
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    for kind in kinds:
        sides = sides_of(data, kind)
        print(f"{kind}: {len(sides[0])} chips to train on, {len(sides[1])} scored")
        print("| recipe | seed | steps | s | IoU of water | accuracy |\n|---|---|---|---|---|---|", flush=True)
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
