"""The trainer of the C core against PyTorch: losses, gradients and whole steps."""

import threading

import numpy as np
import pytest

from dynadnn import _core
from dynadnn._errors import NonFiniteError

torch = pytest.importorskip("torch")
F = torch.nn.functional


class Builder:
    """Nodes and float parameters of a small network."""

    def __init__(self, height, width, channels, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes = [{"op": "input", "name": "x", "height": height, "width": width, "channels": channels}]
        self.params = [None]
        self.channels = [channels]

    def add(self, op, *inputs, params=None, channels=None, **fields):
        self.nodes.append({"op": op, "name": f"{op}{len(self.nodes)}", "inputs": inputs, **fields})
        self.params.append(params)
        self.channels.append(channels or self.channels[inputs[0]])
        return len(self.nodes) - 1

    def conv(self, x, out, kernel=3, stride=1, groups=1):
        fan = self.channels[x] // groups
        weight = self.rng.normal(0, (2 / (fan * kernel * kernel)) ** 0.5, (out, kernel, kernel, fan)).astype(np.float32)
        pad = kernel // 2
        return self.add(
            "conv2d",
            x,
            channels=out,
            params=(weight, None),
            kernel=(kernel, kernel),
            stride=(stride, stride),
            pad=(pad,) * 4,
            groups=groups,
        )

    def norm(self, x):
        c = self.channels[x]
        gamma, beta = self.rng.uniform(0.5, 1.5, c).astype(np.float32), self.rng.normal(0, 0.3, c).astype(np.float32)
        return self.add("batchnorm", x, params=(gamma, beta), value=1e-5)

    def linear(self, x, out):
        c = self.channels[x]
        weight = self.rng.normal(0, c**-0.5, (out, c)).astype(np.float32)
        return self.add("linear", x, channels=out, params=(weight, np.zeros(out, np.float32)), bias=1)


def resnet(seed=0):
    """A residual network with two widths of blocks; returns builder and graph."""
    b = Builder(12, 10, 3, seed)
    x = b.add("relu", b.norm(b.conv(0, 16)))
    for out, stride in ((16, 1), (24, 2), (24, 1)):
        y = b.add("relu", b.norm(b.conv(x, out, stride=stride)))
        y = b.norm(b.conv(y, out))
        if stride == 2:
            kept = [*range(b.channels[x])] + [-1] * (out - b.channels[x])
            x = b.add("shortcut", x, channels=out, stride=(2, 2), map=kept)
        x = b.add("relu", b.add("add", y, x))
    b.linear(b.add("global_avg_pool", x), 7)
    for i, node in enumerate(b.nodes):
        if node["op"] in ("conv2d", "linear", "shortcut"):
            node["channels"] = b.channels[i]
    return b, _core.Graph(b.nodes, len(b.nodes) - 1)


class Reference:
    """The same network in PyTorch, in double precision."""

    def __init__(self, builder, decay=0.0):
        self.nodes = builder.nodes
        self.tensors = []
        for item in builder.params:
            pair = item and [
                None if a is None else torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in item
            ]
            self.tensors.append(pair)

    def groups(self, decay):
        weights = [p[0] for p, n in zip(self.tensors, self.nodes, strict=True) if p and n["op"] != "batchnorm"]
        others = [p[1] for p in self.tensors if p and p[1] is not None]
        others += [p[0] for p, n in zip(self.tensors, self.nodes, strict=True) if p and n["op"] == "batchnorm"]
        return [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]

    def __call__(self, x):
        t = [self.stored(self.nodes[0], torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2))]
        for node, params in list(zip(self.nodes, self.tensors, strict=True))[1:]:
            a = t[node["inputs"][0]]
            match node["op"]:
                case "conv2d":
                    y = F.conv2d(
                        a, params[0].permute(0, 3, 1, 2), None, node["stride"], node["pad"][0], 1, node["groups"]
                    )
                case "batchnorm":
                    y = F.batch_norm(a, None, None, *params, training=True, eps=node["value"])
                case "relu":
                    y = F.relu(a)
                case "add":
                    y = a + t[node["inputs"][1]]
                case "shortcut":
                    y = F.pad(a[:, :, ::2, ::2], (0, 0, 0, 0, 0, node["channels"] - a.shape[1]))
                case "global_avg_pool":
                    y = a.mean((2, 3), keepdim=True)
                case "linear":
                    y = F.linear(a.flatten(1), *params)
            t.append(self.stored(node, y))
        return t[-1]

    def stored(self, node, y):
        return y


def full(graph):
    return np.array([space[0] for space in graph.spaces], np.int32)


def heavy():
    """Convolutions with more weights than a cache holds, of which several images are done together."""
    b = Builder(8, 8, 3)
    x = b.add("relu", b.norm(b.conv(0, 64)))
    x = b.add("relu", b.norm(b.conv(x, 128)))
    x = b.add("relu", b.conv(x, 72))
    y = b.add("relu", b.norm(b.conv(x, 128)))
    x = b.add("relu", b.add("add", b.norm(b.conv(y, 72)), x))
    b.linear(b.add("global_avg_pool", x), 7)
    for i, node in enumerate(b.nodes):
        if node["op"] in ("conv2d", "linear"):
            node["channels"] = b.channels[i]
    return b, _core.Graph(b.nodes, len(b.nodes) - 1)


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    return rng.normal(size=(16, 12, 10, 3)).astype(np.float32), rng.integers(0, 7, 16)


def agree_with_torch(net, x, labels):
    builder, graph = net
    trainer = _core.Trainer(graph, builder.params, batch=len(x), threads=2)
    logits = trainer.forward(x, full(graph))
    loss, d = _core.cross_entropy(logits, labels)
    trainer.backward(d)
    reference = Reference(builder)
    wanted = reference(x)
    expected = F.cross_entropy(wanted, torch.from_numpy(labels))
    expected.backward()
    np.testing.assert_allclose(logits, wanted.detach().numpy(), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(loss.mean(), expected.item(), rtol=1e-5)
    for i, pair in enumerate(reference.tensors):
        for got, tensor in zip(trainer.get_grads(i), pair or (), strict=False):
            if tensor is not None:
                g = tensor.grad.numpy().ravel()
                np.testing.assert_allclose(got, g, atol=1e-4 * np.abs(g).max(), rtol=1e-4)


def test_loss_and_gradients_agree_with_torch(batch):
    agree_with_torch(resnet(), *batch)


@pytest.mark.parametrize("images", [3, 38])
def test_gradients_of_layers_whose_images_go_together_agree_with_torch(images):
    rng = np.random.default_rng(4)
    agree_with_torch(heavy(), rng.normal(size=(images, 8, 8, 3)).astype(np.float32), rng.integers(0, 7, images))


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adamw", "clipped"])
def test_ten_steps_agree_with_torch(batch, kind):
    x, labels = batch
    builder, graph = resnet(1)
    trainer = _core.Trainer(graph, builder.params, batch=16)
    reference = Reference(builder)
    groups = reference.groups(0.01)
    if kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=1e-3)
        update = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01}
    else:
        optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=kind == "nesterov")
        update = {
            "optimizer": "sgd",
            "lr": 0.02,
            "momentum": 0.9,
            "weight_decay": 0.01,
            "nesterov": kind == "nesterov",
            "clip_norm": 0.5 * (kind == "clipped"),
        }
    for _ in range(10):
        logits = trainer.forward(x, full(graph))
        loss, d = _core.cross_entropy(logits, labels)
        trainer.backward(d)
        norm = trainer.commit(**update)
        optimizer.zero_grad()
        expected = F.cross_entropy(reference(x), torch.from_numpy(labels))
        expected.backward()
        if kind == "clipped":
            wanted = torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 0.5)
            assert norm == pytest.approx(wanted.item(), rel=1e-3)
        optimizer.step()
        assert loss.mean() == pytest.approx(expected.item(), rel=1e-3)
    assert trainer.steps == 10
    for i, pair in enumerate(reference.tensors):
        for got, tensor in zip(trainer.get_params(i), pair or (), strict=False):
            if tensor is not None:
                np.testing.assert_allclose(got, tensor.detach().numpy().ravel(), atol=2e-3)


def test_losses_agree_with_torch():
    rng = np.random.default_rng(0)
    logits, teacher = (rng.normal(0, 3, (5, 6)).astype(np.float32) for _ in range(2))
    labels, weight = rng.integers(0, 6, 5), rng.uniform(0, 2, 5).astype(np.float32)
    for name in ("cross_entropy", "distillation", "mse"):
        s = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        t = torch.tensor(teacher, dtype=torch.float64)
        if name == "cross_entropy":
            wanted = F.cross_entropy(s, torch.from_numpy(labels), reduction="none", label_smoothing=0.1)
            loss, d = _core.cross_entropy(logits, labels, weight, 0.1, 2.0)
        elif name == "distillation":
            wanted = 9 * F.kl_div(F.log_softmax(s / 3, 1), F.softmax(t / 3, 1), reduction="none").sum(1)
            loss, d = _core.distillation(logits, teacher, weight, 3.0, 2.0)
        else:
            wanted = F.mse_loss(s, t, reduction="none").mean(1)
            loss, d = _core.mse(logits, teacher, weight, 2.0)
        (2 * (wanted * torch.from_numpy(weight)).mean()).backward()
        np.testing.assert_allclose(loss, wanted.detach().numpy(), rtol=1e-5)
        np.testing.assert_allclose(d, s.grad.numpy(), rtol=1e-4, atol=1e-6)
    base = np.ones((5, 6), np.float32)
    _, total = _core.distillation(logits, teacher, temperature=2.0, d_logits=base)
    assert total is base
    np.testing.assert_allclose(base - 1, _core.distillation(logits, teacher, temperature=2.0)[1], atol=1e-6)


def test_state_comes_back(batch):
    x, labels = batch
    builder, graph = resnet(2)
    update = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9}

    def step(trainer):
        logits = trainer.forward(x, full(graph), slot=0)
        trainer.backward(_core.cross_entropy(logits, labels)[1])
        trainer.commit(**update)
        return logits

    first = _core.Trainer(graph, builder.params, batch=16)
    step(first)
    params = [first.get_params(i) if p else None for i, p in enumerate(builder.params)]
    second = _core.Trainer(graph, params, batch=16, threads=2)
    for i, p in enumerate(params):
        if p:
            second.set_moments(i, *first.get_moments(i))
    second.set_stats(0, *first.get_stats(0))
    second.steps = first.steps
    np.testing.assert_array_equal(step(first), step(second))
    for i in range(len(params)):
        for a, b in zip(first.get_params(i), second.get_params(i), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first.get_stats(0), second.get_stats(0))


def test_errors_leave_the_trainer_usable(batch):
    x, labels = batch
    builder, graph = resnet()
    trainer = _core.Trainer(graph, builder.params, batch=16, stat_slots=2)
    active = full(graph)
    before = trainer.get_params(1)[0]
    with pytest.raises(ValueError, match="uint8 images need an input table"):
        trainer.forward(np.zeros((2, 12, 10, 3), np.uint8), active)
    with pytest.raises(TypeError, match="float64"):
        trainer.forward(x.astype(np.float64), active)
    with pytest.raises(ValueError, match="numbers per image"):
        trainer.forward(x[:, :5].copy(), active)
    with pytest.raises(ValueError, match="slot 2"):
        trainer.forward(x, active, slot=2)
    with pytest.raises(ValueError, match="forward pass"):
        trainer.backward(np.zeros((16, 7), np.float32))
    logits = trainer.forward(x, active)
    with pytest.raises(ValueError, match=r"\(16, 7\)"):
        trainer.backward(np.zeros((4, 7), np.float32))
    with pytest.raises(ValueError, match="label 0 is 7"):
        _core.cross_entropy(logits, np.full(16, 7))
    d = _core.cross_entropy(logits, labels)[1]
    d[0, 0] = np.inf
    trainer.backward(d)
    with pytest.raises(NonFiniteError, match="gradient"):
        trainer.commit("sgd", lr=0.1)
    assert "not finite" in trainer.diagnose()
    trainer.discard()
    with pytest.raises(ValueError, match="momentum"):
        trainer.commit("sgd", lr=0.1, momentum=1.5)
    np.testing.assert_array_equal(trainer.get_params(1)[0], before)
    trainer.backward(_core.cross_entropy(trainer.forward(x, active), labels)[1])
    assert trainer.commit("sgd", lr=0.1) > 0
    assert trainer.diagnose() is None


def test_one_trainer_serves_one_thread_at_a_time(batch):
    x, _ = batch
    builder, graph = resnet()
    trainer = _core.Trainer(graph, builder.params, batch=16)
    errors, results = [], []

    def run():
        for _ in range(20):
            try:
                results.append(trainer.forward(x, full(graph)))
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(errors) + len(results) == 60
    assert all("another thread" in e for e in errors)
    assert all(np.array_equal(r, results[0]) for r in results)


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (10, 8, 6, 3), dtype=np.uint8)
    index = np.array([3, 3, 9, 0])
    np.testing.assert_array_equal(_core.augment(images, index), images[index])
    once = _core.augment(images, index, flip=True, crop=2, seed=5, epoch=1)
    np.testing.assert_array_equal(once, _core.augment(images, index, flip=True, crop=2, seed=5, epoch=1, threads=3))
    np.testing.assert_array_equal(once[0], once[1])
    assert not np.array_equal(once, _core.augment(images, index, flip=True, crop=2, seed=5, epoch=2))
    flipped = [_core.augment(images, np.array([3]), flip=True, epoch=e)[0] for e in range(40)]
    kept = sum(np.array_equal(f, images[3]) for f in flipped)
    assert 8 < kept < 32
    assert all(np.array_equal(f, images[3]) or np.array_equal(f, images[3][:, ::-1]) for f in flipped)
    with pytest.raises(ValueError, match="index 0 is 10"):
        _core.augment(images, np.array([10]))


def test_halting_rules():
    flat, falling = np.array([4, 3, 2, 2.0, 1.999, 2.0]), np.array([4, 3, 2, 1.5, 1.2, 1.0])
    assert _core.halt_training(flat, 3, 0.01)
    assert not _core.halt_training(falling, 3, 0.01)
    assert _core.halt_trainee(falling - 0.5, falling, 3, 0.01)
    assert not _core.halt_trainee(falling, falling - 0.5, 3, 0.01)
    assert _core.halt_teacher(np.array([1.0, 0.001, 0.001]), 2, 0.01)
