"""Forked children: a child has its parent's locks, but none of the threads that would let go of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def lock() -> threading.Lock:
    """Return a lock that is free in a forked child, whoever held it in the parent."""
    made = threading.Lock()
    # what CPython's own modules (logging, concurrent.futures) do with theirs; no stub knows it
    in_child(made._at_fork_reinit)  # type: ignore[attr-defined]
    return made


def in_child(renew: Callable[[], object]) -> None:
    """Call ``renew`` in each forked child, before it does anything else."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
