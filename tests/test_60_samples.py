"""Samples as maps of their own: areas, exports, pictures, paths."""

import json
import sqlite3
from contextlib import closing

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from scipy.ndimage import label

from geouq.answers.connected import connected
from geouq.answers.samples import samples
from geouq.errors import InputError, OutputError, SceneError
from geouq.grid import Roi
from geouq.maps.bands import quantise, vote_bands
from geouq.maps.cog import MapWriter
from geouq.maps.votes import sums
from tests.helpers import geouq
from tests.maps import AFFINES, SHAPES, UTM, on_map, write_map, write_places

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write_votes(path, says, valid=None, affine=UTM, crs="EPSG:32633"):
    """``says`` (samples, rows, columns) bool as a votes file."""
    count, rows, columns = says.shape
    valid = np.ones((rows, columns), bool) if valid is None else valid
    dtype = np.uint32 if count <= 32 else np.uint64
    votes = np.zeros((rows, columns), dtype)
    for sample in range(count):
        votes |= says[sample].astype(dtype) << dtype(sample)
    planes = {"mask": np.where(valid, 0, 255).astype(np.uint8), "votes": votes}
    with MapWriter(path, GeoBox((rows, columns), affine, crs), vote_bands(count), {"GEOUQ_SAMPLES": count}) as writer:
        writer.write(Roi(0, rows, 0, columns), quantise(planes, vote_bands(count)))
        writer.finish()
    return path


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(0, 2**32), st.integers(1, 4))
def test_sums_are_those_of_each_bit(count, seed, owners):
    rng = np.random.default_rng(seed)
    dtype = np.uint32 if count <= 32 else np.uint64
    votes = (
        rng.integers(0, 1 << count, 50, dtype=np.uint64, endpoint=False) if count < 64 else rng.integers(0, 2**63, 50)
    )
    votes = np.where(rng.random(50) < 0.5, rng.choice([0, (1 << count) - 1]), votes).astype(dtype)
    weight, owner = rng.random(50), rng.integers(0, owners, 50)
    bits = votes[:, None].astype(object) >> np.arange(count) & 1
    expected = np.stack([(bits * weight[:, None])[owner == k].sum(0).astype(float) for k in range(owners)])
    np.testing.assert_allclose(sums(votes, weight, owner, owners, count), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("count", [20, 50])
def test_areas_and_masks_are_those_of_each_sample(tmp_path, count):
    path, says, valid, *_, area = write_map(tmp_path, samples=count)
    found = samples(path)
    np.testing.assert_allclose(found.areas, np.einsum("yx,syx->s", area, says), rtol=1e-9)
    assert found.valid_area == pytest.approx((area * valid).sum(), rel=1e-9) and len(found) == count
    order = np.argsort(found.areas)
    assert (found.number("least"), found.number("most")) == (order[0], order[-1])
    assert found.export(7, tmp_path / "k.tif") == 7
    with rasterio.open(tmp_path / "k.tif") as file:
        assert file.tags()["GEOUQ_SAMPLE"] == "7"
        np.testing.assert_array_equal(file.read(1), np.where(valid, says[7], 255))
    found.export("most", tmp_path / "k.gpkg")
    shapes = geopandas.read_file(tmp_path / "k.gpkg")
    assert shapes["area_m2"].sum() == pytest.approx(found.areas.max(), rel=1e-9)
    assert samples(tmp_path / "m_samples.tif").areas.tolist() == found.areas.tolist()


@pytest.mark.parametrize("name", ["m.tif", "m.tiff", "m_samples.tif"])
def test_map_and_votes_are_never_replaced_by_one_sample(tmp_path, name):
    path, *_ = write_map(tmp_path)
    if name == "m.tiff":
        path = path.rename(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(OutputError, match="is what is to be read"):
        samples(path).export("most", tmp_path / name, overwrite=True)
    assert (tmp_path / name).read_bytes() == before


def test_the_picture_is_whole_and_drawn_of_any_shape(tmp_path):
    for number, (rows, columns) in enumerate([(30, 40), (8, 900), (1700, 30)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, *_ = write_map(folder, rows=rows, columns=columns, crs=None if number == 1 else "EPSG:32633")
        samples(path).preview(folder / "p.png")
        assert (folder / "p.png").read_bytes()[:4] == b"\x89PNG"
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]


# ---------------------------------------------------------------- paths


def brute(passable, a, b, corners):
    labels, _ = label(passable, np.ones((3, 3)) if corners else None)
    return bool(labels[a] and labels[a] == labels[b])


class InMemory:
    """Votes of three samples that are in no file."""

    def __init__(self, says, valid):
        self.says, self.valid, self.samples = says, valid, len(says)
        self.geobox = GeoBox(valid.shape, UTM, "EPSG:32633")

    def votes(self, roi):
        bits = sum(each.astype(np.uint32) << np.uint32(s) for s, each in enumerate(self.says & self.valid))
        return bits[roi.slices], self.valid[roi.slices]


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    st.floats(0.3, 0.7),
    st.integers(0, 2**32),
    st.integers(1, 30),
    st.sampled_from(["water", "land"]),
)
def test_paths_are_those_of_the_whole_map(shape, wet, seed, pixels, through):
    rng = np.random.default_rng(seed)
    says = rng.random((3, *shape)) < wet
    a, b = [tuple(int(rng.integers(n)) for n in shape) for _ in "ab"]
    valid = rng.random(shape) > 0.1
    valid[a] = valid[b] = True
    here, there = [UTM * (column + 0.5, row + 0.5) for row, column in (a, b)]
    found = connected(InMemory(says, valid), here, there, through, pixels)
    passable = valid & (says if through == "water" else ~says)
    assert found.tolist() == [brute(each, a, b, through == "land") for each in passable]


def test_a_road_that_some_samples_cut_off(tmp_path):
    says = np.zeros((4, 9, 9), bool)
    says[1:, 4, :] = True  # a river in three of four samples
    says[2, 4, 6] = False  # with a ford in one of them
    path = write_votes(tmp_path / "v.tif", says)
    north, south = UTM * (2.5, 1.5), UTM * (2.5, 7.5)
    found = samples(path)
    assert found.connected(north, south, through="land").tolist() == [True, False, True, False]
    assert not found.connected(north, south).any(), "neither is in the water"
    assert found.connected(UTM * (0.5, 4.5), UTM * (8.5, 4.5)).tolist() == [False, True, False, True]


# ---------------------------------------------------------------- the command, and what cannot be done


def test_the_command(tmp_path):
    write_map(tmp_path)
    done = geouq("samples", "m_samples.tif", cwd=tmp_path)
    assert len(done.stdout.splitlines()) == 21 and done.stdout.splitlines()[0].endswith("least")
    x, y = UTM * (20.5, 3.5)
    options = ["--sample", "median", "-o", "k.tif", "--preview", "p.png", "--connects", x, y, x + 30, y, "--json"]
    summary = json.loads(geouq("samples", "m.tif", *options, cwd=tmp_path).stdout)
    assert summary["samples"] == 20 and summary["exported"] == summary["median"]
    assert 0 <= summary["connected"]["probability"] <= 1 and len(summary["connected"]["samples"]) == 20
    assert (tmp_path / "k.tif").exists() and (tmp_path / "p.png").exists()
    assert "go together" in geouq("samples", "m.tif", "--sample", 3, cwd=tmp_path, code=2).stderr


def test_one_line_for_what_is_wrong(tmp_path):
    path, _, valid, *_ = write_map(tmp_path)
    found = samples(path)
    (tmp_path / "there.tif").write_text("mine")
    y, x = np.argwhere(~valid)[0]
    good = UTM * (np.argwhere(valid)[0][::-1] + 0.5)
    wrong = [
        (lambda: found.export(20, tmp_path / "k.tif"), InputError, "no sample 20: give 0 to 19"),
        (lambda: found.export(-1, tmp_path / "k.tif"), InputError, "no sample -1"),
        (lambda: found.export("wettest", tmp_path / "k.tif"), InputError, "least, median or most"),
        (lambda: found.export(0, tmp_path / "there.tif"), OutputError, "--overwrite"),
        (lambda: found.export(0, tmp_path / "k.shp"), OutputError, ".gpkg"),
        (lambda: found.export(0, tmp_path / "no" / "k.tif"), OutputError, "does not exist"),
        (lambda: found.preview(tmp_path / "p.jpg"), OutputError, ".png"),
        (lambda: found.connected((0, 0), good), InputError, "lies beyond"),
        (lambda: found.connected(good, UTM * (x + 0.5, y + 0.5)), InputError, "not classified"),
        (lambda: found.connected(good, good, through="air"), InputError, "water or land"),
        (lambda: samples(tmp_path / "none.tif"), SceneError, "none.tif"),
    ]
    for call, error, words in wrong:
        with pytest.raises(error) as caught:
            call()
        assert words in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    assert (tmp_path / "there.tif").read_text() == "mine"


def test_a_map_without_samples_says_so(tmp_path):
    path = write_votes(tmp_path / "v.tif", np.zeros((1, 4, 4), bool), affine=Affine.identity(), crs=None)
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(GEOUQ_SAMPLES="0")
    with pytest.raises(SceneError, match="--samples 20"):
        samples(path)


def test_a_path_from_nowhere_is_refused(tmp_path):
    path, *_ = write_map(tmp_path)
    with pytest.raises(InputError, match="finite"):
        samples(path).connected((float("nan"), 0), (0, 0))


@pytest.mark.parametrize(
    ("crs", "grid", "unit"),
    [("EPSG:32633", "north-up", "m²"), (None, "pixels", "px"), (None, "north-up", "squared units of the grid")],
)
def test_every_verb_says_in_which_unit_areas_are(tmp_path, crs, grid, unit):
    path = write_map(tmp_path, affine=AFFINES[grid], crs=crs)[0]
    places = write_places(tmp_path / "p.gpkg", on_map(SHAPES[:2], AFFINES[grid]), crs)
    told = [geouq("samples", path), geouq("zonal", path, places, "-o", tmp_path / "z.gpkg")]
    told.append(geouq("vectorize", path, tmp_path / "v.gpkg", "--min-area", "2"))
    for done in told:
        assert f" {unit}" in done.stdout and (unit == "m²" or "m²" not in done.stdout), done.stdout
    json_told = json.loads(geouq("samples", path, "--json").stdout)
    assert json_told["unit"] == unit
    with closing(sqlite3.connect(tmp_path / "v.gpkg")) as database:
        aliases = dict(database.execute("SELECT column_name, name FROM gpkg_data_columns"))
    assert aliases["area_m2"] == f"area in {unit}"
