"""Tiles on a cluster of dask.distributed: workers read windows and send finished parts back, the caller keeps them.

No disk is shared but that of the scene. A few tiles a thread are under way at any time, which is what memory
depends on. What a lost worker had is computed again by another, which is dask's work.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from geouq.errors import InputError, TileError
from geouq.grid import Tile

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
#: seconds that a scheduler has to answer, and to wait for its first worker
_ANSWER, _PATIENCE = 15, 60
#: tiles under way for each thread of the workers: one computes while the next is on its way
_AHEAD = 2


@contextmanager
def connected(scheduler: str) -> Iterator[Client]:
    """Yield a client of a scheduler: its address, ``local`` or ``local:N`` (N processes here), or its file (.json).

    Raises
    ------
    InputError : dask.distributed is not installed, or nothing answers there.
    """
    try:
        import distributed  # an extra
    except ImportError:
        raise InputError("a cluster needs dask.distributed: pip install 'geouq[distributed]'") from None
    kind, _, count = scheduler.partition(":")
    if kind == "local" and count and not (count.isdecimal() and int(count)):
        raise InputError(f"scheduler {scheduler!r}: give local:N with a number of processes, 1 or more")
    address = _address(scheduler) if scheduler.endswith(".json") else scheduler
    with ExitStack() as stack:
        try:
            if kind == "local":
                options = {"n_workers": int(count) if count else None, "threads_per_worker": 1}
                cluster = stack.enter_context(distributed.LocalCluster(**options, dashboard_address=None))
                address = cluster.scheduler_address
            # Held before it connects, so that one that cannot is closed here. One left to the garbage collector closes
            # itself whenever that comes; in the thread of the next client's loop, the two wait for each other.
            client = distributed.Client.__new__(distributed.Client)
            stack.callback(client.close)
            distributed.Client.__init__(client, address, timeout=_ANSWER, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without a certificate
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"scheduler {scheduler!r} does not answer ({reason}): check that it runs") from error
        except RuntimeError as error:
            raise InputError(
                f"scheduler {scheduler!r}: its processes do not start ({error}): a script, which each of them reads "
                "again, asks for them below if __name__ == '__main__':"
            ) from error
        yield client


def _address(scheduler_file: str) -> str:
    """Return the address that a scheduler left in its file; one that is just being written is waited for."""
    for attempt in range(10):
        time.sleep(0.1 if attempt else 0)
        try:
            with open(scheduler_file, encoding="utf-8") as file:
                return str(json.load(file)["address"])
        except OSError:
            reason = "no such file"
        except (ValueError, KeyError, TypeError):
            reason = "not the file of a scheduler"
    raise InputError(f"{scheduler_file}: {reason}: give what the scheduler was told by --scheduler-file")


def compute_on(client: Client, function: Callable[[Any, Tile], T], shared: Any, tiles: Sequence[Tile]) -> Iterator[T]:
    """Yield ``function(shared, tile)`` of each tile, in any order, computed by a client's workers.

    Raises
    ------
    TileError : a tile took down all workers that it was given to. GeouqError : as ``function`` does.
    """
    import distributed  # an extra

    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError:
        raise InputError(f"the scheduler has no workers after {_PATIENCE} s: start some (dask worker …)") from None
    told = client.submit(pickle.loads, pickle.dumps(shared), pure=False)  # a task: made again where it is lost
    waiting, under_way = iter(tiles), dict[Any, Tile]()
    finished = distributed.as_completed(loop=client.loop)

    def fill() -> None:
        """Keep as many tiles under way as the workers of now can have in hand."""
        room = _AHEAD * sum(client.nthreads().values()) - len(under_way)
        for tile in islice(waiting, max(room, 0 if under_way else 1)):
            future = client.submit(function, told, tile, pure=False)
            under_way[future] = tile
            finished.add(future)

    try:
        fill()
        for future in finished:
            tile = under_way.pop(future)
            try:
                made = future.result()
            except distributed.scheduler.KilledWorker as error:
                raise TileError(f"tile {tile.index} (rows {tile.core.y0} to {tile.core.y1}): {error}") from error
            future.release()
            yield made
            fill()
    finally:
        client.cancel([*under_way, told])
