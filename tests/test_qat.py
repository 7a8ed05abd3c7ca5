"""Quantisation-aware training: what it computes is what the integer engine computes, and it pays at few bits."""

from types import SimpleNamespace

import numpy as np
import pytest
import reference
from engines import space_map

import dynadnn as dn
from dynadnn import _core
from dynadnn._codes import LIMIT, view_codes
from dynadnn._graph import _mapping
from dynadnn._methods import Choice
from dynadnn._qat import with_bits
from dynadnn._qat_session import QatSession
from dynadnn._quantize import trained_network
from dynadnn._tables import Tables

BITS = (8, 4, 3, 2)
N = 24


def plain(shape=(9, 8, 3)):
    g = dn.GraphBuilder(shape)
    x = g.max_pool(g.relu(g.conv2d(g.input, 12, 3, name="first")), 2, name="pool")
    x = g.relu(g.batchnorm(g.conv2d(x, 16, 3, stride=2, name="second")), name="act")
    return g.build(g.linear(g.flatten(x), 5, name="head"), points=(0.5, 1.0), divisor=4, rng=3)


def kinds(shape=(9, 8, 3)):
    """Operations that the engine stores apart: tables, products, concatenations, averages, a sum of two batch norms."""
    g = dn.GraphBuilder(shape)
    a = g.leaky_relu(g.batchnorm(g.conv2d(g.input, 8, 3)), name="leaky")
    b = g.hardswish(g.batchnorm(g.conv2d(a, 8, 3)), name="swish")
    gate = g.hardsigmoid(g.conv2d(g.global_avg_pool(b, name="squeeze"), 8, 1), name="gate")
    c = g.mul(b, gate, name="product")
    d = g.avg_pool(g.concat([a, c], name="both"), 2, name="mean")
    e = g.add(g.batchnorm(g.conv2d(d, 8, 1, stride=2), name="left"), g.batchnorm(g.conv2d(d, 8, 3, stride=2)), name="sum")
    f = g.relu(g.batchnorm(g.sigmoid(e, name="sigmoid"), name="apart"), name="last")
    return g.build(g.linear(g.global_avg_pool(f), 5, name="head"), points=(1.0,), rng=3)


NETS = {
    "plain": plain,
    "kinds": kinds,
    "residual": lambda: dn.nets.resnet20((12, 12, 3), 5, width=8, points=(0.5, 1.0), divisor=4, rng=3),
    "mobilenetv1": lambda: dn.nets.mobilenetv1((16, 16, 3), 5, width=8, rng=3),
    "mobilenetv2": lambda: dn.nets.mobilenetv2((16, 16, 3), 5, width=8, rng=3),
    "mlp": lambda: dn.nets.mlp((20,), 5, width=16, rng=3),
}


def start(net, bits=BITS, seed=0, **options):
    images = np.random.default_rng(seed).normal(size=(N, *net.shape)).astype(np.float32)
    return QatSession(net, dn.QAT(bits, **options), images, batch=N, threads=1, seed=0, frozen=None), images


class Forced(dict):
    """Codes of the oracle's run: notes what it computes, and goes on with what training computed."""

    def __init__(self, session, scale):
        super().__init__()
        self.session, self.scale, self.steps = session, scale, {}

    def __setitem__(self, number, codes):
        made = self.session.trainer.tensor(number)
        if self.session._coded[number] and made is not None:
            zero = 255 - int(self.session._levels[number]) if self.session._levels[number] == 127 else 0
            trained = np.rint(made / self.scale[number]).reshape(codes.shape) + zero
            self.steps[number] = np.abs(trained - codes.astype(int))
            codes = trained.astype(np.uint8)
        super().__setitem__(number, codes)


@pytest.mark.parametrize("name", NETS)
def test_every_tensor_is_within_one_step_of_the_integer_engine(name):
    net = NETS[name]()
    session, x = start(net)
    session.export()
    oracle = reference.Network([_mapping(node) for node in net._spec.nodes], net._spec.output)
    spaces = space_map(SimpleNamespace(net=oracle), net._graph)
    images = x.reshape(N, *(net._tensors[0][key] for key in ("height", "width", "channels")))
    for subnet in session._origin:
        params = params_of(net, session.net._trained)
        logits = session.forward(x, subnet, 1)
        scale = session._scales(subnet)
        mean, variance = session.trainer.batch_stats()
        active, bits, depth = session.judged()._rules.arrays(subnet)
        here = [int(active[spaces[i]]) for i in range(len(spaces))]
        point = reference.Subnet(here, bits.tolist(), None if depth is None else depth.tolist())
        run = reference._Int8(reference.Bound(oracle, point), params, reference.Tables(mean, variance, scale[:, None]))
        run.codes = forced = Forced(session, scale)
        run.run(images, None)
        assert set(forced.steps) == set(np.flatnonzero(session._coded)) and len(forced.steps) >= len(net.layers) - 1
        for number, steps in forced.steps.items():
            assert steps.max() <= 1, (subnet, net._spec.nodes[number].name, steps.max())
            assert (steps > 0).mean() < 0.002, (subnet, net._spec.nodes[number].name, (steps > 0).mean())
        np.testing.assert_allclose(run.logits, logits, atol=1e-4 * np.abs(logits).max())


def params_of(net, trained):
    """Parameters of the integer network as the oracle takes them."""
    params = []
    for node in net._spec.nodes:
        weight, bias = net.weights.get(f"{node.name}.weight"), net.weights.get(f"{node.name}.bias")
        if node.name not in trained.scales:
            params.append(reference.Params(weight=weight, bias=bias))
            continue
        scale = trained.scales[node.name]
        flat = weight.reshape(len(weight), -1).astype(float)
        codes = np.clip(np.rint(flat / scale[:, None].astype(float)), -127, LIMIT[min(trained.views)]).astype(np.int8)
        params.append(reference.Params(codes=codes.reshape(weight.shape), code_scale=scale, bias=bias))
    return params


@pytest.mark.parametrize("name", ["plain", "kinds"])
def test_the_engine_gives_the_outputs_of_the_training_pass(name):
    net = NETS[name]()
    session, x = start(net)
    session.export()
    model = session.judged()
    for subnet in session._origin:
        logits = session.forward(x, subnet, 1)
        model._set_tables({subnet: Tables(*session.trainer.batch_stats(), session._scales(subnet)[:, None])})
        np.testing.assert_allclose(model(x, subnet), logits, atol=0.02 * np.abs(logits).max())
