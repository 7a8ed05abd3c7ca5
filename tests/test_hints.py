"""Hints: features and attention of a teacher's layers, their gradients, and runs that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _core
from dynadnn._distill import _DEFAULTS, KD, Distillation
from dynadnn._hints import Hints, LinearMap, attention_loss, feature_loss, find_node
from dynadnn._loop import Loop
from dynadnn._train import make_loop

DATA = dn.datasets.digits(rng=0).subset(200)
QUIET: dict[str, Any] = {"progress": False, "rng": 0, "batch": 50, "augment": None, "threads": 1}
FEATURES = dn.Hint("conv1.relu", "conv1.relu")
ATTENTION = dn.Hint("conv2.relu", "conv2.relu", kind="attention", weight=5.0)


def make(width: int = 4, points: tuple[float, ...] = (1.0,), rng: int = 1) -> dn.Network:
    return dn.nets.lenet(DATA, width=width, points=points, divisor=4, rng=rng)


@pytest.fixture(scope="module")
def teacher() -> dn.Network:
    net = make(8, rng=0)
    dn.fit(net, DATA, epochs=3, **QUIET)
    return net


def run(teacher: dn.Network, hints: Any, student: dn.Network | None = None, **options: Any) -> dn.Network:
    net = make() if student is None else student
    dn.distill(net, teacher, DATA, hints=hints, **{"epochs": 2, **QUIET, **options})
    return net


def same(a: dn.Network, b: dn.Network) -> bool:
    return all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)


class StopAt(dn.Callback):
    def __init__(self, step: int) -> None:
        self.at = step

    def on_step_end(self, logs: dict[str, Any]) -> None:
        if logs["step"] == self.at:
            raise KeyboardInterrupt


# ---- losses and their gradients ----


def attention(x: np.ndarray) -> np.ndarray:
    maps = np.square(x.astype(np.float64)).sum(axis=3).reshape(len(x), -1)
    return np.asarray(maps / np.linalg.norm(maps, axis=1, keepdims=True))


ORACLES: dict[str, Any] = {
    "features": (feature_loss, lambda a, b: np.square(a.astype(np.float64) - b).reshape(len(a), -1).mean(axis=1)),
    "attention": (attention_loss, lambda a, b: np.square(attention(a) - attention(b)).sum(axis=1)),
}


@pytest.mark.parametrize("kind", ORACLES)
def test_a_loss_is_its_definition_and_its_gradient_that_of_finite_differences(kind: str) -> None:
    loss, oracle = ORACLES[kind]
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5 if kind == "features" else 7))
    values, gradient = loss(a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_allclose(values, oracle(a, b), rtol=1e-5)
    for _ in range(5):
        way = rng.normal(size=a.shape)
        difference = (oracle(a + 1e-6 * way, b) - oracle(a - 1e-6 * way, b)) / 2e-6
        np.testing.assert_allclose((gradient * way).sum(axis=(1, 2, 3)), difference, rtol=1e-3, atol=1e-5)


def test_attention_of_a_layer_that_is_all_zero_gives_no_gradient_and_no_nan() -> None:
    zero, other = np.zeros((1, 2, 2, 3), np.float32), np.ones((1, 2, 2, 4), np.float32)
    loss, gradient = attention_loss(zero, other)
    assert loss[0] == pytest.approx(1.0) and not gradient.any()


def test_a_linear_map_and_its_gradients_are_matrix_products() -> None:
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(3, 2, 4, 5)).astype(np.float32), rng.normal(size=(3, 2, 4, 6)).astype(np.float32)
    linear = LinearMap((2, 4), 5, 6, 3, 1, seed=0)
    weight = linear.state()["weight"].reshape(6, 5)
    np.testing.assert_allclose(linear(x), x @ weight.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(linear.backward(d), d @ weight, rtol=1e-4, atol=1e-5)
    linear.commit(dn.SGD(lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.0), 0.5, 0.0, None)
    wanted = weight - 0.5 * np.einsum("nhwo,nhwi->oi", d, x)
    np.testing.assert_allclose(linear.state()["weight"].reshape(6, 5), wanted, rtol=1e-4, atol=1e-5)


def loop_with(student: dn.Network, teacher: dn.Network, hints: tuple[dn.Hint, ...], **options: Any) -> Loop:
    def teaching(settings: Any, val: Any, notes: list[str]) -> Distillation:
        return Distillation(student, teacher, DATA, KD(soft_weight=0.0), None, settings, val, hints)

    return make_loop(student, DATA, teaching, {}, **{**_DEFAULTS, "epochs": 1, **QUIET, **options})


def test_gradients_of_a_step_with_hints_agree_with_torch(teacher: dn.Network) -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    student = make()
    loop = loop_with(student, teacher, (FEATURES, ATTENTION))
    assert isinstance(loop.teaching, Distillation) and loop.teaching.hints is not None
    linear = loop.teaching.hints.maps[0]
    assert linear is not None and loop.teaching.hints.maps[1] is None
    mapped = torch.tensor(linear.state()["weight"].reshape(8, 4), dtype=torch.float64)
    rows = np.arange(50)
    x, y = DATA.train.x[rows], DATA.train.y[rows]
    weight = np.random.default_rng(0).random(50).astype(np.float32)
    from dynadnn._batches import Batch

    figures, _ = loop._passes(rows, Batch(x, y, weight))
    p = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in student.weights.items()}
    assert student.preprocess is not None
    t = torch.tensor(student.preprocess(x), dtype=torch.float64).permute(0, 3, 1, 2)
    inside = {}
    for node in student._spec.nodes[1:]:
        w, b = p.get(f"{node.name}.weight"), p.get(f"{node.name}.bias")
        if node.op == "conv2d":
            t = F.conv2d(F.pad(t, (node.pad[2], node.pad[3], node.pad[0], node.pad[1])), w.permute(0, 3, 1, 2), b)
        elif node.op == "batchnorm":
            t = F.batch_norm(t, None, None, w, b, training=True, eps=node.value)
        elif node.op == "relu":
            t = F.relu(t)
        elif node.op in ("max_pool", "avg_pool"):
            t = (F.max_pool2d if node.op == "max_pool" else F.avg_pool2d)(t, node.kernel, node.stride)
        elif node.op == "flatten":
            t = t.permute(0, 2, 3, 1).flatten(1)
        else:
            t = F.linear(t.flatten(1), w, b)
        inside[node.name] = t
    theirs = {
        k: torch.tensor(v, dtype=torch.float64) for k, v in teacher.activations(x, ["conv1.relu", "conv2.relu"]).items()
    }
    scale = torch.tensor(weight, dtype=torch.float64)
    mine = inside["conv1.relu"].permute(0, 2, 3, 1) @ mapped.T
    total = F.cross_entropy(t, torch.tensor(y), reduction="none")
    total = total + ((mine - theirs["conv1.relu"]) ** 2).mean((1, 2, 3))
    maps = [F.normalize((v**2).sum(c).flatten(1)) for v, c in ((inside["conv2.relu"], 1), (theirs["conv2.relu"], 3))]
    total = ((total + 5.0 * ((maps[0] - maps[1]) ** 2).sum(1)) * scale).mean()
    total.backward()
    assert figures["loss"] == pytest.approx(total.item(), rel=1e-4)
    for i, node in enumerate(student._spec.nodes):
        for kind, got in zip(("weight", "bias"), loop.session.trainer.get_grads(i), strict=True):
            if got is not None:
                wanted = p[f"{node.name}.{kind}"].grad.numpy().ravel()
                np.testing.assert_allclose(got, wanted, atol=2e-4 * max(1e-2, np.abs(wanted).max()), err_msg=node.name)


# ---- runs ----


def distance(net: dn.Network, teacher: dn.Network) -> float:
    a, b = (attention(n.activations(DATA.train.x, "conv2.relu")["conv2.relu"]) for n in (net, teacher))
    return float(np.square(a - b).sum(axis=1).mean())


def test_attention_hints_bring_the_maps_of_the_student_to_those_of_the_teacher(teacher: dn.Network) -> None:
    hint = dn.Hint("conv2.relu", "conv2.relu", kind="attention", weight=20.0)
    assert distance(run(teacher, [hint], epochs=6), teacher) < 0.7 * distance(run(teacher, None, epochs=6), teacher)


def test_feature_hints_lower_the_loss_they_add(teacher: dn.Network) -> None:
    history = dn.distill(make(), teacher, DATA, epochs=6, hints=FEATURES, kd=dn.KD(soft_weight=0), **QUIET).history
    alone = dn.distill(make(), teacher, DATA, epochs=6, kd=dn.KD(soft_weight=0), **QUIET).history
    added = np.array(history["loss"]) - np.array(alone["loss"])
    assert added[0] > 0 and added[-1] < 0.7 * added[0]


@pytest.mark.parametrize("points", [(1.0,), (0.5, 1.0)])
def test_hints_give_the_same_bits_for_any_number_of_threads(teacher: dn.Network, points: tuple[float, ...]) -> None:
    nets = [run(teacher, (FEATURES, ATTENTION), make(8, points), epochs=1, threads=threads) for threads in (1, 2, 3)]
    assert same(nets[0], nets[1]) and same(nets[0], nets[2])


def test_only_passes_of_the_widest_point_get_hints(teacher: dn.Network) -> None:
    student = make(8, (0.5, 1.0))
    loop = loop_with(student, teacher, (FEATURES,))
    assert isinstance(loop.teaching, Distillation)
    x = DATA.train.x[:50]
    loop.teaching.targets(np.arange(50), x, DATA.train.y[:50], None, 0)
    for point in loop.session.points:
        loop.session.forward(x, point, 0)
        added = loop.teaching.inner(loop.session, point, None)
        assert (added is not None) == (point == student.subnet(1.0))


def test_a_run_with_hints_resumes_with_the_same_bits(teacher: dn.Network, tmp_path: Path) -> None:
    path, hints = tmp_path / "run.safetensors", (FEATURES, ATTENTION)
    whole = run(teacher, hints)
    broken = make()
    with pytest.raises(KeyboardInterrupt):
        run(teacher, hints, broken, checkpoint=path, callbacks=(StopAt(3),))
    assert same(whole, run(teacher, hints, checkpoint=path))
    with pytest.raises(ValueError, match=r"hints: .*attention.* there, nothing here"):
        run(teacher, None, checkpoint=path)


def test_going_back_takes_the_linear_maps_along(teacher: dn.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[np.ndarray] = []
    add = Hints.add

    def once(self: Hints, trainer: Any, weight: Any) -> Any:
        assert self.maps[0] is not None
        kept.append(self.maps[0].state()["weight"])
        found = add(self, trainer, weight)
        assert found is not None
        return (found[0] * np.float32(np.nan), found[1]) if len(kept) == 3 else found

    monkeypatch.setattr(Hints, "add", once)
    history = dn.distill(make(), teacher, DATA, hints=FEATURES, epochs=1, on_nonfinite="rollback", **QUIET)
    assert [(r.step, r.to_step) for r in history.rollbacks] == [(3, 0)]
    assert not np.array_equal(kept[2], kept[0])
    np.testing.assert_array_equal(kept[3], kept[0])


def test_halting_the_teacher_ends_the_hints(teacher: dn.Network) -> None:
    loop = loop_with(make(), teacher, (FEATURES,))
    assert isinstance(loop.teaching, Distillation)
    x, y = DATA.train.x[:50], DATA.train.y[:50]
    loop.teaching.teacher_halted = True
    loop.teaching.count[:] = 1
    loop.teaching.targets(np.arange(50), x, y, None, 0)
    loop.session.forward(x, loop.session.points[0], 0)
    assert loop.teaching.inner(loop.session, loop.session.points[0], None) is None


def test_a_name_before_a_dot_is_its_last_layer() -> None:
    net = dn.nets.resnet20((8, 8, 1), 10, width=8, rng=0)
    assert net._spec.nodes[find_node(net, "stage2", "student")].name == "stage2.block3.relu"
    assert net._spec.nodes[find_node(net, "stage2.block1.conv1", "student")].name == "stage2.block1.conv1"


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "a layer of the student": (
        dn.Hint("conv9", "conv1.relu"),
        ValueError,
        "'conv9' of the student: its nodes are input, conv1",
    ),
    "a layer of the teacher": (dn.Hint("conv1.relu", "conv9"), ValueError, "'conv9' of the teacher"),
    "another size": (dn.Hint("conv1.relu", "conv2.relu"), ValueError, "8 x 8, 'conv2.relu' of the teacher 4 x 4"),
    "no map": (dn.Hint("fc1.relu", "fc1.relu", kind="attention"), ValueError, "1 x 1, which has no map"),
    "a merged layer": (dn.Hint("conv1", "conv1"), ValueError, "no values of its own"),
    "a pair of names": ([("conv1", "conv1")], TypeError, r"dn.Hint\(student, teacher"),
}


@pytest.mark.parametrize("name", BAD)
def test_hints_that_do_not_fit_are_refused(name: str, teacher: dn.Network) -> None:
    hints, kind, text = BAD[name]
    with pytest.raises(kind, match=text):
        run(teacher, hints)


def test_hints_need_a_network_as_teacher() -> None:
    with pytest.raises(ValueError, match="must be a Network"):
        run(lambda x: np.zeros((len(x), 10), np.float32), FEATURES)  # type: ignore[arg-type]
    for bad in ({"kind": "similarity"}, {"weight": 0.0}, {"weight": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            dn.Hint("a", "b", **bad)  # type: ignore[arg-type]


# ---- taps of the core ----


def test_taps_check_what_they_are_given(teacher: dn.Network) -> None:
    net = make()
    with pytest.raises(ValueError, match="tap 0 is node 99"):
        _core.Trainer(net._graph, net._core_params(), taps=np.array([99], np.int32))
    trainer = _core.Trainer(
        net._graph, net._core_params(), batch=4, taps=np.array([3], np.int32), input_table=net._input_table()
    )
    active = net._rules.arrays(net.subnet(1.0))[0]
    with pytest.raises(ValueError, match="no value"):
        trainer.tap(0)
    out = trainer.forward(DATA.train.x[:4], active)
    values = trainer.tap(0)
    assert values.shape == (4, 8, 8, 4) and (values >= 0).all()
    with pytest.raises(ValueError, match="tuple of 1"):
        trainer.backward(out, ())
    with pytest.raises(ValueError, match=r"must be \(4, 8, 8, 4\)"):
        trainer.backward(out, (values[:2],))
    with pytest.raises(ValueError, match="tap 1: there are 1"):
        trainer.tap(1)
    trainer.backward(out, (values,))
