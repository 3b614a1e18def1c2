"""A model = a network + the spec that says what goes in and what comes out; safetensors in and out.

The file is a safetensors file whose metadata holds one JSON string under the key ``geouq``. Loading never
runs code: the architecture is one of the few in :data:`ARCHITECTURES`, or a class that the user names beside the file,
and every tensor's name and shape is checked.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from geouq.errors import InputError, ModelError
from geouq.files import whole
from geouq.layers import Legend
from geouq.networks.architectures import ARCHITECTURES, check_tensors, shapes_in, sketch_network
from geouq.networks.head import Head, find_head
from geouq.networks.own import IMPORTABLE, build_own, importable_name, with_sites
from geouq.networks.receptive_field import measure_halo
from geouq.networks.schema import check_values
from geouq.networks.sites import expand_sites, find_sites
from geouq.networks.ssn import mean_of

#: the newest format that is read here; a file says the oldest that it needs
FORMAT = 3
#: fields that came with format 3
_OF_FORMAT_3 = ("decide", "alarm", "risk")
#: the tensor beside the weights of a model with a posterior: a factor of its covariance (geouq.sampling.laplace)
FACTOR = "laplace.factor"
WEIGHTS = Path(__file__).parents[1] / "weights"
#: a random name for each network that is not made of geouq's and torch's parts alone
_OWN_NETWORKS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


@dataclass(frozen=True)
class ModelSpec:
    """What a model expects and what it answers; plain values, stored as JSON in the model file.

    name, description : for people.
    architecture, arguments : how to build the network: a name of geouq's, or "package.module:Class" of the user's own
        code ("custom": it cannot be imported, and the model not saved).
    bands : band names in the network's order.
    units : unit of all bands (geouq.units names).
    mean, std : one value a band, in ``units``; the network sees (clip(value) − mean) / std.
    clip : lowest and highest value kept, in ``units``.
    black : pixels none of whose bands is above it are padding of a picture, not valid (geouq.validity); for
        rgb alone. None: none are.
    missing_bands : "zero" lets the model run with a band absent (it was trained so), "refuse" does not.
    classes : class names in the order of class indices; two names for a network with one logit, which is that of
        class 1 (geouq.layers).
    positive : the class that ``probability`` and ``std`` speak of, and of two classes votes, areas and polygons too.
    temperature : logits are divided by it before probabilities are taken (Guo et al. 2017, arXiv 1706.04599).
    place_effect : standard deviation, in logits, of an offset drawn once a sample for the whole scene: how far off
        the model was on places it had not seen (geouq.sampling.draws.place_effects). 0 = none.
    sampler : where samples come from: "dropout", "ssn", or "laplace".
    correlation : of an SSN, the length in pixels over which its deviations are correlated, or "scene": one draw of z
        for the whole scene (geouq.sampling.field).
    spread : of an SSN, a factor for its deviations, fitted on places it had not seen; the mean stays as it is.
    laplace : of a model with a posterior of its last layer, how that was fitted (geouq.sampling.laplace).
    threshold : probability at and above which a pixel of a binary model is positive: in each sample, and in the mask
        unless ``decide`` says otherwise.
    decide : of a binary model, the rule that the mask is cut by: "iou", "accuracy", "area" or a probability as text
        (geouq.decisions). None: at the threshold.
    alarm : of maps of places left out, their doubt and what was wrong (geouq.alarm.measured_alarm). None: not known.
    risk : how much of places left out is decided and wrong, by confidence level (geouq.decisions.measured_risk).
    stride : rows and columns of a window are multiples of it.
    training, licence, scores : what it was made from, and how good it was, measured.
    trained_on : of the chips that it was trained on, a number made from each name, by which these are known again.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    bands: tuple[str, ...]
    units: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: tuple[float, float]
    stride: int
    missing_bands: str = "refuse"
    classes: tuple[str, ...] = ("land", "water")
    positive: str = "water"
    temperature: float = 1.0
    place_effect: float = 0.0
    threshold: float = 0.5
    sampler: str = "dropout"
    correlation: float | str = "scene"
    spread: float = 1.0
    laplace: Mapping[str, Any] | None = None
    description: str = ""
    training: str = ""
    licence: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)
    format: int = 1
    black: float | None = None
    decide: str | None = None
    alarm: Mapping[str, Any] | None = None
    risk: Mapping[str, Any] | None = None
    trained_on: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("bands", "mean", "std", "clip", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.trained_on, list):
            object.__setattr__(self, "trained_on", tuple(self.trained_on))
        check_values(vars(self))
        if any(getattr(self, name) is not None for name in _OF_FORMAT_3):
            object.__setattr__(self, "format", max(self.format, 3))
        try:
            Legend(self.classes)
        except InputError as error:
            raise ModelError(f"model {self.name!r}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what the model has not is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def legend(self) -> Legend:
        """What mask values mean."""
        return Legend(self.classes, self.classes.index(self.positive))

    def to_json(self) -> str:
        """Return the spec as one JSON string, keys sorted."""
        return json.dumps(self.to_dict(), sort_keys=True)


@dataclass(frozen=True)
class Model:
    """A network in eval mode with its spec, and what a sampler has fitted to it beside (``FACTOR``)."""

    network: nn.Module
    spec: ModelSpec
    fitted: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        self.network.eval()

    @classmethod
    def wrap(
        cls,
        network: nn.Module,
        *,
        bands: Sequence[str],
        units: str,
        arguments: Mapping[str, Any] | None = None,
        **told: Any,
    ) -> Model:
        """Return a model of a network of one's own: a copy, in which dropout became named sites.

        Parameters
        ----------
        network : (N, K, H, W) → logits (N, classes or 1, H, W). ``nn.Dropout`` and ``nn.Dropout2d`` are drawn by whole
            channels, so that a sample is one network everywhere.
        bands, units : what it sees, in order, and their unit (``"dB"``, ``"reflectance"``, ``"rgb"`` …).
        arguments : those of its class's constructor, plain values, so that a saved model can be loaded again.
        told : more of :class:`ModelSpec`: ``mean`` and ``std`` (default 0 and 1: it sees the values as they are),
            ``clip``, ``classes``, ``positive``, ``name`` …. ``stride``: rows and columns are multiples of it; default
            the network's own attribute, or 32, which suits networks that halve an image up to five times.

        Raises
        ------
        ModelError : the network does not run on such bands, or what is told makes no spec.
        """
        stride = told.pop("stride", getattr(network, "stride", 32))
        largest = float(np.finfo(np.float32).max)
        default = {"mean": (0.0,) * len(bands), "std": (1.0,) * len(bands), "clip": (-largest, largest)}
        if len(told.get("classes", ())) > 1:
            default["positive"] = told["classes"][1]
        spec = ModelSpec(
            **{"name": type(network).__name__, **default, **told},
            architecture=importable_name(network),
            arguments=dict(arguments or {}),
            bands=tuple(bands),
            units=units,
            stride=stride,
        )
        model = cls(with_sites(copy.deepcopy(network), len(bands), stride), spec)
        _check_outputs(spec.name, model)
        return model

    @classmethod
    def load(cls, source: str | os.PathLike[str], network: str | None = None) -> Model:
        """Load a shipped model by name, or a model file by path.

        Parameters
        ----------
        network : ``package.module:Class`` of a model whose network is the user's own code: this is imported. What a
            file says never is.

        Raises
        ------
        ModelError : no such model, not a geouq model file, or its tensors do not fit its architecture.
        """
        path = _locate(source)
        spec = read_spec(path)
        own = _own_network(path, spec, network)
        expected = _shapes(path, spec) if own is None else shapes_in(own)
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            check_tensors(path, expected, {name: shape for name, shape in found.items() if name != FACTOR})
            state = {name: file.get_tensor(name) for name in names}
        made = ARCHITECTURES[spec.architecture](spec.arguments) if own is None else own
        made.load_state_dict({name: tensor for name, tensor in state.items() if name != FACTOR})
        model = cls(made, spec, {name: tensor for name, tensor in state.items() if name == FACTOR})
        _check_outputs(path, model)
        check_tensors(path, _shapes_beside(path, model), {name: found[name] for name in model.fitted})
        return model

    def save(self, path: str | os.PathLike[str], replace: bool = True) -> None:
        """Write the model file, whole or not at all; without ``replace`` one that is there is kept, and an error."""
        if IMPORTABLE.fullmatch(self.spec.architecture):
            again = build_own(self.spec.architecture, self.spec.arguments)  # with the right arguments, and importable
            check_tensors(self.spec.architecture, shapes_in(again), shapes_in(self.network))
        elif self.spec.architecture not in ARCHITECTURES:
            raise ModelError(
                f"a {self.spec.architecture!r} network cannot be saved: only {', '.join(ARCHITECTURES)} can, and those "
                "whose class stands in a module that can be imported (Model.wrap)"
            )
        state = {k: v.detach().cpu().contiguous() for k, v in self._tensors().items()}
        with whole(path, SafetensorError, replace=replace) as made:
            save_file(state, made, metadata={"geouq": self.spec.to_json()})
            made.chmod(0o644)  # safetensors writes files for their owner alone

    @cached_property
    def halo(self) -> int | None:
        """Context a window needs, in pixels, measured; None if the receptive field is not finite."""
        return measure_halo(self.network, len(self.spec.bands), self.spec.stride)

    @property
    def logits(self) -> int:
        """Logits a pixel, measured: 1 for a binary model with a sigmoid; of an SSN, those of its mean."""
        return self._measured[1]

    @cached_property
    def _measured(self) -> torch.Size:
        """Shape of the logits of one window of two strides a side."""
        parameter = next(self.network.parameters(), torch.zeros(()))
        x = parameter.new_zeros(1, len(self.spec.bands), 2 * self.spec.stride, 2 * self.spec.stride)
        with torch.inference_mode():
            return mean_of(self.network, self.network(x)).shape

    @cached_property
    def head(self) -> Head:
        """The network's last layer.

        Raises
        ------
        ModelError : it is no 1×1 convolution that gives the logits.
        """
        return find_head(self.network, len(self.spec.bands), self.spec.stride)

    @cached_property
    def hash(self) -> str:
        """16 hex digits that identify weights and spec."""
        digest = hashlib.sha256(self.spec.to_json().encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __dask_tokenize__(self) -> tuple[str, ...]:
        """Return what dask tells models apart by: what they are, and not who loaded them.

        Two networks of a user's own code may have the same weights: such a one is known by itself.
        """
        modules = {type(module).__module__ for module in self.network.modules()}
        known = all(name.startswith(("torch.nn.", "geouq.networks.")) for name in modules)
        own = "" if known else _OWN_NETWORKS.setdefault(self.network, uuid4().hex)
        return "geouq.Model", self.hash, str(self.network), own

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Return all that the file holds: weights, and what was fitted."""
        return {**self.network.state_dict(), **self.fitted}

    @property
    def binary(self) -> bool:
        """True for two classes, whatever the number of logits."""
        return len(self.spec.classes) == 2

    def active_sites(self, names: Sequence[str] | None = None) -> dict[str, float]:
        """Return the rates of the dropout sites to sample at: those named, or all with a rate above 0."""
        sites = find_sites(self.network)
        chosen = expand_sites(names, sites) if names is not None else tuple(sites)
        return {name: sites[name].rate for name in chosen if sites[name].rate > 0}

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """Turn pixels (K, H, W) in the spec's units into what the network sees; NaN becomes 0.

        A pure function of each pixel: no statistic of the tile or the scene enters.
        """
        out = np.empty(pixels.shape, np.float32)
        for k, (mean, std) in enumerate(zip(self.spec.mean, self.spec.std, strict=True)):
            np.clip(pixels[k], *self.spec.clip, out=out[k])
            out[k] -= np.float32(mean)
            out[k] /= np.float32(std)
        return np.nan_to_num(out, copy=False, nan=0.0)

    def with_spec(self, **changes: Any) -> Model:
        """Return the same network under a changed spec (a fitted temperature, say)."""
        return Model(self.network, replace(self.spec, **changes), self.fitted)


def shipped_models() -> dict[str, Path]:
    """Return the models that come with geouq: name → file."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.safetensors"))}


def read_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """Read a model file's spec without its weights.

    Raises
    ------
    ModelError : not a safetensors file, not geouq's, or of a newer format.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}): give a geouq model file") from None
    if "geouq" not in metadata:
        raise ModelError(f"{path} holds weights but no geouq spec: it was not written by geouq's Model.save")
    try:
        values = json.loads(metadata["geouq"])
        if values.get("format", 0) > FORMAT:
            raise ModelError(f"{path} has model format {values['format']}, this geouq reads {FORMAT}: update geouq")
        return ModelSpec(**values)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} has a damaged geouq spec ({error})") from None


def _locate(source: str | os.PathLike[str]) -> Path:
    shipped = shipped_models()
    if str(source) in shipped:
        return shipped[str(source)]
    path = Path(source)
    if path.is_file():
        return path
    names = ", ".join(shipped) or "none"
    raise ModelError(f"no model {str(source)!r}: give the path of a model file, or a shipped model ({names})")


def _own_network(path: Path, spec: ModelSpec, name: str | None) -> nn.Module | None:
    """Return the network of a spec if it is of the class that the user has named; None for one of geouq's."""
    if spec.architecture in ARCHITECTURES:
        if name is not None:
            raise ModelError(f"{path}: its network is geouq's own {spec.architecture}: leave {name} out")
        return None
    if not IMPORTABLE.fullmatch(spec.architecture):
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{path}: architecture {spec.architecture!r} is not known here (known: {known})")
    if name != spec.architecture:
        raise ModelError(
            f"{path}: its network is {spec.architecture} of a user's own code, which no file may run: if you trust it, "
            f"name it: --model {spec.architecture} --weights {path} (Python: Model.load(…, network=…))"
        )
    return with_sites(build_own(name, spec.arguments), len(spec.bands), spec.stride)


def _shapes(path: Path, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights of a spec's network, which takes no memory for them."""
    network = sketch_network(str(path), spec.architecture, spec.arguments)
    if network.stride != spec.stride:
        raise ModelError(f"{path}: its stride is {spec.stride}, and that of its network {network.stride}")
    return shapes_in(network)


def _check_outputs(path: Path | str, model: Model) -> None:
    """Raise ModelError for a network that takes other bands, or gives other classes, than its spec says."""
    side = 2 * model.spec.stride
    try:
        logits, shape = model.logits, tuple(model._measured[2:])
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        what = f"{len(model.spec.bands)} bands of {side} x {side} pixels, two strides"
        raise ModelError(f"{path}: its network does not run on {what} ({reason})") from None
    if shape != (side, side):
        given = f"{' x '.join(map(str, shape)) or 1} logits for {side} x {side} pixels"
        raise ModelError(f"{path}: its network gives {given}: let it give one a pixel")
    classes = len(model.spec.classes)
    if logits != classes and (logits, classes) != (1, 2):
        raise ModelError(f"{path}: names {classes} classes, and its network gives {logits} logits a pixel")


def _shapes_beside(path: Path, model: Model) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors that a file must hold beside the weights."""
    if model.spec.laplace is None:
        return {}
    try:
        return {FACTOR: model.head.factor_shape}
    except ModelError as error:
        raise ModelError(f"{path} has a posterior, and {error}") from None
