"""geouq: large satellite rasters into maps that say how sure they are.

The public names, each imported when it is first used, so that ``import geouq`` costs next to nothing::

    scene = geouq.open_scene("scene.tif")
    layers = geouq.segment(scene, model="s1-water", samples=20)     # lazy: an xarray.Dataset
    layers.geouq.to_cog("water.tif")                                # ``import geouq.xarray`` registers the accessor
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what _PUBLIC gives at run time, said to type checkers
    from geouq.answers.places import Places as Places
    from geouq.answers.samples import samples as samples
    from geouq.answers.zonal import zonal as zonal
    from geouq.errors import GeouqError as GeouqError
    from geouq.learning.data.dataset import read_dataset as read_dataset
    from geouq.learning.judging.calibrate import calibrate as calibrate
    from geouq.learning.judging.evaluate import evaluate as evaluate
    from geouq.learning.training.fit import train_model as train_model
    from geouq.maps.preview import preview as preview
    from geouq.networks.model import Model as Model
    from geouq.networks.model import ModelSpec as ModelSpec
    from geouq.networks.model import shipped_models as shipped_models
    from geouq.polygons.vectorize import vectorize as vectorize
    from geouq.scenes.info import scene_info as scene_info
    from geouq.scenes.mosaic import open_mosaic as open_mosaic
    from geouq.scenes.open import open_scene as open_scene
    from geouq.scores.score import score as score
    from geouq.segmentation.durable import run as run
    from geouq.segmentation.lazy import segment as segment
    from geouq.segmentation.results import Outputs as Outputs
    from geouq.sentinel1.preprocessing import Preprocessing as Preprocessing
    from geouq.simulation.simulate import simulate_scene as simulate_scene

_PUBLIC = {
    "open_scene": "geouq.scenes.open",
    "open_mosaic": "geouq.scenes.mosaic",
    "Preprocessing": "geouq.sentinel1.preprocessing",
    "scene_info": "geouq.scenes.info",
    "simulate_scene": "geouq.simulation.simulate",
    "Model": "geouq.networks.model",
    "ModelSpec": "geouq.networks.model",
    "shipped_models": "geouq.networks.model",
    "segment": "geouq.segmentation.lazy",
    "run": "geouq.segmentation.durable",
    "Outputs": "geouq.segmentation.results",
    "vectorize": "geouq.polygons.vectorize",
    "preview": "geouq.maps.preview",
    "zonal": "geouq.answers.zonal",
    "Places": "geouq.answers.places",
    "samples": "geouq.answers.samples",
    "train_model": "geouq.learning.training.fit",
    "read_dataset": "geouq.learning.data.dataset",
    "evaluate": "geouq.learning.judging.evaluate",
    "calibrate": "geouq.learning.judging.calibrate",
    "score": "geouq.scores.score",
    "GeouqError": "geouq.errors",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'geouq' has no attribute {name!r}")
    if name in ("open_scene", "open_mosaic", "segment"):
        import_module("geouq.xarray")  # what these give has an accessor
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
