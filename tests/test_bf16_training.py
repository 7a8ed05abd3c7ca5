"""Training in bfloat16 against a NumPy definition, a rounding PyTorch network, and fp32."""

import numpy as np
import pytest
from test_train_core import Reference, full, resnet

import dynadnn as dn
from dynadnn import _core

torch = pytest.importorskip("torch")
DATA = dn.datasets.digits(rng=0)
QUIET = {"progress": False, "rng": 0, "augment": None}


def rounded(x):
    return torch.from_numpy(np.asarray(x, np.float32)).bfloat16().float().numpy()


def test_two_linear_layers_are_what_the_definition_says():
    rng = np.random.default_rng(0)
    w1, w2 = (rng.normal(size=s).astype(np.float32) for s in ((19, 33), (7, 19)))
    b1, b2 = (rng.normal(size=s).astype(np.float32) for s in (19, 7))
    nodes = [
        {"op": "input", "name": "x", "height": 1, "width": 1, "channels": 33},
        {"op": "linear", "name": "a", "inputs": (0,), "channels": 19, "bias": 1},
        {"op": "relu", "name": "r", "inputs": (1,)},
        {"op": "linear", "name": "b", "inputs": (2,), "channels": 7, "bias": 1},
    ]
    graph = _core.Graph(nodes, 3)
    trainer = _core.Trainer(graph, [None, (w1, b1), None, (w2, b2)], batch=5, bf16=True)
    x = rng.normal(size=(5, 1, 1, 33)).astype(np.float32)
    d = rng.normal(size=(5, 7)).astype(np.float32)
    got = trainer.forward(x, full(graph))
    trainer.backward(d)

    a = rounded(x.reshape(5, 33))
    h = rounded(np.maximum(a @ rounded(w1).T + b1, 0))
    wanted = h @ rounded(w2).T + b2
    g = rounded(d @ rounded(w2)) * (h > 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    for node, (weight, bias) in {1: (g.T @ a, g.sum(0)), 3: (d.T @ h, d.sum(0))}.items():
        found = trainer.get_grads(node)
        np.testing.assert_allclose(found[0], weight.ravel(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[1], bias, rtol=1e-4, atol=1e-4)


class Rounding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.bfloat16().double()

    @staticmethod
    def backward(ctx, g):
        return g.bfloat16().double()


class RoundingReference(Reference):
    """Rounds what the core stores: inputs, convolutions, activations, other maps; not what is fused, nor logits."""

    def __call__(self, x):
        kept = self.tensors
        self.tensors = [
            p and [Rounding.apply(p[0]) if n["op"] in ("conv2d", "linear") else p[0], p[1]]
            for p, n in zip(kept, self.nodes, strict=True)
        ]
        try:
            return super().__call__(x)
        finally:
            self.tensors = kept

    def stored(self, node, y):
        return Rounding.apply(y) if node["op"] in ("input", "conv2d", "relu", "shortcut", "global_avg_pool") else y


def test_a_residual_network_rounds_where_the_definition_says():
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(16, 12, 10, 3)).astype(np.float32), rng.integers(0, 7, 16)
    builder, graph = resnet()
    trainer = _core.Trainer(graph, builder.params, batch=16, bf16=True)
    logits = trainer.forward(x, full(graph))
    _, d = _core.cross_entropy(logits, labels)
    trainer.backward(d)
    off = {}
    for kind in (RoundingReference, Reference):
        reference = kind(builder)
        out = reference(x)
        torch.nn.functional.cross_entropy(out, torch.from_numpy(labels)).backward()
        off[kind] = [np.abs(logits - out.detach().numpy()).max()]
        grads = []
        for i, pair in enumerate(reference.tensors):
            for got, tensor in zip(trainer.get_grads(i), pair or (), strict=False):
                if tensor is not None:
                    g = tensor.grad.numpy().ravel()
                    grads.append(np.linalg.norm(got - g) / np.linalg.norm(g))
        off[kind].append(float(np.median(grads)))
    assert off[RoundingReference][0] < 0.02 and off[RoundingReference][1] < 0.02, off
    assert off[RoundingReference][0] < off[Reference][0] and off[RoundingReference][1] < off[Reference][1], off


def test_bf16_trains_as_well_as_fp32_and_gives_the_same_bits_for_any_number_of_threads():
    nets = {}
    for precision, threads in (("fp32", 1), ("bf16", 1), ("bf16", 3)):
        net = dn.nets.mlp(DATA, width=32, rng=0)
        history = dn.fit(net, DATA, epochs=8, precision=precision, threads=threads, **QUIET)
        nets[precision, threads] = net, history.history["val_accuracy"][-1]
    one, three = nets["bf16", 1][0], nets["bf16", 3][0]
    assert all(np.array_equal(one.weights[k], three.weights[k]) for k in one.weights)
    assert not np.array_equal(one.weights["fc1.weight"], nets["fp32", 1][0].weights["fc1.weight"])
    assert nets["bf16", 1][1] > nets["fp32", 1][1] - 0.03 > 0.8


def test_a_checkpoint_of_another_precision_is_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    dn.fit(dn.nets.mlp(DATA, width=16, rng=0), DATA, epochs=1, checkpoint=path, **QUIET)
    with pytest.raises(ValueError, match="precision"):
        dn.fit(dn.nets.mlp(DATA, width=16, rng=0), DATA, epochs=1, checkpoint=path, precision="bf16", **QUIET)


def test_a_precision_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="precision is 'fp16': it must be 'fp32' or 'bf16'"):
        dn.fit(dn.nets.mlp(DATA, width=16, rng=0), DATA, epochs=1, precision="fp16", **QUIET)
