"""Two U-Nets of public seed systems, rebuilt to the parameter, where :class:`geouq.networks.unet.UNet` does not reach.

``MCDropoutUNet`` : water from RGB with Monte-Carlo dropout (github chrismolli/uncertainty-in-image-seg).
``PlainUNet`` : a classic 4-level U-Net with dropout (github Ayush-Mi/Image-Segmentation-Using-U-Net).

Both are written anew from a description of their layers. Letters in shape comments: N batch, K bands, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geouq.networks.sites import DropoutSite


class _Stage(nn.Module):
    """conv–ReLU–BN, dropout site, conv–ReLU–BN."""

    def __init__(self, name: str, cin: int, widths: Sequence[int], rate: float) -> None:
        super().__init__()
        first, second = widths
        self.conv1, self.bn1 = nn.Conv2d(cin, first, 3, padding=1), nn.BatchNorm2d(first)
        self.site = DropoutSite(name, first, rate)
        self.conv2, self.bn2 = nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, cin, H, W) → (N, widths[1], H, W) before and after the second normalisation."""
        x = self.site(self.bn1(torch.relu(self.conv1(x))))
        x = torch.relu(self.conv2(x))
        return x, self.bn2(x)


class MCDropoutUNet(nn.Module):
    """(N, K, H, W) → logits (N, classes, H, W); H and W multiples of :attr:`stride`.

    Stages of two convolutions each, spatial dropout once a stage, nearest up-sampling; a skip leaves its stage
    before the second batch normalisation. With the default arguments 7,345,793 trainable parameters (7,351,169 with
    the running statistics, as Keras counts).

    bands, classes : K, and logits a pixel.
    down : filters of the two convolutions of each stage on the way down, finest first; the last is the core.
    up : likewise on the way up, coarsest first.
    rate : of all dropout sites, named ``encoder.0`` …, ``bottleneck``, ``decoder.0`` ….
    """

    #: modules before the way back up, which fine-tuning may freeze
    encoder = ("down",)

    def __init__(
        self,
        bands: int = 3,
        classes: int = 1,
        down: Sequence[Sequence[int]] = ((64, 64), (128, 128), (128, 256), (512, 512)),
        up: Sequence[Sequence[int]] = ((256, 256), (128, 128), (64, 64)),
        rate: float = 0.5,
    ) -> None:
        super().__init__()
        names = [f"encoder.{i}" for i in range(len(up))] + ["bottleneck"]
        inputs = [bands, *(second for _, second in down)]
        self.down = nn.ModuleList(_Stage(n, c, widths, rate) for n, c, widths in zip(names, inputs, down, strict=False))
        self.up = nn.ModuleList()
        deep = down[-1][1]
        for i, widths in enumerate(up):  # coarse to fine
            self.up.append(_Stage(f"decoder.{i}", deep + down[-2 - i][1], widths, rate))
            deep = widths[1]
        self.pool, self.upsample = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(deep, classes, 1)

    @property
    def stride(self) -> int:
        """Rows and columns must be multiples of this."""
        return int(2 ** len(self.up))

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, classes, H, W)."""
        skips = []
        for stage in self.down[:-1]:
            skip, x = stage(x)
            skips.append(skip)
            x = self.pool(x)
        _, x = self.down[-1](x)
        for stage in self.up:
            _, x = stage(torch.cat([skips.pop(), self.upsample(x)], 1))
        logits: Tensor = self.head(x)
        return logits


class PlainUNet(nn.Module):
    """(N, K, H, W) → logits (N, classes, H, W); H and W multiples of :attr:`stride`.

    Two 3×3 convolutions with ReLU a level, no normalisation; dropout after each pooling and each concatenation;
    transposed 3×3 convolutions of stride 2. With the default arguments 34,514,060 parameters.

    bands, classes : K, and logits a pixel.
    widths : channels a level, finest first.
    rate : of all dropout sites; a site bears the name of the level it enters: ``encoder.1`` …, ``bottleneck``,
        ``decoder.0`` ….
    """

    #: modules before the way back up, which fine-tuning may freeze
    encoder = ("down",)

    def __init__(
        self,
        bands: int = 3,
        classes: int = 12,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        rate: float = 0.3,
    ) -> None:
        super().__init__()
        depth = len(widths) - 1
        names = [f"encoder.{i}" for i in range(1, depth)] + ["bottleneck"]
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(_pair(c, w) for c, w in zip([bands, *widths[:-1]], widths, strict=True))
        self.down_sites = nn.ModuleList(DropoutSite(n, c, rate) for n, c in zip(names, widths, strict=False))
        fine = list(reversed(widths[:-1]))
        deep = list(reversed(widths[1:]))
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(d, f, 3, stride=2, padding=1, output_padding=1) for d, f in zip(deep, fine, strict=True)
        )
        self.up_sites = nn.ModuleList(DropoutSite(f"decoder.{i}", 2 * f, rate) for i, f in enumerate(fine))
        self.up_pairs = nn.ModuleList(_pair(2 * f, f) for f in fine)
        self.head = nn.Conv2d(widths[0], classes, 1)

    @property
    def stride(self) -> int:
        """Rows and columns must be multiples of this."""
        return int(2 ** len(self.ups))

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, classes, H, W)."""
        x = self.down[0](x)
        skips = []
        for site, pair in zip(self.down_sites, self.down[1:], strict=True):
            skips.append(x)
            x = pair(site(self.pool(x)))
        for up, site, pair in zip(self.ups, self.up_sites, self.up_pairs, strict=True):
            x = pair(site(torch.cat([up(x), skips.pop()], 1)))
        logits: Tensor = self.head(x)
        return logits


def _pair(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU(), nn.Conv2d(cout, cout, 3, padding=1), nn.ReLU())
