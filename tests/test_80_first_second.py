"""The first second: what each verb may import, and the types that users' own checkers see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import geouq, small_model

ROOT = Path(__file__).parents[1]
#: libraries that take a tenth of a second or more to import
HEAVY = (
    "torch xarray pandas geopandas matplotlib sympy distributed pyogrio rasterio odc numpy scipy.ndimage "
    "scipy.interpolate scipy.optimize skimage sklearn rich zarr"
).split()
RASTER = {"numpy", "rasterio", "odc"}
SEGMENT = RASTER | {"torch", "xarray", "pandas"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("first")
    geouq("simulate", path / "chip.tif", "--size", 96, "--seed", 3)
    geouq("segment", "chip.tif", "-o", "map.tif", "--samples", 2, "-q", cwd=path)
    return path


def heavy(*arguments, cwd):
    """Return the heavy libraries that a command imports, and its exit code."""
    code = f"""
import json, sys
sys.argv = ["geouq", *{list(map(str, arguments))!r}]
from geouq.cli import main
code = 0
try:
    main.main()
except SystemExit as ended:
    code = ended.code
print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    code, found = json.loads(done.stdout.splitlines()[-1])
    return set(found), code


@pytest.mark.parametrize(
    "arguments, allowed, code",
    [
        (["--help"], set(), 0),
        (["segment", "--help"], {"numpy"}, 0),
        (["segment", "chip.tif", "-o", "new.tif", "--samples", "2", "-q"], SEGMENT, 0),
        (["segment", "absent.tif"], {"numpy", "rasterio"}, 2),
        (["segment", "chip.tif", "--bidx", "1,9"], RASTER, 2),
        (["segment", "chip.tif", "--sampler", "nope"], {"numpy"}, 2),
        (["segment", "chip.tif", "--tile", "x"], {"numpy"}, 2),
        (["info", "chip.tif"], RASTER, 0),
        (["info", "absent.tif"], {"numpy", "rasterio"}, 2),
        (["simulate", "again.tif", "--size", "64"], RASTER, 0),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_verb_imports_only_what_it_needs(folder, arguments, allowed, code):
    found, ended = heavy(*arguments, cwd=folder)
    assert ended == code
    assert found <= allowed


def test_a_misspelt_argument_is_an_error_for_a_type_checker(tmp_path):
    """The public names are imported lazily, and are not ``Any`` for that."""
    pytest.importorskip("mypy")
    user = tmp_path / "user.py"
    user.write_text(
        'import geouq\n\nscene = geouq.open_scene("scene.tif")\n'
        "layers = geouq.segment(scene, samples=4)\ngeouq.segment(scene, sample=4)\n"
        "reveal_type(layers)\nreveal_type(geouq.Model.load)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += ["--cache-dir", ROOT / ".mypy_cache" / "user", user.name]
    place = os.environ | {"MYPYPATH": str(ROOT)}
    said = subprocess.run(command, cwd=tmp_path, env=place, capture_output=True, text=True).stdout.splitlines()
    errors = [line for line in said if "error:" in line]
    assert len(errors) == 1 and 'user.py:5: error: Unexpected keyword argument "sample"' in errors[0], said
    assert any("xarray" in line and "Dataset" in line for line in said), said
    assert any("-> geouq.networks.model.Model" in line for line in said), said


def test_each_public_name_is_there_for_type_checkers_too():
    import geouq as package

    text = (ROOT / "geouq" / "__init__.py").read_text()
    for name, module in package._PUBLIC.items():
        assert f"    from {module} import {name} as {name}\n" in text
        assert getattr(package, name).__module__.startswith("geouq.")


def test_info_says_what_geouqs_own_files_are(folder):
    found = json.loads(geouq("info", "map.tif", "--json", cwd=folder).stdout)
    assert "map made by geouq" in found["is"] and found["bands"] == ["mask", "uncertainty", "confidence"]
    assert (found["model"], found["samples"], found["columns"]) == ("s1-water", "2", 96)
    small_model().save(folder / "m.safetensors")
    found = json.loads(geouq("info", "m.safetensors", "--json", cwd=folder).stdout)
    assert found["is"] == "a model file of geouq" and found["name"] == "small" and found["bands"] == ["VV", "VH"]
    assert "units" in geouq("info", "chip.tif", cwd=folder).stdout
