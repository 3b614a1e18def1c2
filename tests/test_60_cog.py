"""Maps as COGs: what is stored, overviews by kind, whole files or none."""

import hashlib
import os
import resource

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox
from rio_cogeo import cog_validate

from geouq.errors import InputError, OutputError
from geouq.grid import Roi, Tiling
from geouq.layers import Legend
from geouq.maps import cog
from geouq.maps.bands import halve, map_bands, nothing, quantise, vote_bands
from geouq.maps.cog import MapWriter
from geouq.maps.writer import WRITERS, open_writer
from tests.maps import UTM

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

GRIDS = {
    "north-up": (UTM, "EPSG:32632"),
    "south-up": (Affine(10, 0, 5e5, 0, 10, 5e6), "EPSG:32632"),
    "rotated": (Affine(9.9, 1.3, 5e5, 1.3, -9.9, 5e6), "EPSG:32632"),
    "degrees": (Affine(1 / 3600, 0, 8.123456789, 0, -1 / 3600, 47.1), "EPSG:4326"),
    "custom crs": (UTM, "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m +type=crs"),
    "no crs": (Affine.identity(), None),
    "no crs but a transform": (Affine(2, 0, 7, 0, -2, 9), None),
}
NAMES = ("mask", "uncertainty", "confidence")


def legend(classes, positive=1):
    return Legend(tuple(f"class {i}" for i in range(classes)), positive)


def layers_of(shape, samples=20, seed=0):
    rng = np.random.default_rng(seed)
    smooth = rng.random((shape[0] // 16 + 2, shape[1] // 16 + 2)).repeat(16, 0).repeat(16, 1)
    probability = (smooth[: shape[0], : shape[1]] + 0.2 * rng.random(shape)).astype(np.float32) / 1.2
    mask = (probability >= 0.5).astype(np.uint8)
    missing = np.zeros(shape, bool)
    missing[: shape[0] // 3, : shape[1] // 4] = True
    probability[missing] = np.nan
    mask[missing] = 255
    top = np.uint64(2**samples - 1)
    votes = rng.integers(0, top, shape, dtype=np.uint64, endpoint=True)
    return {
        "mask": mask,
        "probability": probability,
        "confidence": np.maximum(probability, 1 - probability),
        "uncertainty": 4 * probability * (1 - probability),
        "votes": votes.astype(np.uint32 if samples <= 32 else np.uint64),
    }


def write(path, layers, bands, geobox, size=400, **kwargs):
    tiles = list(Tiling(geobox.shape, size, 0, 1))
    np.random.default_rng(1).shuffle(tiles)
    with MapWriter(path, geobox, bands, **kwargs) as writer:
        for tile in tiles:
            part = {name: layer[tile.core.slices] for name, layer in layers.items()}
            writer.write(tile.core, quantise(part, bands))
        return writer.finish()


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_percent_rounds_half_up_and_keeps_not_classified_apart():
    values = np.array([[0, 0.004, 0.005, 0.994, 0.995, 1, np.nan, -0.1, 1.5]], np.float32)
    out = quantise({"uncertainty": values}, map_bands(["uncertainty"]))
    assert out.dtype == np.uint8
    assert out[0, 0].tolist() == [0, 0, 1, 99, 100, 100, 255, 0, 100]


def test_float_layers_keep_their_values_and_mark_not_classified_with_nan():
    layers = layers_of((20, 30))
    out = quantise(layers, map_bands(NAMES, float32=True))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out[1], layers["uncertainty"])
    np.testing.assert_array_equal(np.isnan(out[0]), layers["mask"] == 255)
    assert set(np.unique(out[0][~np.isnan(out[0])])) == {0, 1}


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.sampled_from([0, 7, 50, 99, 100, 255])
    )
)
def test_percent_shrinks_to_the_mean_of_valid_pixels(plane):
    out = halve(plane[None], map_bands(["uncertainty"]))[0]
    assert out.shape == (-(-plane.shape[0] // 2), -(-plane.shape[1] // 2))
    for y, x in np.ndindex(out.shape):
        four = plane[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        valid = four[four != 255].astype(float)
        assert out[y, x] == (np.floor(valid.mean() + 0.5) if valid.size else 255)


def test_floats_shrink_to_the_mean_of_valid_pixels_and_bits_to_the_upper_left():
    plane = np.array([[[0.25, np.nan, 0.5], [0.75, 0.5, np.nan]]], np.float32)
    np.testing.assert_array_equal(halve(plane, map_bands(["std"], float32=True)), [[[0.5, 0.5]]])
    bits = np.array([[[5, 6, 7], [8, 9, 10]], [[255, 0, 0], [0, 255, 255]]], np.uint32)
    np.testing.assert_array_equal(halve(bits, vote_bands(20)), [[[5, 7]], [[255, 0]]])


@pytest.mark.parametrize("grid", GRIDS)
def test_a_map_comes_back_as_written_on_any_grid(tmp_path, grid):
    affine, crs = GRIDS[grid]
    geobox = GeoBox((1301, 1603), affine, crs)
    layers, bands = layers_of(geobox.shape), map_bands(NAMES)
    path = write(tmp_path / "water.tif", layers, bands, geobox, tags={"GEOUQ_HALO": 94, "GEOUQ_MODEL": "m"})
    assert os.listdir(tmp_path) == ["water.tif"]
    assert cog_validate(path, strict=True) == (True, [], [])
    level = quantise(layers, bands)
    with rasterio.open(path) as file:
        assert (file.transform, file.shape) == (affine, geobox.shape)
        assert (file.crs is None) if crs is None else GeoBox.from_rio(file).crs == geobox.crs
        assert file.descriptions == NAMES
        assert file.scales == (1, 0.01, 0.01) and set(file.offsets) == {0}
        assert file.nodata == 255 and file.block_shapes == [(512, 512)] * 3
        assert file.tags()["GEOUQ_HALO"] == "94" and file.tags()["GEOUQ_MODEL"] == "m"
        assert file.profile["compress"] == "zstd" and file.overviews(1) == [2, 4]
        assert not {3, 4, 5} & {int(c) for c in file.colorinterp}, "bands are not red, green and blue"
        np.testing.assert_array_equal(file.read(), level)
    for number in (0, 1):
        level = halve(level, bands)
        with rasterio.open(path, overview_level=number) as file:
            np.testing.assert_array_equal(file.read()[1:], level[1:])
            assert (file.read(1) != 255).sum() == (level[1] != 255).sum()


@pytest.mark.parametrize("float32", [False, True])
def test_each_band_says_exactly_what_values_it_holds_and_a_mask_what_they_mean(tmp_path, float32):
    geobox, named = GeoBox((1301, 1603), UTM, "EPSG:32632"), Legend(("dry land", "wet"), 1)
    layers, bands = layers_of(geobox.shape), map_bands(NAMES, float32, named)
    path = write(tmp_path / "a.tif", layers, bands, geobox)
    assert os.listdir(tmp_path) == ["a.tif"], "and not beside the file"
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(path) as file:
        for number, plane in enumerate(file.read(masked=True).astype(np.float64), 1):
            told = {name: float(v) for name, v in file.tags(number).items() if name.startswith("STATISTICS_")}
            exact = {"MINIMUM": plane.min(), "MAXIMUM": plane.max(), "MEAN": plane.mean(), "STDDEV": plane.std()}
            assert told == pytest.approx({f"STATISTICS_{name}": value for name, value in exact.items()}, rel=1e-9)
        classes = {name: v for name, v in file.tags(1).items() if name.startswith("CLASS_")}
        assert classes == {"CLASS_0": "dry land", "CLASS_1": "wet"}
        assert not any(name.startswith("CLASS_") for name in file.tags(2))


@pytest.mark.parametrize(
    "samples, under", [(20, 1 << 31), (31, 1 << 31), (32, 0), (33, 1 << 63), (40, 1 << 63), (63, 1 << 63), (64, 0)]
)
def test_votes_that_are_none_do_not_answer_land_in_all_samples(tmp_path, samples, under):
    layers, geobox = layers_of((700, 600), samples), GeoBox((700, 600), UTM, "EPSG:32632")
    missing = layers["mask"] == 255
    with rasterio.open(write(tmp_path / "v.tif", layers, vote_bands(samples), geobox)) as file:
        assert file.nodata == (under or None)
        values = file.read(1, masked=True)
        np.testing.assert_array_equal(values.mask, missing)
        assert set(np.unique(values.data[missing])) == {under}
        np.testing.assert_array_equal(values.data[~missing], layers["votes"][~missing])


def test_a_band_without_a_valid_pixel_and_votes_have_no_statistics(tmp_path):
    geobox = GeoBox((40, 60), UTM, "EPSG:32632")
    layers = layers_of(geobox.shape)
    layers["uncertainty"][:] = np.nan
    with rasterio.open(write(tmp_path / "a.tif", layers, map_bands(NAMES), geobox)) as file:
        assert "STATISTICS_MEAN" in file.tags(1) and "STATISTICS_MEAN" not in file.tags(2)
    with rasterio.open(write(tmp_path / "v.tif", layers, vote_bands(20), geobox)) as file:
        assert "STATISTICS_MEAN" not in file.tags(1)


def test_overviews_of_a_mask_hold_nothing_but_its_classes(tmp_path):
    geobox = GeoBox((1100, 1100), UTM, "EPSG:32632")
    layers = layers_of(geobox.shape)
    for classes, names in ((2, NAMES), (4, ("mask",))):
        layers["mask"] = np.where(layers["mask"] == 1, classes - 1, layers["mask"])
        path = write(tmp_path / "a.tif", layers, map_bands(names, legend=legend(classes)), geobox)
        for level in (0, 1):
            with rasterio.open(path, overview_level=level) as file:
                assert set(np.unique(file.read(1))) == {0, classes - 1, 255}


def test_float_map(tmp_path):
    geobox = GeoBox((700, 900), UTM, "EPSG:32632")
    layers, bands = layers_of(geobox.shape), map_bands(("mask", "probability", "uncertainty"), float32=True)
    path = write(tmp_path / "water.tif", layers, bands, geobox)
    assert cog_validate(path, strict=True) == (True, [], [])
    stored = quantise(layers, bands)
    with rasterio.open(path) as file:
        assert np.isnan(file.nodata) and set(file.dtypes) == {"float32"} and file.scales == (1, 1, 1)
        np.testing.assert_array_equal(file.read(), stored)
    with rasterio.open(path, overview_level=0) as file:
        np.testing.assert_array_equal(file.read()[1:], halve(stored, bands)[1:])
        assert set(np.unique(file.read(1)[~np.isnan(file.read(1))])) == {0, 1}


@pytest.mark.parametrize("samples", [1, 32, 33, 64])
def test_votes_keep_every_bit_and_their_mask(tmp_path, samples):
    geobox = GeoBox((700, 1100), UTM, "EPSG:32632")
    layers, bands = layers_of(geobox.shape, samples), vote_bands(samples)
    assert np.any(layers["votes"] == 2**samples - 1) or samples > 1
    layers["votes"][-1] = 2**samples - 1  # water in all samples is a value like any other
    layers["votes"][-2] = 0
    path = write(tmp_path / "water_samples.tif", layers, bands, geobox)
    assert os.listdir(tmp_path) == ["water_samples.tif"]
    assert cog_validate(path, strict=True) == (True, [], [])
    valid = layers["mask"] != 255
    step = 1
    for level in (None, 0, 1):
        with rasterio.open(path, **({} if level is None else {"overview_level": level})) as file:
            assert file.dtypes == ("uint32" if samples <= 32 else "uint64",)
            # of an overview opened by itself GDAL tells no nodata of 64 bits
            assert file.nodata == (bands[0].nodata if level is None or samples <= 32 else None)
            np.testing.assert_array_equal(file.read_masks(1) > 0, valid[::step, ::step])
            np.testing.assert_array_equal(
                file.read(1), np.where(valid, layers["votes"], nothing(bands)[0])[::step, ::step]
            )
        step *= 2


@pytest.mark.parametrize("float32", [False, True])
def test_pixels_never_written_are_not_classified(tmp_path, float32):
    geobox = GeoBox((900, 900), UTM, "EPSG:32632")
    layers, bands = layers_of(geobox.shape), map_bands(NAMES, float32)
    part = {name: layer[300:700, 310:820] for name, layer in layers.items()}
    with MapWriter(tmp_path / "a.tif", geobox, bands) as writer:
        writer.write(Roi(300, 700, 310, 820), quantise(part, bands))
        writer.finish()
    with rasterio.open(tmp_path / "a.tif") as file:
        inside = np.zeros(geobox.shape, bool)
        inside[300:700, 310:820] = True
        assert not (file.read_masks(1) > 0)[~inside].any()
        np.testing.assert_array_equal(file.read()[:, 300:700, 310:820], quantise(part, bands))


def test_same_bytes_whatever_the_tiles_order_and_threads(tmp_path):
    geobox = GeoBox((1200, 1000), UTM, "EPSG:32632")
    layers = layers_of(geobox.shape)
    for bands in (map_bands(NAMES), map_bands(NAMES, float32=True), vote_bands(20)):
        one = write(tmp_path / "a.tif", layers, bands, geobox, size=333, tags={"b": 1, "a": 2})
        two = write(
            tmp_path / "b.tif", layers, bands, geobox, size=512, tags={"b": 1, "a": 2}, options={"num_threads": "1"}
        )
        assert digest(one) == digest(two)


def test_creation_options_can_be_overridden(tmp_path):
    geobox = GeoBox((600, 600), UTM, "EPSG:32632")
    options = {"compress": "DEFLATE", "BLOCKSIZE": "256"}
    path = write(tmp_path / "a.tif", layers_of(geobox.shape), map_bands(NAMES), geobox, options=options)
    with rasterio.open(path) as file:
        assert file.profile["compress"] == "deflate" and file.block_shapes[0] == (256, 256)
    for wrong in ({"compress": "JPEG"}, {"COMPRES": "ZSTD"}, {"TILING_SCHEME": "GoogleMapsCompatible"}):
        with pytest.raises(InputError, match="is not one of"):
            MapWriter(tmp_path / "b.tif", geobox, map_bands(NAMES), options=wrong)
    for block in ("100", "0", "x"):
        with pytest.raises(InputError, match="multiple of 16"):
            MapWriter(tmp_path / "b.tif", geobox, map_bands(NAMES), options={"BLOCKSIZE": block})
    for wrong in ({"LEVEL": "high"}, {"LEVEL": "23"}, {"COMPRESS": "DEFLATE", "LEVEL": "13"}):
        with pytest.raises(InputError, match="is not a number from 1 to"):
            MapWriter(tmp_path / "b.tif", geobox, map_bands(NAMES), options=wrong)
    with pytest.raises(InputError, match="PREDICTOR=2 is not one of"):
        MapWriter(tmp_path / "b.tif", geobox, map_bands(NAMES), options={"PREDICTOR": "2"})
    floats = {"PREDICTOR": "FLOATING_POINT"}  # not for bytes, which GDAL says when it writes
    with pytest.raises(OutputError, match="b.tif"):
        write(tmp_path / "b.tif", layers_of(geobox.shape), map_bands(NAMES), geobox, options=floats)
    assert os.listdir(tmp_path) == ["a.tif"]


def test_zstd_where_gdal_has_it_else_deflate(monkeypatch):
    assert cog._codec() == "ZSTD"

    def lacking(*args, **kwargs):
        raise rasterio.errors.RasterioIOError("missing codec")

    monkeypatch.setattr(rasterio, "MemoryFile", lacking)
    assert cog._codec.__wrapped__() == "DEFLATE"


def test_a_mask_alone_has_colours(tmp_path):
    geobox = GeoBox((600, 600), UTM, "EPSG:32632")
    path = write(tmp_path / "a.tif", layers_of(geobox.shape), map_bands(["mask"]), geobox)
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as file:
        assert file.colormap(1)[1] == (31, 120, 180, 255)
    assert os.listdir(tmp_path) == ["a.tif"]


def test_an_error_on_the_way_leaves_the_old_file_alone(tmp_path):
    geobox = GeoBox((300, 300), UTM, "EPSG:32632")
    path = tmp_path / "a.tif"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), MapWriter(path, geobox, map_bands(NAMES)):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a.tif"] and path.read_bytes() == b"old"
    with pytest.raises(OutputError, match="missing"):
        MapWriter(tmp_path / "missing" / "a.tif", geobox, map_bands(NAMES))


def test_a_full_disk_is_an_error_at_every_stage(tmp_path):
    """A limit on file size stands in for the disk: from the first tile to the last byte of the COG."""
    rng = np.random.default_rng(0)
    geobox, bands = GeoBox((1024, 1536), UTM, "EPSG:32632"), map_bands(NAMES)
    layers = {name: rng.random(geobox.shape, dtype=np.float32) for name in NAMES}
    layers["mask"] = (layers["mask"] > 0.5).astype(np.uint8)
    whole = write(tmp_path / "whole.tif", layers, bands, geobox).stat().st_size
    base = 3 * 1024 * 1536
    assert whole < base
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (100_000, base // 2, base - 1, whole // 3, whole - 5000, whole - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OutputError, match=r"^\S*a\.tif cannot be written: .+$"):
                write(tmp_path / "a.tif", layers, bands, geobox)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(tmp_path) == ["whole.tif"]


def test_bytes_lost_without_an_error_are_found(tmp_path, monkeypatch):
    geobox, bands = GeoBox((600, 600), UTM, "EPSG:32632"), map_bands(NAMES)
    layers = layers_of(geobox.shape)
    copy = cog.rasterio.shutil.copy

    def lossy(source, target, **options):
        copy(source, target, **options)
        if options["driver"] == "COG":
            os.truncate(target, os.path.getsize(target) - 100)

    monkeypatch.setattr(cog.rasterio.shutil, "copy", lossy)
    with pytest.raises(OutputError, match="a.tif"):
        write(tmp_path / "a.tif", layers, bands, geobox)
    assert os.listdir(tmp_path) == []


def test_writers_by_suffix(tmp_path):
    geobox = GeoBox((60, 60), UTM, "EPSG:32632")
    for suffix, writer in WRITERS.items():
        with open_writer(tmp_path / f"a{suffix}", geobox, map_bands(["mask"]), {}, {}) as opened:
            assert isinstance(opened, writer)
    with pytest.raises(OutputError, match="maps are written as .tif"):
        open_writer(tmp_path / "a.png", geobox, map_bands(["mask"]), {}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", ["EPSG:32633", "EPSG:25832", ""])
def test_a_file_that_came_out_with_another_crs_is_no_map(tmp_path, monkeypatch, other):
    geobox, bands = GeoBox((60, 60), UTM, "EPSG:32632"), map_bands(NAMES)
    copy = cog.rasterio.shutil.copy

    def elsewhere(source, target, **options):
        copy(source, target, **options)
        if options["driver"] == "COG":
            with rasterio.open(target, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
                file.crs = rasterio.CRS.from_string(other) if other else rasterio.CRS()

    monkeypatch.setattr(cog.rasterio.shutil, "copy", elsewhere)
    with pytest.raises(OutputError, match="a.tif.*CRS"):
        write(tmp_path / "a.tif", layers_of(geobox.shape), bands, geobox)
    assert os.listdir(tmp_path) == []
