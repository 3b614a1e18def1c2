"""The cores of a processor: computations side by side, one thread each, so that no result depends on their number.

A convolution that is spread over threads adds its numbers up in an order that goes by their number, so that one machine
rounds otherwise than the next, and a run that is continued on another one is of two kinds. Here a computation is never
spread. What is independent (samples, windows) is computed side by side instead, which is also faster: threads do not
wait for one another at the end of each layer.

There are as many cores as torch has threads (``OMP_NUM_THREADS``). A GPU has its own parallelism: on it all that is
said here is computed in the calling thread, one window at a time.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_END = object()
_HERE = threading.local()  # .core is True in the threads of the pool
_LOCK = threading.Lock()
_POOL: ThreadPoolExecutor | None = None
_TURNS: dict[str, AbstractContextManager[Any]] = {}


def is_cpu(device: str) -> bool:
    """True for a processor, False for a GPU."""
    return torch.device(device).type == "cpu"


def count() -> int:
    """Return the number of cores."""
    return torch.get_num_threads()


def windows_at_once(device: str) -> int:
    """Return how many windows may be computed side by side.

    What all samples of a window share is computed on one core, and with 20 samples is about a fifth of the work: a
    second window keeps the other cores busy meanwhile, and every fourth core asks for one more.
    """
    return min(count(), 1 + -(-count() // 4)) if is_cpu(device) else 1


def turn(device: str) -> AbstractContextManager[Any]:
    """Return what a window holds while it is computed on ``device``, so that there are never more at once."""
    with _LOCK:
        return _TURNS.setdefault(device, threading.BoundedSemaphore(windows_at_once(device)))


def on_core(device: str, function: Callable[..., T], *args: Any) -> T:
    """Return what ``function(*args)`` gives on one core (without gradients); on a GPU in this thread."""
    if not is_cpu(device) or getattr(_HERE, "core", False):
        return _compute(function, *args)
    return _pool().submit(_compute, function, *args).result()


def each_on_core(device: str, items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator, each made on one core."""
    while (item := on_core(device, next, items, _END)) is not _END:
        yield item


def in_order(functions: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield what functions give, in their order; a few are computed ahead of what is asked for, side by side."""
    waiting: deque[Future[T]] = deque()
    try:
        for function in functions:
            waiting.append(_pool().submit(_compute, function))
            if len(waiting) > count():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # nobody asks for the rest
        for future in waiting:
            future.cancel()


def _compute(function: Callable[..., T], *args: Any) -> T:
    with torch.inference_mode():
        return function(*args)


def _pool() -> ThreadPoolExecutor:
    global _POOL
    with _LOCK:
        if _POOL is None:
            threads, all_there = count(), threading.Barrier(count() + 1)
            _POOL = ThreadPoolExecutor(threads, "geouq-core", _begin)
            for _ in range(threads):
                _POOL.submit(all_there.wait)
            all_there.wait()
            torch.set_num_threads(threads)  # what threads that are not ours will start with is as it was
    return _POOL


def _begin() -> None:
    _HERE.core = True
    torch.get_num_threads()  # else the first operation in this thread would set what the process has
    torch.set_num_threads(1)  # of this thread alone


def _forget() -> None:
    """In a forked child, which has none of its parent's threads."""
    global _LOCK, _POOL
    _LOCK, _POOL = threading.Lock(), None
    _TURNS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
