import tracemalloc
import warnings
from xml.etree import ElementTree

import dask.array as da
import matplotlib
import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from matplotlib.image import imread
from pyproj import CRS

from geouq.errors import OutputError, SceneError
from geouq.grid import GeoBox, Roi
from geouq.layers import DOUBT, LAYERS, Legend
from geouq.maps import figure
from geouq.maps import preview as module
from geouq.maps.bands import map_bands, quantise
from geouq.maps.cog import MapWriter
from geouq.maps.figure import Grid, Panel, _ground, _lines, area_text, draw
from geouq.maps.preview import preview
from geouq.maps.styles import DIFFER, LAND, WATER, class_colours, write_qml, write_votes_qml
from tests.helpers import as_scene, geouq, scene_values

UTM = ("EPSG:32633", Affine(10, 0, 4e5, 0, -10, 5.4e6))
BLUE = np.array([31, 120, 180]) / 255


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    monkeypatch.setattr(figure, "_DPI", 60)


def make(folder, shape, grid=UTM, *, units="dB", bands=("VV", "VH"), classes=2, empty=False, float32=False, tags=None):
    """Write a map whose left half is water, and return it with its scene (nodata: the last column)."""
    rows, columns = shape
    noise = np.random.default_rng(0).normal(0, 1.5, (len(bands), rows, columns)).astype(np.float32)
    mask = np.broadcast_to(np.arange(columns) * classes // columns < 1, shape).astype(np.float32)
    if classes > 2:
        mask = np.broadcast_to(np.arange(columns) * classes // columns, shape).astype(np.float32)
    scene = noise - 10 - 10 * mask
    doubt = np.broadcast_to(np.linspace(0, 1, columns), shape)
    missing = np.zeros(shape, bool)
    missing[:, -1] = True
    missing |= empty
    scene[:, missing] = np.nan
    layers = np.stack([mask, doubt, 1 - doubt / 2]).astype(np.float32)
    if float32:
        layers[:, missing] = np.nan
    else:
        layers = np.where(missing, 255, np.round(layers * [[[1]], [[100]], [[100]]])).astype(np.uint8)
    path = folder / "map.tif"
    profile = {"dtype": layers.dtype, "nodata": np.nan if float32 else 255, "crs": grid[0], "transform": grid[1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", "GTiff", columns, rows, 3, **profile) as file:
            file.write(layers)
            file.descriptions = ("mask", "uncertainty", "confidence")
            file.scales = (1, 1, 1) if float32 else (1, 0.01, 0.01)
            file.update_tags(**(tags or {}))
    data = da.from_array(scene, chunks=(1, 200, 200))
    return xr.DataArray(data, dims=("band", "y", "x"), coords={"band": list(bands)}, attrs={"units": units}), path


def share(image, colour):
    return (np.abs(image[..., :3] - colour).max(axis=-1) < 0.02).mean()


@pytest.mark.parametrize(
    ("shape", "across"), [((300, 320), 4), ((300, 700), 2), ((70, 300), 1), ((600, 100), 4), ((15, 17), 4), ((1, 1), 4)]
)
def test_every_shape_gets_a_whole_picture(tmp_path, shape, across):
    scene, path = make(tmp_path, shape)
    preview(scene, path, tmp_path / "p.png")
    image = imread(tmp_path / "p.png")
    wide = image.shape[1] / figure._DPI
    assert wide == pytest.approx(
        {4: 15.75 if shape[1] > 150 or shape[0] < 16 else 10.95, 2: 13.25, 1: 10.6}[across], abs=0.02
    )
    assert image.shape[0] / figure._DPI < 14
    if shape[1] > 15:
        assert share(image, BLUE) > 0.01
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "p.png"]


@pytest.mark.filterwarnings("error:Glyph")
def test_neither_the_users_settings_nor_a_dollar_show_in_the_picture(tmp_path, monkeypatch):
    scene, path = make(tmp_path, (120, 100))
    title = r"Kosten$1_und$2 $\frac$ 洪水"  # and letters that the font has not
    preview(scene, path, tmp_path / "a.png", title=title)
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    preview(scene, path, tmp_path / "b.png", title=title)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_notebooks_backend_does_not_stop_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "inline")
    geouq("simulate", "s.tif", "--size", 64, cwd=tmp_path)
    geouq("segment", "s.tif", "--samples", 1, "--preview", "p.png", cwd=tmp_path)
    assert (tmp_path / "p.png").stat().st_size > 0


def test_the_picture_is_the_same_each_time_and_replaces_the_old(tmp_path):
    scene, path = make(tmp_path, (120, 100))
    (tmp_path / "a.png").write_text("old")
    for name in "ab":
        preview(scene, path, tmp_path / f"{name}.png", title="Flood", summary={"area_m2": 6e5, "samples": 20})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_is_not_classified_is_no_colour(tmp_path):
    scene, path = make(tmp_path, (200, 200), empty=True)
    preview(scene, path, tmp_path / "p.png", summary={"area_m2": 0.0, "not_classified_percent": 100.0})
    assert share(imread(tmp_path / "p.png"), BLUE) < 0.002  # the legend alone


def test_float_maps_look_like_percent_maps(tmp_path):
    images = []
    for float32 in (False, True):
        scene, path = make(tmp_path, (100, 100), float32=float32)
        preview(scene, path, tmp_path / "p.png")
        images.append(imread(tmp_path / "p.png"))
    assert np.abs(images[0] - images[1]).mean() < 0.002


def test_classes_take_names_and_colours_from_the_file(tmp_path):
    tags = {"GEOUQ_CLASSES": "field,forest,lake,town", "GEOUQ_POSITIVE_CLASS": "2"}
    scene, path = make(tmp_path, (100, 120), classes=4, tags=tags)
    found = module._read_map(path)
    assert [name for name, _ in found.classes.values()] == ["field", "forest", "lake", "town"]
    assert found.positive == "lake" and found.classes[2][1] == WATER
    preview(scene, path, tmp_path / "p.png")
    assert share(imread(tmp_path / "p.png"), BLUE) > 0.02
    assert len({*class_colours(Legend(tuple("abcdef"), 0))}) == 6


def test_a_colour_table_is_used(tmp_path):
    path = tmp_path / "mask.tif"
    with rasterio.open(path, "w", "GTiff", 30, 30, 1, dtype="uint8", nodata=255, crs=UTM[0], transform=UTM[1]) as file:
        file.write(np.ones((1, 30, 30), np.uint8))
        file.descriptions = ("mask",)
        file.write_colormap(1, {0: (0, 0, 0, 0), 1: (200, 0, 100, 255)})
    found = module._read_map(path)
    assert found.classes[1][1] == "#c80064" and found.classes[0][1] == class_colours(Legend())[0]
    scene, _ = make(tmp_path, (30, 30))
    preview(scene, path, tmp_path / "p.png")
    assert share(imread(tmp_path / "p.png"), np.array([200, 0, 100]) / 255) > 0.05


@pytest.mark.parametrize("units", ["dB", "power", "amplitude", "dn", "rgb", "reflectance", ""])
def test_every_unit_is_shown(tmp_path, units):
    scene, _ = make(tmp_path, (60, 60), bands=("B02", "B03", "B04"))
    scene = (scene * 0 + 120 if units == "rgb" else abs(scene)).assign_attrs(units=units)
    squares = module.Squares(scene)
    squares.read(scene)
    panel = module._scene_panel(squares)
    assert panel.image.ndim == (3 if units in ("rgb", "reflectance") else 2)
    assert np.isfinite(panel.image[:, :-1]).all()


def test_backscatter_is_averaged_as_power_and_without_nan(monkeypatch):
    monkeypatch.setattr(figure, "_LONGEST", 4)
    monkeypatch.setattr(module, "_BLOCK", 4)
    scene = xr.DataArray(np.full((1, 6, 7), -10, np.float32), dims=("band", "y", "x"), attrs={"units": "dB"})
    scene[0, 0, 0], scene[0, 0, 1], scene[0, 2:4, 2:4] = 0, np.nan, np.nan
    squares = module.Squares(scene)
    squares.read(scene)
    panel = module._scene_panel(squares)
    assert panel.image.shape == (3, 4) and panel.reach == (6, 8)
    assert panel.image[0, 0] == pytest.approx(10 * np.log10((1 + 0.1 + 0.1) / 3), abs=1e-4)
    assert np.isnan(panel.image[1, 1]) and panel.image[2, 3] == pytest.approx(-10, abs=1e-4)


@pytest.mark.parametrize("units, bands", [("dB", ("VV", "VH")), ("reflectance", ("B02", "B03", "B04"))])
def test_a_scene_is_averaged_from_any_blocks(monkeypatch, units, bands):
    monkeypatch.setattr(figure, "_LONGEST", 5)
    rng = np.random.default_rng(3)
    values = rng.normal(2, 1, (len(bands), 17, 23)).astype(np.float32)
    values[:, rng.random((17, 23)) < 0.3] = np.nan
    scene = xr.DataArray(values, dims=("band", "y", "x"), coords={"band": list(bands)}, attrs={"units": units})
    whole, tiled = module.Squares(scene), module.Squares(scene)
    whole.read(scene)
    corners = [(y, x) for y in range(0, 17, 7) for x in range(0, 23, 6)]
    for y, x in rng.permutation(corners):
        tiled.add(tiled.part(values[tiled.bands, y : y + 7, x : x + 6], y, x), y, x)
    assert whole.factor == 5 and whole.mean.shape == (len(whole.bands), 4, 5)
    np.testing.assert_allclose(tiled.mean, whole.mean, rtol=1e-5)
    square = values[whole.bands, 5:10, 20:23].astype(np.float64)
    square = 10 ** (square / 10) if units == "dB" else square
    np.testing.assert_allclose(tiled.mean[:, 1, 4], np.nanmean(square, (1, 2)), rtol=1e-5)


def test_a_large_scene_takes_little_memory(tmp_path):
    side = 6000
    data = da.random.default_rng(0).normal(size=(2, side, side), chunks=(1, 500, 500)).astype("float32")
    scene = xr.DataArray(data, dims=("band", "y", "x"), attrs={"units": "dB"})
    tracemalloc.start()
    squares = module.Squares(scene)
    squares.read(scene)
    image, peak = squares.mean, tracemalloc.get_traced_memory()[1]
    assert image.shape == (1, 750, 750)
    assert peak < 150e6 < 0.55 * data.nbytes


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:32633", Affine(10, 0, 5e5, 0, -10, 6e6), 10 / 0.9996),
        ("EPSG:4326", Affine(1e-3, 0, 10, 0, -1e-3, 60), 55.8),
        ("EPSG:3857", Affine(100, 0, 0, 0, -100, 8.4e6), 50.0),
    ],
)
def test_the_scale_is_that_on_the_ellipsoid(crs, transform, metres):
    grid = Grid((100, 100), transform, CRS.from_user_input(crs))
    length, _ = _ground(grid, (45, 50), (55, 50))
    assert length / 10 == pytest.approx(metres, rel=0.01)
    _, azimuth = _ground(grid, (50, 60), (50, 40))
    assert abs(azimuth) < 1


def test_no_scale_and_no_north_where_there_is_none(tmp_path):
    nowhere = Grid((10, 10), Affine.identity(), None)
    assert np.isnan(_ground(nowhere, (1, 1), (2, 2))).all()
    rotated = Grid((10, 10), Affine.translation(5e5, 6e6) * Affine.rotation(30) * Affine.scale(10, -10), CRS(32633))
    assert abs(_ground(rotated, (5, 6), (5, 4))[1]) > 20
    scene, path = make(tmp_path, (50, 50), (None, Affine.identity()))
    preview(scene, path, tmp_path / "p.png", summary={"area_m2": 1250.0})
    assert "1,250 px" in module._facts(module._read_map(path), {"area_m2": 1250.0})[0]


def test_facts_tell_the_area_with_its_interval(tmp_path):
    _, path = make(tmp_path, (40, 50))
    summary = {
        "area_m2": 83.42e6,
        "area_m2_p05": 80.14e6,
        "area_m2_p95": 8.79e8,
        "not_classified_percent": 2,
        "samples": 20,
    }
    facts = module._facts(module._read_map(path), summary)
    assert facts[0] == "Water: 83.4 km² (5–95 % of samples: 80.1 km² to 879 km²)"
    assert facts[1:4] == ["not classified: 2.0 %", "20 samples", "50 × 40 pixels"] and facts[4] == "EPSG:32633"
    assert (
        module._facts(module._read_map(path), {"area_m2": 5e4, "area_m2_p05": None, "area_m2_p95": None})[0]
        == "Water: 0.05 km²"
    )
    assert _lines(["aaa", "bbb", "ccc"], 14) == ["aaa   ·   bbb", "ccc"]


def test_bad_input_is_one_clear_line(tmp_path):
    scene, path = make(tmp_path, (40, 50))
    with pytest.raises(SceneError, match="40 x 49 and 40 x 50"):
        preview(scene[:, :, :49], path, tmp_path / "p.png")
    with pytest.raises(SceneError, match="nothing.tif"):
        preview(scene, tmp_path / "nothing.tif", tmp_path / "p.png")
    with pytest.raises(OutputError, match="missing"):
        preview(scene, path, tmp_path / "missing" / "p.png")
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]


@pytest.mark.parametrize("float_values", [False, True])
def test_qgis_shows_water_in_blue_and_land_not_at_all(tmp_path, float_values):
    write_qml(tmp_path / "m.qml", ["uncertainty", "mask"], float_values, Legend(("land & <sea>", "water")))
    text = (tmp_path / "m.qml").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE qgis")
    renderer = ElementTree.fromstring(text).find("pipe/rasterrenderer")
    assert renderer.get("type") == ("singlebandpseudocolor" if float_values else "paletted")
    assert renderer.get("band") == "2"
    items = renderer.findall("rastershader/colorrampshader/item" if float_values else "colorPalette/paletteEntry")
    seen = [(i.get("value"), i.get("label"), i.get("color"), i.get("alpha")) for i in items]
    assert seen[0][:2] == ("0", "land & <sea>") and seen[0][3] == "0"
    assert seen[1] == ("1", "water", WATER, "255") and len(seen) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["m.qml"]


def test_a_map_without_mask_gets_a_ramp(tmp_path):
    write_qml(tmp_path / "m.qml", ["std"], False)
    shader = ElementTree.parse(tmp_path / "m.qml").find("pipe/rasterrenderer/rastershader/colorrampshader")
    assert shader.get("colorRampType") == "INTERPOLATED" and len(shader) == 5
    with pytest.raises(OutputError, match="missing"):
        write_qml(tmp_path / "missing" / "m.qml", ["mask"], False)


@pytest.mark.parametrize("samples", [1, 2, 20, 32, 53, 64])
def test_votes_are_shown_as_never_always_or_differing(tmp_path, samples):
    write_votes_qml(tmp_path / "v.qml", samples)
    shader = ElementTree.parse(tmp_path / "v.qml").find("pipe/rasterrenderer/rastershader/colorrampshader")
    assert shader.get("colorRampType") == "DISCRETE"
    steps = [(float(item.get("value")), item.get("color")) for item in shader]

    def shown(votes):  # QGIS: the colour of the first step that is not below a value
        return next(colour for value, colour in steps if float(votes) <= value)

    every = 2**samples - 1
    assert shown(0) == LAND and shown(every) == WATER and shader[0].get("alpha") == "0"
    for votes in {1, every >> 1, every - 2 ** (samples - 1)} - {0, every}:
        assert shown(votes) == DIFFER
    if 1 < samples <= 53:
        assert shown(every - 1) == DIFFER


def test_what_is_square_on_the_ground_is_square_in_the_picture():
    grid = Grid((400, 300), Affine(0.001, 0, 10, 0, -0.001, 62.2), CRS.from_epsg(4326))
    assert grid.stretch == pytest.approx(111.4 / 52.3, rel=0.01)
    figure = draw([Panel("x", np.zeros((40, 30)), (400, 300))], grid, "t", ["f"])
    box = figure.axes[0].get_position()
    wide, tall = figure.get_size_inches()
    assert (box.height * tall) / (box.width * wide) == pytest.approx(400 * grid.stretch / 300, rel=0.01)
    assert Grid((4, 3), Affine(10, 0, 5e5, 0, -10, 5e6), CRS.from_epsg(32633)).stretch == pytest.approx(1, abs=0.01)
    assert Grid((4, 3), Affine.identity(), None).stretch == 1


def test_both_polarisations_are_in_the_picture():
    scene = as_scene(scene_values(60, 50))
    squares = module.Squares(scene)
    squares.read(scene)
    assert squares.bands == [0, 1]
    panel = module._scene_panel(squares)
    assert panel.title == "Scene, VV and VH" and panel.image.shape[2] == 4
    changed = scene.copy(data=scene.values.copy())
    changed[1, 20:30, 20:30] = -40  # seen by VH alone
    again = module.Squares(changed)
    again.read(changed)
    assert (module._scene_panel(again).image != panel.image)[20:30, 20:30].any(axis=-1).all()


@pytest.mark.parametrize(
    ("area", "text"), [(4.2, "4 m²"), (5300.0, "5,300 m²"), (53_000.0, "0.053 km²"), (5.3e6, "5.30 km²")]
)
def test_areas_are_in_one_unit(area, text):
    grid = Grid((4, 3), Affine(10, 0, 5e5, 0, -10, 5e6), CRS.from_epsg(32633))
    assert area_text(area, grid) == text


@pytest.mark.parametrize(
    ("affine", "text"),
    [
        (Affine.identity(), "300 px"),
        (Affine(1, 0, 0, 0, -1, 9), "300 px"),
        (Affine(10, 0, 0, 0, -10, 0), "300 squared units of the grid"),
    ],
)
def test_areas_without_a_crs_are_in_pixels_only_where_one_is_1(affine, text):
    assert area_text(300.0, Grid((4, 3), affine, None)) == text


def test_what_is_not_classified_does_not_look_like_dry_land(tmp_path):
    for layers in (["mask"], ["std"]):
        write_qml(tmp_path / "m.qml", layers, False)
        renderer = ElementTree.parse(tmp_path / "m.qml").find("pipe/rasterrenderer")
        assert renderer.get("nodataColor") == "196,196,196,255"


def test_one_palette_has_one_meaning(tmp_path):
    """Dark is sure and bright is unsure, in styles and pictures of every layer of doubt."""
    ends = {}
    for name, layer in LAYERS.items():
        if layer.ramp and not layer.plane:
            write_qml(tmp_path / "m.qml", [name], False, Legend(("a", "b", "c")))
            items = ElementTree.parse(tmp_path / "m.qml").findall(".//colorrampshader/item")
            ends[name] = (items[0].get("color"), items[-1].get("color"))
            low, high = layer.limits(3)
            assert (float(items[0].get("value")), float(items[-1].get("value"))) == pytest.approx((low, high), rel=1e-5)
    doubt = {"uncertainty", "aleatoric", "epistemic", "std", "variation_ratio"}
    assert {ends[name] for name in doubt} == {(DOUBT[0], DOUBT[-1])} == {ends["confidence"][::-1]}
    assert ends["probability"] not in ({ends["std"], ends["confidence"]})


def test_many_classes_have_as_many_colours_and_all_are_seen(tmp_path):
    for count in (3, 11, 250):
        legend = Legend(tuple(f"class {i}" for i in range(count)), count // 2)
        assert len(set(class_colours(legend))) == count
        assert class_colours(legend)[legend.positive] == WATER
    write_qml(tmp_path / "m.qml", ["mask"], False, Legend(tuple("abcdefghijk"), 0))
    entries = ElementTree.parse(tmp_path / "m.qml").findall(".//paletteEntry")
    assert len(entries) == 11 and {entry.get("alpha") for entry in entries} == {"255"}


def test_a_picture_shows_the_layers_there_are(tmp_path):
    geobox = GeoBox((30, 40), UTM[1], UTM[0])
    names = ("mask", "std", "probability")
    planes = {"mask": np.ones((30, 40), np.uint8)} | dict.fromkeys(names[1:], np.full((30, 40), 0.25))
    bands = map_bands(names)
    with MapWriter(tmp_path / "map.tif", geobox, bands) as writer:
        writer.write(Roi(0, 30, 0, 40), quantise(planes, bands))
        writer.finish()
    panels = module._map_panels(module._read_map(tmp_path / "map.tif"))
    assert [panel.title for panel in panels] == ["Mask", "Probability", "Std"]
    assert panels[2].limits == (0, 50) and panels[2].image.max() == pytest.approx(25)
