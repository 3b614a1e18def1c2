"""Model files: there and back, and refusals that say what is wrong."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from geouq.alarm import measured_alarm
from geouq.decisions import LEVELS, measured_risk
from geouq.errors import ModelError
from geouq.networks.model import Model, ModelSpec, read_spec, shipped_models
from geouq.networks.unet import UNet, UNetConfig
from tests.helpers import small_model


def test_there_and_back(tmp_path):
    model = small_model()
    model.save(tmp_path / "m.safetensors")
    again = Model.load(tmp_path / "m.safetensors")
    assert again.spec == model.spec and again.hash == model.hash and again.halo == model.halo
    x = torch.randn(1, 2, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again.network(x), model.network(x))


def test_hash_sees_weights_and_spec():
    model = small_model()
    other = model.with_spec(temperature=2.0)
    assert model.hash != other.hash
    changed = small_model()
    with torch.no_grad():
        next(changed.network.parameters()).view(-1)[0] += 1e-3
    assert changed.hash != model.hash


def test_normalise_is_a_function_of_each_pixel():
    model = small_model()
    pixels = np.array([[[-15.0, np.nan]], [[100.0, -200.0]]], np.float32)
    out = model.normalise(pixels)
    low, high = model.spec.clip
    expected = [
        [(-15 - model.spec.mean[0]) / model.spec.std[0], 0],
        [(v - model.spec.mean[1]) / model.spec.std[1] for v in (high, low)],
    ]
    np.testing.assert_allclose(out[:, 0], expected, rtol=1e-6)
    assert np.isnan(pixels[0, 0, 1]), "the caller's array is left as it was"


def damaged(tmp_path, how):
    path = tmp_path / "m.safetensors"
    model = small_model()
    state = dict(model.network.state_dict())
    metadata = {"geouq": model.spec.to_json()}
    if how == "text":
        path.write_text("no model")
        return path
    if how == "foreign":
        metadata = {"other": "1"}
    if how == "json":
        metadata = {"geouq": "{"}
    if how == "newer":
        metadata = {"geouq": json.dumps(json.loads(metadata["geouq"]) | {"format": 99})}
    if how == "architecture":
        metadata = {"geouq": json.dumps(json.loads(metadata["geouq"]) | {"architecture": "pickle"})}
    if how == "missing":
        state.pop("head.bias")
        state["extra"] = torch.zeros(1)
    if how == "shape":
        state["head.bias"] = torch.zeros(7)
    save_file(state, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("text", "not a readable safetensors file"),
        ("foreign", "no geouq spec"),
        ("json", "damaged"),
        ("newer", "update geouq"),
        ("architecture", "not known here"),
        ("missing", "missing: head.bias; unexpected: extra"),
        ("shape", "of another shape: head.bias"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, how, says):
    with pytest.raises(ModelError, match=says) as error:
        Model.load(damaged(tmp_path, how))
    assert "m.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_unknown_name_lists_what_is_shipped():
    with pytest.raises(ModelError, match="give the path"):
        Model.load("no-such-model")


def test_a_network_of_ones_own_is_not_saved(tmp_path):
    with pytest.raises(ModelError, match="cannot be saved"):
        small_model().with_spec(architecture="custom").save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_spec_is_checked():
    with pytest.raises(ModelError, match="differ in length"):
        ModelSpec("m", "unet", {}, ("VV",), "dB", (0.0, 1.0), (1.0,), (-50, 20), 16)
    with pytest.raises(ModelError, match="not a U-Net"):
        UNet(UNetConfig(stem=3))


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_load_and_have_a_card(name):
    model = Model.load(name)
    path = shipped_models()[name]
    assert read_spec(path).name == name and path.with_suffix(".md").exists()
    assert path.stat().st_size < 15e6
    assert model.halo is not None and model.active_sites()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mean": [float("nan"), 0]}, "mean is"),
        ({"std": [0, 1]}, "std is"),
        ({"clip": [20, -50]}, "the lower first"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"threshold": 1.5}, "threshold is"),
        ({"missing_bands": "guess"}, "refuse or zero"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": -1}, "stride is -1"),
        ({"stride": 10**9}, "stride is 1000000000"),
        ({"stride": "16"}, "stride is '16'"),
        ({"stride": 8}, "stride is 8, and that of its network 4"),
        ({"bands": [], "mean": [], "std": []}, "one or more"),
        ({"bands": ["VV"], "mean": [0], "std": [1]}, "does not run on 1 bands"),
        ({"classes": ["land", "water", "ice"]}, "names 3 classes, and its network gives 1 logits"),
        ({"classes": ["water", "water"]}, "different names"),
        ({"positive": "ice"}, "positive class"),
        ({"format": "new"}, "damaged"),
        ({"laplace": 7}, "laplace is 7"),
        ({"arguments": [1]}, "arguments is"),
        ({"arguments": {"widths": [4000] * 3}}, "another shape"),
        ({"arguments": {"widths": [10**12] * 3}}, "do not fit"),
        ({"arguments": {"widths": [-4, 6, 8]}}, "do not fit"),
        ({"arguments": {"widths": ["a", "b"]}}, "do not fit"),
        ({"arguments": {"stem": 3}}, "not a U-Net"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_before_anything_is_built(tmp_path, changes, says):
    model, path = small_model(), tmp_path / "m.safetensors"
    told = json.loads(model.spec.to_json())
    if isinstance(changes.get("arguments"), dict):
        changes = {"arguments": told["arguments"] | changes["arguments"]}
    save_file(model.network.state_dict(), path, metadata={"geouq": json.dumps(told | changes)})
    with pytest.raises(ModelError, match=says) as caught:
        Model.load(path)
    assert "\n" not in str(caught.value)


def test_a_spec_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(small_model().network.state_dict(), path, metadata={"geouq": "[" * 100_000})
    with pytest.raises(ModelError, match="damaged"):
        Model.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decide", "iou"),
        ("decide", "0.35"),
        ("alarm", measured_alarm(["a", "b"], [0.1, 0.5], {"iou": [0.01, 0.4]})),
        ("risk", measured_risk({"iou": np.zeros((3, len(LEVELS)))})),
    ],
)
def test_what_places_left_out_have_taught_is_of_format_3(tmp_path, field, value):
    model = small_model().with_spec(**{field: value})
    model.save(tmp_path / "m.safetensors")
    assert getattr(read_spec(tmp_path / "m.safetensors"), field) == value
    assert read_spec(tmp_path / "m.safetensors").format == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decide", "best"),
        ("decide", 0.5),
        ("alarm", {"place": ["a"], "doubt": [0.1], "wrong": {"iou": [0.1]}}),
        ("alarm", {"doubt": 1}),
        ("risk", {"places": 0, "level": [0.5], "loss": {"iou": [0.0]}}),
        ("risk", {"places": 3, "level": [0.9, 0.5], "loss": {"iou": [0.0, 0.0]}}),
    ],
)
def test_damaged_knowledge_of_places_left_out_is_refused(field, value):
    with pytest.raises(ModelError, match=f"{field} is "):
        small_model().with_spec(**{field: value})


def test_a_model_that_knows_no_places_left_out_is_of_an_older_format():
    text = small_model().spec.to_json()
    assert not {"decide", "alarm", "risk"} & set(json.loads(text)) and json.loads(text)["format"] < 3
