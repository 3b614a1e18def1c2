"""What share of a scene is valid: exact, or about and never 1."""

import json

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

from geouq.scenes import valid
from geouq.scenes.info import scene_info
from tests.helpers import geouq, scene_values, write_raster


def border(width, rows=700, columns=800):
    values = scene_values(rows, columns, holes=False)
    values[:, :width] = values[:, rows - width :] = np.nan
    values[:, :, :width] = values[:, :, columns - width :] = np.nan
    return values


@pytest.mark.parametrize("overviews", [False, True])
@pytest.mark.parametrize("width", [0, 1, 6, 12, 100, 350])
def test_of_a_large_file_about_with_a_range_that_holds_the_truth(tmp_path, monkeypatch, width, overviews):
    values = border(width)
    path = write_raster(tmp_path / "x_db.tif", values, nodata=np.nan, tiled=True, blockxsize=128, blockysize=128)
    if overviews:
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4, 8, 16], Resampling.nearest)
    monkeypatch.setattr(valid, "_MOST", 1 << 16)
    found, truth = scene_info(path, scale="db"), float(np.isfinite(values[0]).mean())
    low, high = found["valid_share_range"]
    assert low <= truth <= high and low <= found["valid_share"] <= high and 0 < found["valid_share"] < 1
    of = "an overview, 1 to 4" if overviews else "144 windows of 32² pixels"
    assert found["valid_share_of"] == f"about, from {of}" and high - low < 0.45


def test_of_a_small_one_exact_and_1_only_if_it_is_1(tmp_path):
    values = border(0, 1100, 1000)
    for holes, share in ((0, 1.0), (1, 0.999999), (110_000, 0.9)):
        values.reshape(2, -1)[:, :holes] = np.nan
        found = scene_info(write_raster(tmp_path / "x_db.tif", values, nodata=np.nan), scale="db")
        assert (found["valid_share"], found["valid_share_of"]) == (share, "all pixels")
        assert "valid_share_range" not in found


def test_a_file_a_band_counts_where_both_are_valid(tmp_path):
    values = border(0, 60, 50)
    values[0, :10] = values[1, 50:] = np.nan
    paths = [write_raster(tmp_path / f"s_{i}.tif", values[i : i + 1], nodata=np.nan) for i in range(2)]
    told = json.loads(geouq("info", "--vv", paths[0], "--vh", paths[1], "--scale", "db", "--json").stdout)
    assert told["valid_share"] == round(40 / 60, 6)
