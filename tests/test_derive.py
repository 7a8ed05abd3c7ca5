"""A student cut out of a teacher: limits hold, the least important filters go, tied layers are cut together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _derive

DATA = dn.datasets.digits(rng=0).subset(200)


def mlp(width: int = 64, rng: int = 0) -> dn.Network:
    return dn.nets.mlp(DATA, width=width, rng=rng)


def resnet(width: int = 16) -> dn.Network:
    net = dn.nets.resnet20(DATA, width=width, rng=0)
    net.recalibrate(DATA.calibration)
    return net


@pytest.mark.parametrize("limit", ["max_bytes", "max_macs"])
@pytest.mark.parametrize("name", ["mlp", "resnet20", "mobilenetv2"])
def test_a_student_keeps_within_its_limit_by_less_than_what_one_cut_saves(name: str, limit: str) -> None:
    teacher = getattr(dn.nets, name)(DATA, width=64 if name == "mlp" else 16, rng=0)
    figure = {"max_bytes": dn.Network.bytes, "max_macs": dn.Network.macs}[limit]
    most = int(0.6 * figure(teacher))
    student = dn.derive_student(teacher, DATA, **{limit: most})
    assert 0.7 * most < figure(student) <= most
    assert student.shape == teacher.shape and student(DATA.test.x[:3]).shape == (3, 10)
    assert all(space.full % 8 == 0 for space in student.spaces)


def test_several_limits_hold_together() -> None:
    teacher = mlp()
    most = {"max_bytes": int(0.7 * teacher.bytes()), "max_macs": int(0.4 * teacher.macs())}
    device = dn.Device.from_speed(gmacs=1, bytes_per_s=1e9)
    limit = 0.5 * device.latency(teacher)
    student = dn.derive_student(teacher, DATA, max_latency_ms=limit, device=device, **most)
    assert student.bytes() <= most["max_bytes"] and student.macs() <= most["max_macs"]
    assert device.latency(student) <= limit * 1.001


def test_limits_that_hold_already_change_nothing() -> None:
    teacher = resnet()
    student = dn.derive_student(teacher, DATA, max_bytes=10**9, max_macs=10**12)
    assert student.macs() == teacher.macs()
    np.testing.assert_allclose(student(DATA.test.x), teacher(DATA.test.x), rtol=1e-3, atol=1e-4)


def test_the_filters_that_stay_are_those_with_the_largest_weights() -> None:
    teacher = mlp()
    student = dn.derive_student(teacher, DATA, max_macs=int(0.5 * teacher.macs()))
    first = teacher.layers[0].name
    size = np.abs(teacher.weights[f"{first}.weight"]).sum(axis=1)
    kept = student.weights[f"{first}.weight"]
    best = np.argsort(-size, kind="stable")[: len(kept)]
    assert 0 < len(kept) < len(size)
    np.testing.assert_array_equal(kept, teacher.weights[f"{first}.weight"][best])


def greedy(sizes: list[np.ndarray], inputs: int, outputs: int, most: int) -> list[int]:
    """The same search for a chain of linear layers, by its definition."""
    scores = [np.sort(s)[::-1] for s in sizes]
    widths = [len(s) for s in scores]

    def macs(w: list[int]) -> int:
        chain = [inputs, *w, outputs]
        return sum(a * b for a, b in pairwise(chain))

    while macs(widths) > most:
        best = None
        for k in range(len(widths)):
            if widths[k] <= 8:
                continue
            fewer = [w - 8 * (i == k) for i, w in enumerate(widths)]
            left = scores[k][: widths[k]].sum()
            ratio = scores[k][fewer[k] : widths[k]].sum() / left / (macs(widths) - macs(fewer))
            if best is None or ratio < best[0]:
                best = ratio, fewer
        assert best is not None
        widths = best[1]
    return widths


@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
def test_cuts_follow_the_least_importance_lost_per_cost_saved(share: float) -> None:
    teacher = mlp()
    most = int(share * teacher.macs())
    hidden = teacher.layers[:-1]
    sizes = [np.abs(teacher.weights[f"{layer.name}.weight"]).sum(axis=1, dtype=np.float64) for layer in hidden]
    student = dn.derive_student(teacher, DATA, max_macs=most)
    assert [layer.channels for layer in student.layers[:-1]] == greedy(sizes, 64, 10, most)


def test_layers_that_an_addition_ties_are_cut_together() -> None:
    teacher = resnet()
    student = dn.derive_student(teacher, DATA, max_macs=teacher.macs() // 2)
    width = {layer.name: layer.channels for layer in student.layers}
    before = {layer.name: layer.channels for layer in teacher.layers}
    assert len({width["stem"], *(width[f"stage1.block{k}.conv2"] for k in (1, 2, 3))}) == 1
    assert sum(width.values()) < sum(before.values())


def test_the_teacher_stays_as_it_is_and_results_repeat() -> None:
    teacher = resnet()
    weights = {key: value.copy() for key, value in teacher.weights.items()}
    students = [dn.derive_student(teacher, DATA, max_bytes=teacher.bytes() // 2) for _ in range(2)]
    assert list(teacher.points) == ["1.0"] and all(np.array_equal(teacher.weights[k], weights[k]) for k in weights)
    assert all(np.array_equal(students[0].weights[k], students[1].weights[k]) for k in students[0].weights)


def test_a_derived_student_is_ready_to_be_distilled() -> None:
    teacher = mlp()
    options: dict[str, Any] = {"progress": False, "rng": 0, "augment": None, "batch": 50}
    dn.fit(teacher, DATA, epochs=8, **options)
    student = dn.derive_student(teacher, DATA, max_macs=teacher.macs() // 3)
    before = student.evaluate(DATA.val)["loss"]
    dn.distill(student, teacher, DATA, epochs=4, optimizer=dn.SGD(lr=0.02), **options)
    assert student.evaluate(DATA.val)["loss"] < before


# ---- latency ----


def test_without_a_device_candidates_are_timed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def slow(self: _derive.Timer, subnets: Sequence[dn.Subnet]) -> list[float]:
        asked.append(len(subnets))
        return [self._net.macs(subnet) / 1e4 for subnet in subnets]

    monkeypatch.setattr(_derive.Timer, "__call__", slow)
    teacher = mlp()
    student = dn.derive_student(teacher, DATA, max_latency_ms=0.5 * teacher.macs() / 1e4)
    assert student.macs() <= 0.5 * teacher.macs() and max(asked) <= 6


def test_a_timer_gives_a_positive_time_for_every_sub_net() -> None:
    net = resnet()
    times = _derive.Timer(net)([net.subnet(1.0), net.subnet(0.5)])
    assert len(times) == 2 and min(times) > 0


def test_a_device_is_asked_for_its_own_figures() -> None:
    teacher = mlp()
    device = dn.Device.from_table(teacher, {1.0: 2.0}, cpu="a board elsewhere")
    with pytest.raises(dn.PointError, match="no figure"):
        dn.derive_student(teacher, DATA, max_latency_ms=1.0, device=device)
    assert dn.derive_student(teacher, DATA, max_latency_ms=3.0, device=device).macs() == teacher.macs()


# ---- what does not go ----


def test_a_limit_is_needed() -> None:
    with pytest.raises(ValueError, match="no limit is given: pass max_bytes, max_latency_ms or max_macs"):
        dn.derive_student(mlp(), DATA)


@pytest.mark.parametrize("limit", ["max_bytes", "max_macs", "max_latency_ms"])
def test_a_limit_that_no_cut_reaches_names_the_smallest_figure(limit: str) -> None:
    device = dn.Device.from_speed(gmacs=1, bytes_per_s=1e9)
    teacher = mlp()
    smallest = teacher.subnet(widths=[8] * len(teacher.spaces))
    least = {
        "max_bytes": teacher.bytes(smallest),
        "max_macs": teacher.macs(smallest),
        "max_latency_ms": device.latency(teacher, smallest),
    }[limit]
    with pytest.raises(ValueError, match=f"{limit}=.* is below .* reaches: {least:.6g}"):
        dn.derive_student(teacher, DATA, device=device, **{limit: 0.99 * least})  # type: ignore[arg-type]
    student = dn.derive_student(teacher, DATA, device=device, **{limit: 1.0001 * least})  # type: ignore[arg-type]
    assert {space.full for space in student.spaces} == {8}


@pytest.mark.parametrize("bad", [0, -5, True, "1 MB"])
def test_a_limit_is_a_number_above_0(bad: Any) -> None:
    with pytest.raises(ValueError, match="max_bytes must be a number above 0"):
        dn.derive_student(mlp(), DATA, max_bytes=bad)


def test_teachers_and_data_of_other_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="teacher must be a Network"):
        dn.derive_student(lambda x: x, DATA, max_macs=1000)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data must be a Data"):
        dn.derive_student(mlp(), DATA.train, max_macs=1000)  # type: ignore[arg-type]
    net = mlp()
    net.recalibrate(DATA.calibration)
    with pytest.raises(dn.UnsupportedError, match="quantised"):
        dn.derive_student(dn.quantize(net, DATA), DATA, max_macs=1000)
