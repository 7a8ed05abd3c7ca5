"""Quantisation-aware training: what it computes is what the integer engine computes, and it pays at few bits."""

from types import SimpleNamespace

import numpy as np
import pytest
import reference
from engines import space_map

import dynadnn as dn
from dynadnn._codes import LIMIT, encode, view_codes
from dynadnn._graph import _mapping
from dynadnn._methods import Choice
from dynadnn._qat import with_bits
from dynadnn._qat_session import QatSession
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
    e = g.add(
        g.batchnorm(g.conv2d(d, 8, 1, stride=2), name="left"), g.batchnorm(g.conv2d(d, 8, 3, stride=2)), name="sum"
    )
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


# ---- gradients ----


def test_gradients_go_straight_through_and_learned_scales_get_theirs():
    torch = pytest.importorskip("torch")
    g = dn.GraphBuilder((9, 8, 3))
    h = g.relu(g.conv2d(g.input, 12, 3, bias=True, name="first"), name="early")
    h = g.relu(g.batchnorm(g.conv2d(h, 16, 3, stride=2, name="second")), name="act")
    net = g.build(g.linear(g.flatten(h), 5, name="head"), rng=3)
    bias = np.random.default_rng(1).normal(0, 0.1, 12).astype(np.float32)  # else sums of codes are 0 now and then
    net = net.with_weights({"first.bias": bias})
    session, x = start(net, (8, 4), ranges="learned")
    point = with_bits(net.subnet(width=1.0), 4, len(net.layers))
    for seen in session._observed.values():
        seen.limit = seen.limit * np.float32(0.6)  # so that values are clipped
    d = np.random.default_rng(5).normal(size=(N, 5)).astype(np.float32)
    session.forward(x, point, 1)
    session.backward(d)
    scales, codes = session._scales(point), session._code_scales
    names = {node.name: i for i, node in enumerate(net._spec.nodes)}
    parameters = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in net.weights.items()}
    steps = {i: torch.tensor(float(s), dtype=torch.float64, requires_grad=True) for i, s in enumerate(scales)}

    def weight(name):
        value, scale = net.weights[f"{name}.weight"], codes[names[name]]
        viewed = view_codes(encode(value, scale, (8, 4)), 4) * scale.reshape(-1, *[1] * (value.ndim - 1))
        real = parameters[f"{name}.weight"]
        return real + (torch.tensor(viewed, dtype=torch.float64) - real).detach()

    def coded(value, i):
        low, high = (-128, 127) if session._levels[i] == 127 else (0, 255)
        inside = torch.clamp(value / steps[i], low, high)
        n, c, h, w = value.shape
        made = (
            torch.tensor(session.trainer.tensor(i) / scales[i]).round().double().reshape(n, h, w, c).permute(0, 3, 1, 2)
        )
        assert (made != torch.round(inside)).sum() <= 4  # float sums beside a tie
        return (inside + (made - inside).detach()) * steps[i]

    def convolve(value, name, stride):
        return torch.nn.functional.conv2d(
            value, weight(name).permute(0, 3, 1, 2), parameters.get(f"{name}.bias"), stride, 1
        )

    y = coded(torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2), 0)
    y = convolve(coded(torch.relu(convolve(y, "first", 1)), names["early"]), "second", 2)
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, unbiased=False)
    (norm,) = [node for node in net._spec.nodes if node.op == "batchnorm"]
    gamma, beta = (parameters[f"{norm.name}.{kind}"].reshape(1, -1, 1, 1) for kind in ("weight", "bias"))
    y = coded(torch.relu((y - mean) / torch.sqrt(variance + norm.value) * gamma + beta), names["act"])
    out = torch.nn.functional.linear(y.permute(0, 2, 3, 1).reshape(N, -1), weight("head"), parameters["head.bias"])
    out.backward(torch.tensor(d, dtype=torch.float64))
    for key, value in parameters.items():
        name, kind = key.rsplit(".", 1)
        found = session.trainer.get_grads(names[name])[kind == "bias"].reshape(value.shape)
        wanted = value.grad.numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max() + 1e-4, err_msg=key)
    slopes = session._seen[0][-1]
    for i in np.flatnonzero(session._coded)[1:]:  # nothing learns the input's
        assert slopes[i] == pytest.approx(float(steps[int(i)].grad), rel=1e-3), net._spec.nodes[i].name


# ---- training ----

DATA = dn.datasets.digits(rng=0)
QUIET = {"progress": False, "rng": 1, "threads": 1}


def small(points=(1.0,), seed=0):
    g = dn.GraphBuilder(DATA.shape)
    x = g.relu(g.batchnorm(g.conv2d(g.input, 8, 3, stride=2)))
    x = g.relu(g.batchnorm(g.conv2d(x, 16, 3, stride=2)))
    x = g.relu(g.batchnorm(g.conv2d(x, 16, 3)))
    head = g.linear(g.global_avg_pool(x), 10)
    return g.build(head, points=points, preprocess=DATA.preprocess, divisor=4, rng=seed)


def accuracy(model, point):
    return model.evaluate(DATA.test, point, metrics=("accuracy",))["accuracy"]


@pytest.fixture(scope="module")
def floating():
    net = small()
    dn.fit(net, DATA, epochs=6, **QUIET)
    return net


@pytest.fixture(scope="module")
def deep():
    net = dn.nets.resnet20(DATA, width=8, rng=0)
    dn.fit(net, DATA, epochs=4, progress=False, rng=0, threads=1)
    return net


@pytest.mark.parametrize("ranges", ["running", "learned"])
def test_two_bits_gain_much_by_training_and_eight_lose_nothing(deep, ranges):
    net, before = deep.copy(), dn.quantize(deep, DATA, bits=(8, 2))
    dn.fit(net, DATA, epochs=4, qat=dn.QAT((8, 2), ranges), optimizer=dn.SGD(lr=0.03), **QUIET)
    after = dn.quantize(net, DATA, bits=(8, 2))
    assert accuracy(after, "1.0/2bit") > accuracy(before, "1.0/2bit") + 0.3
    assert accuracy(after, "1.0") > accuracy(before, "1.0") - 0.02


def test_quantize_takes_over_scales_and_ranges_and_copies_and_files_keep_them(floating, tmp_path):
    net = floating.copy()
    history = dn.fit(net, DATA, epochs=1, qat=(8, 4), **QUIET)
    assert {"val_accuracy/1.0", "val_accuracy/1.0/4bit"} <= set(history.history)
    model, trained = dn.quantize(net, DATA, bits=(8, 4)), net._trained
    for layer in net.layers:
        np.testing.assert_array_equal(model.weights[f"{layer.name}.scale"], trained.scales[layer.name])
    for subnet, tables in trained.tables.items():
        np.testing.assert_array_equal(model.tables[subnet].scale, tables.scale)
    x = DATA.test.x[:50]
    net.save(tmp_path / "net.safetensors")
    for other in (net.copy(), dn.load(tmp_path / "net.safetensors")):
        again = dn.quantize(other, DATA, bits=(8, 4))
        for point in again.points:
            np.testing.assert_array_equal(again(x, point), model(x, point))
    apart = dn.quantize(net, DATA, bits=8)
    np.testing.assert_array_equal(apart(x), model(x, "1.0"))
    assert not np.array_equal(dn.quantize(net, DATA, bits=(8, 4), calibrate="mse")(x), model(x))


def test_later_changes_of_the_weights_leave_nothing_of_it(floating):
    net = floating.copy()
    dn.fit(net, DATA, epochs=1, qat=8, **QUIET)
    assert net._trained is not None and net.with_weights({})._trained is None
    dn.fit(net, DATA, epochs=1, **QUIET)
    assert net._trained is None


def test_widths_and_bits_are_trained_together():
    net = small(points=(0.5, 1.0))
    dn.fit(net, DATA, epochs=2, method=dn.Sandwich(random=1), qat=(8, 4), **QUIET)
    model = dn.quantize(net, DATA, bits=(8, 4))
    assert list(model.points) == ["0.5", "1.0", "0.5/4bit", "1.0/4bit"]
    assert set(model.tables) == set(model.points.values()) == set(net._trained.tables)
    scales = [model.tables[subnet].scale for subnet in model.points.values()]
    assert all(not np.array_equal(scales[0], other) for other in scales[1:])
    assert np.isfinite(net(DATA.test.x[:4], 0.5)).all()


def test_the_first_point_of_a_step_runs_at_8_bits_and_some_fewer_and_the_others_at_one():
    net = small(points=(0.5, 1.0))
    wide, narrow = net.points["1.0"], net.points["0.5"]
    passes = dn.QAT((8, 4, 2), random=2).expand([Choice(wide), Choice(narrow, True)], len(net.layers), 0, 5)
    assert [p.subnet.bits[0] for p in passes[:3]] == [8, 4, 2] and len(passes) == 4
    assert [p.soft for p in passes] == [False, True, True, True]
    steps = [[p.subnet.bits[0] for p in dn.QAT((8, 4, 3, 2)).expand([Choice(wide)], 4, 0, s)] for s in range(40)]
    assert {tuple(bits) for bits in steps} == {(8, 4), (8, 3), (8, 2)}
    drawn = {dn.QAT((8, 4)).expand([Choice(wide), Choice(narrow)], 4, 0, s)[-1].subnet.bits[0] for s in range(20)}
    assert drawn == {8, 4}
    assert not any(p.soft for p in dn.QAT((8, 4), targets="labels").expand([Choice(wide)], 4, 0, 0))


class Stop(dn.Callback):
    def on_epoch_end(self, logs):
        return "stop" if logs["epoch"] == 0 else None


@pytest.mark.parametrize("ranges", ["running", "learned"])
def test_a_resumed_run_gives_the_same_bits_and_so_do_more_threads(ranges, tmp_path):
    def run(**options):
        net = small(points=(0.5, 1.0))
        common = {"method": dn.Sandwich(random=0), "qat": dn.QAT((8, 2), ranges), "progress": False, "rng": 1}
        dn.fit(net, DATA, epochs=2, **common, **options)
        return net

    whole = run(threads=1)
    path = tmp_path / "run.checkpoint"
    run(threads=1, checkpoint=path, callbacks=[Stop()])
    for net in (run(threads=1, checkpoint=path, callbacks=[dn.Callback()]), run(threads=3)):
        for key, value in whole.weights.items():
            np.testing.assert_array_equal(net.weights[key], value)
        for subnet, tables in whole._trained.tables.items():
            for kind in ("mean", "variance", "scale"):
                np.testing.assert_array_equal(getattr(net._trained.tables[subnet], kind), getattr(tables, kind))


def test_a_checkpoint_of_other_bits_is_refused(tmp_path):
    path = tmp_path / "run.checkpoint"
    dn.fit(small(), DATA, epochs=1, qat=8, checkpoint=path, **QUIET)
    with pytest.raises(ValueError, match="qat"):
        dn.fit(small(), DATA, epochs=1, qat=(8, 4), checkpoint=path, **QUIET)
    with pytest.raises(ValueError, match="qat"):
        dn.fit(small(), DATA, epochs=1, checkpoint=path, **QUIET)


def test_a_run_begins_where_a_float_run_ended(tmp_path):
    first, second = tmp_path / "float.checkpoint", small(seed=5)
    before = small()
    dn.fit(before, DATA, epochs=1, checkpoint=first, **QUIET)
    history = dn.fit(second, DATA, epochs=1, qat=(8, 4), continue_from=first, optimizer=dn.SGD(lr=1e-12), **QUIET)
    assert history.epochs == 1
    for key, value in before.weights.items():
        np.testing.assert_allclose(second.weights[key], value, atol=1e-6)
    assert len(second._trained.tables) == 2


def test_distillation_trains_integers_too(floating):
    net = small(seed=1)
    dn.distill(net, floating, DATA, epochs=1, qat=(8, 4), **QUIET)
    assert list(dn.quantize(net, DATA, bits=(8, 4)).points) == ["1.0", "1.0/4bit"]


# ---- bad input ----


@pytest.mark.parametrize("bits", [4, (4,), (8, 5), (4, 8), (), (8, 8)])
def test_bits_that_are_not_offered_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be 8, or 8 followed by some of 4, 3, 2"):
        dn.fit(small(), DATA, epochs=1, qat=bits, **QUIET)


def test_what_cannot_be_trained_in_integers_says_so(floating):
    with pytest.raises(TypeError, match="qat must be None, bits such as 8"):
        dn.fit(small(), DATA, epochs=1, qat="int8", **QUIET)
    with pytest.raises(TypeError, match="qat must be None"):
        dn.fit(small(), DATA, epochs=1, qat=True, **QUIET)
    with pytest.raises(ValueError, match="ranges is 'fixed'"):
        dn.QAT(8, ranges="fixed")
    with pytest.raises(ValueError, match="targets is 'teacher'"):
        dn.QAT(8, targets="teacher")
    with pytest.raises(dn.UnsupportedError, match=r"quantised to \(8,\) bits"):
        dn.fit(dn.quantize(floating, DATA), DATA, epochs=1, qat=8, **QUIET)
    with pytest.raises(dn.UnsupportedError, match="ema"):
        dn.fit(small(), DATA, epochs=1, qat=8, ema=0.9, **QUIET)
    with pytest.raises(dn.UnsupportedError, match="precision='bf16'"):
        dn.fit(small(), DATA, epochs=1, qat=8, precision="bf16", **QUIET)
    with pytest.raises(dn.UnsupportedError, match="channel groups"):
        dn.fit(dn.nets.alexnet(DATA, width=32, groups=2, rng=0), DATA, epochs=1, qat=8, **QUIET)


def test_a_tensor_read_in_integers_and_in_float_is_refused():
    g = dn.GraphBuilder((8, 8, 3))
    x = g.relu(g.batchnorm(g.input), name="both")
    y = g.global_avg_pool(g.add(g.conv2d(x, 3, 3), x))
    net = g.build(g.linear(y, 4), rng=0)
    with pytest.raises(dn.UnsupportedError, match="'both' is read both in integers and in float"):
        start(net)


def test_quantize_says_what_does_not_fit_what_was_trained(floating):
    with pytest.raises(ValueError, match="calibrate is 'trained'"):
        dn.quantize(floating, DATA, calibrate="trained")
    net = floating.copy()
    dn.fit(net, DATA, epochs=1, qat=(8, 4), **QUIET)
    with pytest.raises(ValueError, match=r"bits holds 2, but the network was trained for \(8, 4\) bits"):
        dn.quantize(net, DATA, bits=(8, 2))
    with pytest.raises(ValueError, match="policy"):
        dn.quantize(net, DATA, policy={net.layers[0].name: "fp32"})
    assert dn.quantize(net, DATA, bits=(8, 2), calibrate="mse").views == (8, 2)


def test_batch_norms_of_their_own_per_point_are_refused():
    net = dn.nets.mlp(DATA, width=16, points=(0.5, 1.0), rng=0)
    with pytest.raises(dn.UnsupportedError, match="private_affine"):
        dn.fit(net, DATA, epochs=1, qat=8, method=dn.MultiPath(private_affine=True), **QUIET)


def test_hints_are_given_to_what_the_integer_network_computes():
    teacher, student = (dn.nets.resnet20(DATA.subset(64), width=w, rng=w) for w in (8, 4))
    teacher.recalibrate(DATA.calibration.x)
    losses = []
    for weight in (1.0, 0.0001):
        options = {"epochs": 1, "batch": 32, "augment": None, "qat": 8, **QUIET}
        history = dn.distill(
            student.copy(), teacher, DATA.subset(64), hints=[dn.Hint("stage1", "stage1", weight=weight)], **options
        )
        losses += history.history["loss"]
    assert losses[0] > losses[1] + 0.1
