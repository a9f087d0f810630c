"""The one place for running many simulations at once: on this machine's cores, or a Dask cluster.

Every job is one run of its own, so any order and any place give the same rows.
"""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
AHEAD: Final = 4
"""Jobs that wait for each worker, so that none is ever idle; the rest is not made yet."""
CONNECT_S: Final = 15


class WorkersError(Exception):
    """There is nobody to do the work; the text is one line with the mend."""


@contextlib.contextmanager
def local(processes: int | None = None) -> Iterator[tuple[concurrent.futures.Executor, int]]:
    """Processes of this machine, as many as it has cores unless told. What has not begun is
    dropped when the block is left early.
    """
    count = processes or os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin_worker
    )
    try:
        yield pool, count
    except concurrent.futures.BrokenExecutor as error:
        raise WorkersError("a process of the simulation was killed; is memory short?") from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Who asked for the work decides about interrupts; without him there is no work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def dask_cluster(address: str) -> Iterator[tuple[concurrent.futures.Executor, int]]:
    """The workers of a Dask scheduler, which must have meshd installed too. Raises WorkersError."""
    try:
        from distributed import Client  # an extra, and slow to import
    except ImportError as error:
        raise WorkersError("Dask is not installed: pip install 'meshd[sweep]'") from error
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise WorkersError(f"no Dask scheduler answers at {address}") from error
    with client:
        count = sum(client.nthreads().values())
        if count == 0:
            raise WorkersError(f"the Dask scheduler at {address} has no workers")
        executor = client.get_executor(pure=False)
        try:
            yield executor, count
        finally:
            executor.shutdown(wait=False)


def spread(
    workers: tuple[concurrent.futures.Executor, int],
    do: Callable[[Job], Outcome],
    jobs: Iterable[Job],
) -> Iterator[Outcome]:
    """What `do` makes of every job, as they are done. Raises what `do` raised."""
    executor, count = workers
    upcoming = iter(jobs)
    waiting: dict[concurrent.futures.Future[Outcome], None] = {}
    is_more = True
    while is_more or waiting:
        while is_more and len(waiting) < count * AHEAD:
            try:
                job = next(upcoming)
            except StopIteration:
                is_more = False
                break
            waiting[executor.submit(do, job)] = None
        done = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)[0]
        for finished in [future for future in waiting if future in done]:
            del waiting[finished]
            yield finished.result()
