"""Scale and shift of batch norms per named point: training, and everything that must not lose them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynadnn as dn
from dynadnn._identity import network_hash
from dynadnn._surgery import norms

DATA = dn.datasets.digits(rng=0)
FEW = DATA.subset(256)
X = DATA.test.x[:30]
QUIET: dict[str, Any] = {"progress": False, "rng": 0, "augment": None}
PRIVATE = dn.MultiPath(private_affine=True)
POINTS = {"narrow": 0.5, "shallow": {"depth": (1, 1, 1)}, "1.0": 1.0}


def resnet() -> dn.Network:
    return dn.nets.resnet20(DATA, width=8, points=POINTS, divisor=4, rng=0)


@pytest.fixture(scope="module")
def net() -> dn.Network:
    made = resnet()
    dn.fit(made, FEW, epochs=3, batch=32, method=PRIVATE, **QUIET)
    return made


def affine(net: dn.Network, point: str) -> Any:
    return net.tables[net.points[point]].affine


def shared_affine(net: dn.Network) -> Any:
    return np.stack(
        [np.concatenate([net.weights[f"{name}.{kind}"] for name, _, _, _ in norms(net)]) for kind in ("weight", "bias")]
    )


def with_own(net: dn.Network, point: str) -> dn.Network:
    """The network with a point's own scale and shift as everybody's: what the point must compute."""
    own, weights = affine(net, point), {}
    for name, _, start, count in norms(net):
        for row, kind in enumerate(("weight", "bias")):
            weights[f"{name}.{kind}"] = own[row, start : start + count]
    made = net.with_weights(weights)
    tables = {s: type(t)(t.mean, t.variance, t.scale) for s, t in net.tables.items()}
    made._set_tables(tables)
    return made


def test_points_have_their_own_scale_and_shift_and_the_weights_hold_those_of_the_widest(net: dn.Network) -> None:
    assert affine(net, "1.0") is None
    own = [affine(net, "narrow"), affine(net, "shallow"), shared_affine(net)]
    assert all(a.shape == (2, net._graph.norm_channels) for a in own)
    assert not any(np.allclose(a, b) for i, a in enumerate(own) for b in own[:i])


@pytest.mark.parametrize("point", ["narrow", "shallow"])
@pytest.mark.parametrize("isa", ["ref", None])
def test_a_point_computes_with_its_own_scale_and_shift(net: dn.Network, point: str, isa: Any) -> None:
    expected = with_own(net, point).compile(isa=isa)(X, point)
    assert np.array_equal(net.compile(isa=isa)(X, point), expected)
    stripped = net.copy()
    stripped._set_tables({s: type(t)(t.mean, t.variance, t.scale) for s, t in net.tables.items()})
    assert np.abs(stripped(X, point) - expected).max() > 1e-3
    assert np.array_equal(stripped(X), net(X))


def test_a_step_trains_each_scale_by_its_own_point_and_the_weights_by_all() -> None:
    # Without momentum and decay a step of the sum is the sum of the steps, and a slice is the network of one point.
    options = {**QUIET, "batch": 64, "schedule": "constant", "epochs": 1}
    options["optimizer"] = dn.SGD(lr=0.25, momentum=0.0, nesterov=False, weight_decay=0.0)
    once = dn.datasets.from_arrays(FEW.train.x[:64], FEW.train.y[:64], val=0, test=0, rng=0)
    net = dn.nets.mlp(DATA, width=16, points=(0.5, 1.0), divisor=8, rng=0)
    net.recalibrate(FEW.calibration)
    before, parts = dict(net.weights), {p: net.slice(p) for p in net.points}
    starts = {p: dict(part.weights) for p, part in parts.items()}
    dn.fit(net, once, method=PRIVATE, **options)
    for part in parts.values():
        dn.fit(part, once, **options)
    for name, _, start, _ in norms(net):
        for row, kind in enumerate(("weight", "bias")):
            narrow = parts["0.5"].weights[f"{name}.{kind}"]
            assert np.allclose(affine(net, "0.5")[row, start : start + len(narrow)], narrow, atol=1e-6)
            assert np.allclose(net.weights[f"{name}.{kind}"], parts["1.0"].weights[f"{name}.{kind}"], atol=1e-6)
    for key in (k for k in net.weights if ".bn" not in k):
        step = {p: part.weights[key] - starts[p][key] for p, part in parts.items()}
        total = step["1.0"].copy()
        total[tuple(slice(n) for n in step["0.5"].shape)] += step["0.5"]
        assert np.allclose(net.weights[key] - before[key], total, atol=1e-6), key


def test_recalibration_keeps_a_points_own_scale_and_shift(net: dn.Network) -> None:
    made = net.copy()
    made.recalibrate(DATA.train.x[:50])
    for point in ("narrow", "shallow"):
        assert np.array_equal(affine(made, point), affine(net, point))
        expected = with_own(net, point)
        expected.recalibrate(DATA.train.x[:50], points=[point])
        assert np.array_equal(made(X, point), expected(X, point))
        assert not np.array_equal(made(X, point), net(X, point))


def test_slices_copies_pickles_and_files_keep_them(net: dn.Network, tmp_path: Path) -> None:
    net.save(tmp_path / "net")
    back = dn.load(tmp_path / "net")
    for point in net.points:
        expected = net(X, point)
        part = net.slice(point)
        assert np.array_equal(part(X), expected) and part.tables[part.points["1.0"]].affine is None
        assert np.array_equal(back(X, point), expected)
        assert np.array_equal(net.copy()(X, point), expected)
        assert np.array_equal(pickle.loads(pickle.dumps(net))(X, point), expected)
        assert np.array_equal(net.with_points({"it": net.points[point]})(X), expected)
        assert np.array_equal(net.compile().clone()(X, point), expected)


def test_int8_and_bf16_engines_use_them(net: dn.Network, tmp_path: Path) -> None:
    model = dn.quantize(net, FEW, bits=(8, 4))
    model.save(tmp_path / "model")
    back, engine = dn.load(tmp_path / "model"), model.compile()
    for point in ("shallow",):
        expected = dn.quantize(with_own(net, point), FEW, bits=(8, 4))
        for name in (point, f"{point}/4bit"):
            assert np.array_equal(engine(X, name), expected(X, name))
            assert np.array_equal(back(X, name), engine(X, name))
            assert np.array_equal(model.slice(name)(X), engine(X, name))
            assert np.array_equal(model.compile(isa="ref")(X, name), engine(X, name))
        own = with_own(net, point).compile(precision="bf16")(X, point)
        assert np.array_equal(net.compile(precision="bf16")(X, point), own)
    assert model.compile().report(rounds=2, point="narrow").fp32_ms > 0


def test_a_network_made_dynamic_again_keeps_the_widest(net: dn.Network) -> None:
    made = net.make_dynamic((0.5, 1.0), order="l1", divisor=4)
    assert np.abs(made(X, 1.0) - net(X)).max() < 1e-4


def test_another_training_goes_on_with_them(net: dn.Network) -> None:
    made = net.copy()
    dn.fit(made, FEW, epochs=1, batch=32, method=dn.SinglePath(), **QUIET)
    own = affine(made, "narrow")
    assert own is not None and not np.array_equal(own, affine(net, "narrow"))
    alone = net.with_points({"narrow": net.points["narrow"]})
    before = alone(X)
    dn.fit(alone, FEW, epochs=1, batch=32, optimizer=dn.SGD(lr=1e-9, weight_decay=0), **QUIET)
    alone._set_tables({alone.points["narrow"]: net.tables[net.points["narrow"]]})
    assert np.allclose(alone(X), before, atol=1e-4)  # it started from its own, which the weights now hold


@pytest.mark.parametrize("optimizer", [dn.SGD(lr=0.05), dn.AdamW(lr=1e-3)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_resumed_run_ends_with_the_same_bits(optimizer: Any, ema: Any, tmp_path: Path) -> None:
    class Stop(dn.Callback):
        def on_step_end(self, logs: Any) -> Any:
            return "stop" if logs["step"] == 6 else None

    options = {**QUIET, "batch": 32, "epochs": 3, "method": PRIVATE, "optimizer": optimizer, "ema": ema}
    nets = [dn.nets.mlp(DATA, width=16, points=(0.5, 1.0), rng=0) for _ in range(2)]
    dn.fit(nets[0], FEW, threads=1, **options)
    dn.fit(nets[1], FEW, callbacks=[Stop()], checkpoint=tmp_path / "run", **options)
    dn.fit(nets[1], FEW, threads=2, checkpoint=tmp_path / "run", **options)
    assert all(np.array_equal(nets[0].weights[k], nets[1].weights[k]) for k in nets[0].weights)
    assert np.array_equal(affine(nets[0], "0.5"), affine(nets[1], "0.5"))


def test_private_training_learns_every_point() -> None:
    net = dn.nets.mlp(DATA, width=64, points=(0.25, 0.5, 1.0), rng=0)
    dn.fit(net, DATA, epochs=10, method=PRIVATE, **QUIET)
    assert min(net.evaluate(DATA.test, point)["accuracy"] for point in net.points) > 0.88


def test_frozen_batch_norms_keep_every_points_own(net: dn.Network) -> None:
    made = net.copy()
    frozen = [name for name, _, _, _ in norms(net)]
    dn.fit(made, FEW, epochs=1, batch=32, method=PRIVATE, frozen=frozen, **QUIET)
    assert np.array_equal(affine(made, "narrow"), affine(net, "narrow"))
    assert np.array_equal(shared_affine(made), shared_affine(net))


def test_the_identity_of_a_network_knows_them(net: dn.Network) -> None:
    other = net.copy()
    tables = dict(net.tables)
    narrow = net.points["narrow"]
    known = tables[narrow]
    tables[narrow] = type(known)(known.mean, known.variance, known.scale, known.affine + np.float32(1))
    other._set_tables(tables)
    assert network_hash(other) != network_hash(net) == network_hash(net.copy())


def test_a_scale_that_is_not_finite_is_refused(net: dn.Network, tmp_path: Path) -> None:
    made, narrow = net.copy(), net.points["narrow"]
    known = net.tables[narrow]
    bad = known.affine.copy()
    bad[0, 0] = np.nan
    made._set_tables({narrow: type(known)(known.mean, known.variance, None, bad)})
    with pytest.raises(dn.PointError, match=r"channel 0 has scale nan and shift .* both must be finite"):
        made(X, "narrow")
    made.save(tmp_path / "bad")
    with pytest.raises(dn.FormatError, match=r"affine of a point must be finite float32 of shape \(2, "):
        dn.load(tmp_path / "bad")
    with pytest.raises(TypeError, match="private_affine must be True or False"):
        dn.MultiPath(private_affine="yes")  # type: ignore[arg-type]
