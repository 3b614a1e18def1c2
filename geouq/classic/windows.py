"""A scene window by window: a core each, and around it as much as a method looks at."""

from __future__ import annotations

from collections.abc import Iterator

import dask
import numpy as np
import xarray as xr

from geouq.grid import Roi, pieces

#: pixels a side of the cores
WINDOW = 1024


def windows(scene: xr.DataArray, margin: int = 0) -> Iterator[tuple[Roi, np.ndarray]]:
    """Yield each core and its values with ``margin`` pixels around it, (K, h + 2·margin, w + 2·margin).

    NaN where a pixel is not valid or lies beyond the scene.
    """
    rows, columns = scene.shape[1:]
    for core in pieces((rows, columns), WINDOW, WINDOW):
        wide = Roi(core.y0 - margin, core.y1 + margin, core.x0 - margin, core.x1 + margin)
        inside = wide.intersect(Roi(0, rows, 0, columns))
        (found,) = dask.compute(scene.data[:, *inside.slices], scheduler="synchronous")
        values = np.full((scene.shape[0], *wide.shape), np.nan, np.float32)
        values[:, *inside.within(wide).slices] = found
        yield core, np.where(np.isfinite(values), values, np.float32(np.nan))
