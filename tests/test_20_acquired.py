"""When an image was taken: by tags, by names, or not said."""

import numpy as np
import pytest
import rasterio
from affine import Affine

from geouq.networks.model import Model
from geouq.rasters.acquired import acquired
from geouq.scenes.open import open_scene
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.matching import scene_origin
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run


@pytest.mark.parametrize(
    ("stem", "tags", "expected"),
    [
        ("S1A_IW_20210119T031653_DVP_RTC30_G_gpuned_8255_VV", {}, "2021-01-19T03:16:53Z"),
        (
            "OPERA_L2_RTC-S1_T064-135520-IW2_20230804T015711Z_20230804T113004Z_S1A_30_VV",
            {},
            "2023-08-04T01:57:11Z",
        ),
        ("s1a-iw-grd-vv-20210119t031653-20210119t031718-036201-043ed0-001", {}, "2021-01-19T03:16:53Z"),
        ("flood_20180702", {"ACQUISITION_DATE": "2018-07-01"}, "2018-07-01"),
        ("flood", {"ACQUISITION_START_TIME": "2018-07-01 05:06:07.25"}, "2018-07-01T05:06:07Z"),
        ("flood_20180702", {"ACQUISITION_DATE": "unknown"}, "2018-07-02"),
        ("flood", {"TIFFTAG_DATETIME": "2018:07:01 05:06:07"}, ""),
        ("tile_20181345_120180701", {}, ""),
    ],
)
def test_the_time_is_that_of_the_image_or_none(stem, tags, expected):
    assert acquired(stem, tags) == expected


def test_a_map_names_its_scene_and_its_time_and_its_run_does_not_depend_on_names(tmp_path):
    summaries = []
    values = np.random.default_rng(0).normal(-15, 3, (2, 64, 64)).astype(np.float32)
    for name in ("S1A_IW_20210119T031653_DVP.tif", "copy.tif"):
        profile = dict(driver="GTiff", width=64, height=64, count=2, dtype="float32", crs="EPSG:32633")
        with rasterio.open(tmp_path / name, "w", transform=Affine(10, 0, 5e5, 0, -10, 5e6), **profile) as file:
            file.write(values)
            file.descriptions = ("VV", "VH")
        scene = open_scene(tmp_path / name, scale="db")
        job = prepare(scene, Model.load("s1-water-fast"), Settings(samples=2, layers=("mask", "votes")))
        summaries.append(run(scene, job, Outputs(tmp_path / f"map_{name}")))
        for made in (summaries[-1]["map"], summaries[-1]["map"].replace(".tif", "_samples.tif")):
            with rasterio.open(made) as file:
                assert file.tags()["GEOUQ_SOURCE"] == name == summaries[-1]["source"][0]
                assert file.tags().get("GEOUQ_ACQUIRED") == summaries[-1].get("acquired")
    assert [one.get("acquired") for one in summaries] == ["2021-01-19T03:16:53Z", None]
    assert summaries[0]["run"] == summaries[1]["run"]


def test_an_address_keeps_no_key(tmp_path):
    scene = open_scene_like("https://host/folder/a.tif?sig=secret", "/data/b.SAFE/")
    assert scene_origin(scene) == {"source": ["a.tif", "b.SAFE"]}


def open_scene_like(*names):
    import xarray as xr

    return xr.DataArray(np.zeros((1, 2, 2)), dims=("band", "y", "x"), attrs={"source": list(names)})
