"""Integer inference equals the oracle to the last bit, on every CPU level, and float inference nearly."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import networks
import numpy as np
import pytest
import reference
from conftest import Seeds
from engines import Compiled, explain, structure

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)
NETWORKS = 30


def cases(seeds: Seeds, count: int = NETWORKS) -> Iterator[networks.Case]:
    """Random networks, one in four of them with channel groups."""
    for seed in seeds.range(count):
        yield networks.random_grouped_network(seed // 2) if seed % 4 == 3 else networks.random_network(seed)


def oracle(case: networks.Case, number: int, x: Any) -> Any:
    return reference.run_int8(
        case.net, case.params, case.tables[number], case.subnets[number], x, case.input_table
    ).logits


def test_every_level_and_thread_count_gives_the_bits_of_the_oracle(seeds: Seeds, isas: list[str]) -> None:
    for case in cases(seeds):
        want = [oracle(case, number, case.images) for number in range(len(case.subnets))]
        for isa in isas:
            compiled = Compiled(case, isa, threads=3)
            for number in range(len(case.subnets)):
                for threads in (1, 2, 3):
                    got = compiled(case.images, number, threads)
                    if not (got == want[number]).all():
                        difference = np.abs(got - want[number]).max()
                        note = explain(compiled, number, case.images)
                        pytest.fail(f"{isa}, {threads} threads: logits differ by {difference}\n{note}", pytrace=False)


def test_linear_layers_on_planes_give_the_bits_of_the_oracle(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(20):
        case = networks.random_linear_network(seed)
        case.subnets[1].bits = [min(case.offered)] * len(case.nodes)
        want = [oracle(case, number, case.images) for number in range(len(case.subnets))]
        for isa in isas:
            compiled = Compiled(case, isa, threads=3)
            for number in range(len(case.subnets)):
                kernels = [step["kernel"] for step in compiled.engine.points[number].steps]
                assert sum(name == f"linear_s8 {isa} planes" for name in kernels) == 3, kernels
                for threads in (1, 2, 3):
                    got = compiled(case.images, number, threads)
                    assert (got == want[number]).all(), (isa, number, threads, explain(compiled, number, case.images))


def test_codes_that_a_view_would_have_to_clamp_keep_their_bytes(seeds: Seeds) -> None:
    case = networks.random_linear_network(next(iter(seeds.range(1))))
    planes = Compiled(case).plan.weight_bytes
    for params in case.params:
        if params.codes is not None:
            params.codes.reshape(-1)[0] = 127
    compiled = Compiled(case)
    assert not any("planes" in step["kernel"] for step in compiled.engine.points[0].steps)
    assert compiled.plan.weight_bytes == planes, "two planes take what panels take"
    for number in range(len(case.subnets)):
        assert (compiled(case.images, number) == oracle(case, number, case.images)).all()


def test_float_images_are_quantised_like_the_oracle_does(seeds: Seeds, isas: list[str]) -> None:
    for case in cases(seeds, 10):
        rng = np.random.default_rng(case.seed)
        images = (rng.normal(0, 1.5, case.images.shape)).astype(np.float32)
        steps = case.tables[0].scale[0, 0] * np.float32(0.5) * np.arange(images.size, dtype=np.float32)
        images.reshape(-1)[::3] = steps[: images.reshape(-1)[::3].size]  # ties
        for isa in isas:
            compiled = Compiled(case, isa)
            for number in range(len(case.subnets)):
                got = compiled(images, number)
                assert (got == oracle(case, number, images)).all(), (isa, explain(compiled, number, images))


def test_bytes_and_the_floats_they_stand_for_give_the_same_bits(seeds: Seeds, isas: list[str]) -> None:
    for case in cases(seeds, 10):
        channels = range(case.images.shape[-1])
        floats = np.stack([case.input_table[c][case.images[..., c]] for c in channels], -1)
        for isa in isas:
            compiled = Compiled(case, isa)
            for number in range(len(case.subnets)):
                assert (compiled(floats, number) == compiled(case.images, number)).all()


def test_activations_are_those_of_the_oracle(seeds: Seeds) -> None:
    for case in cases(seeds, 12):
        compiled = Compiled(case, isa="ref")
        for number, subnet in enumerate(case.subnets):
            run = reference.run_int8(case.net, case.params, case.tables[number], subnet, case.images, case.input_table)
            seen = 0
            for tensor in run.codes:
                try:
                    got = compiled.engine.activation(case.images, compiled.engine.points[number], tensor)
                except ValueError:  # fused away
                    continue
                seen += 1
                want = run.real(tensor)
                assert (got.reshape(want.shape) == want).all(), f"tensor {tensor}: {case.nodes[tensor]['op']}"
            assert seen > 0


class Environment:
    """The floating-point environment of this thread, as bytes of the C library's fenv_t."""

    def __init__(self) -> None:
        self.c = ctypes.CDLL(None)
        self.machine = platform.machine()

    def get(self) -> bytearray:
        buffer = ctypes.create_string_buffer(64)
        assert self.c.fegetenv(buffer) == 0
        return bytearray(buffer.raw)

    def set(self, raw: bytearray) -> None:
        assert self.c.fesetenv(ctypes.create_string_buffer(bytes(raw), len(raw))) == 0

    def control(self) -> int:
        """Rounding and flushing bits only; the sticky exception flags may change."""
        raw = self.get()
        if self.machine == "x86_64":
            return int.from_bytes(raw[28:32], "little") & ~0x3F
        return int.from_bytes(raw[0:4], "little")

    @contextmanager
    def changed(self, rounding: int, flush: bool) -> Iterator[None]:
        """rounding 0..3 in the machine's own code; flush subnormal numbers to zero."""
        saved = self.get()
        raw = bytearray(saved)
        if self.machine == "x86_64":  # glibc: mxcsr is the last of fenv_t
            mxcsr = int.from_bytes(raw[28:32], "little") & ~0xE040
            raw[28:32] = (mxcsr | rounding << 13 | (0x8040 if flush else 0)).to_bytes(4, "little")
        else:
            fpcr = int.from_bytes(raw[0:4], "little") & ~0x01C00000
            raw[0:4] = (fpcr | rounding << 22 | (1 << 24 if flush else 0)).to_bytes(4, "little")
        self.set(raw)
        try:
            yield
        finally:
            self.set(saved)


@pytest.mark.skipif(
    platform.system() != "Linux"
    or platform.machine() not in ("x86_64", "aarch64")
    or platform.libc_ver()[0] != "glibc",
    reason="knows only how glibc keeps the floating-point environment",
)
def test_callers_rounding_mode_and_flush_to_zero_do_not_matter(seeds: Seeds, isas: list[str]) -> None:
    environment = Environment()
    for case in cases(seeds, 6):
        for isa in isas:
            for floating in (False, True):
                compiled = Compiled(case, isa, threads=2, floating=floating)
                if floating:
                    tables = float_tables(case, case.subnets[0])
                    compiled.add(0, case.subnets[0], tables)
                want = compiled(case.images, 0, 2)
                for rounding in range(4):
                    for flush in (False, True):
                        with environment.changed(rounding, flush):
                            before = environment.control()
                            got = compiled(case.images, 0, 2)
                            if not floating:
                                compiled.add("again", case.subnets[0], case.tables[0])
                            after = environment.control()
                        assert before == after, "the caller's environment must come back"
                        assert (got == want).all(), (isa, floating, rounding, flush)
                        if not floating:
                            assert (compiled(case.images, "again") == want).all(), (isa, rounding, flush)


def float_tables(case: networks.Case, subnet: reference.Subnet) -> reference.Tables:
    """Statistics of the float network, kept away from zero variance, where float32 and float64 would part."""
    size = case.net.norm_channels
    tables = reference.Tables(np.zeros(size, np.float32), np.ones(size, np.float32), None)
    reference.run_float(case.net, case.float_params, tables, subnet, case.images, case.input_table, statistics=True)
    tables.variance += np.float32(0.05)
    return tables


def test_float_inference_is_within_1e_5_of_double(seeds: Seeds, isas: list[str]) -> None:
    for case in cases(seeds):
        for isa in isas:
            compiled = Compiled(case, isa, threads=2, floating=True)
            odd = networks.random_subnet(case.net, np.random.default_rng(case.seed), [8], step=1)
            for number, subnet in enumerate([*case.subnets, odd]):
                tables = float_tables(case, subnet)
                compiled.add(number, subnet, tables)
                want = reference.run_float(case.net, case.float_params, tables, subnet, case.images, case.input_table)
                got = compiled(case.images, number, 2)
                size = max(1.0, float(np.abs(want.logits).max()))
                error = float(np.abs(got - want.logits).max()) / size
                assert error < 1e-5, (isa, number, error)
                assert (compiled(case.images, number, 1) == got).all(), "threads change the sums"


def test_calibrated_statistics_are_those_of_the_integer_network(seeds: Seeds, isas: list[str]) -> None:
    for case in cases(seeds, 12):
        compiled = Compiled(case, isas[-1], threads=2)
        for subnet in case.subnets:
            where = structure(case, compiled.graph, subnet)
            for method in ("mse", "minmax", "percentile"):
                mean, variance, scale = compiled.plan.calibrate(*where, case.images, method, threads=2)
                assert np.isfinite(scale).all() and (scale > 0).all()
                tables = reference.Tables(mean, variance, scale)
                want = reference.statistics(case.net, case.params, tables, subnet, case.images, case.input_table)
                bound = reference.Bound(case.net, subnet)
                for number, t in enumerate(case.net.tensors):
                    if t.norm_offset < 0 or bound.skip[number]:
                        continue
                    at = t.norm_offset + bound.kept[number]
                    spread = np.sqrt(want[1][at]) + np.abs(want[0][at]) + 1e-6
                    assert (np.abs(mean[at] - want[0][at]) < 1e-5 * spread).all(), (method, number)
                    assert (np.abs(variance[at] - want[1][at]) < 1e-5 * spread**2).all(), (method, number)
