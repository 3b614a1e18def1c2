"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597) in one file and one dataclass.

Letters in shape comments: N batch, K bands, C channels, H rows, W columns, L levels.

Each block is conv–BN–ReLU, dropout site, conv–BN–ReLU. With ``stem=2`` the image is first folded 2×2 into
channels (space to depth) and the logits are unfolded at the end (pixel shuffle, Shi et al. 2016, arXiv
1609.05158): the same field of view for about a quarter of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from geouq.errors import ModelError
from geouq.networks.sites import DropoutSite, set_rates


@dataclass(frozen=True)
class UNetConfig:
    """All that defines a U-Net's shape.

    bands : input bands K.
    classes : output logits a pixel; 1 = binary (sigmoid), more = softmax over them.
    widths : channels a level, finest first; L = len(widths); the last one is the bottleneck.
    stem : space-to-depth factor, 1 (none), 2 or 4.
    smooth : side, in cells of ``stem`` pixels, of the mean that features are taken over before the last layer, odd;
        1: none. It averages out what speckle leaves in them.
    up : "transpose" (learnt 2×2, stride 2) or "nearest" (doubling, then the block's own convolution).
    norm : batch normalisation after each 3×3 convolution.
    dropout : rate of each active site, by site or group name ("encoder", "bottleneck", "decoder", "last2", "head").
    """

    bands: int = 2
    classes: int = 1
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    stem: int = 1
    smooth: int = 1
    up: str = "transpose"
    norm: bool = True
    dropout: Mapping[str, float] = field(default_factory=lambda: {"bottleneck": 0.2, "decoder": 0.2})

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.stem not in (1, 2, 4) or self.up not in ("transpose", "nearest") or len(self.widths) < 2:
            raise ModelError(f"not a U-Net: {self}: stem is 1, 2 or 4, up is transpose or nearest, two widths or more")
        if not isinstance(self.smooth, int) or not 1 <= self.smooth <= 31 or self.smooth % 2 == 0:
            raise ModelError(f"not a U-Net: smooth is {self.smooth}: an odd number from 1 to 31")
        if not all(isinstance(width, int) and width >= 1 for width in self.widths):
            raise ModelError(f"not a U-Net: widths are {self.widths}: each is a whole number, 1 or more")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the model file."""
        return asdict(self) | {"widths": list(self.widths), "dropout": dict(self.dropout)}


class DoubleConv(nn.Module):
    """Two 3×3 convolutions with a dropout site between them."""

    def __init__(self, name: str, cin: int, cout: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(cout) if norm else nn.Identity()
        self.site = DropoutSite(name, cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=not norm)
        self.bn2 = nn.BatchNorm2d(cout) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H, W)."""
        x = self.site(torch.relu(self.bn1(self.conv1(x))))
        return torch.relu(self.bn2(self.conv2(x)))


class UNet(nn.Module):
    """The network: (N, K, H, W) → logits (N, classes, H, W); H and W multiples of :attr:`stride`."""

    #: modules before the way back up, which fine-tuning may freeze
    encoder = ("stem", "down")

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, depth = config.widths, len(config.widths) - 1
        fold = config.stem**2
        self.stem = nn.PixelUnshuffle(config.stem) if config.stem > 1 else nn.Identity()
        channels = [config.bands * fold, *widths]
        names = [f"encoder.{i}" for i in range(depth)] + ["bottleneck"]
        self.down = nn.ModuleList(
            DoubleConv(name, channels[i], channels[i + 1], config.norm) for i, name in enumerate(names)
        )
        self.pool = nn.MaxPool2d(2)
        self.ups, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for i in range(depth):  # coarse to fine
            deep, fine = widths[depth - i], widths[depth - i - 1]
            upped = fine if config.up == "transpose" else deep
            transpose = nn.ConvTranspose2d(deep, fine, 2, stride=2)
            self.ups.append(transpose if config.up == "transpose" else nn.Upsample(scale_factor=2))
            self.up_blocks.append(DoubleConv(f"decoder.{i}", upped + fine, fine, config.norm))
        self.mean = nn.AvgPool2d(config.smooth, 1, config.smooth // 2) if config.smooth > 1 else nn.Identity()
        self.head_site = DropoutSite("head", widths[0])
        self.head = nn.Conv2d(widths[0], config.classes * fold, 1)
        self.unfold = nn.PixelShuffle(config.stem) if config.stem > 1 else nn.Identity()
        set_rates(self, config.dropout)

    @property
    def stride(self) -> int:
        """Rows and columns must be multiples of this."""
        return int(self.config.stem * 2 ** (len(self.config.widths) - 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, classes, H, W)."""
        x = self.stem(x)  # (N, K·stem², H/stem, W/stem)
        skips = []
        for block in self.down[:-1]:
            x = block(x)  # (N, widths[i], …)
            skips.append(x)
            x = self.pool(x)
        x = self.down[-1](x)  # (N, widths[-1], H/stride, W/stride)
        for up, block in zip(self.ups, self.up_blocks, strict=True):
            x = block(torch.cat([up(x), skips.pop()], 1))
        logits: Tensor = self.unfold(self.head(self.head_site(self.mean(x))))  # (N, classes, H, W)
        return logits
