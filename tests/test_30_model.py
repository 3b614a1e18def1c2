"""Model files: there and back, and refusals that say what is wrong."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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
