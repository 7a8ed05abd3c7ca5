"""Rankings of channels by norm and by trained noise, and networks put in their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dynadnn as dn

DATA = dn.datasets.digits(rng=0)
QUIET: dict[str, Any] = {"progress": False, "rng": 0, "augment": None}


def trained(**options: Any) -> dn.Network:
    net = dn.nets.mlp(DATA, width=24, divisor=4, rng=0, **options)
    dn.fit(net, DATA, epochs=4, **QUIET)
    return net


@pytest.fixture(scope="module")
def net() -> dn.Network:
    return trained()


def with_dead(net: dn.Network, channels: list[int]) -> dn.Network:
    """The network with channels of fc1 that nobody reads, but with the largest weights."""
    reader = next(n.name for n in net._spec.nodes if n.op == "linear" and n.name != "fc1")
    ignored, loud = net.weights[f"{reader}.weight"].copy(), net.weights["fc1.weight"].copy()
    ignored[:, channels] = 0
    loud[channels] *= 100
    return net.with_weights({f"{reader}.weight": ignored, "fc1.weight": loud})


@pytest.mark.parametrize("images_only", [False, True])
def test_channels_that_nobody_reads_stand_noise_best(net: dn.Network, images_only: bool) -> None:
    dead = with_dead(net, [1, 7, 12])
    data = DATA.train.x[:512] if images_only else DATA.subset(512)
    ranking = dn.rank_channels(dead, data, epochs=4, rng=0)
    assert set(ranking.order("fc1")[-3:].tolist()) == {1, 7, 12}
    assert set(dn.rank_channels(dead, method="l1").order("fc1")[:3].tolist()) == {1, 7, 12}


def test_the_scale_of_a_channel_grows_where_the_loss_bends_least() -> None:
    # One linear layer read by fixed weights c: the loss is quadratic in its noise, with curvature c_i squared.
    g = dn.GraphBuilder((6,))
    net = g.build(g.linear(g.linear(g.input, 4, name="a"), 3, name="b"), divisor=1, rng=0)
    rng = np.random.default_rng(0)
    rows = rng.choice([-1.0, 1.0], (4, 6)).astype(np.float32)  # equal norms
    strength = np.array([1.0, 8.0, 2.0, 4.0], np.float32)
    net = net.with_weights({"a.weight": rows, "b.weight": np.ones((3, 4), np.float32) * strength})
    x = rng.normal(size=(512, 6)).astype(np.float32)
    ranking = dn.rank_channels(net, x, epochs=60, lr=0.05, rng=0)
    assert ranking.order("a").tolist() == [1, 3, 2, 0]
    ratio = ranking.scores["a"] / ranking.scores["a"][0]
    assert np.allclose(ratio, strength, rtol=0.35)  # equal shares of the loss: a_i * c_i the same for all


def test_the_geometric_mean_of_the_noise_stays() -> None:
    ranking = dn.rank_channels(trained(), DATA.subset(256), level=0.3, epochs=2, rng=0)
    for score in ranking.scores.values():
        assert np.exp(np.log(score).mean()) == pytest.approx(1 / 0.3)
        assert score.std() > 0


def test_ranking_by_noise_is_decided_by_the_seed_and_leaves_the_network_alone(net: dn.Network) -> None:
    before = dict(net.weights)
    data = DATA.subset(256)
    a = dn.rank_channels(net, data, epochs=1, rng=3, threads=1)
    b = dn.rank_channels(net, data, epochs=1, rng=3, threads=2)
    c = dn.rank_channels(net, data, epochs=1, rng=4, threads=1)
    assert all(np.array_equal(a.scores[k], b.scores[k]) for k in a.scores)
    assert any(not np.array_equal(a.scores[k], c.scores[k]) for k in a.scores)
    assert all(net.weights[k] is before[k] for k in before)


@pytest.mark.parametrize("method", ["l1", "l2", "bn_gamma"])
def test_norms_rank_as_make_dynamic_orders(net: dn.Network, method: str) -> None:
    ranking = dn.rank_channels(net, method=method)
    by_name, by_ranking = net.make_dynamic((0.5, 1.0), order=method), net.make_dynamic((0.5, 1.0), order=ranking)
    assert all(np.array_equal(by_name.weights[k], by_ranking.weights[k]) for k in net.weights)
    score = np.abs(net.weights["fc1.weight" if method != "bn_gamma" else "fc1.bn.weight"]).reshape(24, -1)
    expected = np.sqrt((score**2).sum(axis=1)) if method == "l2" else score.sum(axis=1)
    if method != "bn_gamma":
        assert ranking.order("fc1").tolist() == np.argsort(-expected, kind="stable").tolist()


@pytest.mark.parametrize("make", [dn.nets.mlp, dn.nets.resnet20, dn.nets.dscnn])
def test_a_network_in_the_order_of_noise_computes_the_same_at_full_width(make: Any) -> None:
    net = make((8, 8, 1), 10, width=8, rng=0)
    x = DATA.train.x[:64].astype(np.float32) / 16
    net.recalibrate(x)
    ranking = dn.rank_channels(net, x, epochs=2, batch=16, rng=0)
    made = net.make_dynamic((0.5, 1.0), order=ranking)
    moved = [k for k in net.weights if not np.array_equal(made.weights[k], net.weights[k])]
    assert moved
    expected = net(x)
    assert np.abs(made(x, 1.0) - expected).max() < 1e-5 * max(1, float(np.abs(expected).max()))


def test_order_noise_trains_on_the_images_that_training_left(net: dn.Network) -> None:
    made = net.make_dynamic((0.5, 1.0), order="noise")
    again = net.make_dynamic((0.5, 1.0), order="noise")
    assert all(np.array_equal(made.weights[k], again.weights[k]) for k in made.weights)
    assert any(not np.array_equal(made.weights[k], net.weights[k]) for k in made.weights)
    assert np.abs(made(DATA.test.x[:20]) - net(DATA.test.x[:20])).max() < 1e-5
    fresh = dn.nets.mlp(DATA, width=24, rng=0)
    with pytest.raises(ValueError, match=r"keeps no images .* pass order=dn\.rank_channels"):
        fresh.make_dynamic((0.5, 1.0), order="noise")


def test_layers_that_are_fixed_keep_their_order(net: dn.Network) -> None:
    ranking = dn.rank_channels(net, method="l1")
    made = net.make_dynamic((0.5, 1.0), order=ranking, fixed=["fc1"])
    assert np.array_equal(made.weights["fc1.weight"], net.weights["fc1.weight"])


def test_a_ranking_shows_itself(net: dn.Network) -> None:
    ranking = dn.rank_channels(net, method="l1")
    table = ranking.table()
    assert table.columns == ("space", "channel", "score", "place") and len(table) == sum(s.full for s in net.spaces)
    best = next(row for row in table if row["space"] == "fc1" and row["place"] == 1)
    assert best["channel"] == ranking.order("fc1")[0]
    with pytest.raises(KeyError, match="no space 'x'; there are fc1"):
        ranking.order("x")


def test_what_cannot_be_ranked_says_why(net: dn.Network) -> None:
    with pytest.raises(ValueError, match="method is 'l3': it must be one of 'l1'"):
        dn.rank_channels(net, method="l3")
    with pytest.raises(ValueError, match="level must be above 0"):
        dn.rank_channels(net, DATA, level=0)
    with pytest.raises(ValueError, match="lr must be above 0"):
        dn.rank_channels(net, DATA, lr=float("nan"))
    with pytest.raises(ValueError, match="keeps no calibration images"):
        dn.rank_channels(dn.nets.mlp(DATA, rng=0))
    with pytest.raises(dn.UnsupportedError, match="is quantised"):
        dn.rank_channels(dn.quantize(net, DATA), DATA)
    with pytest.raises(ValueError, match=r"space 'fc1', the network has 16: .* of this network"):
        dn.nets.mlp(DATA, width=16, rng=0).make_dynamic((1.0,), order=dn.rank_channels(net, method="l1"))
    plain = dn.GraphBuilder((4,))
    with pytest.raises(ValueError, match="no batch norm"):
        dn.rank_channels(plain.build(plain.linear(plain.input, 3)), method="bn_gamma")
    broken = net.with_weights({"fc1.weight": np.full_like(net.weights["fc1.weight"], 3e38)})
    with pytest.raises(dn.NonFiniteError, match="the loss under noise"):
        dn.rank_channels(broken, DATA.subset(64), epochs=1, rng=0)
