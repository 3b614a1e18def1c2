"""The networks that a model file may name, how each is built from the arguments in it, and whether weights are its."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from geouq.errors import ModelError
from geouq.networks.deeplab import DeepLab, DeepLabConfig
from geouq.networks.fcn import FCN, FCNConfig
from geouq.networks.linknet import LinkNet, LinkNetConfig
from geouq.networks.pspnet import PSPNet, PSPNetConfig
from geouq.networks.seeds import MCDropoutUNet, PlainUNet
from geouq.networks.several import Mean, Turned
from geouq.networks.ssn import SSN
from geouq.networks.unet import UNet, UNetConfig


def _ssn(arguments: Mapping[str, Any]) -> nn.Module:
    rest = {"classes": 1, "rank": 10, **arguments}
    backbone, classes, rank = rest.pop("backbone"), rest["classes"], rest.pop("rank")
    return SSN(ARCHITECTURES[backbone](rest | {"classes": classes * (2 + rank)}), classes, rank)


def _turned(arguments: Mapping[str, Any]) -> nn.Module:
    network = _member(arguments)
    return Turned(network, int(network.stride))  # type: ignore[arg-type]


def _mean(arguments: Mapping[str, Any]) -> nn.Module:
    return Mean([_member(member) for member in arguments["members"]], arguments["scales"])


def _member(named: Mapping[str, Any]) -> nn.Module:
    return ARCHITECTURES[named["architecture"]](named["arguments"])


#: architecture name → what builds it from its arguments
ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "unet": lambda arguments: UNet(UNetConfig(**arguments)),
    "fcn": lambda arguments: FCN(FCNConfig(**arguments)),
    "linknet": lambda arguments: LinkNet(LinkNetConfig(**arguments)),
    "pspnet": lambda arguments: PSPNet(PSPNetConfig(**arguments)),
    "deeplabv3+": lambda arguments: DeepLab(DeepLabConfig(**arguments)),
    "mc-dropout-unet": lambda arguments: MCDropoutUNet(**arguments),
    "plain-unet": lambda arguments: PlainUNet(**arguments),
    "turned": _turned,  # any of the others, over the eight flips and quarter turns
    "mean": _mean,  # several of the others
    "ssn": _ssn,  # any of the others as "backbone", with an SSN head of "rank"
}

#: those made of others, which are not trained as such
OF_OTHERS = ("turned", "mean")


def sketch_network(what: str, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a network whose weights have shapes and take no memory; ``what`` names where the arguments stand.

    Raises
    ------
    ModelError : the arguments make no network of the architecture.
    """
    try:
        with torch.device("meta"):
            return ARCHITECTURES[architecture](arguments)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError, ModelError) as error:
        reason = str(error).partition("\n")[0]
        reason = re.sub(r".* got an unexpected keyword argument ('.*').*", r"it takes no \1", reason)
        raise ModelError(f"{what}: arguments of its {architecture} do not fit ({reason})") from None


def shapes_in(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a network's weights."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def check_tensors(
    path: str | os.PathLike[str], expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise ModelError, naming ``path``, unless the tensors found are those expected, by name and shape."""
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    misshapen = sorted(k for k in set(expected) & set(found) if expected[k] != found[k])
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise ModelError(f"{path} does not fit its own architecture: tensors {'; '.join(problems)}")
