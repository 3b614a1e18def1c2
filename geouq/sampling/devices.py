"""Devices: which to compute on, what memory they may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from geouq.errors import InputError, TileError
from geouq.sampling.cores import is_cpu, windows_at_once
from geouq.sampling.sampler import Sampler

TILES = (2048, 1536, 1024, 768, 512, 256)
#: Live tensors of all windows in work stay below this many bytes on a CPU when the tile size is chosen for the user.
TENSOR_BUDGET = 256 << 20
_FITS: dict[str, int] = {}


def choose_device(device: str) -> str:
    """Return ``device``, or for "auto" the GPU if there is one.

    Raises
    ------
    InputError : a device that torch does not have here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        float(torch.zeros(1, device=device))  # some devices hold no numbers, "meta" say
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used ({str(error).splitlines()[0]}): try --device cpu") from None
    return device


def choose_devices(devices: str) -> tuple[str, ...]:
    """Return the devices of a list such as "cuda:0,cuda:1", which take tiles in turn; "auto" is one of them."""
    names = [name.strip() for name in devices.split(",")]
    if len(set(names)) < len(names):
        raise InputError(f"a device is named twice in {devices!r}: name each once")
    return tuple(map(choose_device, names))


def tensor_budget(device: str) -> int:
    """Return the bytes that live tensors may take on a device: a quarter of a GPU, a sixteenth of a small computer."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else TENSOR_BUDGET * 16
    return min(TENSOR_BUDGET, memory // 16)


def choose_tile(sampler: Sampler, shape: tuple[int, int], halo: int) -> int:
    """Return the largest usual core size whose window's live tensors stay within the device's budget."""
    for size in TILES:
        tensors = windows_at_once(sampler.device) * sampler.bytes_for(_window(size, shape, halo))
        if tensors <= tensor_budget(sampler.device):
            return size
    return TILES[-1]


def choose_batch(sampler: Sampler, shape: tuple[int, int], halo: int, size: int) -> int:
    """Return how many samples to compute at once: one on a CPU, where more gain nothing; what a GPU's budget holds."""
    if is_cpu(sampler.device):
        return 1
    window = _window(size, shape, halo)
    one = sampler.changed(batch=1).bytes_for(window)
    each = max(sampler.changed(batch=2).bytes_for(window) - one, 1)
    return int(np.clip(1 + (tensor_budget(sampler.device) - one) // each, 1, max(len(sampler.numbers), 1)))


def _window(size: int, shape: tuple[int, int], halo: int) -> int:
    return (min(size, shape[0]) + 2 * halo) * (min(size, shape[1]) + 2 * halo)


def batch_that_fits(device: str, batch: int) -> int:
    """Return ``batch`` samples at once, or fewer where more have not fitted the device."""
    return min(batch, _FITS.get(device, batch))


def did_not_fit(device: str, batch: int) -> int:
    """Remember that ``batch`` samples at once, 2 or more, are too many for the device; return half of them.

    To be called when the error is handled: while it is, its frames hold the tensors that are in the way.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    _FITS[device] = batch // 2
    return batch // 2


@contextmanager
def must_fit(window: tuple[int, int], device: str) -> Iterator[None]:
    """Raise TileError where the device has not the memory for a window, whatever is computed of it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise TileError(f"a {window} window does not fit {device}: take a smaller --tile") from None


def exact_arithmetic() -> None:
    """Make float32 on NVIDIA GPUs float32, sums of half precision float32, and algorithms those that repeat themselves.

    By default torch rounds what convolutions multiply to 10 bits (TF32), which moves probabilities in the third digit,
    and cuDNN may take transposed convolutions that add up in an order of chance. The settings are the process's.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
