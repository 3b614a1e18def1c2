"""A model as one graph: ONNX and torch.export give torch's probabilities, at any size, and say what they are."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from geouq.cli.models import command
from geouq.errors import InputError, ModelError, OutputError
from geouq.networks import export
from geouq.networks.export import Probabilities, export_model
from geouq.networks.model import Model
from tests.helpers import scene_values, small_model


@pytest.fixture(scope="module")
def model():
    return small_model(classes=3).with_spec(temperature=1.5)


def expected(model, pixels):
    """Probabilities by the model's own normalisation."""
    seen = torch.from_numpy(np.stack([model.normalise(one) for one in pixels]))
    with torch.inference_mode():
        logits = model.network(seen) / model.spec.temperature
    return (
        logits.softmax(1).numpy()
        if logits.shape[1] > 1
        else torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1).numpy()
    )


def two_sizes(model):
    stride = model.spec.stride
    for number, rows, columns in ((1, 5 * stride, 3 * stride), (3, 2 * stride, 8 * stride)):
        values = [scene_values(rows, columns, seed=seed) for seed in range(number)]
        yield np.stack([np.where(np.isfinite(v), v, np.nan) for v in values]).astype(np.float32)


def test_torch_export(model, tmp_path):
    made = export_model(model, tmp_path / "m.pt2", "torch")
    assert made.dynamic and made.difference < 1e-6
    extra = {"geouq.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    for pixels in two_sizes(model):
        assert np.allclose(program(torch.from_numpy(pixels)).detach().numpy(), expected(model, pixels), atol=1e-5)
    told = json.loads(extra["geouq.json"])
    assert json.loads(told["geouq"])["bands"] == ["VV", "VH"] and "dropout off" in told["samples"]
    assert told["halo"] == str(model.halo) and "NaN" in told["input"] and "class2" in told["output"]
    with pytest.raises(OutputError):
        export_model(model, tmp_path / "m.pt2", "torch")


def test_onnx(tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = small_model(stem=2)
    model.save(tmp_path / "m.safetensors")
    out = tmp_path / "m.onnx"
    done = CliRunner().invoke(command, ["export", str(tmp_path / "m.safetensors"), str(out), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output.strip().splitlines()[-1])
    assert told["format"] == "onnx" and told["dynamic"] and told["difference"] <= 1e-5
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for pixels in two_sizes(model):
        assert np.allclose(session.run(None, {"pixels": pixels})[0], expected(model, pixels), atol=1e-5)
    props = {prop.key: prop.value for prop in onnx.load(str(out)).metadata_props}
    assert json.loads(props["geouq"])["name"] == "small" and "dropout off" in props["samples"]


class Moody(nn.Module):
    """What it computes depends on the values, which no graph can say."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        return self.head(x) if x.sum() > 0 else -self.head(x)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(model, tmp_path, monkeypatch, capfd):
    out = tmp_path / "m.pt2"
    with pytest.raises(InputError, match="no multiple of the model's stride"):
        export_model(model, out, "torch", size=model.spec.stride + 1)
    with pytest.raises(InputError, match="onnx, torch"):
        export_model(model, out, "tflite")
    moody = Model(Moody(), replace(model.spec, classes=("a", "b"), positive="b", stride=1))
    with pytest.raises(ModelError, match="cannot be traced"):
        export_model(moody, out, "torch")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(export, "MOST_DIFFERENCE", -1.0)
    with pytest.raises(ModelError, match="differs from torch by"):
        export_model(model, out, "torch", size=2 * model.spec.stride)
    assert not list(tmp_path.iterdir())
    done = CliRunner().invoke(command, ["export", "s1-water", str(tmp_path / "m.tflite")])
    assert isinstance(done.exception, InputError) and ".onnx and .pt2" in str(done.exception)


def test_probabilities_are_those_of_the_model(model):
    for one in (model, small_model()):
        for pixels in two_sizes(one):
            with torch.inference_mode():
                found = Probabilities(one)(torch.from_numpy(pixels)).numpy()
            assert np.allclose(found, expected(one, pixels), atol=1e-6) and np.isfinite(found).all()
