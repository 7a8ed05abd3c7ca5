"""The next batch is made in another thread while the core, which needs no interpreter, runs the present step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Items made by a function of their number, in order; one is made ahead, if there is a thread for it.

    An item is the same with and without the thread, as long as the function depends on its number alone. What it
    raises is raised where the item is asked for. After the block the thread is gone.

    Parameters
    ----------
    make : function of int
    stop : int
        Number after the last item.
    threaded : bool
        False makes each item when it is asked for.
    """

    def __init__(self, make: Callable[[int], T], stop: int, threaded: bool) -> None:
        self._make, self._stop = make, stop
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dynadnn-batch") if threaded else None
        self._next: Future[T] | None = None

    def __call__(self, number: int) -> T:
        """Return an item, and start the one after it."""
        if self._pool is None:
            return self._make(number)
        waiting = self._next or self._pool.submit(self._make, number)
        self._next = None
        item = waiting.result()
        if number + 1 < self._stop:
            self._next = self._pool.submit(self._make, number + 1)
        return item

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
