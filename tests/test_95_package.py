"""The package: nothing left out of it, archives that install and run, linters of one version."""

import re
import subprocess
import sys
import tarfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.package import install, try_out

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_every_package_and_every_data_file_is_named(setup):
    packages = setup["options"]["packages"].split()
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "geouq").rglob("__init__.py")}
    assert sorted(packages) == sorted([".".join(folder.parts) for folder in folders] + ["geouq.cli"])
    tracked = subprocess.run(["git", "ls-files", "geouq", "cli"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("no git checkout")
    patterns = {name: value.split(", ") for name, value in setup["options.package_data"].items()}
    named = {
        path for name, globs in patterns.items() for g in globs for path in ROOT.glob(f"{name.replace('.', '/')}/{g}")
    }
    for path in (ROOT / name for name in tracked.stdout.split()):
        assert path.suffix == ".py" or path.is_symlink() or path in named, f"{path}: not in package_data"


def test_pre_commit_has_the_linters_of_make_test():
    pinned = dict(re.findall(r"^(ruff|mypy)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\d.]+)", text)) == {pinned["ruff"]}
    assert all(f"id: {name}" in text for name in ("ruff-check", "ruff-format", "mypy"))


def test_the_citation_names_the_version(setup):
    assert f"version: {setup['metadata']['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_source_and_wheel_build_install_and_run_in_an_empty_environment(tmp_path):
    pytest.importorskip("build")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)  # the wheel is made from the source archive
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (source,) = ((tmp_path / "dist").glob(f"*.{kind}") for kind in ("whl", "tar.gz"))
    names = {name.partition("/")[2] for name in tarfile.open(source).getnames()}
    assert {"DESIGN.md", "CITATION.cff", "docs/api.md", "tests/helpers.py", "cli/main.py", "LICENSE"} <= names
    said = try_out(install(wheel, tmp_path / "env"), tmp_path)
    assert "s1-water-fast" in said[1] and (tmp_path / "s_water.tif").exists() and (tmp_path / "w.gpkg").exists()
