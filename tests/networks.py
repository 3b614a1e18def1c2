"""Small networks of each architecture, with random weights that show how far they see."""

import torch
from torch import nn

from geouq.networks.architectures import ARCHITECTURES
from geouq.networks.model import Model, ModelSpec

#: name → (architecture, arguments that make it small)
SMALL = {
    "fcn-32s": ("fcn", {"finest": 32, "widths": [4, 4, 5, 6, 6], "depths": [1] * 5, "dense": 8, "kernel": 3}),
    "fcn-16s": ("fcn", {"finest": 16, "widths": [4, 4, 5, 6, 6], "depths": [1] * 5, "dense": 8, "kernel": 1}),
    "fcn-8s": ("fcn", {"finest": 8, "widths": [4, 4, 5, 6, 6], "depths": [1] * 5, "dense": 8, "kernel": 1}),
    "linknet": ("linknet", {"widths": [8, 12, 16], "depth": 1}),
    "deeplabv3+": ("deeplabv3+", {"widths": [4, 5, 6, 8], "middle": 0, "rates": [1, 2], "features": 6, "low": 3}),
    "pooled": (
        "deeplabv3+",
        {"widths": [4, 5, 6, 8], "middle": 0, "rates": [1], "features": 6, "low": 3, "image_pooling": True},
    ),
    "pspnet": ("pspnet", {"widths": [4, 5, 6, 8], "depth": 1}),
}
#: those that see a finite distance
FINITE = tuple(name for name in SMALL if name not in ("pooled", "pspnet"))


def network_of(name: str, **changes) -> nn.Module:
    """The network in eval mode, weights large enough that the far ends of its receptive field are seen."""
    architecture, arguments = SMALL[name]
    torch.manual_seed(5)
    network = ARCHITECTURES[architecture](arguments | changes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.2, 0.6)  # few channels, all of which should be alive
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in" if isinstance(module, nn.Conv2d) else "fan_out")
    heads = [network.score, *network.scores] if hasattr(network, "score") else [network.head]
    with torch.no_grad():  # logits of mean 0 and deviation 1
        logits = network(torch.randn(1, changes.get("bands", 2), 192, 192))
        for head in heads:
            head.weight /= logits.std()
            head.bias /= logits.std()
        heads[0].bias -= logits.mean() / logits.std()
    return network


def model_of(name: str, **changes) -> Model:
    """A model of two bands in dB, land and water."""
    network = network_of(name, **changes)
    architecture, arguments = SMALL[name]
    classes = ("land", "water", "ice")[: max(changes.get("classes", 1), 2)]
    spec = ModelSpec(
        name=name,
        architecture=architecture,
        arguments=arguments | changes,
        bands=("VV", "VH"),
        units="dB",
        mean=(-12.0, -19.0),
        std=(5.0, 5.0),
        clip=(-50.0, 20.0),
        stride=int(network.stride),
        classes=classes,
    )
    return Model(network, spec)
