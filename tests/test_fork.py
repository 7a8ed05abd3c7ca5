"""Forked and spawned children of a process whose thread pool is warm: no hang, the same bits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable

import children
import networks
import pytest
from conftest import Seeds
from engines import Compiled

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)
HANG = 120  # seconds
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_child(body: Callable[[], bool]) -> int:
    """Fork; the child runs `body` and leaves at once. Returns its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of fork with threads: that is the test
        child = os.fork()
    if child:
        return child
    code = 3
    try:
        signal.alarm(HANG)
        code = 0 if body() else 1
    finally:
        os._exit(code)


def wait(child: int) -> None:
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "a child found other bits, failed or hung"
            return
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("a child hangs")


@needs_fork
def test_forked_children_of_a_warm_pool_do_not_hang_and_find_the_same_bits(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(4):
        case = networks.random_network(seed)
        compiled = Compiled(case, isas[-1], threads=3)
        want = [compiled(case.images, number, 3) for number in range(3)]

        def body(own: Compiled = compiled, expected: list[object] = want, seed: int = seed) -> bool:
            same = all((own(own.case.images, k, 3) == expected[k]).all() for k in range(3))  # type: ignore[attr-defined]
            made_here = children.infer(seed, 2)
            return same and all((a == b).all() for a, b in zip(made_here, expected, strict=True))

        for _ in range(5):
            wait(in_child(body))
        assert (compiled(case.images, 0, 3) == want[0]).all()


@needs_fork
def test_fork_while_other_threads_infer_leaves_both_sides_working(seeds: Seeds, isas: list[str]) -> None:
    case = networks.random_network(seeds.note(seeds.base))
    busy = Compiled(case, isas[-1], threads=3)
    want = busy(case.images, 0)
    stop = threading.Event()
    wrong: list[int] = []

    def keep_busy() -> None:
        while not stop.is_set():
            if not (busy(case.images, 0, 3) == want).all():
                wrong.append(1)

    worker = threading.Thread(target=keep_busy)
    worker.start()
    try:
        # The busy engine may be locked in the child by a thread that does not exist there; a new one is not.
        for _ in range(10):
            wait(in_child(lambda: bool((children.infer(case.seed, 3)[0] == want).all())))
    finally:
        stop.set()
        worker.join(timeout=HANG)
    assert not worker.is_alive() and not wrong


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_of_multiprocessing_find_the_same_bits(method: str, seeds: Seeds) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    context = multiprocessing.get_context(method)
    seed = seeds.note(seeds.base)
    want = [logits.tobytes() for logits in children.infer(seed, 3)]
    for threads in (1, 3):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=children.report_infer, args=(seed, threads, send))
        child.start()
        send.close()
        assert receive.poll(HANG), "a child hangs"
        assert receive.recv() == want
        child.join(HANG)
        assert child.exitcode == 0


def test_interpreter_ends_cleanly_with_a_warm_pool(seeds: Seeds) -> None:
    import cbuild

    seed = seeds.note(seeds.base)
    code = f"import children; children.infer({seed}, 4); print('done')"
    for _ in range(3):
        done = cbuild.run([sys.executable, "-c", code], env=children.environment(), timeout=HANG)
        assert done.returncode == 0 and done.stdout == "done\n", done.stderr
