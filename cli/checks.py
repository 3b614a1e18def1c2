"""What ``geouq doctor`` looks at: each check by itself, so that one that breaks does not hide the next."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from geouq.errors import InputError

#: a map can be made for all that is OK or NOTE; a PROBLEM stands in its way
OK, NOTE, PROBLEM = "ok", "note", "problem"
_MIB = 1 << 20
#: free space below which a large scene has no room: its parts, and the raster that its map is made from
_ROOM = 2 << 30
#: memory below which the default tile is too large
_MEMORY = 2 << 30
#: how far a device may be from the processor (docs/tiling.md)
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Finding:
    """What a check found: its name, OK, NOTE or PROBLEM, what is so, and how to mend it."""

    check: str
    state: str
    text: str
    fix: str = ""


def findings(scheduler: str | None = None) -> Iterator[Finding]:
    """Yield what all checks find, one after the other; with a scheduler those of its cluster too."""
    for check in (*CHECKS, *([_cluster(scheduler)] if scheduler else [])):
        try:
            yield from check()
        except Exception as error:  # whatever is broken here is what is looked for
            name = check.__name__.strip("_").replace("_", " ")
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            yield Finding(name, PROBLEM, text, "install geouq anew in an environment of its own")


def versions() -> dict[str, str | None]:
    """Return the versions of Python, geouq and what it is built on; None for what is not installed."""
    names = ("geouq", "numpy", "torch", "rasterio", "pyproj", "dask", "xarray", "odc-geo", "distributed", "torchvision")
    found: dict[str, str | None] = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    return found | {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    """What geouq needs is there, and new enough; which extras are."""
    wrong, missing = [], []
    for line in requires("geouq") or ():
        match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?\s*(;.*)?$", line)
        if match is None:
            continue
        name, least, extra = match[1], match[2] or "0", match[3]
        found = _version(name)
        if extra:
            missing += [name] if found is None and re.search("parquet|zarr|remote|distributed|train", extra) else []
        elif found is None or _numbers(found) < _numbers(least):
            wrong.append(f"{name} {least} ({found or 'not there'})")
    if wrong:
        yield Finding("packages", PROBLEM, f"too old or missing: {', '.join(wrong)}", "pip install --upgrade geouq")
    else:
        yield Finding("packages", OK, "all that geouq needs is installed")
    if missing:
        yield Finding("extras", NOTE, f"not installed: {', '.join(dict.fromkeys(missing))}", "pip install 'geouq[…]'")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _gdal() -> Iterator[Finding]:
    """GDAL's version and formats, and where its data lie."""
    import rasterio
    from rasterio._env import GDALDataFinder

    with rasterio.Env() as env:
        lacking = sorted({"GTiff", "COG", "VRT"} - set(env.drivers()))
        where = os.environ.get("GDAL_DATA") or GDALDataFinder().search() or "in the library itself"
    text = f"GDAL {rasterio.__gdal_version__} of rasterio, data {_whose(where, 'GDAL_DATA')}"
    if lacking:
        yield Finding(
            "gdal", PROBLEM, f"{text}: without {', '.join(lacking)}", "install rasterio's own wheel from PyPI"
        )
    elif "GDAL_DATA" in os.environ and not os.path.isdir(where):
        yield Finding("gdal", NOTE, f"{text}, which is no folder", "unset GDAL_DATA")
    else:
        yield Finding("gdal", OK, text)


def _proj() -> Iterator[Finding]:
    """Both of GDAL's and pyproj's PROJ find their data, and agree."""
    import rasterio
    from pyproj import Transformer, datadir
    from rasterio._env import PROJDataFinder
    from rasterio.warp import transform

    from geouq.gdal import check_projections

    set_by = next((name for name in ("PROJ_DATA", "PROJ_LIB") if name in os.environ), "")
    fix = f"unset {set_by}: it names the data of another PROJ" if set_by else "install rasterio and pyproj anew"
    try:
        with rasterio.Env():  # outside GDAL would print what it throws
            check_projections("a map")
            ours = transform("EPSG:4326", "EPSG:32633", [15.0], [62.0])
        theirs = Transformer.from_crs(4326, 32633, always_xy=True).transform(15.0, 62.0)
    except Exception as error:  # of three libraries
        yield Finding("proj", PROBLEM, " ".join(str(error).split())[:300], fix)
        return
    own = os.environ.get(set_by) or PROJDataFinder().search() or "in the library itself"
    where = f"data of GDAL {_whose(own, set_by)}, of pyproj {_whose(datadir.get_data_dir(), set_by)}"
    apart = max(abs(ours[0][0] - theirs[0]), abs(ours[1][0] - theirs[1]))
    if apart > 1e-3:
        yield Finding("proj", PROBLEM, f"{where}: the PROJ of GDAL and of pyproj differ by {apart:.3g} m", fix)
    else:
        yield Finding("proj", OK, where)


def _whose(folder: str, variable: str) -> str:
    """Return a folder, and the variable that chose it, if one did."""
    return f"{folder} (by {variable})" if os.environ.get(variable, "") == folder else folder


def _torch() -> Iterator[Finding]:
    """Which torch, for which devices, and whether what is installed beside it fits."""
    import torch

    yield Finding("torch", OK, f"torch {torch.__version__}, built for {torch.version.cuda or 'processors alone'}")
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        text = "there is an NVIDIA driver, and torch sees no GPU"
        yield Finding("gpu", NOTE, text, "install the torch that is built for it (pytorch.org/get-started)")
    if _version("torchvision"):
        try:
            import_module("torchvision")
        except Exception as error:  # an operator that is not there, a library that cannot be loaded
            text = f"torchvision does not fit torch ({' '.join(str(error).split())[:200]}); geouq does not use it"
            yield Finding("torchvision", NOTE, text, "pip install --upgrade torch torchvision")


def _cores() -> Iterator[Finding]:
    """How many cores geouq may use and does."""
    import torch

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads()
    said = f" (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})" if "OMP_NUM_THREADS" in os.environ else ""
    text = f"{used} of {allowed} cores{said}"
    if used > allowed:
        yield Finding("cores", NOTE, f"{text}: more threads than cores wait for one another", "unset OMP_NUM_THREADS")
    elif used < allowed and said:
        yield Finding("cores", NOTE, text, "unset OMP_NUM_THREADS to use all")
    else:
        yield Finding("cores", OK, text)


def _memory() -> Iterator[Finding]:
    """Memory that is free, and that this process may have."""
    free = _free_memory()
    if free is None:
        yield Finding("memory", NOTE, "this system does not say how much is free")
    elif free < _MEMORY:
        yield Finding("memory", NOTE, f"{free // _MIB} MiB are free", "give --tile 256, or make room")
    else:
        yield Finding("memory", OK, f"{free // _MIB} MiB are free")


def _free_memory() -> int | None:
    """Return the bytes that are free, and within the limit of the container, if there is one."""
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(told["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or "max"
        return free
    return min(free, max(limit - used, 0))


def _space() -> Iterator[Finding]:
    """Room where maps and temporary files go, and for the cache."""
    here, temporary = Path.cwd(), Path(tempfile.gettempdir())
    for check, folder, why in (("this folder", here, "maps"), ("temporary files", temporary, "pictures and polygons")):
        free = shutil.disk_usage(folder).free
        if not os.access(folder, os.W_OK):
            yield Finding(check, NOTE, f"{folder} cannot be written to, where {why} go", "give -o, or set TMPDIR")
        elif free < _ROOM:
            yield Finding(check, NOTE, f"{folder} has {free // _MIB} MiB free", "make room for a large scene's parts")
        else:
            yield Finding(check, OK, f"{folder} has {free // _MIB} MiB free")
    from geouq.sampling.precision import cache_file

    cache = cache_file()
    above = next((f for f in cache.parents if f.exists()), None) if cache else None
    if above is None or not above.is_dir() or not os.access(above, os.W_OK):
        text = "no cache can be kept, so --precision auto measures anew each time"
        yield Finding("cache", NOTE, text, "set XDG_CACHE_HOME to a folder of yours")
    else:
        yield Finding("cache", OK, str(cache))


def _devices() -> Iterator[Finding]:
    """The shipped model gives the same on every device as on the processor."""
    import numpy as np
    import torch

    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    expected = None
    for name in names:
        try:
            started = time.perf_counter()
            found = _probability(name)
            seconds = time.perf_counter() - started
        except Exception as error:  # drivers have their own
            text, state = " ".join(str(error).split())[:300], PROBLEM if name == "cpu" else NOTE
            yield Finding(name, state, text, "give --device cpu" if name != "cpu" else "install torch anew")
            continue
        expected = found if expected is None else expected
        apart = float(np.nanmax(np.abs(found - expected)))
        if apart > _ROUNDING:
            yield Finding(name, NOTE, f"differs from the processor by {apart:.2g}", "give --device cpu, and tell us")
        else:
            yield Finding(name, OK, f"{seconds:.2f} s for two samples of 256² pixels")


def _probability(device: str) -> Any:
    """Return the mean probability of two samples of a made-up scene (256, 256)."""
    import numpy as np
    import xarray as xr

    import geouq

    y, x = np.mgrid[:256, :256]
    values = np.stack([-14 + 5 * np.sin(y / 29) * np.cos(x / 23), -21 + 5 * np.sin(y / 29)])
    values = (values + np.random.default_rng(0).normal(0, 1.5, values.shape)).astype(np.float32)  # or it is no radar's
    coords = {"band": ["VV", "VH"], "y": -10.0 * y[:, 0], "x": 10.0 * x[0]}
    scene = xr.DataArray(values, dims=("band", "y", "x"), coords=coords, attrs={"units": "dB"})
    layers = geouq.segment(scene, samples=2, layers=("probability",), device=device)
    return layers["probability"].compute(scheduler="synchronous").values


def _a_map() -> Iterator[Finding]:
    """A whole run: a simulated scene into a map and its polygons."""
    import geouq
    from geouq.segmentation.job import Settings, load_models, prepare
    from geouq.segmentation.results import Outputs
    from geouq.segmentation.run import run

    with tempfile.TemporaryDirectory(prefix="geouq-doctor-") as name:
        folder = Path(name)
        geouq.simulate_scene(folder / "scene.tif", size=128)
        scene = geouq.open_scene(folder / "scene.tif")
        job = prepare(scene, load_models("s1-water"), Settings(samples=2, device="cpu"))
        run(scene, job, Outputs(folder / "map.tif", vector=folder / "map.gpkg"))
    yield Finding("a map", OK, "a simulated scene was mapped")


#: what must be alike on a cluster, for tasks to be understood there and their bytes to be those of one machine
_ALIKE = ("geouq", "torch", "numpy", "rasterio", "dask", "distributed")


def _cluster(scheduler: str) -> Callable[[], Iterator[Finding]]:
    """Return the check of a cluster: whether it answers, its workers, and what is installed there."""

    def _of_the_cluster() -> Iterator[Finding]:
        yield from _cluster_findings(scheduler)

    return _of_the_cluster


def _cluster_findings(scheduler: str) -> Iterator[Finding]:
    from geouq.segmentation.cluster import connected

    name = f"cluster {scheduler}"
    try:
        with connected(scheduler) as client:
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
            if not workers:
                yield Finding(name, PROBLEM, "it answers, and has no workers", "start some: dask worker …")
                return
            threads, memory = (sum(worker[what] for worker in workers) for what in ("nthreads", "memory_limit"))
            text = f"{len(workers)} workers, {threads} threads, {memory // _MIB} MiB"
            yield Finding(name, OK, text if memory else f"{text.rpartition(',')[0]}, no limit of memory")
            yield from _installed_there(client)
    except InputError as error:
        yield Finding(name, PROBLEM, str(error), "check the address, and that this machine reaches it")


def _installed_there(client: Any) -> Iterator[Finding]:
    """Say what workers have not, or in another version than here."""
    there = {what: set(client.run(version, what, on_error="return").values()) for what in _ALIKE}
    there["python"] = set(client.run(platform.python_version, on_error="return").values())
    here = {what: _version(what) for what in _ALIKE} | {"python": platform.python_version()}
    apart = {what: found for what, found in there.items() if found != {here[what]}}
    told = [f"{what} {here[what]} here, {_listed(found)} there" for what, found in apart.items()]
    if "geouq" in apart:
        yield Finding("versions on the cluster", PROBLEM, "; ".join(told), "install the same on every worker")
    elif told:
        yield Finding("versions on the cluster", NOTE, "; ".join(told), "install the same: maps may differ by rounding")
    else:
        yield Finding("versions on the cluster", OK, f"those of this machine, geouq {here['geouq']}")


def _listed(found: set[Any]) -> str:
    """Return versions that workers have, or that they have none."""
    return " and ".join(sorted({"none" if isinstance(one, Exception) else str(one) for one in found}))


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _packages,
    _gdal,
    _proj,
    _torch,
    _cores,
    _memory,
    _space,
    _devices,
    _a_map,
)
