"""PSPNet (Zhao et al. 2017, arXiv 1612.01105): a dilated residual network with a pyramid of pooled features.

The pyramid averages features over the whole image and over its halves, thirds and sixths, so that each pixel knows the
scene it is in. So the network has no finite receptive field: what it says of a pixel depends on where a window ends,
and maps have approximate seams, which geouq says. Unlike the paper: basic residual blocks, one 3×3 convolution as stem,
channel dropout, no auxiliary loss, and no batch normalisation in the pyramid, where an image is one value a channel.

Letters in shape comments: N batch, K bands, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geouq.errors import ModelError
from geouq.networks.convolution import Residual, conv_norm_relu
from geouq.networks.sites import DropoutSite, set_rates


@dataclass(frozen=True)
class PSPNetConfig:
    """All that defines a PSPNet's shape.

    bands, classes : input bands K; output logits a pixel, 1 = binary (sigmoid), more = softmax over them.
    widths : channels of the encoder's four stages, at 1/4, 1/8, 1/8 and 1/8 of the rows; the last two are dilated by
        2 and 4.
    depth : residual blocks a stage.
    bins : cells a side that each level of the pyramid averages the image over.
    dropout : rate of each active site, by site or group name ("encoder", "bottleneck", "decoder").
    """

    bands: int = 2
    classes: int = 1
    widths: tuple[int, ...] = (16, 32, 64, 128)
    depth: int = 2
    bins: tuple[int, ...] = (1, 2, 3, 6)
    dropout: Mapping[str, float] = field(default_factory=lambda: {"bottleneck": 0.2, "decoder": 0.2})

    def __post_init__(self) -> None:
        for name in ("widths", "bins"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.widths) != 4 or self.depth < 1 or not self.bins or self.widths[-1] < len(self.bins):
            raise ModelError(f"not a PSPNet: {self}: four widths, a depth of 1 or more, and no more bins than channels")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the model file."""
        own = {"widths": list(self.widths), "bins": list(self.bins), "dropout": dict(self.dropout)}
        return asdict(self) | own


class PSPNet(nn.Module):
    """The network: (N, K, H, W) → logits (N, classes, H, W); H and W multiples of :attr:`stride`."""

    #: rows and columns must be multiples of this
    stride = 8
    #: modules before the way back up, which fine-tuning may freeze
    encoder = ("stem", "stages")

    def __init__(self, config: PSPNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = conv_norm_relu(config.bands, widths[0], stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        names = [f"encoder.{i}" for i in range(3)] + ["bottleneck"]
        inputs, strides, dilations = (widths[0], *widths), (1, 2, 1, 1), (1, 1, 2, 4)
        for i, (name, width) in enumerate(zip(names, widths, strict=True)):
            first = Residual(inputs[i], width, strides[i], dilations[i])
            rest = (Residual(width, width, 1, dilations[i]) for _ in range(config.depth - 1))
            self.stages.append(nn.Sequential(first, *rest, DropoutSite(name, width)))
        deep = widths[-1]
        narrow = deep // len(config.bins)
        self.pyramid = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(cells), nn.Conv2d(deep, narrow, 1), nn.ReLU()) for cells in config.bins
        )
        self.fuse = conv_norm_relu(deep + narrow * len(config.bins), deep)
        self.site = DropoutSite("decoder.0", deep)
        self.head = nn.Conv2d(deep, config.classes, 1)
        self.enlarge = nn.Upsample(scale_factor=8, mode="bilinear")
        set_rates(self, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, classes, H, W)."""
        x = self.pool(self.stem(x))  # (N, widths[0], H/4, W/4)
        for stage in self.stages:
            x = stage(x)  # (N, widths[i], H/8, W/8) from the second on
        size = x.shape[2:]
        levels = [functional.interpolate(level(x), size, mode="bilinear") for level in self.pyramid]
        logits: Tensor = self.enlarge(self.head(self.site(self.fuse(torch.cat([x, *levels], 1)))))
        return logits
