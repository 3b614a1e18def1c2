"""What geouq adds to xarray's objects: ``scene.geouq.segment(…)``; files, polygons and answers of what that gives.

``import geouq.xarray`` registers it, and so does the first use of ``geouq.open_scene`` or ``geouq.segment``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import xarray as xr

import geouq
from geouq.maps.dataset import write_map


@xr.register_dataarray_accessor("geouq")
class SceneAccessor:
    """``.geouq`` of a DataArray."""

    def __init__(self, given: Any) -> None:
        self._given = given

    def segment(self, model: Any = "s1-water", **options: Any) -> xr.Dataset:
        """Segment the scene, lazily: ``geouq.segment(scene, model, …)``."""
        layers: xr.Dataset = geouq.segment(self._given, model, **options)
        return layers


@xr.register_dataset_accessor("geouq")
class DatasetAccessor(SceneAccessor):
    """``.geouq`` of a Dataset: of bands, or of the layers that ``geouq.segment`` gives, which it computes."""

    def to_cog(
        self, path: str | os.PathLike[str], *, float32: bool = False, overwrite: bool = False, **options: str
    ) -> Path:
        """Write the map with its style, and votes beside it: ``geouq.maps.dataset.write_map``.

        options : creation options of GDAL's COG driver.
        """
        return write_map(self._given, path, float32=float32, overwrite=overwrite, options=options)

    def to_polygons(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        """Return the positive class as a GeoDataFrame, or write it: ``geouq.vectorize``; intervals need votes."""
        with self._as_file() as file:
            return geouq.vectorize(file, path, **options)

    def zonal(self, places: Any, path: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        """Return places with the water in each, or write them: ``geouq.zonal``, which needs the layer votes."""
        with self._as_file() as file:
            return geouq.zonal(file, places, path, **options)

    @contextmanager
    def _as_file(self) -> Iterator[Path]:
        with TemporaryDirectory(prefix="geouq-") as folder:
            yield write_map(self._given, Path(folder) / "map.tif", float32=True)
