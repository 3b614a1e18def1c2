"""Real chips, where the shared data folder lies beside the repository: grids, nodata and water as they must be."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

import geouq
from geouq.networks.model import Model
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run
from tests.shared import SHARED

S1 = SHARED / "s1"
SINGLE = sorted(S1.glob("sen1floods11/*S1Hand.tif"))
PAIRS = sorted(S1.glob("stacoverflow/*_vv.tif"))
pytestmark = pytest.mark.skipif(not S1.is_dir(), reason="no ../shared/data/s1 here")


def chip_id(path: Path) -> str:
    return path.stem.removesuffix("_S1Hand").removesuffix("_vv")


@pytest.mark.parametrize("path", SINGLE + PAIRS, ids=chip_id)
def test_every_db_chip_keeps_its_grid_and_its_holes(path, tmp_path):
    source = path if path in SINGLE else {"VV": path, "VH": Path(str(path).replace("_vv", "_vh"))}
    files = [path] if path in SINGLE else list(source.values())
    scene = geouq.open_scene(source)
    job = prepare(scene, Model.load("s1-water"), Settings(samples=2))
    summary = run(scene, job, Outputs(tmp_path / "map.tif"))
    bands = []
    for file in files:
        with rasterio.open(file) as given:
            grid = (given.shape, given.crs, given.transform)
            values = given.read()
            bands += [np.where(values == given.nodata, np.nan, values)] if given.nodata is not None else [values]
    invalid = ~np.isfinite(np.concatenate(bands)).all(0)
    with rasterio.open(tmp_path / "map.tif") as made:
        assert (made.shape, made.crs, made.transform) == grid
        mask, uncertainty, confidence = made.read()
    assert ((mask == 255) == invalid).all() and ((uncertainty == 255) == invalid).all()
    assert ((confidence == 255) == invalid).all() and (confidence[~invalid] >= 50).all()
    assert summary["not_classified_percent"] == pytest.approx(100 * invalid.mean(), abs=1e-3)
    if invalid.all():
        assert summary["not_classified_percent"] == 100 and summary["area_m2"] == 0


def test_the_chips_are_those_of_the_index():
    assert len(SINGLE) == 8 and len(PAIRS) == 3
