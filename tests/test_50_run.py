"""The durable run: files whole or absent, broken runs continued to the same bytes, nothing overwritten unasked."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from matplotlib.image import imread
from rasterio.vrt import WarpedVRT
from rio_cogeo.cogeo import cog_validate

import geouq
from geouq.cli.segment import describe
from geouq.errors import InputError, OutputError, SceneError, TileError
from geouq.grid import pixel_areas
from geouq.maps.preview import preview
from geouq.sampling.dropout import Dropout, plain_logits
from geouq.segmentation.events import Finishing, Noted, TileDone
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.ledger import Ledger, Receipt, enter
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run
from geouq.segmentation.summary import findings
from tests.helpers import as_scene, scene_values, small_model, write_part

MODEL = small_model()
LAYERS = ("mask", "uncertainty", "confidence", "probability", "votes")


def map_scene(path: Path, values=None, on_event=lambda event: None, overwrite=False, outputs=None, **settings):
    scene = as_scene(scene_values(150, 170) if values is None else values)
    job = prepare(scene, MODEL, Settings(**{"samples": 6, "layers": LAYERS, "tile": 48} | settings))
    outputs = Outputs(path, path.with_suffix(".gpkg"), path.with_suffix(".png")) if outputs is None else outputs
    return run(scene, job, outputs, overwrite=overwrite, on_event=on_event), scene


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def test_files_hold_what_segment_says(tmp_path):
    summary, scene = map_scene(tmp_path / "map.tif")
    names = {"map.tif", "map_samples.tif", "map_samples.qml", "map.gpkg", "map.png", "map.qml"}
    assert {p.name for p in tmp_path.iterdir()} == names == {Path(f).name for f in summary["files"]}
    lazy = geouq.segment(scene, MODEL, samples=6, layers=LAYERS, tile=48).compute(scheduler="synchronous")
    for name in ("map.tif", "map_samples.tif"):
        valid, errors, warnings = cog_validate(tmp_path / name, strict=True)
        assert valid, (errors, warnings)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.descriptions == LAYERS[:-1] and file.crs.to_epsg() == 32633
        assert file.transform == scene.odc.geobox.affine and set(file.nodatavals) == {255}
        bands = file.read()
        tags = file.tags()
    np.testing.assert_array_equal(bands[0], lazy["mask"])
    for band, layer in zip(bands[1:], LAYERS[1:-1], strict=True):
        classified = band != 255
        np.testing.assert_array_equal(classified, np.isfinite(lazy[layer]))
        np.testing.assert_allclose(band[classified] / 100, lazy[layer].values[classified], atol=0.00501)
    with rasterio.open(tmp_path / "map_samples.tif") as file:
        np.testing.assert_array_equal(file.read(1, masked=True).filled(0), lazy["votes"])
    assert tags["GEOUQ_MODEL_HASH"] == MODEL.hash and tags["GEOUQ_SAMPLES"] == "6" and tags["GEOUQ_SEED"] == "0"
    assert tags["GEOUQ_HALO"] == str(MODEL.halo) and "GEOUQ_VERSION" in tags


def test_areas_polygons_and_mask_agree(tmp_path):
    summary, scene = map_scene(tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        mask = file.read(1)
    job = prepare(scene, MODEL, Settings(samples=6))
    area = np.broadcast_to(pixel_areas(job.geobox, job.region), mask.shape)
    assert summary["area_m2"] == pytest.approx(area[mask == 1].sum(), rel=1e-9)
    assert summary["not_classified_percent"] == pytest.approx(100 * (mask == 255).mean(), abs=1e-3)
    water = geopandas.read_file(tmp_path / "map.gpkg")
    assert water.is_valid.all() and water.area_m2.sum() == pytest.approx(summary["area_m2"], rel=1e-9)
    assert (water.area_m2_p05 <= water.area_m2_p95).all() and water.crs.to_epsg() == 32633
    lazy = geouq.segment(scene, MODEL, samples=6, layers=("votes",)).compute()
    areas = [(area * (lazy["votes"].values >> s & 1)).sum() for s in range(6)]
    assert summary["area_m2_p05"] == pytest.approx(np.quantile(areas, 0.05), rel=1e-6)
    assert summary["area_m2_p95"] == pytest.approx(np.quantile(areas, 0.95), rel=1e-6)


def test_plain_passes_give_the_same_files(tmp_path, monkeypatch):
    """The whole run by the compiled plan against the whole run by S plain passes of the network."""
    layers = ("mask", "uncertainty", "confidence", "probability", "epistemic")
    map_scene(tmp_path / "plan.tif", outputs=Outputs(tmp_path / "plan.tif"), layers=layers)

    def plain(sampler, window, numbers=None):
        x = window.seen_by(sampler.model, sampler.device)
        for number, logits in enumerate(plain_logits(sampler, x)):
            yield number, logits[:, *window.core.slices]

    monkeypatch.setattr(Dropout, "draw", plain)
    map_scene(tmp_path / "plain.tif", outputs=Outputs(tmp_path / "plain.tif"), layers=layers)
    with rasterio.open(tmp_path / "plan.tif") as a, rasterio.open(tmp_path / "plain.tif") as b:
        ours, theirs = a.read().astype(int), b.read().astype(int)
    assert np.abs(ours - theirs).max() <= 1 and (ours != theirs).mean() <= 1e-4


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 9])
def test_continued_after_an_error_gives_the_same_bytes(tmp_path, after):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    map_scene(tmp_path / "a" / "map.tif")
    count = 0

    def stop(event):
        nonlocal count
        count += isinstance(event, TileDone)
        if count == after:
            raise Stop

    with pytest.raises(Stop):
        map_scene(tmp_path / "b" / "map.tif", on_event=stop)
    assert [p.name for p in (tmp_path / "b").iterdir()] == [".map.tif.geouq"]
    summary, _ = map_scene(tmp_path / "b" / "map.tif")
    assert summary["tiles_continued"] >= after and summary["tiles"] == 16
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_damaged_part_is_computed_again(tmp_path):
    def stop(event):
        if isinstance(event, TileDone):
            raise Stop

    path = tmp_path / "map.tif"
    with pytest.raises(Stop):
        map_scene(path, on_event=stop)
    part = next((tmp_path / ".map.tif.geouq").glob("*.part"))
    part.write_bytes(part.read_bytes()[:-10])
    (tmp_path / "other").mkdir()
    map_scene(path)
    map_scene(tmp_path / "other" / "map.tif")
    assert digests(tmp_path) == digests(tmp_path / "other")


def test_other_settings_are_refused_or_start_anew(tmp_path):
    def stop(event):
        if isinstance(event, TileDone):
            raise Stop

    path = tmp_path / "map.tif"
    with pytest.raises(Stop):
        map_scene(path, on_event=stop)
    with pytest.raises(OutputError, match="other settings \\(.*seed.*\\).*--overwrite"):
        map_scene(path, seed=1)
    summary, _ = map_scene(path, seed=1, overwrite=True)
    assert summary["tiles_continued"] == 0 and not (tmp_path / ".map.tif.geouq").exists()


def write_scene(path: Path, values, **profile) -> Path:
    height, width = values.shape[1:]
    profile |= {"driver": "GTiff", "height": height, "width": width, "count": len(values), "dtype": "float32"}
    transform = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=transform) as file:
        file.write(values)
    return path


@pytest.mark.parametrize("changed", [{"nodata": -14.0}, {"bidx": [2, 1]}])
def test_a_scene_read_otherwise_is_another_run(tmp_path, changed):
    def stop(event):
        if isinstance(event, TileDone):
            raise Stop

    path = write_scene(tmp_path / "scene.tif", scene_values(60, 60))
    outputs = Outputs(tmp_path / "map.tif")

    def start(on_event, **how):
        scene = geouq.open_scene(path, scale="db", **how)
        return run(scene, prepare(scene, MODEL, Settings(samples=2, tile=24)), outputs, on_event=on_event)

    with pytest.raises(Stop):
        start(stop, bidx=[1, 2])
    with pytest.raises(OutputError, match="other settings \\(scene as read\\)"):
        start(lambda event: None, **({"bidx": [1, 2]} | changed))
    assert start(lambda event: None, bidx=[1, 2])["tiles_continued"] > 0


def test_the_scene_is_never_replaced_by_its_map(tmp_path):
    path = write_scene(tmp_path / "scene.tif", scene_values(40, 40))
    before = path.read_bytes()
    (tmp_path / "link.tif").symlink_to(path)
    scene = geouq.open_scene(path, scale="db")
    job = prepare(scene, MODEL, Settings(samples=2))
    for name in ("scene.tif", "link.tif"):
        with pytest.raises(OutputError, match="is the scene itself"):
            run(scene, job, Outputs(tmp_path / name), overwrite=True)
    assert path.read_bytes() == before


def test_what_a_virtual_raster_shows_is_part_of_the_scene(tmp_path):
    def stop(event):
        if isinstance(event, TileDone):
            raise Stop

    path = write_scene(tmp_path / "scene.tif", scene_values(60, 60))
    with rasterio.open(path) as file, WarpedVRT(file) as warped:
        rasterio.shutil.copy(warped, tmp_path / "scene.vrt", driver="VRT")
    scene = geouq.open_scene(tmp_path / "scene.vrt", scale="db")
    job = prepare(scene, MODEL, Settings(samples=2, tile=24))
    with pytest.raises(OutputError, match="is the scene itself"):
        run(scene, job, Outputs(path), overwrite=True)
    with pytest.raises(Stop):
        run(scene, job, Outputs(tmp_path / "map.tif"), on_event=stop)
    write_scene(path, scene_values(60, 60, seed=1))
    os.utime(path, (1, 1))
    with pytest.raises(OutputError, match="other settings \\(scene\\)"):
        run(scene, job, Outputs(tmp_path / "map.tif"))


def test_outputs_on_another_file_system(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    replace = os.replace

    def no_link_across(source, target):
        if Path(target).parent == other and other not in Path(source).parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr("os.replace", no_link_across)
    outputs = Outputs(tmp_path / "map.tif", other / "water.gpkg", other / "water.png")
    map_scene(tmp_path / "map.tif", outputs=outputs)
    assert {p.name for p in other.iterdir()} == {"water.gpkg", "water.png"}
    assert len(geopandas.read_file(other / "water.gpkg"))


def test_what_exists_is_not_overwritten_unasked(tmp_path):
    path = tmp_path / "map.tif"
    (tmp_path / "map.gpkg").write_text("mine")
    with pytest.raises(OutputError, match="map.gpkg exists already.*--overwrite"):
        map_scene(path)
    assert [p.name for p in tmp_path.iterdir()] == ["map.gpkg"] and (tmp_path / "map.gpkg").read_text() == "mine"
    map_scene(path, overwrite=True)
    assert (tmp_path / "map.gpkg").read_bytes()[:6] == b"SQLite"


def test_outputs_that_cannot_be(tmp_path):
    with pytest.raises(OutputError, match="make it first"):
        map_scene(tmp_path / "nowhere" / "map.tif")
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        map_scene(tmp_path, outputs=Outputs(tmp_path / "folder.tif"), overwrite=True)
    (tmp_path / "folder.tif").rmdir()
    with pytest.raises(OutputError, match="give it that suffix"):
        map_scene(tmp_path, outputs=Outputs(tmp_path / "map.png"))
    for area in (-1.0, np.nan):
        with pytest.raises(InputError, match="min-area"):
            map_scene(tmp_path, outputs=Outputs(tmp_path / "map.tif", min_area=area))
    with pytest.raises(OutputError, match="--layers"):
        map_scene(tmp_path / "map.tif", layers=("uncertainty",))
    assert not list(tmp_path.iterdir())


def test_a_failed_tile_fails_the_run_and_leaves_no_map(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise TileError("no luck")

    monkeypatch.setattr("geouq.segmentation.tile.predict_tile", fail)
    with pytest.raises(TileError, match="no luck"):
        map_scene(tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_only_some_layers(tmp_path):
    path = tmp_path / "map.tif"
    map_scene(path, layers=("probabilities", "epistemic"), outputs=Outputs(path, float32=True))
    with rasterio.open(path) as file:
        assert file.descriptions == ("probability_land", "probability_water", "epistemic")
        assert set(file.dtypes) == {"float32"}
        total = file.read(1) + file.read(2)
    assert np.nanmax(np.abs(total - 1)) < 1e-6
    map_scene(tmp_path / "v.tif", layers=("votes",), outputs=Outputs(tmp_path / "v.tif"))
    assert {p.name for p in tmp_path.iterdir()} == {"map.tif", "map.qml", "v_samples.tif", "v_samples.qml"}


def test_polygons_from_the_samples_of_this_map_alone(tmp_path):
    path = tmp_path / "map.tif"
    map_scene(path, outputs=Outputs(path), layers=("mask", "votes"), samples=2)
    with pytest.raises(SceneError, match="votes of samples"):
        geouq.vectorize(tmp_path / "map_samples.tif", tmp_path / "w.gpkg")
    votes = (tmp_path / "map_samples.tif").read_bytes()
    map_scene(path, outputs=Outputs(path), layers=("mask",), samples=2, threshold=0.3, overwrite=True)
    (tmp_path / "map_samples.tif").write_bytes(votes)
    with pytest.raises(SceneError, match="different runs \\(GEOUQ_RUN\\)"):
        geouq.vectorize(path, tmp_path / "w.gpkg")
    map_scene(path, outputs=Outputs(path), layers=("mask", "votes"), samples=0, overwrite=True)
    geouq.vectorize(path, tmp_path / "w.gpkg")
    assert geopandas.read_file(tmp_path / "w.gpkg").area_m2_p05.isna().all()


def test_bounds_and_deterministic_pass(tmp_path):
    full, part = tmp_path / "full.tif", tmp_path / "part.tif"
    layers = ("mask", "uncertainty", "confidence")
    map_scene(full, outputs=Outputs(full), layers=layers)
    summary, _ = map_scene(part, outputs=Outputs(part), layers=layers, bounds=(500_300, 4_998_700, 501_200, 4_999_800))
    with rasterio.open(full) as a, rasterio.open(part) as b:
        window = rasterio.windows.from_bounds(*b.bounds, a.transform)
        np.testing.assert_array_equal(a.read(window=window), b.read())
        assert (summary["rows"], summary["columns"]) == b.shape == (110, 90)
    one, _ = map_scene(tmp_path / "one.tif", outputs=Outputs(tmp_path / "one.tif"), layers=layers, samples=0)
    assert one["area_m2_p05"] is None and one["samples"] == 0


def test_the_picture_is_made_from_what_the_tiles_read(tmp_path, monkeypatch):
    monkeypatch.setattr("geouq.maps.figure._LONGEST", 30)
    values, outputs = scene_values(96, 80), Outputs(tmp_path / "map.tif", preview=tmp_path / "map.png")
    bounds = (500_080, 4_999_100, 500_700, 4_999_970)
    scene = as_scene(values)
    job = prepare(scene, small_model(), Settings(samples=2, tile=32, bounds=bounds))
    with monkeypatch.context() as patch:
        patch.setattr("geouq.maps.preview.Squares.read", lambda *args: pytest.fail("the scene is read again"))
        summary = run(scene, job, outputs)
    rows, columns = job.region.slices
    preview(scene[:, rows, columns], outputs.path, tmp_path / "again.png", title="map", summary=summary)
    made, again = imread(outputs.preview), imread(tmp_path / "again.png")
    assert made.shape == again.shape and np.abs(made - again).mean() < 1e-4


def test_a_scene_without_a_valid_pixel(tmp_path):
    summary, _ = map_scene(tmp_path / "map.tif", values=np.full((2, 60, 50), np.nan, np.float32))
    assert summary["not_classified_percent"] == 100 and summary["area_m2"] == 0
    assert len(geopandas.read_file(tmp_path / "map.gpkg")) == 0


def test_ledger_is_held_by_one_process(tmp_path):
    with Ledger(tmp_path / "work", {"a": 1}, [], False) as ledger:
        with pytest.raises(OutputError, match="in use by another"):
            Ledger(tmp_path / "work", {"a": 1}, [], False)
        digest = write_part(tmp_path / "work" / "3.part", {"map": np.zeros(3)})
        enter(tmp_path / "work", Receipt(3, "3.part", digest, 1, 2.0, 3.0, (4.0,)))
        assert ledger.receipts() == {3: Receipt(3, "3.part", digest, 1, 2.0, 3.0, (4.0,))}


KILLED = [0.0, 0.3, 0.6, 0.9]


def test_killed_runs_of_the_command_line_end_in_the_same_bytes(tmp_path):
    values = scene_values(260, 250)
    scene = tmp_path / "scene.tif"
    profile = {"driver": "GTiff", "height": 260, "width": 250, "count": 2, "dtype": "float32", "crs": "EPSG:32633"}
    with rasterio.open(
        scene, "w", **profile, transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), nodata=np.nan
    ) as file:
        file.write(values)
        file.descriptions = ("VV", "VH")
    MODEL.save(tmp_path / "m.safetensors")

    def start(folder: str) -> subprocess.Popen:
        (tmp_path / folder).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "geouq.cli.main", "segment", str(scene), "-o", "map.tif", "--scale", "db"]
        command += ["--model", str(tmp_path / "m.safetensors"), "--samples", "4", "--tile", "20", "--json", "-q"]
        command += ["--vector", "map.gpkg", "--preview", "map.png", "--layers", "mask,uncertainty,confidence,votes"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        return subprocess.Popen(command, cwd=tmp_path / folder, stdout=subprocess.PIPE, env=environment)

    whole = start("whole")
    summary = json.loads(whole.communicate()[0])
    assert whole.returncode == 0
    for share in KILLED:
        process = start("killed")
        wanted = max(1, int(share * summary["tiles"]))
        deadline = time.monotonic() + 120
        parts = tmp_path / "killed" / ".map.tif.geouq"
        while time.monotonic() < deadline and process.poll() is None and len(list(parts.glob("*.part"))) < wanted:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finals = [p.name for p in (tmp_path / "killed").iterdir() if not p.name.startswith(".")]
        assert finals == [] or process.returncode == 0
    last = start("killed")
    last.communicate()
    assert last.returncode == 0 and digests(tmp_path / "whole") == digests(tmp_path / "killed")


def tags_of(path: Path) -> dict[str, str]:
    with rasterio.open(path) as file:
        return file.tags()


def test_every_file_of_a_run_carries_its_id_which_goes_by_content(tmp_path):
    ids = {}
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / folder).mkdir()
        path = write_scene(tmp_path / folder / "scene.tif", scene_values(60, 60, seed))
        os.utime(path, (1, 1))
        scene = geouq.open_scene(path, scale="db")
        job = prepare(scene, MODEL, Settings(samples=2, tile=24, layers=LAYERS))
        out = tmp_path / folder / "map.tif"
        outputs = Outputs(out, out.with_suffix(".gpkg"), out.with_suffix(".png"))
        summary = run(scene, job, outputs)
        ids[folder] = summary["run"]
        assert all(summary["run"].encode() in Path(file).read_bytes() for file in summary["files"])
        assert tags_of(out)["GEOUQ_RUN"] == tags_of(tmp_path / folder / "map_samples.tif")["GEOUQ_RUN"] == ids[folder]
    assert ids["a"] == ids["b"] != ids["c"]
    a, b = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert a == b


def test_a_scene_changed_after_it_was_opened_is_another_run(tmp_path):
    """Whatever xarray keeps of its attributes, and wherever it was changed."""
    path = write_scene(tmp_path / "scene.tif", scene_values(60, 300, holes=False))
    scene, out = geouq.open_scene(path, scale="db"), tmp_path / "map.tif"
    ask = {"samples": 2, "tile": 100}
    first = geouq.run(scene, MODEL, out, **ask)
    assert geouq.run(geouq.open_scene(path, scale="db"), MODEL, out, **ask)["already_there"]
    masked = scene.where((scene.x < scene.x[140]) | (scene.x > scene.x[159]))  # in no window that is looked at
    assert masked.attrs["read_as"] == scene.attrs["read_as"]
    with pytest.raises(OutputError, match="exists already"):
        geouq.run(masked, MODEL, out, **ask)
    second = geouq.run(masked, MODEL, out, overwrite=True, **ask)
    assert second["run"] != first["run"] and second["not_classified_percent"] == pytest.approx(20 / 3, abs=1e-3)
    assert geouq.run(masked, MODEL, out, **ask)["already_there"]


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson", ".parquet"])
def test_polygons_of_every_format_carry_the_run(tmp_path, suffix):
    outputs = Outputs(tmp_path / "map.tif", tmp_path / f"map{suffix}", min_area=200.0)
    summary, _ = map_scene(tmp_path / "map.tif", outputs=outputs)
    said = (tmp_path / f"map{suffix}").read_bytes()
    assert f"geouq run {summary['run']}, polygons from 200 m²".encode() in said or b"polygons from 200 m" in said


def test_votes_of_another_run_are_refused(tmp_path):
    """The scene of the old votes and that of the new map differ in nothing but their pixels."""
    path, other = tmp_path / "map.tif", tmp_path / "other.tif"
    map_scene(path, outputs=Outputs(path), layers=("mask", "votes"), samples=2)
    map_scene(other, scene_values(150, 170, seed=5), outputs=Outputs(other), layers=("mask", "votes"), samples=2)
    (tmp_path / "other_samples.tif").replace(tmp_path / "map_samples.tif")
    with pytest.raises(SceneError, match="different runs \\(GEOUQ_RUN\\)"):
        geouq.vectorize(path, tmp_path / "w.gpkg")
    with pytest.raises(SceneError, match="different runs \\(GEOUQ_RUN\\)"):
        geouq.samples(path)


def test_votes_of_a_run_need_a_map_that_names_it(tmp_path):
    """A map that has lost its tags may be of any run; one from before there were run ids has votes without one."""
    path, votes = tmp_path / "map.tif", tmp_path / "map_samples.tif"
    map_scene(path, outputs=Outputs(path), layers=("mask", "votes"), samples=2)
    forget_run(path)
    for read in (geouq.samples, lambda path: geouq.vectorize(path, tmp_path / "w.gpkg")):
        with pytest.raises(
            SceneError, match="lost that tag \\(GEOUQ_RUN\\).*run geouq segment again, or move"
        ) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "w.gpkg").exists()
    forget_run(votes)
    assert len(geouq.samples(path)) == 2
    geouq.vectorize(path, tmp_path / "w.gpkg")
    assert geopandas.read_file(tmp_path / "w.gpkg").area_m2_p05.notna().all()


def forget_run(path):
    """Write a raster anew without the tag that names its run."""
    with rasterio.open(path) as file:
        profile, values, names, tags = file.profile, file.read(), file.descriptions, file.tags()
    del tags["GEOUQ_RUN"]
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
        file.descriptions = names
        file.update_tags(**tags)


def test_what_an_overwritten_run_left_goes_with_it(tmp_path):
    path = tmp_path / "map.tif"
    (tmp_path / "else").mkdir()
    map_scene(path, outputs=Outputs(path, path.with_suffix(".gpkg"), path.with_suffix(".png")))
    (tmp_path / "mine_samples.tif").write_text("mine")
    notes = []
    new = scene_values(150, 170, seed=3)
    outputs = Outputs(path, tmp_path / "else" / "far.gpkg")
    map_scene(path, new, layers=("mask",), outputs=outputs, overwrite=True, on_event=notes.append)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"map.tif", "map.qml", "else", "mine_samples.tif"}
    told = [event.text for event in notes if isinstance(event, Noted)]
    assert len(told) == 4 and all("overwritten" in text for text in told)
    notes.clear()
    map_scene(path, layers=("mask",), outputs=Outputs(path), overwrite=True, on_event=notes.append)
    assert (tmp_path / "else" / "far.gpkg").exists()
    assert any("far.gpkg belongs to" in event.text for event in notes if isinstance(event, Noted))


def test_a_finished_command_given_again_is_success(tmp_path, monkeypatch):
    path = write_scene(tmp_path / "scene.tif", scene_values(60, 60))
    scene = geouq.open_scene(path, scale="db")
    out = tmp_path / "map.tif"
    outputs = Outputs(out, tmp_path / "map.gpkg", tmp_path / "map.png")

    def again(outputs=outputs, **settings):
        job = prepare(scene, MODEL, Settings(**{"samples": 4, "tile": 24, "layers": LAYERS} | settings))
        return run(scene, job, outputs)

    first = again()
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.iterdir()}
    (tmp_path / ".map.tif.geouq").mkdir()  # as if killed while this was being removed
    monkeypatch.setattr("geouq.segmentation.run.segment_tile", lambda *args: pytest.fail("computed again"))
    second = again()
    assert second["already_there"] and not first["already_there"]
    effort = {"already_there", "seconds", "megapixels_per_second", "tiles_continued"}
    assert {k: v for k, v in first.items() if k not in effort} == {k: v for k, v in second.items() if k not in effort}
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.iterdir()} == before
    refused = [{"seed": 1}, {"samples": 5}, {"threshold": 0.4}, {"bounds": (5e5, 4_999_500, 500_300, 5e6)}]
    refused += [{"layers": LAYERS[:-1]}, {"layers": (LAYERS[1], LAYERS[0], *LAYERS[2:])}, {"tile": 25}]
    refused += [{"outputs": Outputs(out, tmp_path / "map.gpkg", min_area=300.0)}]
    refused += [{"outputs": Outputs(out, options={"LEVEL": "3"})}, {"outputs": Outputs(out, float32=True)}]
    for changed in refused:
        with pytest.raises(OutputError, match="exists already"):
            again(**changed)
    write_scene(path, scene_values(60, 60, seed=2))
    scene = geouq.open_scene(path, scale="db")
    with pytest.raises(OutputError, match="exists already"):
        again()


def test_a_scene_newer_than_its_map_is_not_taken_for_mapped(tmp_path):
    path = write_scene(tmp_path / "scene.tif", scene_values(60, 60))
    scene = geouq.open_scene(path, scale="db")
    job = prepare(scene, MODEL, Settings(samples=2))
    run(scene, job, Outputs(tmp_path / "map.tif"))
    later = (tmp_path / "map.tif").stat().st_mtime + 10
    os.utime(path, (later, later))
    with pytest.raises(OutputError, match="exists already"):
        run(geouq.open_scene(path, scale="db"), job, Outputs(tmp_path / "map.tif"))


def test_nothing_classified_is_said(tmp_path):
    summary, _ = map_scene(tmp_path / "map.tif", values=np.full((2, 60, 50), np.nan, np.float32))
    assert len(summary["warnings"]) == 1 and "nothing was classified" in summary["warnings"][0]
    assert "nothing was classified" in describe(summary, 100.0) and "km²" not in describe(summary, 100.0)
    assert summary["mean_uncertainty"] is None and summary["mean_uncertainty_positive"] is None


def test_areas_without_a_crs_are_in_pixels_only_where_one_is_1():
    found = {"crs": None, "positive_class": "water", "area_m2": 300.0, "area_m2_p05": 200.0, "area_m2_p95": 400.0}
    found |= {"valid_area_m2": 900.0, "samples": 20, "not_classified_percent": 0.0, "already_there": False, "files": []}
    found |= {"mean_uncertainty": None, "mean_uncertainty_positive": None}
    assert describe(found, 1.0).startswith("water: 300 px (5–95 % of 20 samples: 200–400 px)")
    words = "water: 300 squared units of the grid (5–95 % of 20 samples: 200–400 squared units of the grid)"
    assert describe(found, 100.0).startswith(words)


def test_mean_uncertainty_is_that_of_the_map(tmp_path):
    summary, scene = map_scene(tmp_path / "map.tif", layers=("mask",), outputs=Outputs(tmp_path / "map.tif"))
    lazy = geouq.segment(scene, MODEL, samples=6, layers=("mask", "uncertainty"), tile=48).compute()
    mask, doubt = lazy["mask"].values, lazy["uncertainty"].values
    assert summary["mean_uncertainty"] == pytest.approx(np.nanmean(doubt), abs=2e-4)
    assert summary["mean_uncertainty_positive"] == pytest.approx(doubt[mask == 1].mean(), abs=2e-4)
    tags = tags_of(tmp_path / "map.tif")
    assert float(tags["GEOUQ_MEAN_UNCERTAINTY_POSITIVE"]) == summary["mean_uncertainty_positive"]
    assert float(tags["GEOUQ_AREA_M2"]) == summary["area_m2"]


@pytest.mark.parametrize("doubt, areas, words", [(0.6, (9.0, 10.0), "uncertain"), (0.1, (0.1, 10.0), "contradict")])
def test_a_map_that_should_not_be_trusted_says_so(doubt, areas, words):
    job = prepare(as_scene(scene_values(40, 40)), MODEL, Settings(samples=2))
    receipt = Receipt(0, "", "", 1600, 10.0, 100.0, areas, 2, doubt=20.0, water_doubt=10 * doubt)
    assert [words in text for text in findings(job, [receipt])["warnings"]] == [True]
    sure = Receipt(0, "", "", 1600, 10.0, 100.0, (9.0, 10.0), 2, doubt=20.0, water_doubt=1.0)
    assert findings(job, [sure])["warnings"] == []


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"layers": ("mask", "uncertainty")}, "layers"),
        ({"bounds": (500_000, 4_999_000, 501_000, 5_000_000)}, "bounds"),
        ({"batch": 2}, "batch"),
        ({"tile": 64}, "tile"),
        ({"samples": 3}, "samples"),
        ({"threshold": 0.4}, "threshold"),
        ({"moved": 10.0}, "grid"),
        ({"float32": True}, "float32"),
    ],
)
def test_each_setting_is_part_of_a_runs_identity(tmp_path, changed, named):
    path = tmp_path / "map.tif"

    def start(on_event=lambda event: None, moved=0.0, float32=False, **settings):
        scene = as_scene(scene_values(100, 100))
        scene = scene.assign_coords(x=scene.x + moved)
        job = prepare(scene, MODEL, Settings(**{"samples": 2, "tile": 48, "layers": ("mask", "std")} | settings))
        return run(scene, job, Outputs(path, float32=float32), on_event=on_event)

    def stop(event):
        if isinstance(event, TileDone):
            raise Stop

    with pytest.raises(Stop):
        start(stop)
    with pytest.raises(OutputError, match=f"other settings \\([^)]*{named}"):
        start(**changed)


def test_what_is_being_written_is_what_is_left(tmp_path):
    steps = []
    outputs = Outputs(tmp_path / "map.tif", tmp_path / "map.gpkg")
    map_scene(tmp_path / "map.tif", layers=("mask",), outputs=outputs, on_event=steps.append)
    assert [event.step for event in steps if isinstance(event, Finishing)] == ["map.tif", "map.gpkg"]
    assert not (tmp_path / "map_samples.tif").exists()
