"""Labelled data: folders, manifests, units and validity as segment sees them, windows, splits by place."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geouq.errors import GeouqError, InputError
from geouq.grid import Roi
from geouq.learning.data.chip import LabelledChip, class_names_of, place_of
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.examples import Reading, read_example
from geouq.learning.data.loading import load, windows
from geouq.learning.data.splits import split_by_place
from geouq.learning.folds import FoldOptions, train_folds
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.recipe import find_recipe
from geouq.networks.model import Model
from tests.helpers import pairs, scene_values, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def manifest(folder: Path, rows: list[dict]) -> Path:
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_a_folder_of_pairs(tmp_path):
    chips = read_dataset(pairs(tmp_path, ["Bonn_1", "Bonn_2", "Köln"]))
    assert [(c.name, c.place, c.dataset) for c in chips] == [
        ("Bonn_1", "Bonn", tmp_path.name), ("Bonn_2", "Bonn", tmp_path.name), ("Köln", "Köln", tmp_path.name)
    ]  # fmt: skip
    pixels, label, valid = load(chips[0])
    expected = scene_values(20, 20, seed=0)
    assert pixels.dtype == np.float32 and label.dtype == np.int16
    np.testing.assert_array_equal(pixels, np.where(np.isfinite(expected), expected, np.nan))
    assert (label[0, :3] == -1).all() and set(np.unique(label)) == {-1, 0, 1}
    np.testing.assert_array_equal(valid, np.isfinite(expected).all(0) & (label >= 0))


def test_a_pattern_tells_places_and_a_file_names_classes(tmp_path):
    data = pairs(tmp_path, ["2021_Bonn_a", "2022_Bonn_b", "2021_Ulm"])
    (tmp_path / "classes.txt").write_text("dry\n\nwet\n")
    chips = read_dataset(data, r"_([A-Z]\w+?)(_|$)")
    assert [chip.place for chip in chips] == ["Bonn", "Ulm", "Bonn"]
    assert {chip.class_names for chip in chips} == {("dry", "wet")}
    assert [chip.place for chip in read_dataset(data, r"(\d)_(?P<place>[A-Z])")] == ["B", "U", "B"]
    assert [chip.place for chip in read_dataset(data, r"^\d{4}")] == ["2021", "2021", "2022"]
    for pattern, says in (
        ("(", "no regular expression"),
        ("Köln", "finds nothing in the name '2021_Bonn_a'"),
        ("x*", "empty"),
    ):
        with pytest.raises(InputError, match=says):
            read_dataset(data, pattern)
    tiny = ["arguments.widths=[4,6]", "size=16", "batch=2", "epochs=0", "training.steps=1"]
    options = FitOptions(place_pattern=r"^\d{4}", validation=("2022",))
    path = train_model(data, find_recipe("unet-16", tiny), tmp_path / "out", options)
    spec = Model.load(path).spec
    assert spec.classes == ("dry", "wet") and spec.positive == "wet" and "held out: 2022" in spec.training
    rows = [{"image": "images/2021_Ulm.tif", "label": "labels/2021_Ulm.png", "class_names": "no;yes"}]
    assert read_dataset(manifest(tmp_path, rows))[0].class_names == ("no", "yes")


def test_rows_name_classes_alike_and_all_names_count(tmp_path):
    data = pairs(tmp_path, ["Bonn_1", "Ulm_1"])
    row = {name: {"image": f"images/{name}.tif", "label": f"labels/{name}.png"} for name in ("Bonn_1", "Ulm_1")}
    later = [row["Bonn_1"] | {"class_names": ""}, row["Ulm_1"] | {"class_names": "no;yes"}]
    tiny = ["arguments.widths=[4,6]", "size=16", "batch=2", "epochs=0", "training.steps=1"]
    options = FitOptions(validation=("Ulm",))
    path = train_model(manifest(data, later), find_recipe("unet-16", tiny), tmp_path / "out", options)
    assert Model.load(path).spec.classes == ("no", "yes")
    with pytest.raises(InputError, match=r"Ulm_1\.png: class 0 is named yes, and no in .*Bonn_1\.png: label and name"):
        read_dataset(
            manifest(data, [row["Bonn_1"] | {"class_names": "no;yes"}, row["Ulm_1"] | {"class_names": "yes;no"}])
        )


def test_windows_give_the_same_pixels_as_the_whole(tmp_path):
    chip = read_dataset(pairs(tmp_path, ["a"], size=50))[0]
    whole, seen = load(chip, ("VH", "VV"), "power"), np.zeros((50, 50), int)
    for window in windows(chip, 16):
        for part, all_of_it in zip(load(chip, ("VH", "VV"), "power", window), whole, strict=True):
            np.testing.assert_array_equal(part, all_of_it[..., *window.slices])
        seen[window.slices] += 1
    assert (seen == 1).all()
    np.testing.assert_allclose(whole[0][0], 10 ** (load(chip)[0][1] / 10), rtol=1e-5)


def test_a_manifest_says_it_all(tmp_path):
    values = scene_values(12, 15, holes=False)
    for band, name in enumerate(("vv", "vh")):
        power = np.round(10 ** (values[band : band + 1] / 10) * 1e4).astype(np.int16)
        write_raster(tmp_path / "x" / f"{name}.tif", power)
    label = np.full((1, 12, 15), 7, np.uint8)
    label[0, 0], label[0, 1] = 0, 9
    write_raster(tmp_path / "truth.tif", label)
    row = {"image": "x/vv.tif; x/vh.tif", "label": "truth.tif", "name": "n", "place": "Ulm", "split": "Val"}
    row |= {"bands": "VV;VH", "units": "power", "factor": "1e-4", "ignore": "9", "classes": "0;7"}
    for kind in ("csv", "json"):
        if kind == "json":
            (tmp_path / "manifest.csv").unlink()
            lists = {"image": ["x/vv.tif", "x/vh.tif"], "classes": [0, 7], "factor": 1e-4}
            (tmp_path / "manifest.json").write_text(json.dumps([row | lists]))
        else:
            manifest(tmp_path, [row])
        (chip,) = read_dataset(tmp_path)
        assert (chip.name, chip.place, chip.split) == ("n", "Ulm", "validation")
        pixels, found, valid = load(chip, ("VV", "VH"), "dB")
        np.testing.assert_allclose(pixels, values, atol=0.3)
        assert (found[0] == 0).all() and (found[1] == -1).all() and (found[2:] == 1).all()
        np.testing.assert_array_equal(valid, found >= 0)


def test_factor_and_offset_may_differ_from_band_to_band(tmp_path):
    grey = np.random.default_rng(1).integers(1, 255, (1, 8, 9)).astype(np.uint8)
    for name in ("vv.png", "vh.png"):
        write_raster(tmp_path / name, grey)
    write_raster(tmp_path / "truth.png", np.ones((1, 8, 9), np.uint8))
    row = {"image": "vv.png;vh.png", "label": "truth.png", "bands": "VV;VH", "units": "db"}
    manifest(tmp_path, [row | {"factor": "0.1;0.05", "offset": "-20"}])
    (chip,) = read_dataset(tmp_path)
    pixels, _, _ = load(chip, ("VH", "VV"), "dB")
    np.testing.assert_allclose(pixels, [0.05 * grey[0] - 20.0, 0.1 * grey[0] - 20.0], rtol=1e-5)
    manifest(tmp_path, [row | {"offset": "1;2;3"}])
    with pytest.raises(InputError, match="has 2 bands, and offset is 1, 2, 3"):
        load(read_dataset(tmp_path)[0])


def test_a_band_that_is_not_there_is_nan_and_does_not_make_pixels_invalid(tmp_path):
    chip = read_dataset(pairs(tmp_path, ["a"]))[0]
    pixels, label, valid = load(chip, ("VH", "B3"))
    assert np.isnan(pixels[1]).all() and valid.any()
    with pytest.raises(InputError, match="bands"):
        load(chip, ("B3", "B4"))


def test_a_picture_is_rgb(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (3, 9, 11)).astype(np.uint8)
    write_raster(tmp_path / "images" / "p.png", image)
    write_raster(tmp_path / "masks" / "p.png", np.ones((1, 9, 11), np.uint8))
    (chip,) = read_dataset(tmp_path)
    pixels, _, valid = load(chip, ("red", "green", "blue"), "rgb")
    np.testing.assert_array_equal(pixels, image)
    assert valid.all()


def chip(name: str, place: str, split: str = "") -> LabelledChip:
    return LabelledChip(name, place, (Path("i"),), Path("l"), split)


def test_no_place_is_on_both_sides():
    chips = [chip(f"{p}_{i}", p) for p in "abcdefghij" for i in range(3)]
    for how in (None, 0.3, ["c", "d"]):
        for seed in range(3):
            train, validation = split_by_place(chips, how, seed)
            assert not {c.place for c in train} & {c.place for c in validation}
            assert len(train) + len(validation) == 30
            assert len({c.place for c in validation}) == {None: 2, 0.3: 3}.get(how if how != ["c", "d"] else 0, 2)
    assert split_by_place(chips, 0.3, 1) == split_by_place(chips, 0.3, 1) != split_by_place(chips, 0.3, 2)
    named = [chip("a1", "a", "train"), chip("b1", "b", "validation"), chip("c1", "c", "test")]
    assert [[c.name for c in side] for side in split_by_place(named)] == [["a1"], ["b1"]]


def test_overlap_and_impossible_splits_are_refused():
    both = [chip("a1", "a", "train"), chip("a2", "a", "validation")]
    with pytest.raises(InputError, match="place 'a' is both"):
        split_by_place(both)
    for how in (None, ["a"], ["z"], 2.0):
        with pytest.raises(InputError):
            split_by_place([chip("a1", "a"), chip("a2", "a")], how)


@pytest.mark.parametrize("how", [None, 0.5, ["a"]])
def test_a_place_that_is_tested_on_is_on_no_other_side(how):
    chips = [chip("a1", "a", "train"), chip("b1", "b", "validation"), chip("c1", "c", "train"), chip("c2", "c", "test")]
    with pytest.raises(InputError, match="place 'c' is both in test and"):
        split_by_place(chips, how)
    split_by_place([*chips[:2], chip("d", "d", "train"), chips[3]], how)


def test_folds_leave_out_no_place_that_is_tested_on(tmp_path):
    row = {"units": "db", "bands": "VV;VH"}
    rows = [
        row | {"image": f"images/{n}.tif", "label": f"labels/{n}.png", "split": "test" if n == "a_2" else ""}
        for n in ("a_1", "a_2", "b_1", "c_1")
    ]
    data = manifest(pairs(tmp_path / "d", ["a_1", "a_2", "b_1", "c_1"]), rows)
    with pytest.raises(InputError, match="place 'a' is both in test and"):
        train_folds(data, "unet-16", tmp_path / "o", plan=FoldOptions((("b",), ("c",))))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "header",
    [
        "image;label;split",
        "Image,Label,Split",
        "image, label, split",
        '"image","label","divide"',
        "image\tlabel\tsplit",
    ],
)
def test_a_manifest_that_is_written_otherwise_is_refused_not_passed_over(header, tmp_path):
    """The folder's images were trained on as if there were no manifest: splits, units and classes were lost."""
    data = pairs(tmp_path, ["a", "b"])
    divided = next(d for d in ";\t," if d in header)
    (data / "manifest.csv").write_text(f"{header}\n" + divided.join(["images/a.tif", "labels/a.png", "test"]) + "\n")
    with pytest.raises(InputError, match=r"row 1 has a column .*columns, divided by commas, are image"):
        read_dataset(data)
    (data / "manifest.csv").write_text('"image","label","split"\n"images/a.tif","labels/a.png","test"\n')
    assert [chip.split for chip in read_dataset(data)] == ["test"]
    (data / "manifest.csv").write_text("file,bytes\nimages/a.tif,3\n")
    assert [chip.name for chip in read_dataset(data)] == ["a", "b"]  # another table


def test_a_label_value_is_one_thing(tmp_path):
    data, values = pairs(tmp_path, ["a"]), np.array([0, 100, 255], np.uint8)
    label = np.resize(values, (1, 20, 20))
    write_raster(tmp_path / "labels" / "a.tif", label, nodata=255)
    row = {"image": "images/a.tif", "label": "labels/a.tif", "units": "db"}
    for classes, known in (("0;100;255", [0, 1, 2]), ("255;100;0", [2, 1, 0])):
        (one,) = read_dataset(manifest(data, [row | {"classes": classes}]))  # a class, though the file calls it missing
        np.testing.assert_array_equal(load(one)[1], np.resize(known, (20, 20)))
    for classes, ignore in (("0;100;100;255", ""), ("0;100;255", "255"), ("0;100", "100;255")):
        with pytest.raises(InputError, match="row 1 says two things of label"):
            read_dataset(manifest(data, [row | {"classes": classes, "ignore": ignore}]))


def test_names_given_do_not_contradict_those_of_the_data():
    chips = [replace(chip("a", "a"), class_names=("land", "water"))]
    assert class_names_of(chips, ["terre", "eau"]) == ("terre", "eau")
    assert class_names_of(chips, ["land", "water", "ice"]) == ("land", "water", "ice")
    assert class_names_of(chips) == ("land", "water") and class_names_of([], ["a", "b"]) == ("a", "b")
    for given in (["water", "land"], ["ice", "land", "water"]):
        with pytest.raises(InputError, match="the data call class"):
            class_names_of(chips, given)


def test_a_label_that_is_corrected_is_read_again_in_one_process(tmp_path):
    """In a notebook one had to begin anew: «has changed since it was first looked at»."""
    data, label = pairs(tmp_path, ["a", "b"]), tmp_path / "labels" / "a.png"
    reading = Reading(("VV", "VH"), "dB", 20)
    before = read_example(read_dataset(data)[0], reading, Roi(0, 20, 0, 20))
    write_raster(label, np.ones((1, 20, 20), np.uint8))
    write_raster(tmp_path / "images" / "a.tif", scene_values(20, 20, seed=5), nodata=np.nan)
    after = read_example(read_dataset(data)[0], reading, Roi(0, 20, 0, 20))
    assert (after.label == 1).all() and not (before.label == 1).all()
    np.testing.assert_array_equal(after.pixels, np.where(np.isfinite(w := scene_values(20, 20, seed=5)), w, np.nan))


def test_places_by_name():
    assert [place_of(s) for s in ("India_900498", "jja10", "a_b_3", "a_3_b")] == ["India", "jja10", "a_b", "a_3_b"]


def test_mistakes_are_named(tmp_path):
    def fails(folder: Path, says: str) -> None:
        with pytest.raises(GeouqError, match=says) as caught:
            for found in read_dataset(folder):
                load(found)
        assert "\n" not in str(caught.value)

    fails(tmp_path / "absent", "no such file")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "images/ and labels/")
    lonely = pairs(tmp_path / "lonely", ["a"])
    write_raster(lonely / "images" / "b.tif", scene_values(5, 5))
    fails(lonely, "'b' has an image or a label")
    other = pairs(tmp_path / "size", ["a"])
    write_raster(other / "labels" / "a.png", np.ones((1, 7, 7), np.uint8))
    fails(other, "7 x 7")
    masks = pairs(tmp_path / "masks", ["a"])
    write_raster(masks / "labels" / "a.png", np.full((1, 20, 20), 255, np.uint8))
    fails(masks, "classes: 0;255")
    folder = pairs(tmp_path / "rows", ["a"])
    row = {"image": "images/a.tif", "label": "labels/a.png"}
    fails(manifest(folder, [row, row]), "two chips are named 'a'")
    fails(manifest(folder, [row | {"factor": "x"}]), "row 1 holds something")
    fails(manifest(folder, [row | {"throughout": 1}]), "row 1 needs image, and either label or throughout")
    fails(manifest(folder, [row | {"colour": "x"}]), "'colour'")
    fails(manifest(folder, [row | {"label": "no.png"}]), "no.png: is missing")
    fails(manifest(folder, [row | {"classes": "0;3"}]), "neither in classes nor in ignore")
    (folder / "manifest.csv").unlink()
    (folder / "manifest.json").write_text("{")
    fails(folder, "is no manifest")
