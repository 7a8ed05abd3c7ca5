import numpy as np
import pytest

import dynadnn as dn


def builder(shape=(8, 8, 3)):
    g = dn.GraphBuilder(shape)
    return g, g.input


def test_every_operation_builds_and_has_its_shape():
    g, x = builder((8, 8, 4))
    shapes = {
        (8, 8, 16): g.conv2d(x, 16),
        (4, 4, 8): g.conv2d(x, 8, 5, stride=2),
        (6, 6, 8): g.conv2d(x, 8, 3, padding="valid"),
        (8, 8, 4): g.add(g.batchnorm(x), g.hardswish(g.leaky_relu(x, 0.1))),
        (8, 8, 8): g.concat(g.relu(x), g.relu6(x)),
        (4, 4, 4): g.max_pool(g.sigmoid(x)),
        (2, 2, 4): g.avg_pool(g.hardsigmoid(x), 4),
        (3, 3, 4): g.adaptive_avg_pool(x, 3),
        (4, 4, 6): g.shortcut(x, 6, 2),
        (10, 12, 4): g.pad(x, (1, 2)),
        (256,): g.flatten(g.identity(g.dropout(x, 0.3))),
        (4,): g.global_avg_pool(x),
        (7,): g.linear(g.flatten(x), 7),
    }
    for shape, tensor in shapes.items():
        assert tensor.shape == shape


def test_mul_takes_its_operands_in_any_order():
    g, x = builder()
    gate = g.sigmoid(g.conv2d(g.global_avg_pool(x), 3, 1))
    assert g.mul(gate, x).shape == g.mul(x, gate).shape == (8, 8, 3)


def test_signals_have_time_and_channels():
    g, x = builder((64, 3))
    h = g.max_pool(g.conv1d(x, 8, 5, stride=2))
    assert h.shape == (16, 8)
    net = g.build(g.linear(g.global_avg_pool(h), 4), rng=0)
    assert net.shape == (64, 3) and net.outputs == 4


def test_weights_are_he_normal_and_reproducible():
    a, b = (dn.nets.resnet20((32, 32, 3), 10, rng=7) for _ in range(2))
    assert all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)
    w = a.weights["stage3.block2.conv1.weight"]
    assert w.shape == (64, 3, 3, 64) and abs(w.std() - np.sqrt(2 / (9 * 64))) < 1e-3
    assert np.abs(a.weights["head.weight"]).max() <= 1 / 8
    assert (a.weights["stem.bn.weight"] == 1).all() and (a.weights["stem.bn.bias"] == 0).all()


def test_a_seed_is_drawn_and_recorded_without_one():
    a, b = dn.nets.mlp((4,), 2), dn.nets.mlp((4,), 2)
    assert a.seed != b.seed
    again = dn.nets.mlp((4,), 2, rng=a.seed)
    assert np.array_equal(a.weights["fc1.weight"], again.weights["fc1.weight"])


def test_nodes_that_the_output_does_not_need_are_left_out():
    g, x = builder()
    g.conv2d(x, 64, name="unused")
    net = g.build(g.global_avg_pool(x), rng=0)
    assert "unused.weight" not in net.weights


BAD = {
    "a mismatched add": (lambda g, x: g.add(g.conv2d(x, 8), g.conv2d(x, 16)), "8 channels against 16"),
    "an add of different maps": (lambda g, x: g.add(x, g.max_pool(x)), "do not match"),
    "groups that do not divide": (lambda g, x: g.conv2d(x, 8, groups=2), "2 groups do not divide 3 input"),
    "a kernel larger than its padded input": (lambda g, x: g.conv2d(x, 8, 11, padding=1), "kernel of 11 is larger"),
    "a linear layer on a map": (lambda g, x: g.linear(x, 8), "flatten or pool it first"),
    "a concat of different maps": (lambda g, x: g.concat(x, g.max_pool(x)), "input 1 is 4 x 4"),
    "padding that reaches a pooling window": (lambda g, x: g.max_pool(x, 2, padding=2), "padding of 2"),
    "a shortcut from a channel that is not there": (lambda g, x: g.shortcut(x, 2, 1, [0, 3]), "channel 3 of 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_graph_refuses(name):
    make, text = BAD[name]
    g, x = builder()
    with pytest.raises(dn.GraphError, match=text):
        g.build(make(g, x), rng=0)


def test_names_must_differ_and_be_printable():
    g, x = builder()
    g.relu(x, name="a")
    for name in ("a", "", "@x", "line\nbreak", "x" * 201):
        with pytest.raises(dn.GraphError):
            g.relu(x, name=name)


def test_tensors_of_another_builder_are_refused():
    g, _ = builder()
    with pytest.raises(TypeError, match="tensors of this builder"):
        g.relu(dn.GraphBuilder((4, 4, 1)).input)
    with pytest.raises(TypeError, match="tensor of this builder"):
        g.build(dn.GraphBuilder((4, 4, 1)).input)


@pytest.mark.parametrize("name", dn.nets.__all__)
def test_every_network_builds_runs_and_is_counted(name):
    shape = {"mlp": (12,), "cnn1d": (32, 2)}.get(name, (16, 16, 3))
    net = getattr(dn.nets, name)(shape, 5, width=16, points=(0.5, 1.0), rng=0)
    assert net.outputs == 5 and 0 < net.macs(0.5) <= net.macs() and net.params(0.5) <= net.params()
    x = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    net.recalibrate(x)
    assert net(x, 0.5).shape == (3, 5) and np.isfinite(net(x)).all()


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("resnet20", 40_551_040, 269_722),
        ("resnet56", 125_485_696, 853_018),
        ("alexnet", 169_022_464, None),
        ("resnet18", 555_422_720, 11_173_962),
    ],
)
def test_published_networks_have_their_published_size(name, macs, params):
    net = getattr(dn.nets, name)((32, 32, 3), 10, rng=0)
    assert net.macs() == macs and params in (None, net.params())


def test_digits_are_large_enough_for_resnet20_and_signals_for_dscnn():
    data = dn.datasets.digits(rng=0)
    net = dn.nets.resnet20(data, rng=0)
    assert net.preprocess == data.preprocess and net.outputs == 10
    assert dn.nets.dscnn((64, 2), 4, rng=0).shape == (64, 2)


def test_a_shape_needs_outputs_and_data_brings_them():
    with pytest.raises(TypeError, match="outputs is missing"):
        dn.nets.resnet20((8, 8, 1))
    with pytest.raises(ValueError, match="the data has 10"):
        dn.nets.resnet20(dn.datasets.digits(rng=0), 7)
    with pytest.raises(ValueError, match="takes"):
        dn.nets.cnn1d((8, 8, 1), 3)


def test_a_grouped_network_keeps_groups_apart():
    net = dn.nets.alexnet((16, 16, 3), 5, width=32, groups=2, points=(0.5, 1.0), rng=0)
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3), np.float32)
    net.recalibrate(x)
    narrow, wide = (net.activations(x, "conv5.relu", p)["conv5.relu"] for p in (0.5, 1.0))
    assert np.allclose(narrow, wide[..., : narrow.shape[-1]], atol=1e-5)
