import pickle

import numpy as np
import pytest

import dynadnn as dn

DATA = dn.datasets.digits(rng=0)


def make(name="resnet20", points=(0.5, 1.0), **options):
    net = getattr(dn.nets, name)(DATA, points=points, divisor=4, rng=0, **options)
    noise = np.random.default_rng(1)
    net = net.with_weights({k: v + noise.normal(0, 0.05, v.shape).astype(np.float32) for k, v in net.weights.items()})
    net.recalibrate(DATA.calibration.x)
    return net


@pytest.fixture(scope="module")
def net():
    return make()


def odd(shape=(8, 8, 2)):
    """A network with segments, a flatten of a concatenation, a shortcut across channels and a gate."""
    g = dn.GraphBuilder(shape)
    a = g.relu(g.batchnorm(g.conv2d(g.input, 8, name="a")))
    b = g.relu(g.conv2d(a, 12, name="b"))
    c = g.concat(a, b)
    d = g.mul(c, g.sigmoid(g.concat(g.conv2d(g.global_avg_pool(c), 8, 1, name="gate"), g.global_avg_pool(b))))
    e = g.shortcut(d, 24, 2)
    f = g.add(e, g.batchnorm(g.conv2d(c, 24, stride=2, name="f")))
    f = g.conv2d(f, 24, groups=24, name="depthwise")
    h = g.relu(g.linear(g.flatten(g.concat(f, g.max_pool(d))), 20, name="hidden"))
    return g.build(g.linear(h, 5), points=(0.5, 1.0), divisor=4, rng=0)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "alexnet", "dscnn"])
@pytest.mark.parametrize("point", [0.5, 1.0])
def test_a_slice_gives_what_the_point_gives(name, point):
    net = make(name, width=16)
    x = DATA.test.x[:5]
    cut = net.slice(point)
    assert np.array_equal(net(x, point), cut(x))
    assert cut.params() == net.params(point) and cut.macs() == net.macs(point) and cut.bytes() == net.bytes(point)


def test_a_slice_of_an_odd_network_gives_what_the_point_gives():
    net = odd()
    x = np.random.default_rng(0).standard_normal((6, 8, 8, 2), np.float32)
    net.recalibrate(x)
    for point in (0.5, 1.0):
        assert np.allclose(net(x, point), net.slice(point)(x), atol=1e-6)


def test_a_slice_of_a_quantised_point_gives_the_same_bits(net):
    model = dn.quantize(net, DATA, bits=(8, 4))
    for point in model.points:
        cut = model.slice(point)
        assert np.array_equal(model(DATA.test.x[:20], point), cut(DATA.test.x[:20]))
        assert cut.bytes() == model.bytes(point)


def test_a_slice_without_blocks_gives_what_the_depth_gives(net):
    net = net.copy()
    subnet = net.subnet(width=0.5, depth=[least for _, least in net.stages])
    net.recalibrate(DATA.calibration.x, points=[subnet])
    cut = net.slice(subnet)
    assert np.array_equal(net(DATA.test.x[:5], subnet), cut(DATA.test.x[:5])) and cut.params() == net.params(subnet)


@pytest.mark.parametrize("order", ["l1", "l2", "bn_gamma", None])
def test_making_a_network_dynamic_keeps_its_output_at_full_width(net, order):
    made = net.make_dynamic((0.25, 0.5, 1.0), order=order, divisor=4)
    a, b = net(DATA.test.x[:8]), made(DATA.test.x[:8])
    assert np.abs(a - b).max() <= 1e-5 * max(1, np.abs(a).max())
    assert list(made.points) == ["0.25", "0.5", "1.0"]


def test_an_odd_network_made_dynamic_keeps_its_output():
    net = odd()
    x = np.random.default_rng(0).standard_normal((6, 8, 8, 2), np.float32)
    net.recalibrate(x)
    made = net.make_dynamic((0.5, 1.0), divisor=4)
    assert np.abs(net(x) - made(x)).max() < 1e-5
    assert not np.array_equal(net.weights["a.weight"], made.weights["a.weight"])


def test_the_most_important_channels_come_first(net):
    made = net.make_dynamic((0.5, 1.0), order="l1", divisor=4)
    importance = np.abs(made.weights["stage1.block1.conv1.weight"]).sum(axis=(1, 2, 3))
    assert (np.diff(importance) <= 1e-4).all()


def test_fixed_layers_keep_all_channels(net):
    made = net.make_dynamic((0.5, 1.0), fixed=("stage1.block1.conv1",), divisor=4)
    assert len(made.spaces) == len(net.spaces) - 1
    with pytest.raises(ValueError, match="fixed names"):
        net.make_dynamic((0.5,), fixed=("nothing",))


@pytest.mark.parametrize(("order", "kind"), [("L1", ValueError), ("noise", ValueError)])
def test_an_unknown_order_is_refused(net, order, kind):
    with pytest.raises(kind):
        net.make_dynamic((0.5, 1.0), order=order)


def test_evaluate_gives_fractions_with_an_interval(net):
    result = net.evaluate(DATA.test, 0.5, metrics=("accuracy", "loss", "error", "top5", "f1", "balanced_accuracy"))
    low, high = result["accuracy_interval"]
    assert 0 <= low <= result["accuracy"] <= high <= 1 and result["error"] == 1 - result["accuracy"]
    assert net.evaluate(DATA.test, 0.5, metrics=(lambda o, y: 3.0,)) == {"<lambda>": 3.0}


def test_wilson_interval_is_the_textbook_one():
    from dynadnn._metrics import wilson

    assert np.allclose(wilson(8, 10), (0.4901625, 0.9433178), atol=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_predict_agrees_with_the_outputs(net):
    x = DATA.test.x[:7]
    assert np.array_equal(net.predict(x), net(x).argmax(axis=1))
    assert np.allclose(net.predict_proba(x).sum(axis=1), 1, atol=1e-6)


def test_a_report_counts_every_image(net):
    report = net.report(DATA.test)
    assert report.confusion.sum() == 500 and 0 <= report.calibration_error <= 1
    assert "accuracy" in str(report) and len(report.table(DATA.names)) == 10


def test_one_image_may_come_without_its_first_axis(net):
    assert np.array_equal(net(DATA.test.x[0]), net(DATA.test.x[:1]))


def test_torch_tensors_and_non_contiguous_arrays_are_taken(net):
    torch = pytest.importorskip("torch")
    x = DATA.test.x[:4]
    assert np.array_equal(net(torch.from_numpy(x.copy())), net(x))
    assert np.array_equal(net(np.asfortranarray(x)), net(x))


BAD = {
    "float64 images": (np.zeros((1, 8, 8, 1)), TypeError, "float64"),
    "images of another rank": (np.zeros((8, 8), np.uint8), ValueError, r"\(n, 8, 8, 1\), not \(8, 8\)"),
    "images of another shape": (np.zeros((1, 9, 8, 1), np.uint8), ValueError, r"not \(1, 9, 8, 1\)"),
    "channels first": (np.zeros((2, 1, 8, 8), np.uint8), ValueError, "NCHW"),
    "no images": (np.zeros((0, 8, 8, 1), np.uint8), ValueError, "no images"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_network_refuses(net, name):
    x, kind, text = BAD[name]
    with pytest.raises(kind, match=text):
        net(x)


def test_uint8_without_preprocess_is_an_error_with_a_remedy():
    bare = dn.nets.mlp((4,), 2, rng=0)
    bare.recalibrate(np.ones((3, 4), np.float32))
    with pytest.raises(TypeError, match="no Preprocess"):
        bare(np.zeros((1, 4), np.uint8))


def test_a_point_without_statistics_is_an_error_with_a_remedy(net):
    fresh = dn.nets.resnet20(DATA, points=(0.5, 1.0), rng=0)
    with pytest.raises(dn.PointError, match=r"net.recalibrate\(images"):
        fresh(DATA.test.x[:1])
    with pytest.raises(dn.PointError, match="no statistics"):
        net.evaluate(DATA.test, net.subnet(width=0.25))


def test_recalibrate_adds_statistics_but_no_names():
    net = make()
    subnet = net.subnet(width=0.75)
    net.recalibrate(DATA.calibration, points=[subnet])
    assert list(net.points) == ["0.5", "1.0"] and np.isfinite(net(DATA.test.x[:1], subnet)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_refuses_numbers_that_are_not_finite(net, value):
    images = np.zeros((4, 8, 8, 1), np.float32)
    images[2, 0, 0, 0] = value
    with pytest.raises(dn.NonFiniteError, match="row 2"):
        net.copy().recalibrate(images)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_refuse_numbers_that_are_not_finite(net, value):
    weight = net.weights["stem.weight"].copy()
    weight[0, 0, 0, 0] = value
    with pytest.raises(dn.NonFiniteError, match=r"stem\.weight"):
        net.with_weights({"stem.weight": weight})


def test_weights_of_another_name_shape_or_type_are_refused(net):
    with pytest.raises(ValueError, match="nothing"):
        net.with_weights({"nothing": np.zeros(1, np.float32)})
    for bad in (np.zeros((3, 3), np.float32), net.weights["stem.weight"].astype(np.float64)):
        with pytest.raises(dn.GraphError, match=r"stem.weight must be float32 of shape \(16, 3, 3, 1\)"):
            net.with_weights({"stem.weight": bad})


def test_labels_beyond_the_outputs_are_refused(net):
    with pytest.raises(ValueError, match="labels from 0 to 12"):
        net.evaluate((DATA.test.x[:3], np.array([0, 1, 12])))
    with pytest.raises(ValueError, match="empty"):
        net.evaluate((DATA.test.x[:0], np.zeros(0, np.int64)))
    with pytest.raises(TypeError, match=r"data\.test"):
        net.evaluate(DATA)


def test_arrays_of_a_network_are_read_only(net):
    with pytest.raises(ValueError):
        net.weights["stem.weight"][0] = 0
    with pytest.raises(TypeError):
        net.weights["stem.weight"] = 0


def test_copies_and_pickles_give_the_same_outputs_and_are_independent(net):
    for made in (net.copy(), pickle.loads(pickle.dumps(net))):
        assert np.array_equal(made(DATA.test.x[:3], 0.5), net(DATA.test.x[:3], 0.5))
        made.recalibrate(DATA.calibration.x[:20])
        assert not np.array_equal(made(DATA.test.x[:3]), net(DATA.test.x[:3]))


def test_a_network_shows_itself_and_escapes_names():
    g = dn.GraphBuilder((4,))
    net = g.build(g.linear(g.input, 2, name="<b>x</b>"), points={"<script>": 1.0}, rng=0)
    assert "<script>" not in net._repr_html_() and "&lt;script&gt;" in net._repr_html_()
    assert "<b>x</b>" in net.summary()


def test_a_network_without_batch_norm_needs_no_statistics():
    g = dn.GraphBuilder((4,))
    net = g.build(g.linear(g.input, 2), rng=0)
    assert np.allclose(net(np.eye(4, dtype=np.float32)), net.weights["linear1.weight"].T + net.weights["linear1.bias"])


def test_activations_come_by_name(net):
    found = net.activations(DATA.test.x[:2], ["stem.relu", "head"])
    assert found["stem.relu"].shape == (2, 8, 8, 16) and (found["stem.relu"] >= 0).all()
    with pytest.raises(ValueError, match="nothing"):
        net.activations(DATA.test.x[:2], "nothing")
