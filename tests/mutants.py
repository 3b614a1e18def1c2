# ruff: noqa: E501 (a line a mutant reads best)
"""Small mistakes in the code that tests must notice: each is made in a copy of the tree, and its tests must fail.

    python -m tests.mutants            # or: make mutants
    python -m tests.mutants zonal      # those whose name holds a word

A mutant that lives says that a promise is not held by any test. Each names the few tests that are to kill it, so that
all of them take minutes; add one for whatever a review found that no test had noticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutants"


@dataclass(frozen=True)
class Mutant:
    """A mistake: in ``file``, ``old`` (there once) becomes ``new``; ``tests`` are what pytest is given to find it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


GUARDS = "tests/test_40_guards.py"
IDENTITY = "tests/test_50_run.py -k identity"
MUTANTS = (
    Mutant("identity without layers", "geouq/segmentation/identity.py", '        "layers": ', '        # "layers": ', IDENTITY),
    Mutant("identity without bounds", "geouq/segmentation/identity.py", '        "bounds": ', '        # "bounds": ', IDENTITY),
    Mutant("identity without grid", "geouq/segmentation/identity.py", '        "grid": ', '        # "grid": ', IDENTITY),
    Mutant("identity without batch", "geouq/segmentation/identity.py", '        "batch": ', '        # "batch": ', IDENTITY),
    Mutant("weights are not averaged", "geouq/learning/training/train.py",
           "old.mul_(keep).add_(value, alpha=1 - keep)", "old.copy_(value)", f"{GUARDS} -k averaged"),
    Mutant("weights are averaged the other way round", "geouq/learning/training/train.py",
           "old.mul_(keep).add_(value, alpha=1 - keep)", "old.mul_(1 - keep).add_(value, alpha=keep)", f"{GUARDS} -k averaged"),
    Mutant("an exact zero of power counts", "geouq/units.py", "    missing = values == 0\n", "    missing = values < -np.inf\n",
           f"{GUARDS} -k zero"),
    Mutant("a buffer with two readers is reused", "geouq/compiling/plan.py",
           "source in fresh and len(source.users) == 1 and", "source in fresh and", f"{GUARDS} -k two_steps"),
    Mutant("BatchNorm is folded into what others read", "geouq/compiling/rewrites.py",
           "next(iter(node.users)) if len(node.users) == 1 else node for", "next(iter(node.users)) for",
           f"{GUARDS} -k two_steps"),
    Mutant("half of the memory is promised", "geouq/compiling/plan.py", "        peak = max(peak, alive)\n",
           "        peak = max(peak, alive // 2)\n", f"{GUARDS} -k promise"),
    Mutant("sizes: one window is asked", "geouq/compiling/tracing.py", "ASKED = ((1, 1, 2),", "ASKED = ((1, 5, 6),) or ((1, 1, 2),",
           "tests/test_40_own_networks.py -k questions"),
    Mutant("sizes: an enlargement in one window is one in all", "geouq/compiling/plan.py", "(other, example))", "(example,))",
           "tests/test_40_own_networks.py -k questions"),
    Mutant("sizes: networks of equal weights share a plan", "geouq/sampling/one_model.py", "else told_apart(network)", "else str(network)",
           "tests/test_40_own_networks.py -k questions"),
    Mutant("zonal: more than nothing is nothing", "geouq/answers/zonal.py",
           "wet = (areas > (share", "wet = (areas >= (share", f"{GUARDS} -k nothing"),
    Mutant("the map is placed first", "geouq/segmentation/results.py",
           "for path in (*beside, self.map)", "for path in (self.map, *beside)", f"{GUARDS} -k last"),
    Mutant("convolutions on all threads", "geouq/sampling/cores.py", "    torch.set_num_threads(1)  # of this thread alone\n", "",
           "tests/test_40_cores.py -k 'one_thread or bytes'"),
    Mutant("draws by tile", "geouq/sampling/deviations.py", "draw.corner, (mean.shape[1]", "(0, 0), (mean.shape[1]",
           "tests/test_40_ssn.py"),
    Mutant("halo a stride short", "geouq/grid.py", "(start - self.halo)", "(start - self.halo + self.stride)",
           "tests/test_50_segment.py -k 'tile or tiling or whole'"),
    Mutant("not valid is land", "geouq/sampling/estimators.py", "layer.masked_fill(invalid, NOT_CLASSIFIED)", "layer",
           "tests/test_50_segment.py"),
    Mutant("any CRS will do for a finished map", "geouq/grid.py", "    if len(numbers) > 1:\n        return False\n", "",
           "tests/test_60_cog.py -k another_crs"),
    Mutant("a file that came meanwhile is replaced", "geouq/files.py", "_replace(made, path) if replace else _claim(made, path)",
           "_replace(made, path)", "tests/test_80_meanwhile.py"),
    Mutant("fill between the windows is measured", "geouq/validity.py", "replace(rule, speckle=speckle)", "rule",
           "tests/test_50_unseen_fill.py -k between"),
    Mutant("what repeats itself everywhere is fill", "geouq/validity.py", "if between is None or any(repeated(window, between).any() for window in known)",
           "if between is None", "tests/test_50_unseen_fill.py -k elsewhere"),
    Mutant("cells count from the window", "geouq/rasters/raster.py", "low = [span.start // CELL * CELL for span, _ in spans]",
           "low = [span.start for span, _ in spans]", "tests/test_50_unseen_fill.py -k any_window"),
    Mutant("shadow is no layover", "geouq/scenes/beside.py", "1 | 2)", "2)", "tests/test_20_beside.py -k marks_is"),
    Mutant("the look at other units is believed", "geouq/segmentation/matching.py",
           'return as_opened(scene) and scene.attrs["judged_in"] == scene_units(scene)', "return as_opened(scene)",
           "tests/test_50_units.py -k truth"),
    Mutant("an estimate of what is valid may be 1", "geouq/scenes/valid.py", "/ seen + 0.5) / (n + 1)", "/ seen) / n",
           "tests/test_20_valid_share.py"),
    Mutant("an unknown state is no other", "geouq/segmentation/identity.py", "{uuid.uuid4()}", "", "tests/test_50_hostile_runs.py -k server"),
)  # fmt: skip


def copy_tree() -> None:
    """Make a copy of what is imported and tested; geouq/cli is a link to cli/ there too."""
    shutil.rmtree(WORK, ignore_errors=True)
    for name in ("geouq", "cli", "tests"):
        shutil.copytree(ROOT / name, WORK / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", WORK)


def lives(mutant: Mutant) -> str:
    """Make a mistake, run its tests, undo it; return what is wrong with the tests, empty if they found it."""
    path = WORK / mutant.file
    right = path.read_text()
    if right.count(mutant.old) != 1:
        return f"{mutant.file} holds {mutant.old.strip()!r} {right.count(mutant.old)} times: update this mutant"
    path.write_text(right.replace(mutant.old, mutant.new))
    try:
        file, _, rest = mutant.tests.partition(" -k ")
        command = [sys.executable, "-m", "pytest", "-q", "-x", file, *(["-k", rest.strip("'")] if rest else [])]
        environment = os.environ | {"PYTHONPATH": str(WORK), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=WORK, env=environment, capture_output=True, text=True, timeout=600)
    finally:
        path.write_text(right)
    if done.returncode == 1:
        return ""
    return "LIVES" if done.returncode == 0 else f"pytest ended with {done.returncode}: {done.stdout[-300:]}"


def main() -> None:
    """Try all mutants, or those named; exit code 1 if one lives."""
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.name for word in sys.argv[1:])]
    copy_tree()
    wrong = 0
    for mutant in chosen:
        began = time.monotonic()
        said = lives(mutant)
        wrong += bool(said)
        print(f"{said or 'killed':8} {time.monotonic() - began:5.1f} s  {mutant.name}", flush=True)
    print(f"{len(chosen) - wrong} of {len(chosen)} mutants killed")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
