"""A model as one graph for other programs, checked against torch: ONNX, or torch.export.

The graph takes pixels (N, K, H, W) in the model's units, NaN where not measured, and gives the probability of each
class (N, C, H, W) at the model's temperature: clipping, normalisation and softmax are inside. N is any; H and W are any
multiples of the stride where the network's size may vary, else those told. It is one deterministic pass: dropout is
off, and an SSN gives its mean. What a map needs beside (tiles with a halo, validity, samples, the cut) stays with
geouq.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geouq.errors import InputError, ModelError
from geouq.files import whole
from geouq.networks.model import Model
from geouq.networks.ssn import mean_of

FORMATS = ("onnx", "torch")
#: difference of probabilities beyond which nothing is written
MOST_DIFFERENCE = 1e-4
#: strides a side of the example that is traced, and of the other one that is checked
TRACED, CHECKED = 4, 6


@dataclass(frozen=True)
class Exported:
    """What was written: the largest ``difference`` of a probability to torch's; ``dynamic``: whether sizes may vary."""

    path: Path
    difference: float
    dynamic: bool


class Probabilities(nn.Module):
    """(N, K, H, W) in the model's units → the probability of each class (N, C, H, W)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.classes, self.temperature = model.network, len(model.spec.classes), model.spec.temperature
        self.low, self.high = model.spec.clip
        for name in ("mean", "std"):
            values = torch.tensor(getattr(model.spec, name), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise, one pass, probabilities."""
        seen = (pixels.clamp(self.low, self.high) - self.mean) / self.std  # type: ignore[operator]
        seen = torch.where(torch.isnan(pixels), torch.zeros_like(seen), seen)
        logits = mean_of(self.network, self.network(seen)) / self.temperature
        if logits.shape[1] > 1:
            return logits.softmax(1)
        positive = logits.sigmoid()
        return torch.cat([1 - positive, positive], 1)


def export_model(model: Model, path: Path, kind: str, size: int | None = None, replace: bool = False) -> Exported:
    """Write a model as one graph, checked on pixels of two sizes before the file gets its name.

    Parameters
    ----------
    kind : "onnx" or "torch". size : rows and columns, where they shall be fixed. replace : a file that is there.

    Raises
    ------
    InputError : what is asked cannot be done, or the packages for ONNX are not installed. ModelError : the graph gives
    other probabilities than torch, or the network cannot be traced. OutputError : the file cannot be written.
    """
    if kind not in FORMATS:
        raise InputError(f"format {kind!r} is none of {', '.join(FORMATS)}")
    stride = model.spec.stride
    if size is not None and (size < stride or size % stride):
        raise InputError(f"size {size} is no multiple of the model's stride, {stride}")
    module = Probabilities(model).eval()
    program, dynamic = _traced(module, model, size)
    with whole(path, RuntimeError, replace=replace) as made:
        told = metadata(model, dynamic, size or TRACED * stride)
        found = _write_onnx(program, made, told) if kind == "onnx" else _write_torch(program, made, told)
        sizes = (TRACED * stride, CHECKED * stride) if dynamic else (size or TRACED * stride,)
        difference = max(_difference(module, found, model, side, number) for number, side in enumerate(sizes))
        if not difference <= MOST_DIFFERENCE:
            raise ModelError(
                f"model {model.spec.name!r}: the {kind} graph differs from torch by {difference:.2g} of a probability: "
                f"at most {MOST_DIFFERENCE:g} is written"
            )
    return Exported(path, difference, dynamic)


def metadata(model: Model, dynamic: bool, side: int) -> dict[str, str]:
    """Return what a file says of itself: plain texts."""
    spec = model.spec
    bands = f"{', '.join(spec.bands)} in {spec.units}, NaN where not measured"
    return {
        "geouq": spec.to_json(),
        "input": f"pixels (N, {len(spec.bands)}, H, W): {bands}",
        "output": f"probabilities (N, {len(spec.classes)}, H, W): {', '.join(spec.classes)}",
        "sizes": f"H and W are multiples of {spec.stride}" if dynamic else f"H and W are {side}",
        "halo": "not finite" if model.halo is None else str(model.halo),
        "samples": "none: one deterministic pass, dropout off",
    }


def _traced(module: Probabilities, model: Model, size: int | None) -> tuple[Any, bool]:
    """Return the module's program, and whether it takes any multiples of the stride."""
    bands, stride = len(model.spec.bands), model.spec.stride
    if size is None:
        rows, columns = (stride * torch.export.Dim(name, min=1, max=1 << 12) for name in ("rows", "columns"))
        shapes = {"pixels": {0: torch.export.Dim("images", min=1, max=1 << 12), 2: rows, 3: columns}}
        example = torch.zeros(2, bands, TRACED * stride, (TRACED + 1) * stride)
        try:
            return torch.export.export(module, (example,), dynamic_shapes=shapes), True
        except Exception:  # a network whose size decides what is computed raises anything
            size = TRACED * stride
    example = torch.zeros(2, bands, size, size)
    try:
        shapes = {"pixels": {0: torch.export.Dim("images", min=1, max=1 << 12)}}
        return torch.export.export(module, (example,), dynamic_shapes=shapes), False
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"model {model.spec.name!r}: its network cannot be traced ({reason})") from None


def _write_torch(program: Any, path: Path, told: dict[str, str]) -> Any:
    torch.export.save(program, path, extra_files={"geouq.json": json.dumps(told, sort_keys=True)})
    again = torch.export.load(path).module()
    return lambda pixels: again(torch.from_numpy(pixels)).detach().numpy()


def _write_onnx(program: Any, path: Path, told: dict[str, str]) -> Any:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx writes with it)
    except ModuleNotFoundError as error:
        raise InputError(f"ONNX needs {error.name}: pip install 'geouq[export]'") from None
    with _silent("torch.onnx._internal.exporter._registration"):  # it misses torchvision, which nothing here needs
        made = torch.onnx.export(
            program, input_names=["pixels"], output_names=["probabilities"], dynamo=True, optimize=True, verbose=False
        )
    assert made is not None
    proto = made.model_proto
    onnx.helper.set_model_props(proto, told)
    path.write_bytes(proto.SerializeToString())
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


@contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _difference(module: Probabilities, found: Any, model: Model, side: int, seed: int) -> float:
    """Return the largest difference of a probability on random pixels with holes, about the model's mean."""
    rng = np.random.default_rng(seed)
    shape = (1 + seed, len(model.spec.bands), side, side)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (model.spec.mean, model.spec.std))
    pixels = (mean + 1.5 * std * rng.standard_normal(shape)).astype(np.float32)
    pixels[:, :, : side // 8, : side // 8] = np.nan
    with torch.inference_mode():
        expected = module(torch.from_numpy(pixels)).numpy()
    given = np.asarray(found(pixels))
    return float(np.abs(given - expected).max()) if given.shape == expected.shape else float("inf")
