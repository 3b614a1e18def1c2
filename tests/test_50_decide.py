"""Masks by decision: cut by the whole scene, undecided at a risk, announced by the alarm; in files and lazily."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr

import geouq
from geouq.alarm import measured_alarm
from geouq.decisions import LEVELS, STEPS, Cut, measured_risk
from geouq.errors import InputError, ModelError, TileError
from geouq.grid import pixel_areas
from geouq.layers import UNDECIDED
from geouq.maps import preview
from geouq.maps.styles import OPEN
from geouq.segmentation import graph
from geouq.segmentation.arguments import rule_of
from geouq.segmentation.events import TileDone
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run
from tests.helpers import as_scene, scene_values, small_model

LAYERS = ("mask", "uncertainty", "probability", "votes")
MODEL = small_model().with_spec(temperature=0.05)
#: of places of which the share of wrong pixels falls with the level
RISK = measured_risk({rule: 0.2 * (2 * (1 - np.array([LEVELS] * 40))) for rule in ("iou", "accuracy")})
ALARM = measured_alarm(
    [f"p{i}" for i in range(30)],
    np.linspace(0.05, 0.95, 30),
    {"iou": np.linspace(0, 0.9, 30) ** 2, "accuracy": [0.01] * 30},
)


def scene(rows: int = 150, columns: int = 170, **how):
    return as_scene(scene_values(rows, columns), **how)


def map_scene(path: Path, model=MODEL, on_event=lambda event: None, outputs=None, **settings):
    job = prepare(scene(), model, Settings(**{"samples": 6, "layers": LAYERS, "tile": 48} | settings))
    outputs = outputs or Outputs(path, path.with_suffix(".gpkg"), path.with_suffix(".png"))
    return run(scene(), job, outputs, on_event=on_event)


def lazily(model=MODEL, **settings):
    asked = {"samples": 6, "layers": LAYERS, "tile": 48} | settings
    return geouq.segment(scene(chunks={"y": 40, "x": 60}), model, **asked)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def bands(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    with rasterio.open(path) as file:
        return file.read(), file.tags()


@pytest.mark.parametrize("rule", ["iou", "area"])
def test_a_cut_by_the_scene_is_the_cut_it_names(tmp_path, rule):
    """All but the tags is as if the cut had been given as a number: bands, areas, doubt of the water."""
    found = map_scene(tmp_path / "scene.tif", decide=rule)
    assert found["decide"] == rule and found["cut"] != 0.5 and found["cut"] * STEPS % 1 == 0
    given = map_scene(tmp_path / "given.tif", decide=found["cut"])
    first, tags = bands(tmp_path / "scene.tif")
    second, _ = bands(tmp_path / "given.tif")
    assert first.tobytes() == second.tobytes() and len(np.unique(first[0])) == 3
    for name in ("area_m2", "area_m2_p05", "area_m2_p95", "mean_uncertainty", "mean_uncertainty_positive"):
        assert found[name] == pytest.approx(given[name], rel=1e-12), name
    assert tags["GEOUQ_DECIDE"] == rule and float(tags["GEOUQ_CUT"]) == found["cut"]


def test_the_area_is_the_expected_one(tmp_path):
    found = map_scene(tmp_path / "map.tif", decide="area", layers=("mask", "probability"))
    lazy = lazily(layers=("probability",)).compute(scheduler="synchronous")
    job = prepare(scene(), MODEL, Settings())
    area = np.broadcast_to(pixel_areas(job.geobox, job.region), lazy.probability.shape)
    expected = np.nansum(lazy.probability.values.astype(float) * area)
    assert found["area_m2"] == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("rule", ["iou", "area", "accuracy", 0.3])
def test_the_lazy_step_decides_as_the_run(tmp_path, rule):
    model = MODEL.with_spec(risk=RISK | {"loss": RISK["loss"] | dict.fromkeys(("area", "0.3"), RISK["loss"]["iou"])})
    found = map_scene(tmp_path / "map.tif", model, decide=rule, risk=0.1)
    mask = bands(tmp_path / "map.tif")[0][0]
    lazy = lazily(model, decide=rule, risk=0.1)
    for scheduler in ("synchronous", "threads"):
        computed = lazy.compute(scheduler=scheduler)
        np.testing.assert_array_equal(computed["mask"], mask)
    assert (mask == UNDECIDED).any() and lazy["mask"].attrs["flag_values"].tolist() == [0, 1, UNDECIDED]
    assert lazy["mask"].attrs["flag_meanings"] == "land water undecided"
    if rule in ("iou", "area"):
        assert float(computed["cut"]) == found["cut"]
    np.testing.assert_array_equal(computed["votes"] > 0, lazily(layers=("votes",)).votes.compute() > 0)


def test_tiles_do_not_show_in_a_cut_by_the_scene():
    whole = lazily(decide="iou", tile=200).compute(scheduler="synchronous")
    for tile in (32, 64):
        other = lazily(decide="iou", tile=tile).compute(scheduler="synchronous")
        assert abs(float(other["cut"]) - float(whole["cut"])) <= 1 / STEPS
        assert (other["mask"] != whole["mask"]).mean() < 1e-3


def test_bounds_decide_by_their_own_part():
    bounds = (500_300.0, 4_998_900.0, 501_200.0, 4_999_600.0)
    part = lazily(decide="area", bounds=bounds).compute(scheduler="synchronous")
    rank_sum = float((part["mask"] == 1).sum()) / float(np.nansum(part["probability"]))
    assert rank_sum == pytest.approx(1, rel=0.01)


def test_an_interrupted_run_with_a_cut_by_the_scene_ends_in_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    model = MODEL.with_spec(risk=RISK, alarm=ALARM)
    map_scene(tmp_path / "a" / "map.tif", model, decide="iou", risk=0.1)
    done = []

    def stop(event):
        done.append(event) if isinstance(event, TileDone) else None
        if len(done) == 5:
            raise TileError("enough")

    with pytest.raises(TileError):
        map_scene(tmp_path / "b" / "map.tif", model, stop, decide="iou", risk=0.1)
    again = map_scene(tmp_path / "b" / "map.tif", model, decide="iou", risk=0.1)
    assert again["tiles_continued"] >= 5 and digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_finished_run_tells_again_what_it_found(tmp_path):
    model = MODEL.with_spec(risk=RISK, alarm=ALARM)
    first = map_scene(tmp_path / "map.tif", model, decide="iou", risk=0.1)
    second = map_scene(tmp_path / "map.tif", model, decide="iou", risk=0.1)
    assert second["already_there"]
    for name in ("cut", "undecided_area_m2", "expected_wrong", "expectation", "warnings", "risk", "confidence_level"):
        assert first[name] == second[name] and name in first


def test_areas_of_an_undecided_map_add_up(tmp_path):
    model = MODEL.with_spec(risk=RISK)
    for rule in ("accuracy", "iou"):
        found = map_scene(tmp_path / f"{rule}.tif", model, decide=rule, risk=0.1)
        (mask, *_), tags = bands(tmp_path / f"{rule}.tif")
        job = prepare(scene(), model, Settings())
        area = np.broadcast_to(pixel_areas(job.geobox, job.region), mask.shape)
        assert found["area_m2"] == pytest.approx(area[mask == 1].sum(), rel=1e-6)
        assert found["undecided_area_m2"] == pytest.approx(area[mask == UNDECIDED].sum(), rel=1e-6)
        assert found["valid_area_m2"] == pytest.approx(area[mask != 255].sum(), rel=1e-6)
        assert tags["GEOUQ_UNDECIDED"] == "254" and tags["GEOUQ_RISK"] == "0.1"
        with rasterio.open(tmp_path / f"{rule}.tif") as file:
            assert file.tags(1)["CLASS_254"] == "undecided" and float(file.tags(1)["STATISTICS_MAXIMUM"]) == 1


def test_undecided_is_where_the_probability_is_between_the_ends(tmp_path):
    model = MODEL.with_spec(risk=RISK)
    found = map_scene(tmp_path / "map.tif", model, risk=0.1)
    assert found["decide"] == "accuracy"
    p = lazily(layers=("probability",)).probability.values
    cut = Cut.at_level(0.5, found["confidence_level"])
    np.testing.assert_array_equal(bands(tmp_path / "map.tif")[0][0] == UNDECIDED, (p >= cut.low) & (p < cut.high))
    assert cut.low < 0.45 and cut.high > 0.55


def test_what_the_model_says_is_the_default_and_options_overrule_it(tmp_path):
    by_iou, plain = MODEL.with_spec(decide="iou"), lazily(layers=("mask",)).mask.values
    lazy = {
        "model": lazily(by_iou),
        "asked": lazily(decide="iou"),
        "threshold": lazily(by_iou, threshold=0.5),
        "accuracy": lazily(by_iou, decide="accuracy"),
        "number": lazily(decide=0.5),
    }
    masks = {name: one["mask"].values for name, one in lazy.items()}
    assert (masks["model"] == masks["asked"]).all() and (masks["model"] != plain).any()
    for name in ("threshold", "accuracy", "number"):
        np.testing.assert_array_equal(masks[name], plain)
    assert "decide" not in lazy["threshold"].attrs and lazy["model"].attrs["decide"] == "iou"


def test_samples_are_cut_as_ever(tmp_path):
    """The interval of the area is that of the true area, whatever is decided."""
    plain = map_scene(tmp_path / "plain.tif")
    decided = map_scene(tmp_path / "iou.tif", decide="iou")
    assert decided["area_m2"] != plain["area_m2"]
    assert (decided["area_m2_p05"], decided["area_m2_p95"]) == (plain["area_m2_p05"], plain["area_m2_p95"])
    assert bands(tmp_path / "plain_samples.tif")[0].tobytes() == bands(tmp_path / "iou_samples.tif")[0].tobytes()


def test_what_cannot_be_decided_is_refused_in_one_line():
    with pytest.raises(ModelError, match="'small' has no risk measured on places left out: leave --risk out"):
        lazily(risk=0.1)
    with pytest.raises(ModelError, match="an ensemble has no risk"):
        lazily([MODEL.with_spec(risk=RISK), MODEL], risk=0.1)
    with pytest.raises(InputError, match="give --risk 0.025 or more"):
        lazily(MODEL.with_spec(risk=RISK), risk=0.001)
    with pytest.raises(InputError, match="decide 'best' is none of accuracy, iou, area, nor a probability"):
        lazily(decide="best")
    with pytest.raises(InputError, match=r"risk='0\.1': give a number"):
        lazily(risk="0.1")
    three = small_model(classes=3)
    with pytest.raises(InputError, match="--decide and --risk are for two classes, and model 'small' has 3"):
        lazily(three, decide="iou")


def test_the_alarm_speaks_in_summary_tags_and_warnings(tmp_path):
    trusted = map_scene(tmp_path / "a.tif", MODEL.with_spec(alarm=ALARM))
    assert trusted["warnings"] == [] and trusted["expectation"] == "expected share of wrong pixels: 1 % (1–1 %)"
    doubtful = map_scene(tmp_path / "b.tif", MODEL.with_spec(alarm=ALARM, decide="iou"))
    assert doubtful["warnings"] == [doubtful["expectation"]]
    assert doubtful["expectation"].startswith("do not trust this map: of ")
    tags = bands(tmp_path / "b.tif")[1]
    assert "do not trust this map" in tags["GEOUQ_EXPECTATION"] and float(tags["GEOUQ_EXPECTED_WRONG"]) > 0.1
    ensemble = map_scene(tmp_path / "c.tif", [MODEL.with_spec(alarm=ALARM), MODEL])
    assert "expectation" not in ensemble  # it was measured for the one model


def test_a_model_without_alarm_warns_as_before(tmp_path):
    found = map_scene(tmp_path / "map.tif", MODEL.with_spec(temperature=30.0))
    assert any("uncertain" in text for text in found["warnings"]) and "expected_wrong" not in found


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb"])
def test_polygons_leave_out_what_is_undecided(tmp_path, suffix):
    outputs = Outputs(tmp_path / "map.tif", (tmp_path / "map").with_suffix(suffix))
    found = map_scene(tmp_path / "map.tif", MODEL.with_spec(risk=RISK), outputs=outputs, decide="iou", risk=0.1)
    frame = geouq.vectorize(tmp_path / "map.tif")
    assert frame["area_m2"].sum() == pytest.approx(found["area_m2"], rel=1e-6)
    assert frame.attrs["undecided_area_m2"] == pytest.approx(found["undecided_area_m2"], rel=1e-6)


def test_each_date_is_cut_by_its_own_scene():
    dates = xr.concat([scene(60, 60), scene(60, 60) + 2], "time", coords="minimal").assign_coords(time=[0, 1])
    dates.attrs["units"] = "dB"
    both = geouq.segment(dates, MODEL, samples=3, layers=("mask",), tile=32, decide="iou").compute()
    for time in (0, 1):
        alone = geouq.segment(dates[time], MODEL, samples=3, layers=("mask",), tile=32, decide="iou").compute()
        np.testing.assert_array_equal(both["mask"][time], alone["mask"])
        assert float(both["cut"][time]) == float(alone["cut"])
    assert both["cut"].dims == ("time",) and float(both["cut"][0]) != float(both["cut"][1])


def test_a_mask_with_undecided_pixels_is_shown_and_stored_as_what_it_is(tmp_path):
    model = MODEL.with_spec(risk=RISK)
    outputs = Outputs(tmp_path / "map.tif", preview=tmp_path / "map.png", zarr=tmp_path / "map.zarr")
    found = map_scene(tmp_path / "map.tif", model, outputs=outputs, decide="iou", risk=0.1, layers=("mask",))
    mask = bands(tmp_path / "map.tif")[0][0]
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.colormap(1)[UNDECIDED][:3] == (252, 137, 97)
    stored = xr.open_zarr(tmp_path / "map.zarr", mask_and_scale=False)["mask"]
    np.testing.assert_array_equal(stored, mask)
    assert stored.attrs["flag_meanings"] == "land water undecided" and stored.attrs["flag_values"][2] == UNDECIDED
    shown = preview._read_map(tmp_path / "map.tif")
    assert shown.classes[UNDECIDED][0] == "undecided" and (shown.layers["mask"] == UNDECIDED).any()
    facts = "; ".join(preview._facts(shown, found))
    assert f"cut at {found['cut']:.2f} (iou)" in facts and "% at a risk of 10 %" in facts
    style = (tmp_path / "map.qml").read_text()
    assert f'value="{UNDECIDED}" label="undecided" color="{OPEN}" alpha="255"' in style


def test_floats_keep_what_is_undecided(tmp_path):
    outputs = Outputs(tmp_path / "map.tif", float32=True)
    map_scene(tmp_path / "map.tif", MODEL.with_spec(risk=RISK), outputs=outputs, decide="iou", risk=0.1)
    mask = bands(tmp_path / "map.tif")[0][0]
    assert set(np.unique(mask[np.isfinite(mask)])) == {0, 1, UNDECIDED}


def test_fewer_samples_by_tolerance_and_one_pass_are_decided_too():
    for settings in ({"samples": 0}, {"samples": 6, "tolerance": 0.1}):
        found = lazily(layers=("mask", "probability"), decide="area", **settings).compute()
        water, expected = float((found["mask"] == 1).sum()), float(np.nansum(found["probability"]))
        assert water == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("rule", ["iou", "0.3"])
def test_a_dataset_is_written_as_it_was_decided(tmp_path, monkeypatch, rule):
    model = MODEL.with_spec(risk=RISK | {"loss": RISK["loss"] | {"0.3": RISK["loss"]["iou"]}})
    found = map_scene(tmp_path / "run.tif", model, decide=rule, risk=0.1)
    sampled, tile_layers = [], graph.tile_layers
    monkeypatch.setattr(graph, "tile_layers", lambda *given, tile: sampled.append(tile) or tile_layers(*given, tile))
    lazy = lazily(model, decide=rule, risk=0.1)
    lazy.geouq.to_cog(tmp_path / "lazy.tif")
    assert len(sampled) == len({tile.index for tile in sampled}) == 16  # each tile once, not once a strip
    for name in ("run", "lazy"):
        mask, tags = bands(tmp_path / f"{name}.tif")
        assert float(tags["GEOUQ_CUT"]) == found["cut"] and tags["GEOUQ_DECIDE"] == rule
        assert (mask[0] == bands(tmp_path / "run.tif")[0][0]).all()
    frame = geouq.vectorize(tmp_path / "lazy.tif")
    assert frame.attrs["undecided_area_m2"] == pytest.approx(found["undecided_area_m2"], rel=1e-6)


def test_a_cut_at_a_half_is_the_rule_that_risk_and_alarm_were_measured_for():
    assert rule_of(0.5) == rule_of("0.50") == "accuracy" and rule_of(0.25) == "0.25" and rule_of("iou") == "iou"
