"""What the convolutional networks here are built of: a convolution with its normalisation, and residual blocks.

Letters in shape comments: N batch, C channels, H rows, W columns, s stride.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_norm(cin: int, cout: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution without bias, of the same size divided by its stride, and batch normalisation."""
    padding = dilation * (kernel - 1) // 2
    convolution = nn.Conv2d(cin, cout, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(cout))


def conv_norm_relu(cin: int, cout: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return :func:`conv_norm` and a ReLU."""
    return nn.Sequential(*conv_norm(cin, cout, kernel, stride, dilation), nn.ReLU())


def separable(cin: int, cout: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a 3×3 convolution of each channel by itself and a 1×1 one (Chollet 2017, arXiv 1610.02357)."""
    depthwise = nn.Conv2d(cin, cin, 3, stride, dilation, dilation, groups=cin, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(cin), nn.ReLU(), *conv_norm_relu(cin, cout, 1))


class Residual(nn.Module):
    """Two 3×3 convolutions and what goes around them (He et al. 2016, arXiv 1512.03385, figure 2)."""

    def __init__(self, cin: int, cout: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_norm_relu(cin, cout, 3, stride, dilation)
        self.conv2 = conv_norm(cout, cout, 3, 1, dilation)
        self.around = nn.Identity() if stride == 1 and cin == cout else conv_norm(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H/s, W/s)."""
        return torch.relu(torch.add(self.conv2(self.conv1(x)), self.around(x)))
