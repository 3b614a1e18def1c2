"""The table of layers is what docs, estimators and styles say; legends refuse what cannot be shown."""

import re
from pathlib import Path

import numpy as np
import pytest

from geouq.errors import InputError, SceneError
from geouq.layers import LAYERS, Legend, area_interval, band_layer, check_layers, says, votes_dtype

DOCS = Path(__file__).parents[1] / "docs"


def doc_table() -> str:
    """The table of docs/uncertainty.md, from the rows."""
    rows = [f"| `{row.name}` | {row.formula} | {row.reads} |" for row in LAYERS.values()]
    return "\n".join(["| layer | formula | reads as |", "|---|---|---|", *rows])


def test_the_table_of_the_docs_is_that_of_the_code():
    text = (DOCS / "uncertainty.md").read_text()
    assert doc_table() in text
    sources = {row.source for row in LAYERS.values() if row.source}
    assert all(re.sub(r",.*", "", source) in text for source in sources)
    bands = (DOCS / "outputs.md").read_text()
    assert all(f"`{name}`" in bands for name in LAYERS)


def test_every_row_has_a_way_to_be_shown():
    for row in LAYERS.values():
        low, high = row.limits(3)
        assert 0 <= low < high <= 1
        assert (row.kind == "percent") == bool(row.ramp)
        names = row.bands(("land", "water"))
        assert all(band_layer(name) is row for name in names) and bool(names) == (row.kind != "votes")


def test_votes_are_a_bit_a_sample():
    assert [votes_dtype(n).name for n in (1, 32, 33, 64)] == ["uint32", "uint32", "uint64", "uint64"]
    votes = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    np.testing.assert_array_equal(says(votes, 0), [False, True, False, True])
    np.testing.assert_array_equal(says(votes, 63), [False, False, True, True])


def test_layers_of_samples_need_samples():
    for layer in ("votes", "variation_ratio"):
        with pytest.raises(InputError, match="give a number"):
            check_layers((layer,), np.inf)
    check_layers(("probability", "std"), np.inf)


def test_the_interval_is_over_the_last_axis():
    areas = np.arange(101.0)
    assert area_interval(areas) == (5.0, 95.0)
    low, high = area_interval(np.stack([areas, 2 * areas]))
    np.testing.assert_array_equal([low, high], [[5, 10], [95, 190]])


@pytest.mark.parametrize(
    ("names", "positive"),
    [
        (("water",), 0),
        (("land", "land"), 1),
        (("land", "wa\x1b[31mter"), 1),
        (("land", "a,b"), 1),
        (("land", " "), 1),
        (("land", "water"), 2),
        (("land", "water"), -1),
        (tuple(map(str, range(255))), 1),
    ],
)
def test_a_legend_that_cannot_be_shown_is_refused(names, positive):
    with pytest.raises(InputError):
        Legend(names, positive)


@pytest.mark.parametrize(
    "tags",
    [{"GEOUQ_POSITIVE_CLASS": "x"}, {"GEOUQ_POSITIVE_CLASS": "5", "GEOUQ_CLASSES": "a,b"}, {"GEOUQ_CLASSES": "a"}],
)
def test_tags_that_cannot_be_used_are_one_line_that_names_the_file(tags):
    with pytest.raises(SceneError, match=r"^m\.tif: [^\n]*$"):
        Legend.of_tags(tags, "m.tif")


def test_a_map_without_tags_is_land_and_water():
    assert Legend.of_tags({}, "m.tif") == Legend(("land", "water"), 1)
    assert Legend.of_tags({"GEOUQ_POSITIVE_CLASS": "2"}, "m.tif").names == ("land", "water", "class 2")
    legend = Legend(("a", "b", "c"), 2)
    assert Legend.of_tags({f"GEOUQ_{k.upper()}": str(v) for k, v in legend.tags().items()}, "m.tif") == legend
