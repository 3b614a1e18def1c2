"""A network of your own: any torch module with dropout, used as it is, with samples, exact tiles and uncertainty.

    python examples/own_network.py scene.tif

The weights here are random; load yours with `network.load_state_dict`.
"""

import sys

import torch
from torch import nn

import geouq


class Small(nn.Module):
    """Two scales and a skip; one logit a pixel: of the class `water`."""

    def __init__(self, bands: int = 2, width: int = 16) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(bands, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.coarse = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.drop = nn.Dropout2d(0.3)  # `wrap` makes it a named site: one mask a sample, the whole scene over
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.head = nn.Conv2d(2 * width, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (N, bands, H, W) to logits (N, 1, H, W); H and W are multiples of the spec's stride."""
        fine = self.fine(x)
        return self.head(torch.cat([fine, self.up(self.drop(self.coarse(fine)))], dim=1))


def main(scene_path: str) -> None:
    torch.manual_seed(0)
    model = geouq.Model.wrap(
        Small(), bands=("VV", "VH"), units="dB", mean=(-12, -19), std=(5, 5), clip=(-50, 20), stride=2, name="mine"
    )
    print(f"halo {model.halo} pixels, measured; dropout at {', '.join(model.active_sites())}")
    layers = geouq.segment(geouq.open_scene(scene_path), model, samples=20, layers=("mask", "epistemic"))
    print(layers["epistemic"].mean().compute().item())


if __name__ == "__main__":
    main(*sys.argv[1:])
