"""Small things that many tests need: models with random weights, scenes with structure and holes, files, a process."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from torch import Tensor, nn

from geouq.files import write_bytes
from geouq.grid import Roi
from geouq.networks.model import Model, ModelSpec
from geouq.networks.ssn import SSN
from geouq.networks.unet import UNet, UNetConfig
from geouq.sampling.sampler import Sampler
from geouq.sampling.window import Window
from geouq.segmentation.ledger import digest_of, pack


def small_model(**changes) -> Model:
    """A U-Net with random weights, lively batch statistics and confident logits."""
    config = UNetConfig(**{"widths": (4, 6, 8), "dropout": {"bottleneck": 0.3, "decoder": 0.3}} | changes)
    torch.manual_seed(7)
    network = UNet(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.8, 1.5)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in" if isinstance(module, nn.Conv2d) else "fan_out")
    with torch.no_grad():
        network.head.weight *= 0.2
    classes = ("land", "water") if config.classes <= 2 else tuple(f"class{i}" for i in range(config.classes))
    return Model(
        network,
        ModelSpec(
            name="small",
            architecture="unet",
            arguments=config.to_dict(),
            bands=("VV", "VH", "B3", "B4")[: config.bands],
            units="dB",
            mean=(-12.0, -19.0, 0.0, 0.0)[: config.bands],
            std=(5.0, 5.0, 1.0, 1.0)[: config.bands],
            clip=(-50.0, 20.0),
            stride=network.stride,
            classes=classes,
            positive=classes[1],
        ),
    )


def small_ssn(rank: int = 3, classes: int = 1, correlation: float | str = 40.0, **changes) -> Model:
    """An SSN on a small U-Net, with deviations as large as its mean."""
    inner = small_model(**{"dropout": {}} | changes | {"classes": classes * (2 + rank)})
    names = ("land", "water") if classes <= 2 else tuple(f"class{i}" for i in range(classes))
    arguments = {**inner.spec.arguments, "backbone": "unet", "classes": classes, "rank": rank}
    network = SSN(inner.network, classes, rank).start_near_mean(0.5, -2.0)
    told = {"name": "small-ssn", "architecture": "ssn", "arguments": arguments, "classes": names, "positive": names[1]}
    return Model(network, replace(inner.spec, **told, sampler="ssn", correlation=correlation))


def scene_values(rows: int, columns: int, seed: int = 0, holes: bool = True) -> np.ndarray:
    """(2, rows, columns) float32 dB with smooth structure, noise, and NaN holes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    base = -14 + 4 * np.sin(y / 9) * np.cos(x / 7)
    values = np.stack([base, base - 6]) + rng.normal(0, 1.5, (2, rows, columns))
    values = values.astype(np.float32)
    if holes:
        values[:, rows // 3 : rows // 3 + 3, columns // 4 : columns // 4 + 9] = np.nan
        values[1, -1, -1] = np.inf
    return values


class Seen(Window):
    """A window that networks see as it is, x (1, K, H, W): it is normalised already."""

    def __init__(self, x: Tensor, core: Roi, origin: tuple[int, int] = (0, 0)) -> None:
        super().__init__(x[0].numpy(), np.ones(x.shape[2:], bool), core, origin)
        self.x = x

    def seen_by(self, model: Model, device: str) -> Tensor:
        return self.x


def sample_logits(
    sampler: Sampler, x: Tensor, core: Roi, origin: tuple[int, int] = (0, 0), numbers: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """The core's logits of one sample after the other."""
    for _, logits in sampler.draw(Seen(x, core, origin), numbers):
        yield logits


def as_scene(values: np.ndarray, units: str = "dB", crs: str | None = "EPSG:32633", chunks=None) -> xr.DataArray:
    """A (band, y, x) DataArray on a 10 m grid."""
    geobox = GeoBox(values.shape[1:], Affine(10, 0, 500_000, 0, -10, 5_000_000), crs)
    scene = xr.DataArray(
        values,
        dims=("band", "y", "x"),
        coords={"band": ["VV", "VH", "B3", "B4"][: len(values)], **xr_coords(geobox)},
        attrs={"units": units},
    )
    return scene if chunks is None else scene.chunk(chunks)


def write_raster(path: Path, values: np.ndarray, **profile) -> Path:
    """A raster of (bands, rows, columns), with its folder: a PNG if it is called so, else a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    kind = "PNG" if path.suffix == ".png" else "GTiff"
    with rasterio.open(path, "w", driver=kind, **shape, **profile) as file:
        file.write(values)
    return path


def pairs(folder: Path, names: list[str], size: int = 20) -> Path:
    """A folder of images and labels, a few pixels of which say nothing."""
    for i, name in enumerate(names):
        write_raster(folder / "images" / f"{name}.tif", scene_values(size, size, seed=i), nodata=np.nan)
        label = np.random.default_rng(i).integers(0, 2, (1, size, size)).astype(np.uint8)
        label[0, 0, :3] = 255
        write_raster(folder / "labels" / f"{name}.png", label)
    return folder


def picture(rng: np.random.Generator, rows: int, columns: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """An RGB picture whose stripes are darker the higher their class, and its label."""
    label = (np.arange(columns)[None] * classes // columns + np.zeros((rows, 1), int)).astype(np.uint8)
    return (200 - 50 * label + rng.integers(0, 30, (3, rows, columns))).astype(np.uint8), label[None]


def geouq(*args, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, which must end with ``code`` and without a traceback."""
    command = [sys.executable, "-m", "geouq.cli.main", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def write_part(path, arrays):
    """Write a part as a run does, and return what its receipt knows it by."""
    packed = pack(arrays)
    write_bytes(path, packed)
    return digest_of(packed)


def lake(rows: int = 90, columns: int = 110, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Two bands of dB with a dark lake, pixels that are not valid, and where the lake is."""
    rng = np.random.default_rng(1)
    water = np.zeros((rows, columns), bool)
    water[20:60, 30:90] = True
    first = np.where(water, -21, -9) + rng.normal(0, noise, water.shape)
    made = np.stack([first, first - 6 + rng.normal(0, 1, water.shape)]).astype(np.float32)
    made[:, :3], made[1, 80:, :4] = np.nan, np.nan
    return made, water


def mask_of(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """A map's mask and tags."""
    with rasterio.open(path) as file:
        return file.read(1), file.tags()
