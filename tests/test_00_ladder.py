"""The ladder of imports (design: each rung imports only from rungs above it), read from the source itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNGS = [
    ["errors", "forks", "noise"],
    ["units", "grid", "layers"],
    ["validity", "decisions", "likeness"],
    ["alarm"],
    ["sources"],
    ["gdal"],
    ["files"],
    ["uploads"],
    ["rasters"],
    ["sentinel1"],
    ["scenes", "simulation"],
    ["maps"],
    ["polygons"],
    ["answers"],
    ["scores"],
    ["classic"],
    ["networks"],
    ["compiling"],
    ["sampling"],
    ["segmentation"],
    ["learning"],
    ["xarray"],
]
TORCH_FREE = tuple(first for row in RUNGS[: RUNGS.index(["networks"])] for first in row)


def modules() -> dict[str, Path]:
    found = {}
    for path in (ROOT / "geouq").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rung(module: str) -> int:
    first = module.split(".")[1]
    return next(i for i, row in enumerate(RUNGS) if first in row)


MODULES = modules()


@pytest.mark.parametrize("name", [n for n in MODULES if n not in ("geouq", "geouq.weights")])
def test_imports_only_from_rungs_above(name):
    for other in imports(MODULES[name]) & set(MODULES) - {"geouq"}:
        assert rung(other) <= rung(name), f"{name} imports {other}, which stands below it"


def test_nobody_imports_from_the_top():
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "geouq":
                assert all(f"geouq.{alias.name}" in MODULES for alias in node.names), (
                    f"{name} imports from geouq/__init__"
                )


def test_no_circles():
    graph = {n: {m for m in imports(p) & set(MODULES) if m not in ("geouq", n)} for n, p in MODULES.items()}
    graph["geouq"] = set()
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", [n for n in MODULES if n.split(".")[-1] != "geouq" and n.split(".")[1] in TORCH_FREE])
def test_torch_is_not_reached_from_scenes_and_maps(name):
    seen, todo = set(), [name]
    while todo:
        module = todo.pop()
        seen.add(module)
        found = imports(MODULES[module])
        assert not any(m == "torch" or m.startswith("torch.") for m in found), f"{name} reaches torch through {module}"
        todo += [m for m in found & set(MODULES) if m not in seen and m != "geouq"]


#: function → what it imports late: heavy (tenths of a second), and needed by that branch alone
LATE = {
    "geouq.polygons.frame.as_frame": {"geopandas"},
    "geouq.rasters.geocode.fit_spline": {"RBFInterpolator"},
    "geouq.scenes.open.lazy_scene": {"xarray", "grid_coords"},  # a refusal and a description need no DataArray
    "geouq.scenes.open._lazy": {"dask.array", "tokenize"},
    "geouq.scenes.open.product_scene": {"product_pixels"},  # SciPy
    "geouq.segmentation.results._check_asked": {"check_vector_path"},  # pyogrio brings GeoPandas
    "geouq.segmentation.identity.marks": {"origin"},
    "geouq.segmentation.assemble.assemble": {"vectorize", "preview"},  # as above, and matplotlib
    "geouq.segmentation.run._squares": {"Squares"},  # matplotlib
    "geouq.segmentation.cluster.connected": {"distributed"},  # an extra
    "geouq.segmentation.cluster.compute_on": {"distributed"},
    "geouq.sampling.field._spline": {"BSpline"},
    "geouq.networks.export._write_onnx": {"onnx", "onnxruntime", "onnxscript"},  # an extra
    "geouq.learning.training.event_files._new_file": {"SummaryWriter"},  # an extra
    "geouq.learning.training.event_files._written": {"EventFileLoader"},
    "geouq.maps.zarr._create": {"zarr", "Zstd"},  # an extra
    "geouq.sources._stored": {"fsspec"},  # few scenes lie in a store, and few outputs go to one
    "geouq.uploads._filesystem": {"fsspec"},
    "geouq.sources._memory": {"virtual_file_to_buffer"},  # rasterio, which a refused option does not need
}


def test_no_late_imports_in_the_library():
    for name, path in MODULES.items():
        if name == "geouq":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                late = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
                names = {alias.name for n in late for alias in n.names}
                assert names <= LATE.get(f"{name}.{node.name}", set()), f"{name}.{node.name} imports inside a function"


def test_a_name_of_a_class_has_one_meaning():
    found: dict[str, list[str]] = {}
    for path in [*(ROOT / "geouq").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in found.items() if len(set(paths)) > 1} == {}
