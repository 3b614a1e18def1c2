"""A model as one graph for other programs, checked against torch: ONNX, or torch.export.

The graph takes pixels (N, K, H, W) in the model's units, NaN where not measured, and gives the probability of each
class (N, C, H, W) at the model's temperature: clipping, normalisation and softmax are inside. N is any; H and W are any
multiples of the stride where the network's size may vary, else those told, or about 256. It is one deterministic pass:
dropout is off, and an SSN gives its mean. What a map needs beside (tiles with a halo, validity, samples, the cut)
stays with geouq.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import BytesIO, StringIO
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
#: rows and columns, about, of a graph whose size cannot vary
FIXED = 256


@dataclass(frozen=True)
class Exported:
    """What was written: the largest ``difference`` of a probability to torch's, and the rows and columns it takes.

    size : fixed; None where any multiples of the stride will do.
    """

    path: Path
    difference: float
    size: int | None

    @property
    def dynamic(self) -> bool:
        """True if rows and columns may vary."""
        return self.size is None


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
    with whole(path, RuntimeError, replace=replace) as made:
        try:
            difference = _write(model, made, kind, size)
        except ModelError:
            if size is not None:
                raise
            size = -(-FIXED // stride) * stride  # a network whose size decides what it computes has one graph a size
            difference = _write(model, made, kind, size)
    return Exported(path, difference, size)


def _write(model: Model, path: Path, kind: str, size: int | None) -> float:
    """Write the graph of one size (None: any), and return the largest difference of a probability to torch."""
    module, stride, name = Probabilities(model).eval(), model.spec.stride, model.spec.name
    program = _traced(module, model, size)
    told = metadata(model, size)
    sides = (TRACED * stride, CHECKED * stride) if size is None else (size,)
    try:
        found = _write_onnx(program, path, told) if kind == "onnx" else _write_torch(program, path, told)
        difference = max(_difference(module, found, model, side, number) for number, side in enumerate(sides))
    except (InputError, OSError):
        raise
    except Exception as error:  # the other programs raise anything
        reason = str(error).partition("\n")[0]
        raise ModelError(f"model {name!r}: its network gives no {kind} graph that runs ({reason})") from None
    if not difference <= MOST_DIFFERENCE:
        raise ModelError(
            f"model {name!r}: the {kind} graph differs from torch by {difference:.2g} of a probability: "
            f"at most {MOST_DIFFERENCE:g} is written"
        )
    return difference


def metadata(model: Model, size: int | None) -> dict[str, str]:
    """Return what a file says of itself: plain texts; ``size``: its rows and columns, where they are fixed."""
    spec = model.spec
    bands = f"{', '.join(spec.bands)} in {spec.units}, NaN where not measured"
    return {
        "geouq": spec.to_json(),
        "input": f"pixels (N, {len(spec.bands)}, H, W): {bands}",
        "output": f"probabilities (N, {len(spec.classes)}, H, W): {', '.join(spec.classes)}",
        "sizes": f"H and W are multiples of {spec.stride}" if size is None else f"H and W are {size}",
        "halo": "not finite" if model.halo is None else str(model.halo),
        "samples": "none: one deterministic pass, dropout off",
    }


def _traced(module: Probabilities, model: Model, size: int | None) -> Any:
    """Return the module's program for images of one size; of any multiples of the stride for None."""
    bands, stride = len(model.spec.bands), model.spec.stride
    shapes: dict[int, Any] = {0: torch.export.Dim("images", min=1, max=1 << 12)}
    if size is None:
        rows, columns = (stride * torch.export.Dim(name, min=1, max=1 << 12) for name in ("rows", "columns"))
        shapes |= {2: rows, 3: columns}
        example = torch.zeros(2, bands, TRACED * stride, (TRACED + 1) * stride)
    else:
        example = torch.zeros(2, bands, size, size)
    try:
        with _silent("torch.fx.experimental.symbolic_shapes"), redirect_stderr(StringIO()):  # it shows half a graph
            return torch.export.export(module, (example,), dynamic_shapes={"pixels": shapes})
    except Exception as error:  # a network whose size, or values, decide what is computed raises anything
        reason = str(error).partition("\n")[0]
        raise ModelError(f"model {model.spec.name!r}: its network cannot be traced ({reason})") from None


def _write_torch(program: Any, path: Path, told: dict[str, str]) -> Any:
    written = BytesIO()  # torch warns of a path that does not end in .pt2
    torch.export.save(program, written, extra_files={"geouq.json": json.dumps(told, sort_keys=True)})
    path.write_bytes(written.getvalue())
    again = torch.export.load(BytesIO(path.read_bytes())).module()
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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says of a graph that does not run, the error says, too
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


@contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's of itself
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
