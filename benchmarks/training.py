"""What a step of training costs, and where: data, forward, backward, the rest; and what a thread for data brings.

    OMP_NUM_THREADS=1 python benchmarks/training.py ../shared/data/s1 [--recipe s1-water] [--steps 12] [--clock]

The recipe as it trains, on one thread. Seconds of each part are processor time of the thread that does it, so that what
else runs on the machine counts little. With --clock there are two more rows, by the clock: the loop with each batch
prepared while the network works on the one before (as geouq trains), and without. They need an idle machine of two
cores to differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402
import rasterio  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from geouq.learning.data.dataset import read_dataset  # noqa: E402
from geouq.learning.data.examples import Reading  # noqa: E402
from geouq.learning.training.batches import prepared_ahead, training_examples  # noqa: E402
from geouq.learning.training.losses import takes_shares  # noqa: E402
from geouq.learning.training.recipe import Recipe, find_recipe  # noqa: E402
from geouq.learning.training.settle import settle  # noqa: E402
from geouq.learning.training.start import new_model  # noqa: E402
from geouq.learning.training.train import Batches, train  # noqa: E402
from geouq.networks.model import Model  # noqa: E402


def batches_of(recipe: Recipe, model: Model, data: Path) -> Batches:
    """Return step → batch, as training makes it."""
    chips = [chip for chip in read_dataset(data) if chip.split != "test"]
    reading = Reading(
        recipe.bands, recipe.units, recipe.size, recipe.view, takes_shares(recipe.training.loss), recipe.padding
    )
    draw = training_examples(recipe, reading, chips)

    def batch(step: int) -> tuple[np.ndarray, ...]:
        pixels, label, valid = (np.stack(part) for part in zip(*draw(step), strict=True))
        return np.stack([model.normalise(p) for p in pixels]), label, valid

    return batch


class Clock:
    """Adds up the thread's seconds in some functions while it stands in for them."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def timed(self, name: str, call: Callable) -> Callable:
        """Return what does the same and is counted."""

        def counted(*args: object, **told: object) -> object:
            start = time.thread_time()
            try:
                return call(*args, **told)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + time.thread_time() - start

        return counted


def shares(network: nn.Module, batches: Batches, recipe: Recipe, steps: int) -> dict[str, float]:
    """Return the seconds a step of each part, and of all."""
    clock, backward, forward = Clock(), torch.Tensor.backward, network.forward
    torch.Tensor.backward = clock.timed("backward", backward)  # type: ignore[method-assign]
    network.forward = clock.timed("forward", forward)  # type: ignore[method-assign]
    try:
        start = time.thread_time()
        train(network, clock.timed("data", batches), recipe.training)
        total = time.thread_time() - start
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        network.forward = forward  # type: ignore[method-assign]
    spent = {name: clock.spent[name] / steps for name in ("data", "forward", "backward")}
    return spent | {"loss, optimiser, average": total / steps - sum(spent.values()), "a step": total / steps}


def by_the_clock(network: nn.Module, batches: Batches, recipe: Recipe) -> float:
    """Return the median seconds between steps."""
    ends: list[float] = []
    train(network, batches, recipe.training, on_step=lambda step, loss: ends.append(time.perf_counter()))
    return statistics.median(np.diff(ends))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="s1-water")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--clock", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    recipe = find_recipe(asked.recipe)
    recipe = settle(replace(recipe, outlines="labels"), read_dataset(asked.data), 2, asked.steps, 0)
    model = new_model(recipe, ("land", "water"))
    batches = batches_of(recipe, model, asked.data)
    batches(0)  # chips are read once
    train(model.network, batches, replace(recipe.training, steps=1))  # what is imported and made once is not counted
    fresh = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    told = shares(model.network, batches, recipe, asked.steps)
    print(f"{recipe.name}: batches of {recipe.batch} x {recipe.size}², {asked.steps} steps, one thread")
    for name, seconds in told.items():
        print(f"| {name} | {seconds:.3f} s | {100 * seconds / told['a step']:.0f} % |", flush=True)
    if not asked.clock:
        return
    with ThreadPoolExecutor(1) as background:
        beside = prepared_ahead(batches, asked.steps, background)
        for name, source in (("prepared beside", beside), ("one after the other", batches)):
            model.network.load_state_dict(fresh)
            print(f"| {name}, by the clock | {by_the_clock(model.network, source, recipe):.3f} s | |")


if __name__ == "__main__":
    main()
