"""Sentinel-1 products as scenes: on a map, in dB, with VV and VH, and every step said."""

import dask
import numpy as np
import pytest

from geouq import Preprocessing, open_scene
from geouq.errors import InputError, SceneError
from geouq.scenes.info import scene_info
from tests import safe_products as safe


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    return safe.build(tmp_path_factory.mktemp("safe"), lines=200, pixels=240, spacing=10.0)


def test_a_product_is_a_scene(product):
    scene = open_scene(product)
    assert list(scene.band.values) == ["VV", "VH"] and scene.attrs["units"] == "dB"
    assert scene.dtype == np.float32 and dask.is_dask_collection(scene.data)
    assert scene.odc.crs.epsg == 32633 and scene.odc.geobox.resolution.x == 10
    assert scene.attrs["source"] == [str(product)]
    values = scene.compute()
    assert np.array_equal(np.isnan(values[0]), np.isnan(values[1]))
    assert 0.5 < np.isfinite(values).mean() < 0.9  # the image lies askew on the map
    assert -14 < np.nanmedian(values[0]) < -6 and np.nanmin(values) >= -60.001


def test_every_step_is_said(product):
    said = open_scene(product).attrs["notes"]
    for step in ("DN 0", "thermal noise removed", "calibrated to sigma0", "geolocation grid", "dB"):
        assert step in said
    asked = Preprocessing(calibration="gamma0", noise=False, speckle="lee")
    said = open_scene(product, preprocessing=asked).attrs["notes"]
    for step in ("thermal noise left in", "calibrated to gamma0", "speckle filtered (lee, 4.4 looks)"):
        assert step in said


def test_zip_and_folder_are_one_scene(product):
    zipped = open_scene(safe.zip_product(product)).compute()
    assert np.array_equal(zipped, open_scene(product).compute(), equal_nan=True)


@pytest.mark.parametrize("speckle", [None, "refined-lee"])
def test_chunks_do_not_show(product, speckle):
    preprocessing = Preprocessing(speckle=speckle)
    whole = open_scene(product, preprocessing=preprocessing).compute()
    chunked = open_scene(product, preprocessing=preprocessing, chunk=64)
    assert len(chunked.chunks[1]) > 2
    assert np.allclose(chunked.compute(), whole, rtol=0, atol=1e-5, equal_nan=True)


def test_names_of_tasks_tell_products_and_steps_apart(product, tmp_path):
    """Else a broken run would be continued with other pixels."""
    other = safe.build(tmp_path, lines=200, pixels=240, spacing=10.0)
    names = {
        open_scene(product).data.name,
        open_scene(other).data.name,
        open_scene(product, preprocessing=Preprocessing(noise=False)).data.name,
        open_scene(product, preprocessing=Preprocessing(speckle="lee")).data.name,
        open_scene(product, preprocessing=Preprocessing(calibration="beta0")).data.name,
        open_scene(product, bidx=[2]).data.name,
    }
    assert len(names) == 6 and open_scene(product).data.name in names


def test_bands_are_picked(product, tmp_path):
    both = open_scene(product).compute()
    for picked in (open_scene(product, bidx=[2]), open_scene({"VH": product})):
        assert list(picked.band.values) == ["VH"]
        assert np.array_equal(picked.compute()[0], both[1], equal_nan=True)
    with pytest.raises(SceneError, match="has 2 bands, VV, VH"):
        open_scene(product, bidx=[3])
    with pytest.raises(SceneError, match="VV, VH and no HH"):
        open_scene({"HH": product})


def test_what_does_not_go_together(product, tmp_path):
    for given in (dict(scale="db"), dict(nodata=0)):
        with pytest.raises(InputError, match="give it alone"):
            open_scene(product, **given)
    with pytest.raises(InputError, match="give it alone"):
        open_scene([product, product])
    safe.write_measurement(tmp_path / "dn.tif", np.full((50, 50), 0.1, np.float32))
    with pytest.raises(InputError, match="is no Sentinel-1 product"):
        open_scene(tmp_path / "dn.tif", preprocessing=Preprocessing(speckle="lee"))


def test_info(product):
    info = scene_info(product)
    assert info["mission"] == "S1A" and info["mode"] == "IW" and info["pass"] == "descending"
    assert info["start"] == "2021-01-19T03:16:53.799379" and info["processor"] == "IPF 003.31"
    assert info["polarisations"] == ["VV", "VH"] and len(info["footprint"]) == 4
    assert info["image"]["lines"] == 200 and info["columns"] > 240
    assert "not removed" in info["noise"] and "azimuth" in info["noise"]
    assert any("calibrated to sigma0" in step for step in info["segment_would"])


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(ipf=safe.ZERO_NOISE), "no values given"),
        (dict(ipf=safe.OLD_NOISE), "not removed (tables in range)"),
        (dict(noise_removed=True), "already removed"),
    ],
)
def test_info_tells_the_state_of_noise(tmp_path, changes, said):
    assert scene_info(safe.build(tmp_path, **changes))["noise"] == said


def test_a_map_in_grads_from_paris_is_where_the_product_is(product):
    paris = open_scene(product, preprocessing=Preprocessing(crs="EPSG:4807", resolution=2e-4))
    plain = open_scene(product, preprocessing=Preprocessing(crs="EPSG:4326", resolution=2e-4))
    box, seen = (scene.odc.geobox.footprint("EPSG:4326").boundingbox for scene in (paris, plain))
    assert np.abs(np.array([*box]) - [*seen]).max() < 3e-3
    assert 0.4 < np.isfinite(paris.values[0]).mean() < 0.95
