"""The same bits whatever the threads, the batch, the level of the CPU and what else runs."""

from __future__ import annotations

import threading
from typing import Any

import networks
import numpy as np
import pytest
from conftest import Seeds
from engines import Compiled
from test_int8_exact import float_tables

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)


def many_images(case: networks.Case, count: int) -> Any:
    rng = np.random.default_rng(case.seed)
    return rng.integers(0, 256, (count, *case.images.shape[1:]), dtype=np.uint8)


def compiled_floats(case: networks.Case, isa: str, threads: int) -> Compiled:
    compiled = Compiled(case, isa, threads=threads, floating=True)
    for number, subnet in enumerate(case.subnets):
        compiled.add(number, subnet, float_tables(case, subnet))
    return compiled


def test_threads_and_repetition_do_not_change_a_bit(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(12):
        case = networks.random_network(seed)
        images = many_images(case, 5)
        for isa in isas:
            for compiled in (Compiled(case, isa, threads=4), compiled_floats(case, isa, 4)):
                for number in range(len(case.subnets)):
                    want = compiled(images, number, 1)
                    for threads in (1, 2, 3, 4, 4):
                        assert (compiled(images, number, threads) == want).all(), (isa, number, threads)


def test_integer_bits_are_the_same_on_every_level(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(12):
        case = networks.random_grouped_network(seed)
        images = many_images(case, 3)
        runs = [Compiled(case, isa, threads=2) for isa in isas]
        for number in range(len(case.subnets)):
            want = runs[0](images, number)
            for isa, run in zip(isas, runs, strict=True):
                assert (run(images, number, 2) == want).all(), (isa, number)


def test_an_image_does_not_depend_on_its_batch(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(8):
        case = networks.random_network(seed)
        images = many_images(case, 7)
        for compiled in (Compiled(case, isas[-1], threads=3), compiled_floats(case, isas[-1], 3)):
            for number in range(len(case.subnets)):
                whole = compiled(images, number, 3)
                alone = np.concatenate([compiled(images[i : i + 1], number, 3) for i in range(len(images))])
                assert (whole == alone).all()
                assert (compiled(images[2:5], number, 2) == whole[2:5]).all()


def test_concurrent_engines_and_calls_from_python_threads_give_the_same_bits(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(3):
        case = networks.random_network(seed)
        compiled = Compiled(case, isas[-1], threads=2)
        images = many_images(case, 4)
        want = [compiled(images, number) for number in range(len(case.subnets))]
        wrong: list[str] = []

        def work(
            start: int,
            engine: Any,
            own: Compiled = compiled,
            x: Any = images,
            expected: list[Any] = want,
            faults: list[str] = wrong,
        ) -> None:
            try:
                for k in range(60):
                    number = (start + k) % len(expected)
                    if not (engine(x, own.engine.points[number]) == expected[number]).all():
                        faults.append(f"thread {start}, call {k}, point {number}")
            except BaseException as error:
                faults.append(f"thread {start}: {error!r}")

        shared = [compiled.engine, compiled.engine]
        own = [compiled.new_engine(), compiled.new_engine()]
        for engine in own:
            engine.points.update(compiled.engine.points)
        workers = [threading.Thread(target=named, args=(i, e)) for i, e in enumerate(shared + own) for named in [work]]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=120)
        assert not any(worker.is_alive() for worker in workers), "a call hangs"
        assert not wrong


def test_a_narrow_point_does_not_depend_on_points_bound_or_run_before(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(6):
        case = networks.random_network(seed)
        compiled = Compiled(case, isas[-1])
        order = [0, 1, 2, 1, 0, 2, 2, 0]
        fresh = [Compiled(case, isas[-1])(case.images, number) for number in range(3)]
        for number in order:
            assert (compiled(case.images, number) == fresh[number]).all()
