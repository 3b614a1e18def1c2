"""Few labels, each recipe option against the plain recipe at the same number of steps, on patches of places left out.

    OMP_NUM_THREADS=1 python benchmarks/few_labels.py DATA [--steps 200] [--seeds 0 1] [--only rounds points]

Sentinel-1 patches of BigEarthNet with water drawn from Sentinel-2 (geouq.learning.data.layouts). A third of the places
is scored and never trained on. Of the rest 8 patches are labelled, drawn by the seed, unless a row says otherwise. A
small U-Net, squares of 112², batches of 4. IoU of water over all scored pixels, one pass, and over those of patches
with shores alone (2 to 98 % water): a patch of open water, right or wrong as a whole, outweighs many shores. False:
share of land called water. Seconds are of this process, training alone.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402
import rasterio  # noqa: E402
import torch  # noqa: E402

from geouq.learning.crf import crf_labels  # noqa: E402
from geouq.learning.data.chip import LabelledChip  # noqa: E402
from geouq.learning.data.dataset import read_dataset  # noqa: E402
from geouq.learning.data.loading import load, open_chip  # noqa: E402
from geouq.learning.data.splits import balanced_folds  # noqa: E402
from geouq.learning.rounds import Labelled, train_rounds  # noqa: E402
from geouq.learning.training.fit import FitOptions, train_model  # noqa: E402
from geouq.learning.training.recipe import Recipe, find_recipe  # noqa: E402
from geouq.networks.combine import combined, turned  # noqa: E402
from geouq.networks.model import Model  # noqa: E402
from geouq.scores.confusion import Confusion  # noqa: E402
from geouq.segmentation.lazy import segment  # noqa: E402

PLAIN = (
    "arguments.widths=[16, 32, 64, 64]", "arguments.stem=2", "size=112", "batch=4", "epochs=0", "most_positive=1.0",
    "bands=['VV', 'VH']", "units=dB", "mean=[-12.0, -19.0]", "std=[5.0, 6.0]", "clip=[-50.0, 20.0]", "black=-1.0",
    "validation=0.0", "training.loss=bce + dice", "training.optimiser=adamw", "training.rate=3e-3",
    "training.schedule=cosine", "training.warmup=20", "training.patience=0", "training.average=0.95",
)  # fmt: skip
OPTICAL = (
    "bands=['B02', 'B03', 'B04', 'B08', 'B11']", "units=reflectance", "mean=[0.1]", "std=[0.1]", "clip=[0.0, 1.0]",
    "augment=turn",
)  # fmt: skip
COMPOSITE = ("bands=['VV', 'VH', 'ratio']", "mean=[-12.0, -19.0, 0.8]", "std=[5.0, 6.0, 0.15]")
PARTS = ("rounds", "longer", "images", "points", "teacher", "outlines", "mean", "composite")


class Arms:
    """What is trained, scored and printed, by one seed."""

    def __init__(self, data: Path, work: Path, seed: int, steps: int) -> None:
        """Split the places, and draw the labelled patches."""
        self.data, self.work, self.seed, self.steps = data, work, seed, steps
        chips = [chip for chip in read_dataset(data / "s1") if chip.dataset == "bigearthnet"]
        water = {chip.name: share(chip) for chip in chips}
        kinds = {c.place: "mixed" if 0.02 <= water[c.name] <= 0.98 else "pure" for c in chips}
        places = {c.place: sum(o.place == c.place for o in chips) for c in chips}
        held = set(balanced_folds(kinds, places, 3, seed=0)[0])
        self.scored = [chip for chip in chips if chip.place in held]
        self.rest = [chip for chip in chips if chip.place not in held]
        rng = np.random.default_rng(seed)
        mixed = [c for c in self.rest if 0.02 <= water[c.name] <= 0.98]
        pure = [c for c in self.rest if c not in mixed]
        few = [*rng.permutation(len(mixed))[:4]], [*rng.permutation(len(pure))[:4]]
        self.few = [*(mixed[i] for i in few[0]), *(pure[i] for i in few[1])]
        self.wet = {chip.name for chip in self.rest if water[chip.name] >= 0.02}

    def manifest(self, name: str, rows: list[dict[str, str]]) -> Path:
        """Write a manifest."""
        path = self.work / f"{name}.json"
        path.write_text(json.dumps(rows))
        return path

    def labelled(self, name: str, chips: Sequence[LabelledChip], labels: Path | None = None) -> Path:
        """Write the manifest of some patches, with their own labels or those in a folder."""
        rows = [row(chip) | ({"label": str(labels / f"{chip.name}.tif")} if labels else {}) for chip in chips]
        return self.manifest(name, rows)

    def recipe(self, *changes: str, share: float = 1.0) -> Recipe:
        """Return the plain recipe, changed, of a share of the steps."""
        steps = round(self.steps * share)
        return find_recipe("unet-16", [*PLAIN, f"training.steps={steps}", f"training.every={steps}", *changes])

    def train(self, name: str, data: Path, recipe: Recipe, **told: object) -> tuple[Model, float]:
        """Train, and return the model and the seconds."""
        start = time.process_time()
        options = FitOptions(seed=self.seed, device="cpu", **told)  # type: ignore[arg-type]
        path = train_model(data, recipe, self.work / name, options)
        return Model.load(path), time.process_time() - start

    def rounds(
        self, name: str, data: Path, recipe: Recipe, unlabelled: Sequence[LabelledChip], init: Path | None = None
    ) -> tuple[Model, float]:
        """Train in rounds, and tell of each how right its labels are, and the IoU before and after."""
        start, truth = time.process_time(), {chip.name: chip for chip in self.rest}

        def told(event: object) -> None:
            if isinstance(event, Labelled):
                right = precision(self.work / name / f"labels-{event.round}", truth)
                print(f"  {name}, round {event.round}: {event.accepted} of {event.chips}, {right}", flush=True)

        options = FitOptions(seed=self.seed, device="cpu", init=init)
        path = train_rounds(data, recipe, self.work / name, unlabelled, options, told)
        seconds = time.process_time() - start
        files = [self.work / name / f"round-{n}" / path.name for n in range(recipe.rounds.count + 1)]
        scores = [self.score(Model.load(file)) for file in files]
        print(f"  {name}, IoU by round:", *(f"{a.iou:.3f} ({b.iou:.3f})" for a, b in scores), flush=True)
        return Model.load(path), seconds

    def score(self, model: Model, crf: bool = False) -> tuple[Confusion, Confusion]:
        """Return the counts of a model's masks, smoothed or not, over the patches left out, and those with shores."""
        found, shores = Confusion(), Confusion()
        for chip in self.scored:
            seen = composite(chip, self.work) if "ratio" in model.spec.bands else chip
            pixels = segment(open_chip(seen), model=model, samples=0, layers=("mask",)).compute()["mask"].values
            pixels = crf_labels(pixels, 2, pixels != 255) if crf else pixels
            _, label, valid = load(chip)
            keep = valid & (pixels != 255)
            for counts in (found, shores) if 0.02 <= (label[keep] == 1).mean() <= 0.98 else (found,):
                counts.add(pixels == 1, label == 1, keep)
        return found, shores

    def show(self, part: str, what: str, model: Model, seconds: float, crf: bool = False) -> None:
        """Score a model, and print its row."""
        found, shores = self.score(model, crf)
        ious = f"{found.iou:.3f}", f"{shores.iou:.3f}"
        cells = (part, what, self.seed, *ious, f"{100 * found.false_water:.2f} %", f"{seconds:.0f}")
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)

    def plain(self) -> tuple[Model, float]:
        """Train and show the plain recipe on the labelled patches, once."""
        if not hasattr(self, "_plain"):
            self._plain = self.train("plain", self.labelled("few", self.few), self.recipe())
            self.show("", "plain, 8 patches", *self._plain)
        return self._plain


def row(chip: LabelledChip) -> dict[str, str]:
    told = {"image": str(chip.images[0]), "label": str(chip.label), "name": chip.name, "place": chip.place}
    return told | {"bands": ";".join(chip.bands), "units": "db"}


def share(chip: LabelledChip) -> float:
    _, label, valid = load(chip)
    return float((label[valid] == 1).mean()) if valid.any() else 0.0


def composite(chip: LabelledChip, work: Path) -> LabelledChip:
    """Return the chip with a third band, 1 − VH/VV of power, cut to 0..1: the composite of Paul and Ganju."""
    path = work / "composite" / chip.images[0].name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with rasterio.open(chip.images[0]) as file:
            vv, vh = file.read([1 + chip.bands.index(name) for name in ("VV", "VH")]).astype(np.float32)
            profile = file.profile | {"count": 3, "dtype": "float32"}
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.stack([vv, vh, 1 - np.clip(10 ** ((vh - vv) / 10), 0, 1)]))
    return replace(chip, images=(path,), bands=("VV", "VH", "ratio"))


def precision(folder: Path, truth: dict[str, LabelledChip]) -> str:
    """Return how right the labels in a folder are."""
    right = known = 0
    for path in folder.glob("*.tif"):
        with rasterio.open(path) as file:
            made = file.read(1)
        _, label, valid = load(truth[path.stem])
        both = valid & (made != 255)
        right, known = right + int((made == label)[both].sum()), known + int(both.sum())
    return f"right on {100 * right / max(known, 1):.1f} % of {known} pixels with a label"


def rounds(arms: Arms) -> Iterator[tuple[str, Model, float]]:
    arms.plain()
    few, more = arms.labelled("few", arms.few), [chip for chip in arms.rest if chip not in arms.few]
    for per in ("tile", "pixel"):
        recipe = arms.recipe("rounds.count=2", f"rounds.per={per}", share=1 / 3)
        yield f"8 patches, 2 rounds by {per} ({len(more)} unlabelled)", *arms.rounds(f"rounds-{per}", few, recipe, more)
    yield f"plain, all {len(arms.rest)} patches", *arms.train("all", arms.labelled("all", arms.rest), arms.recipe())


def longer(arms: Arms) -> Iterator[tuple[str, Model, float]]:
    """Rounds that begin with a model trained to its end: five times the steps of plain, then round 0 and 2 rounds."""
    few, more = arms.labelled("few", arms.few), [chip for chip in arms.rest if chip not in arms.few]
    first, cost = arms.train("first", few, arms.recipe(share=5.0))
    yield "plain, 8 patches, 5 times the steps", first, cost
    start = arms.work / "first" / "unet-16.safetensors"
    for per, crf in (("tile", "false"), ("pixel", "false"), ("pixel", "true"), ("tile", "true")):
        name = f"longer-{per}" + ("-crf" if crf == "true" else "")
        recipe = arms.recipe("rounds.count=2", f"rounds.per={per}", f"rounds.crf={crf}", "training.rate=1e-3")
        model, seconds = arms.rounds(name, few, recipe, more, start)
        yield f"5 times the steps, then {name[7:]}: round 0 and 2 rounds", model, cost + seconds
    yield "plain, 8 patches, 8 times the steps", *arms.train("long", few, arms.recipe(share=8.0))


def images(arms: Arms) -> Iterator[tuple[str, Model, float]]:
    rows = [row(chip) | {"label": "", "throughout": str(int(chip.name in arms.wet))} for chip in arms.rest]
    data = arms.manifest("images", rows)
    what = f"{len(rows)} patches, water or none"
    yield f"{what}: all of it", *arms.train("images-0", data, arms.recipe())
    recipe = arms.recipe("rounds.count=2", "rounds.labels=images", share=1 / 3)
    yield f"{what}: 2 rounds", *arms.rounds("images-2", data, recipe, [])


def points(arms: Arms) -> Iterator[tuple[str, Model, float]]:
    folder, rng = arms.work / "points", np.random.default_rng(arms.seed)
    folder.mkdir()
    for chip in arms.rest:
        _, label, valid = load(chip)
        kept = np.full(label.shape, 255, np.uint8)
        for number in (0, 1):
            where = np.argwhere(valid & (label == number))
            y, x = where[rng.permutation(len(where))[:5]].T
            kept[y, x] = number
        shape = {"count": 1, "height": kept.shape[0], "width": kept.shape[1], "dtype": "uint8"}
        with rasterio.open(folder / f"{chip.name}.tif", "w", driver="GTiff", **shape) as file:
            file.write(kept, 1)
    data = arms.labelled("points", arms.rest, folder)
    kinds = {"plain": "[]", "the three losses": "[0.3, 0.1, 0.3]", "neighbour alone": "[0.0, 0.0, 0.3]"}
    for name, weights in kinds.items():
        recipe = arms.recipe("training.loss=bce", f"training.sparse={weights}")
        yield f"5 points a class in {len(arms.rest)} patches, {name}", *arms.train(f"points {name}", data, recipe)


def teacher(arms: Arms) -> Iterator[tuple[str, Model, float]]:
    arms.plain()
    optical = [
        row(c) | {"image": str(c.images[0]).replace("_S1.tif", "_S2.tif"), "bands": "B02;B03;B04;B08;B11"}
        | {"units": "reflectance", "factor": "1e-4"} for c in arms.rest
    ]  # fmt: skip
    data = arms.manifest("optical", optical)
    _, cost = arms.train("teacher", data, arms.recipe(*OPTICAL))
    told = [f"teacher.model={arms.work / 'teacher' / 'unet-16.safetensors'}", f"teacher.data={data}"]
    few = arms.labelled("few", arms.few)
    for weight in (0.1, 0.5):
        guided, seconds = arms.train(f"guided {weight}", few, arms.recipe(*told, f"teacher.weight={weight}"))
        yield f"8 patches, optical teacher (of all), weight {weight}", guided, seconds + cost
    yield "plain, 8 patches, twice the steps", *arms.train("twice", few, arms.recipe(share=2.0))


def outlines(arms: Arms) -> Iterator[tuple[str, Model, float]]:
    arms.plain()
    few = arms.labelled("few", arms.few)
    shapes = {"optical water": arms.data / "seeds" / "water-bodies-rgb" / "masks", "the 8 patches": "labels"}
    for name, source in shapes.items():
        painted = ["view=crop", "augment=water", f"outlines={source}", "simulated=20", "augmentation.paint=1.0"]
        _, first = arms.train(f"shapes {name}", few, arms.recipe(*painted, share=0.5))
        start = arms.work / f"shapes {name}" / "unet-16.safetensors"
        model, seconds = arms.train(f"from {name}", few, arms.recipe(share=0.5), init=start)
        yield f"8 patches, first half painted by outlines of {name}", model, first + seconds


def mean(arms: Arms) -> Iterator[tuple[str, Model, float]]:
    one, cost = arms.plain()
    yield "plain, over 8 turns (--tta d4)", turned(one), cost
    arms.show("mean", "plain, its map smoothed by the field", one, cost, crf=True)
    few, seed = arms.labelled("few", arms.few), arms.seed
    arms.seed = seed + 100
    other, more = arms.train("other", few, arms.recipe())
    arms.seed = seed
    yield "plain, the same patches, weights and squares by another seed", other, more
    yield "plain, mean of logits of two seeds (models combine)", combined([one, other], "both"), cost + more


def with_ratio(arms: Arms) -> Iterator[tuple[str, Model, float]]:
    """The composite; nothing is augmented, as gain and speckle in dB would not go with a ratio."""
    for name, chips in (("8 patches", arms.few), (f"all {len(arms.rest)} patches", arms.rest)):
        for what, changes in (("VV and VH", ()), ("VV, VH and 1 - VH/VV", COMPOSITE)):
            seen = [composite(chip, arms.work) for chip in chips] if changes else chips
            key = f"{what} of {name}".replace("/", " by ")
            data = arms.labelled(key, seen)
            yield f"{name}, nothing augmented, {what}", *arms.train(key, data, arms.recipe("augment=none", *changes))


def main() -> None:
    """Print a row of the table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    makers: dict[str, Callable[[Arms], Iterator[tuple[str, Model, float]]]] = {
        "rounds": rounds, "longer": longer, "images": images, "points": points, "teacher": teacher,
        "outlines": outlines, "mean": mean, "composite": with_ratio,
    }  # fmt: skip
    print("| | trained on | seed | IoU of water | of shores | false | s |\n|---|---|---|---|---|---|---|")
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as work:
            arms = Arms(asked.data, Path(work), seed, asked.steps)
            for part in asked.only:
                for what, model, seconds in makers[part](arms):
                    arms.show(part, what, model, seconds)


if __name__ == "__main__":
    main()
