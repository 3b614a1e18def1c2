"""Install the wheel of a folder into an environment that has nothing of geouq, and run it there.

    python -m tests.package dist

Other libraries are those of the environment that runs this (a .pth file), so that no torch is downloaded again.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path


def install(wheel: Path, folder: Path) -> Path:
    """Make an environment in ``folder`` with ``wheel`` alone in it; return its folder of programs."""
    venv.create(folder, with_pip=False)
    made = {key: sysconfig.get_path(key, "venv", {"base": str(folder)}) for key in ("purelib", "scripts")}
    others = [path for path in sys.path if path.endswith("site-packages")]
    Path(made["purelib"], "others.pth").write_text("\n".join(others) + "\n")
    python = Path(made["scripts"], Path(sys.executable).name)
    pip = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", wheel]
    subprocess.run(pip, check=True)
    return Path(made["scripts"])


def try_out(programs: Path, folder: Path) -> list[str]:
    """Run a few verbs of what is installed in ``folder``; return what they printed."""
    said = []
    for line in (
        "--help",
        "models",
        "simulate s.tif --size 128",
        "segment s.tif --samples 2 --vector w.gpkg",
        "info s.tif",
    ):
        done = subprocess.run([programs / "geouq", *line.split()], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"geouq {line}: {done.stderr}"
        said.append(done.stdout)
    code = "import geouq.cli.main as m; print(m.__file__)"
    where = subprocess.run([programs / "python", "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    assert Path(where.stdout).is_relative_to(programs.parent), f"geouq comes from {where.stdout}"
    return said


def main(dist: Path) -> None:
    """Try the one wheel in ``dist``."""
    wheel, archive = *dist.glob("*.whl"), *dist.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        try_out(install(wheel.resolve(), Path(folder, "env")), Path(folder))
    print(f"wheel:    {wheel}   (installed into an empty environment, and ran)\nsource:   {archive}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
