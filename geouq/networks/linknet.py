"""LinkNet (Chaurasia and Culurciello 2017, arXiv 1707.03718): a residual encoder, and skips that are added.

What an encoder stage is given is added to what the decoder stage across from it gives, so that the decoder can be
narrow: where a U-Net convolves concatenated channels, LinkNet adds them.

Letters in shape comments: N batch, K bands, C channels, H rows, W columns, L stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from geouq.errors import ModelError
from geouq.networks.convolution import Residual, conv_norm_relu
from geouq.networks.sites import DropoutSite, set_rates


@dataclass(frozen=True)
class LinkNetConfig:
    """All that defines a LinkNet's shape.

    bands, classes : input bands K; output logits a pixel, 1 = binary (sigmoid), more = softmax over them.
    widths : channels of the encoder's stages; (64, 128, 256, 512) in the paper. The stem has those of the first.
    depth : residual blocks a stage; 2 as in ResNet-18.
    dropout : rate of each active site, by site or group name ("encoder", "bottleneck", "decoder", "last2", "head").
    """

    bands: int = 2
    classes: int = 1
    widths: tuple[int, ...] = (16, 32, 64, 128)
    depth: int = 2
    dropout: Mapping[str, float] = field(default_factory=lambda: {"bottleneck": 0.2, "decoder": 0.2})

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if len(self.widths) < 2 or min(self.widths) < 4 or self.depth < 1:
            raise ModelError(f"not a LinkNet: {self}: two widths or more of at least 4, and a depth of at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the model file."""
        return asdict(self) | {"widths": list(self.widths), "dropout": dict(self.dropout)}


def _transposed(cin: int, cout: int) -> nn.Sequential:
    """Return a 3×3 transposed convolution that doubles rows and columns, normalised, and a ReLU."""
    doubling = nn.ConvTranspose2d(cin, cout, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(doubling, nn.BatchNorm2d(cout), nn.ReLU())


class Decoder(nn.Module):
    """Narrow, (perhaps) double, widen: 1×1 convolution, transposed 3×3, dropout site, 1×1 (figure 3 of the paper)."""

    def __init__(self, name: str, cin: int, cout: int, doubles: bool) -> None:
        super().__init__()
        self.narrow = conv_norm_relu(cin, cin // 4, 1)
        self.up = _transposed(cin // 4, cin // 4) if doubles else conv_norm_relu(cin // 4, cin // 4)
        self.site = DropoutSite(name, cin // 4)
        self.widen = conv_norm_relu(cin // 4, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H, W), or twice the rows and columns."""
        widened: Tensor = self.widen(self.site(self.up(self.narrow(x))))
        return widened


class LinkNet(nn.Module):
    """The network: (N, K, H, W) → logits (N, classes, H, W); H and W multiples of :attr:`stride`."""

    #: modules before the way back up, which fine-tuning may freeze
    encoder = ("stem", "stages")

    def __init__(self, config: LinkNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, count = config.widths, len(config.widths)
        self.stem = conv_norm_relu(config.bands, widths[0], 7, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = (widths[0], *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                Residual(inputs[i], width, stride=1 if i == 0 else 2),
                *(Residual(width, width) for _ in range(config.depth - 1)),
                DropoutSite(f"encoder.{i}" if i < count - 1 else "bottleneck", width),
            )
            for i, width in enumerate(widths)
        )
        self.decoders = nn.ModuleList(
            Decoder(f"decoder.{k}", widths[i], inputs[i], doubles=i > 0) for k, i in enumerate(reversed(range(count)))
        )
        fine = widths[0] // 2
        self.final = nn.Sequential(_transposed(widths[0], fine), conv_norm_relu(fine, fine), DropoutSite("head", fine))
        self.head = nn.ConvTranspose2d(fine, config.classes, 2, stride=2)
        set_rates(self, config.dropout)

    @property
    def stride(self) -> int:
        """Rows and columns must be multiples of this."""
        return int(2 ** (len(self.config.widths) + 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, classes, H, W)."""
        x = self.pool(self.stem(x))  # (N, widths[0], H/4, W/4)
        skips = []
        for stage in self.stages:
            skips.append(x)
            x = stage(x)  # (N, widths[i], H / (4·2^i), …)
        for i, decoder in enumerate(self.decoders):
            x, skip = decoder(x), skips.pop()  # (N, C of what the encoder's stage was given, …)
            x = torch.add(x, skip) if i < len(self.decoders) - 1 else x
        logits: Tensor = self.head(self.final(x))
        return logits
