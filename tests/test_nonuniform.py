"""Non-uniform sub-nets: which channels go, in which order, and what is kept of it."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynadnn as dn
from dynadnn._narrowing import Narrowing

DATA = dn.datasets.digits(rng=0)
FEW = DATA.subset(256)
QUIET: dict[str, Any] = {"progress": False, "rng": 0, "augment": None}


def lenet() -> dn.Network:
    g = dn.GraphBuilder(DATA.shape)
    h = g.relu(g.batchnorm(g.conv2d(g.input, 16, 3, name="a")))
    h = g.relu(g.batchnorm(g.conv2d(h, 24, 3, stride=2, name="b")))
    h = g.relu(g.batchnorm(g.linear(g.flatten(h), 16, name="c")))
    return g.build(g.linear(h, 10, name="head"), divisor=4, preprocess=DATA.preprocess, rng=0)


@pytest.fixture(scope="module")
def net() -> dn.Network:
    made = lenet()
    dn.fit(made, FEW, epochs=8, batch=32, **QUIET)
    return made


@pytest.fixture(scope="module")
def found(net: dn.Network) -> dn.NonUniform:
    return dn.nonuniform(net, FEW, rng=0)


def test_points_have_the_names_and_the_cost_of_their_targets(net: dn.Network, found: dn.NonUniform) -> None:
    made = found.network
    assert list(made.points) == ["0.25", "0.5", "0.75", "1.0"]
    for target in (0.25, 0.5, 0.75):
        share = made.macs(str(target)) / net.macs()
        assert share <= target and share > target - 0.2
        assert made._find(target) == made.points[str(target)]
    assert made.points["1.0"] == net.points["1.0"] and list(net.points) == ["1.0"]


def test_every_sub_net_is_part_of_the_one_before_by_one_group(net: dn.Network, found: dn.NonUniform) -> None:
    for before, after in zip(found.nested, found.nested[1:], strict=False):
        gone = np.array(before.widths) - np.array(after.widths)
        assert (gone >= 0).all() and np.count_nonzero(gone) == 1 and gone.sum() == 4
    assert found.nested[0] == net.points["1.0"]
    assert set(found.network.points.values()) <= set(found.nested)
    assert len(found.steps) == len(found.nested) - 1


def test_every_removal_is_the_one_that_loses_least_of_those_that_can_be(net: dn.Network, found: dn.NonUniform) -> None:
    work = net.make_dynamic((1.0,), order="l1", divisor=4)
    for row, before, after in zip(found.steps, found.nested, found.nested[1:], strict=False):
        losses = {}
        for i, width in enumerate(before.widths):
            if width > 4:
                widths = list(before.widths)
                widths[i] -= 4
                subnet = work.subnet(widths=widths)
                work.recalibrate(FEW.calibration, points=[subnet])
                losses[subnet] = work.evaluate(FEW.val, subnet)["loss"]
        assert min(losses, key=lambda s: losses[s]) == after
        assert row["loss"] == pytest.approx(losses[after]) and row["macs"] == work.macs(after)
        name, width = row["space"], row["channels"]
        assert dict(zip([s.name for s in work.spaces], after.widths, strict=True))[name] == width


def test_the_table_says_what_the_points_do_on_the_validation_split(found: dn.NonUniform) -> None:
    made = found.network
    assert found.table["point"] == list(made.points)
    for row in found.table:
        figures = made.evaluate(FEW.val, row["point"])
        assert row["loss"] == pytest.approx(figures["loss"]) and row["accuracy"] == figures["accuracy"]
        assert (row["accuracy_low"], row["accuracy_high"]) == figures["accuracy_interval"]
        assert row["macs"] == made.macs(row["point"]) and row["share"] == row["macs"] / made.macs()
        assert row["bytes"] == made.bytes(row["point"])


def test_all_points_have_statistics_in_float_and_in_int8(found: dn.NonUniform, tmp_path: Path) -> None:
    made, x = found.network, DATA.test.x[:30]
    made.save(tmp_path / "net")
    model, back = dn.quantize(made, FEW), dn.load(tmp_path / "net")
    for name in made.points:
        outputs = made.compile()(x, name)
        assert np.array_equal(outputs, back(x, name)) and np.array_equal(outputs, made.slice(name)(x))
        assert np.array_equal(model(x, name), model.slice(name)(x))


def test_the_test_split_does_not_enter(net: dn.Network, found: dn.NonUniform) -> None:
    class Untouchable:
        def __len__(self) -> int:
            raise AssertionError("the test split was used")

        x = y = property(__len__)

    blind = dataclasses.replace(FEW, test=Untouchable())  # type: ignore[arg-type]
    assert dn.nonuniform(net, blind, rng=0).nested == found.nested


def test_accuracy_can_judge_and_threads_do_not(net: dn.Network) -> None:
    one = dn.nonuniform(net, FEW, targets=0.6, metric="accuracy", threads=1, rng=0)
    two = dn.nonuniform(net, FEW, targets=0.6, metric="accuracy", threads=2, rng=0)
    assert one.steps.rows == two.steps.rows and one.table.rows == two.table.rows


def test_a_larger_step_removes_larger_groups(net: dn.Network) -> None:
    coarse = dn.nonuniform(net, FEW, targets=(0.5,), step=0.5, rng=0)
    first = np.array(coarse.nested[0].widths) - np.array(coarse.nested[1].widths)
    assert first.max() in (8, 12)
    with pytest.raises(ValueError, match="step must be a share"):
        dn.nonuniform(net, FEW, step=1.5)


def test_latency_can_be_the_cost(net: dn.Network) -> None:
    device = dn.Device.from_speed(gmacs=1e9, bytes_per_s=1e6)  # bytes are everything
    result = dn.nonuniform(net, FEW, targets=(0.5,), device=device, rng=0)
    share = device.latency(result.network, "0.5") / device.latency(result.network, "1.0")
    assert share <= 0.5 and result.table["share"][0] == pytest.approx(share)


def test_ranking_and_regression_work_too() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    data = dn.datasets.from_arrays(x, np.tanh(x[:, :2]), rng=0)
    g = dn.GraphBuilder((6,))
    net = g.build(g.linear(g.relu(g.linear(g.input, 16, name="a")), 2, name="b"), divisor=2, rng=0)
    dn.fit(net, data, epochs=3, **QUIET)
    result = dn.nonuniform(net, data, targets=(0.5,), order="noise", rng=0)
    assert result.table["accuracy"] == [None, None] and result.network.points["0.5"].widths == (8,)
    with pytest.raises(ValueError, match="of accuracies, but the data has targets"):
        dn.nonuniform(net, data, floor=0.5)


# ---- floor and fine-tuning ----


def test_below_the_floor_the_search_ends_with_what_was_reached(net: dn.Network, found: dn.NonUniform) -> None:
    lowest = found.table["accuracy"][0]
    floor = (lowest + found.table["accuracy"][1]) / 2 + 1e-9
    with pytest.warns(UserWarning, match=r"below the floor of .*: targets 0\.25 have no point"):
        result = dn.nonuniform(net, FEW, floor=floor, rng=0)
    assert list(result.network.points) == ["0.5", "0.75", "1.0"]
    assert min(result.steps["accuracy"]) >= floor and not any(result.steps["tuned"])


def test_fine_tuning_below_the_floor_helps_the_points(net: dn.Network, found: dn.NonUniform) -> None:
    before = dict(net.weights)
    options = {"epochs": 3, "batch": 32, "augment": None}
    result = dn.nonuniform(net, FEW, targets=(0.5, 0.25), floor=0.99, fine_tune=options, rng=0)
    assert list(result.network.points) == ["0.25", "0.5", "1.0"]
    assert 1 <= sum(result.steps["tuned"]) <= 2
    assert result.table["loss"][0] < found.table["loss"][0]
    assert all(net.weights[key] is before[key] for key in before)


def test_fine_tuning_that_does_harm_is_taken_back(net: dn.Network, found: dn.NonUniform) -> None:
    harm = {"epochs": 1, "batch": 32, "augment": None, "optimizer": dn.SGD(lr=50.0), "on_nonfinite": "skip"}
    result = dn.nonuniform(net, FEW, fine_tune=harm, rng=0)
    assert not any(result.steps["tuned"])
    assert result.nested == found.nested and result.table.rows == found.table.rows


# ---- the journal ----


def evaluations(path: Path) -> int:
    return len(path.read_text().splitlines()) - 1


def test_a_search_that_was_killed_goes_on_to_the_same_end(net: dn.Network, tmp_path: Path, monkeypatch: Any) -> None:
    options: dict[str, Any] = {
        "targets": (0.5,),
        "floor": 0.99,
        "fine_tune": {"epochs": 1, "batch": 32, "augment": None},
        "rng": 0,
    }
    whole = dn.nonuniform(net, FEW, checkpoint=tmp_path / "whole", **options)
    total = evaluations(tmp_path / "whole")
    measured, calls = Narrowing._measured, []

    def until(limit: int) -> Any:
        def call(self: Any, *arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) > limit:
                raise KeyboardInterrupt
            return measured(self, *arguments)

        return call

    for limit in (5, 12):
        calls.clear()
        monkeypatch.setattr(Narrowing, "_measured", until(limit))
        with pytest.raises(KeyboardInterrupt):
            dn.nonuniform(net, FEW, checkpoint=tmp_path / "part", **options)
    calls.clear()
    monkeypatch.setattr(Narrowing, "_measured", until(10**9))
    again = dn.nonuniform(net, FEW, checkpoint=tmp_path / "part", **options)
    assert evaluations(tmp_path / "part") == total and len(calls) < total
    assert again.nested == whole.nested and again.table.rows == whole.table.rows
    assert again.steps.rows == whole.steps.rows
    assert all(np.array_equal(again.network.weights[k], v) for k, v in whole.network.weights.items())


def test_a_journal_of_another_search_is_refused_by_what_differs(net: dn.Network, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    dn.nonuniform(net, FEW, targets=(0.7,), checkpoint=path, rng=5)
    assert json.loads(path.read_text().splitlines()[0])["format"] == "dynadnn-nonuniform"
    with pytest.raises(ValueError, match=r"another search \(metric: 'loss' there, 'accuracy' here\)"):
        dn.nonuniform(net, FEW, targets=(0.7,), metric="accuracy", checkpoint=path, rng=5)
    dn.nonuniform(net, FEW, targets=(0.7,), checkpoint=path)  # takes the seed from there
    dn.nonuniform(net, FEW, targets=(0.6,), checkpoint=path, resume=False, rng=5)


# ---- arguments ----


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"targets": (1.0,)}, ValueError, "targets holds 1.0: each is a share"),
        ({"targets": ()}, ValueError, "targets is empty"),
        ({"targets": (0.01,)}, ValueError, r"targets holds 0.01, but with 4 channels left in every space"),
        ({"metric": "f1"}, ValueError, "metric is 'f1'"),
        ({"floor": 90}, ValueError, "floor must be an accuracy from 0 to 1"),
        ({"fine_tune": 3}, TypeError, "fine_tune must be options of fit"),
        ({"fine_tune": {"epochs": 1, "rng": 0}}, TypeError, r"fine_tune holds \['rng'\]"),
        ({"order": "size"}, ValueError, "order is 'size'"),
        ({"val": (1, 2)}, TypeError, "val must be a Split"),
    ],
)
def test_arguments_that_cannot_be_say_why(net: dn.Network, options: Any, kind: Any, text: str) -> None:
    with warnings.catch_warnings(), pytest.raises(kind, match=text):
        dn.nonuniform(net, FEW, rng=0, **options)


def test_data_and_networks_that_cannot_be_say_why(net: dn.Network) -> None:
    with pytest.raises(ValueError, match=r"data\.val is empty"):
        dn.nonuniform(net, dataclasses.replace(FEW, val=FEW.val.take([])))
    fixed = net.make_dynamic((1.0,), fixed=["a", "b", "c"])
    with pytest.raises(ValueError, match="no channels that can go"):
        dn.nonuniform(fixed, FEW)
    with pytest.raises(dn.UnsupportedError, match="is quantised"):
        dn.nonuniform(dn.quantize(net, FEW), FEW, fine_tune={"epochs": 1})
    with pytest.raises(TypeError, match="net must be a Network"):
        dn.nonuniform(None, FEW)  # type: ignore[arg-type]
