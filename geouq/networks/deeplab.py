"""DeepLabV3+ (Chen et al. 2018, arXiv 1802.02611): atrous separable convolutions, side by side, and a light decoder.

An encoder of separable residual blocks down to a sixteenth of the rows; there a pyramid of separable convolutions
dilated by several rates (ASPP) sees several distances at once; its features are enlarged four times, joined with those
of a quarter of the rows, and refined. The paper's pyramid also averages over the whole image (``image_pooling``): with
it the network has no finite receptive field and maps have approximate seams, so it is off unless asked for.

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
from geouq.networks.convolution import conv_norm, conv_norm_relu, separable
from geouq.networks.sites import DropoutSite, set_rates


@dataclass(frozen=True)
class DeepLabConfig:
    """All that defines a DeepLabV3+'s shape.

    bands, classes : input bands K; output logits a pixel, 1 = binary (sigmoid), more = softmax over them.
    widths : channels at 1/2, 1/4, 1/8 and 1/16 of the rows.
    middle : further blocks at 1/16 (16 in the paper's Xception).
    rates : dilations of the pyramid's 3×3 convolutions, in cells of 16 pixels; they make most of the halo.
    features : channels of the pyramid's branches and of the decoder (256 in the paper).
    low : channels that the features of a quarter of the rows are narrowed to (48 in the paper).
    image_pooling : average over the whole image, too.
    dropout : rate of each active site, by site or group name ("encoder", "bottleneck", "decoder", "last2").
    """

    bands: int = 2
    classes: int = 1
    widths: tuple[int, ...] = (16, 32, 64, 128)
    middle: int = 2
    rates: tuple[int, ...] = (6, 12, 18)
    features: int = 64
    low: int = 16
    image_pooling: bool = False
    dropout: Mapping[str, float] = field(default_factory=lambda: {"bottleneck": 0.2, "decoder": 0.2})

    def __post_init__(self) -> None:
        for name in ("widths", "rates"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.widths) != 4 or self.middle < 0 or min(self.rates, default=1) < 1:
            raise ModelError(f"not a DeepLabV3+: {self}: four widths, middle is 0 or more, rates are 1 or more")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the model file."""
        own = {"widths": list(self.widths), "rates": list(self.rates), "dropout": dict(self.dropout)}
        return asdict(self) | own


class SeparableResidual(nn.Module):
    """Two separable convolutions, a dropout site after them, and what goes around them."""

    def __init__(self, name: str, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.convs = nn.Sequential(separable(cin, cout, stride), separable(cout, cout))
        self.around = nn.Identity() if stride == 1 and cin == cout else conv_norm(cin, cout, 1, stride)
        self.site = DropoutSite(name, cout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H/s, W/s)."""
        out: Tensor = self.site(torch.relu(torch.add(self.convs(x), self.around(x))))
        return out


class DeepLab(nn.Module):
    """The network: (N, K, H, W) → logits (N, classes, H, W); H and W multiples of :attr:`stride`."""

    #: rows and columns must be multiples of this
    stride = 16
    #: modules before the way back up, which fine-tuning may freeze
    encoder = ("stem", "fine", "coarse")

    def __init__(self, config: DeepLabConfig) -> None:
        super().__init__()
        self.config = config
        half, quarter, eighth, deep = config.widths
        self.stem = conv_norm_relu(config.bands, half, stride=2)
        self.fine = SeparableResidual("encoder.0", half, quarter, 2)
        self.coarse = nn.Sequential(
            SeparableResidual("encoder.1", quarter, eighth, 2),
            SeparableResidual("encoder.2", eighth, deep, 2),
            *(SeparableResidual(f"encoder.{3 + i}", deep, deep) for i in range(config.middle)),
        )
        self.pyramid = nn.ModuleList(
            [conv_norm_relu(deep, config.features, 1)]
            + [separable(deep, config.features, dilation=rate) for rate in config.rates]
        )
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(deep, config.features, 1), nn.ReLU())
        self.pooled = pooled if config.image_pooling else None
        branches = len(self.pyramid) + config.image_pooling
        self.project = conv_norm_relu(branches * config.features, config.features, 1)
        self.site = DropoutSite("bottleneck", config.features)
        self.narrow = conv_norm_relu(quarter, config.low, 1)
        self.enlarge = nn.Upsample(scale_factor=4, mode="bilinear")
        self.refine = nn.Sequential(
            separable(config.features + config.low, config.features),
            DropoutSite("decoder.0", config.features),
            separable(config.features, config.features),
            DropoutSite("decoder.1", config.features),
        )
        self.head = nn.Conv2d(config.features, config.classes, 1)
        set_rates(self, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, classes, H, W)."""
        fine = self.fine(self.stem(x))  # (N, widths[1], H/4, W/4)
        x = self.coarse(fine)  # (N, widths[3], H/16, W/16)
        branches = [branch(x) for branch in self.pyramid]  # (N, features, H/16, W/16) each
        if self.pooled is not None:
            branches.append(functional.interpolate(self.pooled(x), x.shape[2:], mode="nearest"))
        x = self.site(self.project(torch.cat(branches, 1)))
        x = self.refine(torch.cat([self.enlarge(x), self.narrow(fine)], 1))  # (N, features, H/4, W/4)
        logits: Tensor = self.enlarge(self.head(x))
        return logits
