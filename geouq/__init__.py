"""geouq: large satellite rasters into maps that say how sure they are.

The public names, each imported when it is first used, so that ``import geouq`` costs next to nothing::

    scene = geouq.open_scene("scene.tif")
    layers = geouq.segment(scene, model="s1-water", samples=20)     # lazy: an xarray.Dataset
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "open_scene": "geouq.scenes.open",
    "Preprocessing": "geouq.sentinel1.preprocessing",
    "scene_info": "geouq.scenes.info",
    "simulate_scene": "geouq.simulation.simulate",
    "Model": "geouq.networks.model",
    "ModelSpec": "geouq.networks.model",
    "shipped_models": "geouq.networks.model",
    "segment": "geouq.segmentation.lazy",
    "vectorize": "geouq.polygons.vectorize",
    "preview": "geouq.maps.preview",
    "zonal": "geouq.answers.zonal",
    "Places": "geouq.answers.places",
    "samples": "geouq.answers.samples",
    "train_model": "geouq.learning.training.fit",
    "read_dataset": "geouq.learning.data.dataset",
    "evaluate": "geouq.learning.judging.evaluate",
    "calibrate": "geouq.learning.judging.calibrate",
    "GeouqError": "geouq.errors",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'geouq' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
