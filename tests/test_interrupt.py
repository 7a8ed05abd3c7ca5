"""Ctrl-C at random times: it arrives soon, and what it interrupted goes on working."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import networks
import numpy as np
import pytest
from conftest import Seeds
from engines import Compiled, Training, structure

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)
INTERRUPTS = 30
# The promise is 50 ms. A loaded machine may keep the process waiting, so the suite refuses only what cannot be load.
LIMIT = 0.5


def interrupt(call: Callable[[], Any], delay: float) -> float:
    """Repeat `call` until SIGINT, sent after `delay` seconds, ends it. Returns the seconds from signal to exception."""
    sent = [0.0]
    ready = threading.Event()

    def send() -> None:
        ready.wait()
        time.sleep(delay)
        sent[0] = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        ready.set()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            call()
        pytest.fail("the signal never arrived")
    except KeyboardInterrupt:
        return time.perf_counter() - sent[0]
    finally:
        sender.join()


@pytest.fixture
def long_case(seeds: Seeds) -> tuple[networks.Case, Any]:
    """A network and enough images to keep the engine busy for seconds."""
    seed = seeds.note(seeds.base + 5)
    case = networks.random_network(seed, size=24)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (100_000, *case.images.shape[1:]), dtype=np.uint8)
    return case, images


def p99(latencies: list[float]) -> float:
    return float(np.percentile(latencies, 99))


@pytest.mark.parametrize("threads", [1, 2])
def test_interrupted_inference_raises_soon_and_the_engine_goes_on(
    threads: int, long_case: tuple[networks.Case, Any], seeds: Seeds
) -> None:
    case, images = long_case
    compiled = Compiled(case, "ref", threads=threads)
    want = [compiled(case.images, number) for number in range(3)]
    rng = seeds.rng(threads)
    latencies = []
    for k in range(INTERRUPTS // 2):
        latencies.append(interrupt(lambda k=k: compiled(images, k % 3, threads), float(rng.uniform(0, 0.05))))
        for number in range(3):
            assert (compiled(case.images, number, threads) == want[number]).all()
    assert p99(latencies) < LIMIT, sorted(latencies)


def test_interrupted_calibration_raises_soon_and_the_plan_goes_on(
    long_case: tuple[networks.Case, Any], seeds: Seeds
) -> None:
    case, images = long_case
    compiled = Compiled(case, "ref", threads=2)
    where = structure(case, compiled.graph, case.subnets[0])
    want = compiled.plan.calibrate(*where, case.images)
    rng = seeds.rng(7)
    latencies = []
    for _ in range(10):
        call = lambda: compiled.plan.calibrate(*where, images[:20_000], threads=2)  # noqa: E731
        latencies.append(interrupt(call, float(rng.uniform(0, 0.05))))
        again = compiled.plan.calibrate(*where, case.images)
        assert all((a == b).all() for a, b in zip(again, want, strict=True))
    assert p99(latencies) < LIMIT, sorted(latencies)


def test_interrupted_training_raises_soon_and_keeps_whole_steps(
    long_case: tuple[networks.Case, Any], seeds: Seeds
) -> None:
    case, images = long_case
    training = Training(case, images[:512], threads=2)
    rng = seeds.rng(8)
    latencies = []
    for _ in range(INTERRUPTS // 2):
        latencies.append(interrupt(training.step, float(rng.uniform(0, 0.1))))
        training.trainer.discard()
    done = training.trainer.steps
    again = Training(case, images[:512], threads=1)
    for _ in range(done):
        again.step()
    assert training.state() == again.state(), f"{done} steps, some of them interrupted, are not {done} whole steps"
    assert p99(latencies) < LIMIT, sorted(latencies)


def test_an_exception_from_a_signal_handler_passes_through_inference(long_case: tuple[networks.Case, Any]) -> None:
    class AlarmError(Exception):
        pass

    def handler(number: int, frame: Any) -> None:
        raise AlarmError

    case, images = long_case
    compiled = Compiled(case, "ref")
    old = signal.signal(signal.SIGUSR1, handler)
    try:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        end = time.monotonic() + 60
        with pytest.raises(AlarmError):
            while time.monotonic() < end:
                compiled(images, 0)
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert compiled(case.images, 0).shape == (len(case.images), compiled.outputs)
