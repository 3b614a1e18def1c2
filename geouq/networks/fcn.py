"""Fully convolutional networks FCN-32s, 16s and 8s (Long et al. 2015, arXiv 1411.4038): VGG, scored at three levels.

A VGG-like encoder of five stages (Simonyan and Zisserman 2015, arXiv 1409.1556), its dense layers as convolutions, and
a 1×1 convolution that scores classes on a thirty-second of the grid. FCN-16s and 8s double these scores and
add those of the fourth, and of the third stage; what is left is enlarged bilinearly. Unlike the paper: batch
normalisation, channel dropout, all enlargements fixed to bilinear ones, "same" padding instead of 100 pixels.

Letters in shape comments: N batch, K bands, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from geouq.errors import ModelError
from geouq.networks.convolution import conv_norm_relu
from geouq.networks.sites import DropoutSite, set_rates


@dataclass(frozen=True)
class FCNConfig:
    """All that defines an FCN's shape.

    bands, classes : input bands K; output logits a pixel, 1 = binary (sigmoid), more = softmax over them.
    finest : 32, 16 or 8: how many pixels a side the finest scores cover (the "s" of FCN-8s).
    widths : channels of the five stages, each halved at its end; (64, 128, 256, 512, 512) in the paper.
    depths : 3×3 convolutions of each stage, as in VGG-16.
    dense : channels of the two layers that were dense ones (4096 in the paper); ``kernel`` : size of the first.
    dropout : rate of each active site, by site or group name ("encoder", "bottleneck").
    """

    bands: int = 2
    classes: int = 1
    finest: int = 8
    widths: tuple[int, ...] = (16, 32, 64, 128, 128)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    dense: int = 256
    kernel: int = 7
    dropout: Mapping[str, float] = field(default_factory=lambda: {"bottleneck": 0.5})

    def __post_init__(self) -> None:
        for name in ("widths", "depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.finest not in (8, 16, 32) or len(self.widths) != 5 or len(self.depths) != 5 or self.kernel % 2 == 0:
            raise ModelError(f"not an FCN: {self}: finest is 8, 16 or 32, widths and depths are five, kernel is odd")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the model file."""
        own = {"widths": list(self.widths), "depths": list(self.depths), "dropout": dict(self.dropout)}
        return asdict(self) | own


class FCN(nn.Module):
    """The network: (N, K, H, W) → logits (N, classes, H, W); H and W multiples of :attr:`stride`."""

    #: rows and columns must be multiples of this
    stride = 32
    #: modules before the way back up, which fine-tuning may freeze
    encoder = ("stages",)

    def __init__(self, config: FCNConfig) -> None:
        super().__init__()
        self.config = config
        inputs = (config.bands, *config.widths)
        self.stages = nn.ModuleList(
            nn.Sequential(*(conv_norm_relu(inputs[i] if j == 0 else width, width) for j in range(depth)))
            for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True))
        )
        self.sites = nn.ModuleList(DropoutSite(f"encoder.{i}", width) for i, width in enumerate(config.widths))
        self.pool = nn.MaxPool2d(2)
        self.dense = nn.Sequential(
            conv_norm_relu(config.widths[-1], config.dense, config.kernel),
            DropoutSite("bottleneck.0", config.dense),
            conv_norm_relu(config.dense, config.dense, 1),
            DropoutSite("bottleneck.1", config.dense),
        )
        self.doubling = nn.Upsample(scale_factor=2, mode="bilinear")
        self.enlarge = nn.Upsample(scale_factor=config.finest, mode="bilinear")
        skips = {32: (), 16: (3,), 8: (3, 2)}[config.finest]
        self.skipped = tuple(skips)  # stages whose scores are added, coarse to fine
        self.scores = nn.ModuleList(nn.Conv2d(config.widths[i], config.classes, 1) for i in self.skipped)
        self.score = nn.Conv2d(config.dense, config.classes, 1)
        set_rates(self, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, classes, H, W)."""
        levels = []
        for stage, site in zip(self.stages, self.sites, strict=True):
            x = self.pool(site(stage(x)))  # (N, widths[i], H / 2^(i+1), …)
            levels.append(x)
        x = self.score(self.dense(x))  # (N, classes, H/32, W/32)
        for i, score in zip(self.skipped, self.scores, strict=True):
            x = torch.add(self.doubling(x), score(levels[i]))
        logits: Tensor = self.enlarge(x)
        return logits
