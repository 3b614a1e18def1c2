"""Damaged and hostile files through the command line: whatever they hold, geouq ends well.

    python -m tests.fuzz --minutes 20            # or: make fuzz MINUTES=20
    python -m tests.fuzz --only model --number 17   # one input again, with what the command printed

Small files of each kind that geouq reads are made, mutated by a generator with a fixed seed, and given to the verbs
that read them. An input is a *fault* if the command prints a traceback, is killed by a signal, takes more than 60 s or
4 GB, ends with another exit code than 0 or 2, or leaves an output though it failed. Input ``number`` of a kind is the
same on every machine; number 0 is whole, and a fault if it is refused. Inputs that are faults are kept in
``build/fuzz``.

Each command runs in a fork of a process that has imported geouq and computed nothing, so that an input costs its work
and not the start of Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning

from tests.helpers import pairs, scene_values, small_model, write_raster
from tests.mutations import ABSURD, mutate

MOST_SECONDS, MOST_BYTES = 60, 4 << 30


@dataclass(frozen=True)
class Kind:
    """A kind of input: the files of which one is mutated, and the commands that read them.

    files : names below the input's folder that may be mutated; the whole folder is copied for each input.
    commands : argument lists of geouq, run in that folder.
    """

    name: str
    files: tuple[str, ...]
    commands: tuple[str, ...]


#: what all commands together import: an input should cost its own work alone
IMPORTS = (
    *(f"geouq.cli.{verb}" for verb in ("calibrate", "evaluate", "info", "models", "preprocess", "samples", "segment")),
    *(f"geouq.cli.{verb}" for verb in ("simulate", "train", "vectorize", "zonal")),
    *("geouq.learning.judging.evaluate", "geouq.learning.judging.report", "geouq.maps.preview", "geouq.maps.figure"),
    *("geouq.sentinel1.product", "geopandas", "pyogrio", "dask.array.fft", "distributed", "torch._dynamo"),
)
QUICK = "--samples 2 --model model.safetensors --tile 64 -q"
SCALED = "--scale db --bidx 1,2 --factor 0.1 --offset -30"
TRAIN = "train data --recipe quick.toml -o trained -q"
KINDS = (
    Kind("raster", ("scene.tif",), ("info scene.tif", f"segment scene.tif -o out.tif --scale db {QUICK}")),
    Kind("virtual raster", ("scene.vrt",), ("info scene.vrt", f"segment scene.vrt -o out.tif --scale db {QUICK}")),
    Kind("statistics beside", ("aux.tif.aux.xml",), (f"segment aux.tif -o out.tif --scale db {QUICK}",)),
    Kind("picture", ("picture.png",), ("info picture.png", f"segment picture.png -o out.tif {SCALED} {QUICK}")),
    Kind("zip", ("scene.zip",), ("info scene.zip", f"segment scene.zip -o out.tif {QUICK}")),
    Kind("product", (), ("info product.SAFE", "preprocess product.SAFE -o out.tif --resolution 500")),
    Kind("zipped product", ("product.zip",), ("info product.zip",)),
    Kind("model", ("model.safetensors",), (
        "models show model.safetensors",
        f"segment scene.tif -o out.tif --scale db {QUICK} --preview out.png --vector out.gpkg",
        "evaluate model.safetensors data --samples 2 -q -o out",
    )),
    Kind("manifest", ("data/manifest.csv",), (
        "evaluate model.safetensors data --samples 2 -q -o out", f"{TRAIN} --steps 1",
    )),
    Kind("manifest in JSON", ("json/manifest.json",), ("evaluate model.safetensors json --samples 2 -q",)),
    Kind("label", ("data/images/c_1.tif", "data/labels/c_1.png"), (
        "evaluate model.safetensors data --samples 2 -q", "calibrate model.safetensors data -o out.safetensors -q",
    )),
    Kind("recipe", ("quick.toml",), (f"{TRAIN} --show", f"{TRAIN} --steps 1")),
    Kind("checkpoint", ("begun/checkpoint.pt", "begun/settings.json", "begun/log.csv"), (
        "train data --recipe quick.toml -o begun -q --resume --steps 3",
    )),
    Kind("heights", ("dem.tif", "hand.tif"), (
        "preprocess product.SAFE -o out.tif --resolution 500 --dem dem.tif --hand hand.tif",
    )),
    Kind("places", ("places.geojson",), ("zonal map.tif places.geojson -o out.gpkg",)),
    Kind("places in a GeoPackage", ("places.gpkg",), ("zonal map.tif places.gpkg -o out.gpkg",)),
    Kind("map", ("map.tif",), (
        "vectorize map.tif out.gpkg", "zonal map.tif places.geojson -o out2.gpkg", "info map.tif",
    )),
    Kind("votes", ("map_samples.tif",), (
        "samples map_samples.tif --json --preview out.png",
        "samples map_samples.tif --connects 500100 4999900 500800 4999200",
        "zonal map.tif places.geojson -o out.gpkg",
    )),
    Kind("ledger", (), (f"segment scene.tif -o broken.tif --scale db {QUICK} --layers mask,votes",)),
)  # fmt: skip


RECIPE = """
name = "quick"
architecture = "unet"
arguments = {widths = [4, 6], dropout = {decoder = 0.2}}
units = "dB"
bands = ["VV", "VH"]
mean = [-12.0]
std = [5.0]
clip = [-50.0, 20.0]
size = 16
batch = 2
augment = "backscatter"
epochs = 2

[training]
warmup = 0
loss = "bce"
rate = 1e-3
schedule = "constant"
patience = 2
"""


# --- seeds -----------------------------------------------------------------------------------------------


def make_seeds(folder: Path) -> None:
    """Make one good file of each kind in ``folder``, by geouq itself where it writes them."""
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    from tests.safe_products import build, zip_product

    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    write_raster(folder / "scene.tif", scene_values(96, 96), nodata=np.nan, **place)
    write_raster(folder / "aux.tif", scene_values(96, 96), nodata=np.nan, **place)
    (folder / "aux.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Description>VV</Description><NoDataValue>-99</NoDataValue>'
        '<Metadata><MDI key="STATISTICS_MEAN">-12.5</MDI></Metadata></PAMRasterBand>'
        '<PAMRasterBand band="2"><Description>VH</Description></PAMRasterBand></PAMDataset>'
    )
    write_raster(folder / "picture.png", np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype(np.uint8))
    rasterio.shutil.copy(folder / "scene.tif", folder / "scene.vrt", driver="VRT")
    with zipfile.ZipFile(folder / "scene.zip", "w") as archive:
        for name, band in zip(("VV", "VH"), scene_values(64, 64), strict=True):
            write_raster(folder / "tmp" / f"s_{name}.tif", band[None], nodata=np.nan, **place)
            archive.write(folder / "tmp" / f"s_{name}.tif", f"s_{name}.tif")
    product = build(folder)
    zip_product(product, folder / "product.zip")
    product.rename(folder / "product.SAFE")
    small_model().save(folder / "model.safetensors")
    pairs(folder / "data", ["a_1", "b_1", "c_1"])
    rows = [
        f"images/{n}_1.tif,labels/{n}_1.png,{n},{s},db" for n, s in zip("abc", ("train", "val", "test"), strict=True)
    ]
    (folder / "data" / "manifest.csv").write_text("\n".join(["image,label,place,split,units", *rows]))
    pairs(folder / "json", ["a_1", "b_1"])
    chips = [{"image": f"images/{n}_1.tif", "label": f"labels/{n}_1.png", "place": n, "units": "db"} for n in "ab"]
    (folder / "json" / "manifest.json").write_text(json.dumps(chips))
    ring = [[500050.0, 4999100.0], [500900.0, 4999150.0], [500600.0, 4999950.0], [500050.0, 4999100.0]]
    features = [
        {"type": "Feature", "properties": {"name": "a", "n": 7}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (folder / "places.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    import geopandas

    geopandas.read_file(folder / "places.geojson").to_file(folder / "places.gpkg")
    make_heights(folder)
    (folder / "quick.toml").write_text(RECIPE)
    assert fork(f"{TRAIN} --steps 2".replace("trained", "begun").split(), folder).code == 0, "no training was begun"
    words = f"segment scene.tif -o map.tif --scale db {QUICK} --layers mask,uncertainty,confidence,votes"
    assert fork(words.split(), folder).code == 0, "the seeds cannot be made"
    leave_broken_run(folder)
    shutil.rmtree(folder / "tmp")


def make_heights(folder: Path) -> None:
    """Make an elevation model, and heights above drainage, of the product's ground."""
    from tests.safe_products import Spec, grid_points

    points = np.array([(point["longitude"], point["latitude"]) for point in grid_points(Spec())], float)
    around = rasterio.transform.from_bounds(*(points.min(0) - 0.1), *(points.max(0) + 0.1), 96, 96)
    ramp = np.linspace(0, 40, 96 * 96, dtype=np.float32).reshape(1, 96, 96)
    for name, factor in (("dem.tif", 10), ("hand.tif", 1)):
        write_raster(folder / name, factor * ramp, crs="EPSG:4326", transform=around, nodata=-9999)


def leave_broken_run(folder: Path) -> None:
    """Leave the hidden folder of a run that was killed after some tiles."""
    words = next(kind for kind in KINDS if kind.name == "ledger").commands[0].split()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        done, replace = [], os.replace

        def and_die(source: str, target: str) -> None:
            replace(source, target)
            done.append(target)
            if sum(str(name).endswith(".part") for name in done) == 3:
                os._exit(0)

        os.replace = and_die  # type: ignore[assignment]
        call(words)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0 and (folder / ".broken.tif.geouq").is_dir(), "no run was broken off"


# --- running ---------------------------------------------------------------------------------------------


def in_fork(work: Callable[[], object]) -> None:
    """Do something in a fork, so that this process never uses GDAL or torch."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code (negative: a signal), seconds, peak bytes, and what it printed."""

    code: int
    seconds: float
    memory: int
    said: str

    def fault(self, left: set[str]) -> str:
        """Return what is wrong with that, given the files that it left; empty if nothing is."""
        if "Traceback (most recent call last)" in self.said:
            return "traceback"
        if self.code == -signal.SIGALRM or self.seconds > MOST_SECONDS:
            return f"more than {MOST_SECONDS} s"
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if self.memory > MOST_BYTES:
            return f"{self.memory / 2**30:.1f} GB"
        if self.code not in (0, 2):
            return f"exit code {self.code}"
        return f"failed and left {', '.join(sorted(left))}" if self.code and left else ""


def call(words: list[str]) -> None:
    """Run the command line in this process; it ends by SystemExit."""
    from geouq.cli import main

    sys.argv = ["geouq", *words]
    main.main()


def fork(words: list[str], folder: Path) -> Outcome:
    """Run the command line in a fork, in ``folder``."""
    said, began = folder / ".said", time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(folder)
            handle = os.open(".said", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(handle, 1), os.dup2(handle, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            resource.setrlimit(resource.RLIMIT_AS, (4 * MOST_BYTES, 4 * MOST_BYTES))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(MOST_SECONDS + 5)
            call(words)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    text = said.read_text(errors="replace") if said.exists() else ""
    said.unlink(missing_ok=True)
    return Outcome(os.waitstatus_to_exitcode(status), time.monotonic() - began, usage.ru_maxrss * 1024, text)


def candidates(kind: Kind, folder: Path) -> list[str]:
    """Return the files of a kind that may be mutated."""
    if kind.name == "product":
        inside = sorted(p for p in (folder / "product.SAFE").rglob("*") if p.is_file())
        return [str(p.relative_to(folder)) for p in inside]
    if kind.name == "ledger":
        return [str(p.relative_to(folder)) for p in sorted((folder / ".broken.tif.geouq").iterdir()) if p.is_file()]
    return list(kind.files)


def make_input(kind: Kind, number: int, seeds: Path, folder: Path, seed: int) -> str:
    """Copy the seeds to ``folder`` with one file mutated (number 0: none); return that file's name."""
    rng = random.Random(zlib.crc32(f"{seed} {kind.name} {number}".encode()))
    shutil.copytree(seeds, folder, symlinks=True)
    (folder / "scene.tif").unlink()
    os.link(seeds / "scene.tif", folder / "scene.tif")  # the same file, so that a broken run on it can be continued
    if number == 0:
        return "nothing"
    name = rng.choice(candidates(kind, seeds))
    if kind.name in ("map", "votes") and rng.random() < 0.6:
        in_fork(lambda: mutate_tags(folder / name, rng))
    else:
        (folder / name).unlink()
        (folder / name).write_bytes(mutate((seeds / name).read_bytes(), rng, name))
    return name


def mutate_tags(path: Path, rng: random.Random) -> None:
    """Change one to three tags of a map, or leave them out."""
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        tags = file.tags()
        for name in rng.sample(sorted(n for n in tags if n.startswith("GEOUQ")), rng.choice((1, 1, 3))):
            file.update_tags(**{name: rng.choice(ABSURD)})


def visible(folder: Path) -> set[str]:
    """Return the names in a folder; hidden ones are a run's that can be continued."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@dataclass
class Count:
    """What became of the inputs of a kind."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def try_input(kind: Kind, number: int, seeds: Path, work: Path, seed: int, count: Count, show: bool = False) -> None:
    """Run all commands of a kind on one input."""
    folder = work / f"{kind.name.replace(' ', '-')}-{number}"
    name, faults = make_input(kind, number, seeds, folder, seed), []
    before = visible(folder)
    for command in kind.commands:
        outcome = fork(command.split(), folder)
        left = visible(folder) - before
        if show:
            print(f"geouq {command}  ({name} mutated)\n{outcome.said}exit {outcome.code}, {outcome.seconds:.1f} s")
        wrong = outcome.fault(left) or ("refused as it is" if number == 0 and outcome.code else "")
        if wrong:
            last = outcome.said.strip().splitlines()[-1:] or [""]
            faults.append(f"{kind.name} {number} ({name}): geouq {command}: {wrong}: {last[0][:200]}")
        count.accepted += outcome.code == 0
        count.refused += outcome.code == 2
        for path in (folder / output for output in left):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    count.tried += 1
    count.faults += faults
    if not faults:
        shutil.rmtree(folder, ignore_errors=True)


def fuzz(work: Path, seconds: float, seed: int, only: str | None, number: int | None) -> dict[str, Count]:
    """Try inputs of all kinds, or ``only`` one, in turn for so many seconds; or input ``number`` of a kind."""
    from geouq.cli import main

    main.prepare_process()
    for name in IMPORTS:
        import_module(name)
    seeds = work / "seeds"
    seeds.mkdir(parents=True)
    in_fork(lambda: make_seeds(seeds))
    assert not (seeds / "tmp").exists(), "the seeds cannot be made"
    kinds = [kind for kind in KINDS if only in (None, kind.name)]
    counts, ends = {kind.name: Count() for kind in kinds}, time.monotonic() + seconds
    if number is not None:
        try_input(kinds[0], number, seeds, work, seed, counts[kinds[0].name], show=True)
        return counts
    turns = ((kind, n) for n in range(1_000_000) for kind in kinds)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:

        def work_on(_: int) -> None:
            while time.monotonic() < ends:
                kind, n = next(turns)
                try_input(kind, n, seeds, work, seed, counts[kind.name])

        turns = _Locked(turns)
        list(pool.map(work_on, range(os.cpu_count() or 1)))
    return counts


class _Locked:
    """An iterator that several threads may draw from."""

    def __init__(self, inner: object) -> None:
        self.inner, self.lock = inner, threading.Lock()

    def __next__(self) -> tuple[Kind, int]:
        with self.lock:
            return next(self.inner)  # type: ignore[call-overload, no-any-return]


def report(counts: dict[str, Count]) -> str:
    """Return the table, and a line for each fault."""
    lines = [f"{'kind':24} {'inputs':>7} {'commands ok':>12} {'refused':>8} {'faults':>7}"]
    for name, count in counts.items():
        lines.append(f"{name:24} {count.tried:7} {count.accepted:12} {count.refused:8} {len(count.faults):7}")
    total = [sum(c.tried for c in counts.values()), sum(len(c.faults) for c in counts.values())]
    lines.append(f"{'all':24} {total[0]:7} {'':12} {'':8} {total[1]:7}")
    return "\n".join([*lines, *(fault for count in counts.values() for fault in count.faults)])


def main() -> None:
    """Fuzz for some minutes; exit code 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[kind.name for kind in KINDS], help="this kind alone")
    parser.add_argument("--number", type=int, help="this input of it alone, and show what is printed")
    given = parser.parse_args()
    work = Path("build/fuzz").resolve()
    shutil.rmtree(work, ignore_errors=True)
    counts = fuzz(work, 60 * given.minutes, given.seed, given.only, given.number)
    print(report(counts))
    sys.exit(any(count.faults for count in counts.values()))


if __name__ == "__main__":
    main()
