"""Pools – evaluate points in other threads or processes, and go on when one of them dies.

Network and images travel once to each worker process: through a file that it reads on its first task, through
`scatter` on a Dask cluster, and not at all to threads. A worker that finds neither asks, and gets them with its task.
"""

from __future__ import annotations

import os
import pickle
import queue
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._arguments import share_cores

if TYPE_CHECKING:
    from ._data import Split
    from ._goals import Objective
    from ._network import Network
    from ._points import Subnet
    from ._record import Record
    from ._tables import Tables

ATTEMPTS = 3  # of one point, before its workers' deaths are its fault
MOST_DEATHS = 10  # in a row, without anything finished in between
KEPT = 2  # searches whose data a worker keeps

Job = tuple[Any, int | None]  # sub-net, and how many wrong images end its evaluation


@dataclass(frozen=True, eq=False)
class Payload:
    """What every evaluation of a search needs."""

    net: Network
    images: Any
    split: Split
    objectives: Sequence[Objective | str]
    driver: int = field(default_factory=os.getpid)


_held: dict[str, Payload] = {}
_lock = threading.Lock()
loads = 0  # of payloads in this process, for the tests


def evaluate_there(
    token: str, path: str | None, data: Any, workers: int, subnet: Subnet, allowance: int | None
) -> tuple[Record, Tables | None] | None:
    """Evaluate a sub-net, in whatever process this is, beside so many others; None asks for the data."""
    from ._evaluate import accuracy_record

    payload = _payload(token, path, data)
    if payload is None:
        return None
    if os.getpid() != payload.driver:
        share_cores(workers)
    net = payload.net.copy()  # threads may share it
    return accuracy_record(net, subnet, payload.images, payload.split, payload.objectives, allowance)


def _payload(token: str, path: str | None, data: Any) -> Payload | None:
    global loads
    if isinstance(data, Payload):
        return data
    with _lock:
        if token not in _held:
            if data is None and path is not None:
                try:
                    data = Path(path).read_bytes()
                except OSError:  # another machine
                    return None
            if data is None:
                return None
            loads += 1
            _held[token] = pickle.loads(data)
            for old in list(_held)[:-KEPT]:
                del _held[old]
        return _held[token]


class Pool:
    """Evaluates jobs with an executor; one that broke is replaced.

    Parameters
    ----------
    executor : executor, or function that makes one
        Anything with ``submit(f, *args)`` that returns futures with ``result`` and ``add_done_callback``.
    payload : Payload
    """

    def __init__(self, executor: Any, payload: Payload) -> None:
        made = not hasattr(executor, "submit")
        if made and not callable(executor):
            raise TypeError(
                f"executor is {executor!r}; it needs submit(f, *args), or must be a function that makes one"
            )
        self._make: Callable[[], Any] | None = executor if made else None
        self._executor = executor() if made else executor
        if not hasattr(self._executor, "submit"):
            raise TypeError(f"executor made {self._executor!r}, which has no submit(f, *args)")
        self._owned = made
        self._payload = payload
        self._token = uuid.uuid4().hex
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._path: str | None = None
        self.scattered: Any = None
        self.is_dask = hasattr(self._executor, "scatter") and hasattr(self._executor, "scheduler_info")
        if self.is_dask:
            self._scatter()
        else:
            with _lock:
                _held[self._token] = payload
            if not isinstance(self._executor, ThreadPoolExecutor):
                self._write()

    def run(self, jobs: Sequence[Job], late: Callable[[], bool]) -> Iterator[tuple[Any, tuple[Record, Tables | None]]]:
        """Evaluate jobs and yield sub-nets with what `accuracy_record` returns, in the order they finish.

        Parameters
        ----------
        jobs : sequence of (Subnet, allowance)
        late : callable
            True ends it; what has not begun is left out.
        """
        batch = _Batch(self, jobs)
        try:
            while batch.open:
                if late():
                    batch.cancel()
                yield from batch.collect(0.2)
        finally:
            batch.cancel()

    def close(self) -> None:
        """Forget the data, and end workers that were started here."""
        with _lock:
            _held.pop(self._token, None)
        self.scattered = None
        if self._folder is not None:
            self._folder.cleanup()
        if self._owned:
            _shut(self._executor)

    # ---- for _Batch ----

    def submit(self, job: Job, inline: bool) -> Any:
        """Give a job to the executor; `inline` sends the data with it."""
        data = self.scattered
        if inline:
            data = _pickled(self._payload)
        options = {"pure": False} if self.is_dask else {}
        return self._executor.submit(evaluate_there, self._token, self._path, data, self._workers(), *job, **options)

    def renew(self, error: BaseException) -> None:
        """Replace what broke."""
        if self.is_dask:
            self._need_connection()
            self.scattered = None  # dies with those that hold it; a new worker asks, and keeps what comes with its task
            return
        fresh = self._make() if self._make is not None else _like(self._executor)
        if fresh is None:
            raise RuntimeError(
                f"the workers of {type(self._executor).__name__} died ({error}), and it is not known how to start "
                "others: pass executor=a function that makes an executor"
            ) from error
        if self._owned:
            _shut(self._executor)
        self._executor, self._owned = fresh, not type(fresh).__module__.startswith("loky")

    def _workers(self) -> int:
        """Return the processes on one machine, as far as is known."""
        if self.is_dask:
            hosts = Counter(worker.get("host") for worker in self._executor.scheduler_info()["workers"].values())
            return max(hosts.values(), default=1)
        return int(getattr(self._executor, "_max_workers", 1))

    def _need_connection(self) -> None:
        status = getattr(self._executor, "status", "running")
        if status != "running":
            raise _lost(f"the client is {status}")

    def _scatter(self) -> None:
        self._need_connection()
        try:
            self.scattered = self._executor.scatter(self._payload, broadcast=True, hash=False)
        except TimeoutError as error:
            raise ConnectionError(f"the Dask cluster has no workers that take the data: {error}") from error

    def _write(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dynadnn-", ignore_cleanup_errors=True)
        path = Path(self._folder.name, "search.pickle")
        path.write_bytes(_pickled(self._payload))
        self._path = str(path)


class _Batch:
    """The jobs of one generation on their way."""

    def __init__(self, pool: Pool, jobs: Sequence[Job]) -> None:
        self._pool = pool
        self._waiting = list(jobs)
        self._running: dict[int, tuple[Any, Job, Any]] = {}  # future, job, and the scattered data it needs
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._deaths: Counter[Job] = Counter()
        self._in_a_row = 0
        self._breaks = 0
        self._number = 0
        self._start_waiting()

    @property
    def open(self) -> bool:
        return bool(self._running or self._waiting)

    def collect(self, seconds: float) -> Iterator[tuple[Any, tuple[Record, Tables | None]]]:
        """Yield what finished, after waiting for the first at most so long."""
        try:
            number = self._done.get(timeout=seconds)
        except queue.Empty:
            return
        while True:
            if number in self._running:
                future, job, needed = self._running.pop(number)
                found = self._result(future, job, needed)
                if found is not None:
                    self._in_a_row = 0
                    yield job[0], found
                self._start_waiting()
            try:
                number = self._done.get_nowait()
            except queue.Empty:
                return

    def cancel(self) -> None:
        """Leave out what has not begun; what has is still waited for where the executor can tell."""
        self._waiting.clear()
        for number, (future, _, _) in list(self._running.items()):
            try:
                cancelled = future.cancel() is not False
            except Exception:  # the connection to the scheduler is gone, and everything with it
                cancelled = True
            if cancelled:
                self._running.pop(number, None)

    def _start_waiting(self) -> None:
        # After a second break only one job runs at a time, so that it is known which one kills its worker.
        while self._waiting and not (self._breaks > 1 and self._running):
            job = self._waiting.pop(0)
            try:
                self._start(job)
            except (BrokenExecutor, OSError) as error:
                self._broken(job, error, suspected=False)

    def _start(self, job: Job, inline: bool = False) -> None:
        future = self._pool.submit(job, inline)
        number = self._number
        self._number += 1
        self._running[number] = (future, job, self._pool.scattered)
        future.add_done_callback(lambda _: self._done.put(number))

    def _result(self, future: Any, job: Job, needed: Any) -> tuple[Record, Tables | None] | None:
        try:
            found = future.result()
        except Exception as error:
            return self._failed(job, needed, error)
        if found is None:
            self._start(job, inline=True)
            return None
        result: tuple[Record, Tables | None] = found
        return result

    def _failed(self, job: Job, needed: Any, error: Exception) -> tuple[Record, Tables | None] | None:
        from ._record import Record

        if isinstance(error, BrokenExecutor):
            self._broken(job, error, suspected=self._breaks > 1)
        elif type(error).__name__ == "KilledWorker":  # Dask tried it several times, on other workers too
            self._died(job, error)
            self._waiting.append(job)
        elif self._pool.is_dask and isinstance(error, OSError):  # the cluster's: evaluations return theirs
            raise _lost(error) from error
        elif isinstance(error, CancelledError) or type(error).__name__ == "FutureCancelledError":
            if needed is self._pool.scattered:
                self._broken(job, error, suspected=False)  # the workers that held its data are gone
            else:
                self._waiting.append(job)  # with others, by a loss that is known
        else:
            raise RuntimeError(f"a worker could not evaluate {job[0]}: {type(error).__name__}: {error}") from error
        if self._deaths[job] < ATTEMPTS:
            return None
        self._waiting.remove(job)
        text = f"{type(error).__name__}: the worker process died {ATTEMPTS} times while it evaluated this point"
        return Record(point=job[0], failure=text), None

    def _broken(self, job: Job, error: BaseException, suspected: bool) -> None:
        if suspected:
            self._died(job, error)
        else:
            self._count(error)
        self._waiting.insert(0, job)
        if not self._pool.is_dask:  # whose other workers go on; every future of another executor is lost
            self._breaks += 1
            for number, (future, other, _) in list(self._running.items()):
                if not _succeeded(future):
                    del self._running[number]  # should it answer after all, nobody looks
                    self._waiting.append(other)
        if self._in_a_row > 1:
            time.sleep(0.05 * self._in_a_row)
        self._pool.renew(error)

    def _died(self, job: Job, error: BaseException) -> None:
        self._deaths[job] += 1
        self._count(error)

    def _count(self, error: BaseException) -> None:
        self._in_a_row += 1
        if self._in_a_row >= MOST_DEATHS:
            raise RuntimeError(
                f"workers died {self._in_a_row} times in a row without finishing an evaluation ({error}): is there "
                "enough memory, and can they import dynadnn? With a checkpoint the same call goes on"
            ) from error


def _lost(error: Any) -> ConnectionError:
    text = f"the connection to the Dask scheduler ended ({error}); with a checkpoint the same call goes on"
    return ConnectionError(text)


def _like(executor: Any) -> Any:
    """Return an executor like one that broke, or None where it is not known how."""
    workers = getattr(executor, "_max_workers", None)
    if type(executor) is ProcessPoolExecutor:
        old: Any = executor
        return ProcessPoolExecutor(
            workers, mp_context=old._mp_context, initializer=old._initializer, initargs=old._initargs
        )
    if any(kind.__module__.startswith("loky") for kind in type(executor).__mro__):
        import loky

        return loky.get_reusable_executor(max_workers=workers)
    return None


def _succeeded(future: Any) -> bool:
    try:
        return bool(future.done()) and future.exception() is None
    except Exception:  # it was cancelled
        return False


def _shut(executor: Any) -> None:
    if isinstance(executor, ProcessPoolExecutor | ThreadPoolExecutor):
        executor.shutdown(wait=False, cancel_futures=True)
    elif hasattr(executor, "close"):
        executor.close()
    elif hasattr(executor, "shutdown"):
        executor.shutdown(wait=False)


def _pickled(payload: Payload) -> bytes:
    """Return bytes for another process; functions that live in a notebook or are lambdas need cloudpickle."""
    try:
        import cloudpickle
    except ImportError:
        cloudpickle = pickle
    try:
        data: bytes = cloudpickle.dumps(payload, protocol=pickle.HIGHEST_PROTOCOL)
        return data
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"network, data or objectives cannot be sent to a worker process: {error}. An own objective should be "
            'a function of a module; with cloudpickle (pip install "dynadnn[cluster]") it may be any function'
        ) from error
