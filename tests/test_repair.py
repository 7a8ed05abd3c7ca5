"""Hard limits: candidates are made smaller before they are evaluated."""

import numpy as np
import pytest
from fakes import fake_data, fake_network

import dynadnn as dn
from dynadnn._goals import as_constraint, bits_matter
from dynadnn._record import Record
from dynadnn._repair import STEPS, Repair
from dynadnn._space import Genes

OPTIONS = dict(population=12, generations=5, progress=False, rng=0)


@pytest.fixture(scope="module")
def data():
    return fake_data()


def search(data, **options):
    return dn.explore(fake_network(), data, device=dn.Device.from_speed(10, 1e10), **{**OPTIONS, **options})


def repair(net, *limits, space=None):
    genes = Genes(net, space or dn.Space())

    def costs(candidates, latency):
        assert latency == any("latency" in limit for limit in limits)
        return [
            Record(point=s, bytes=net.bytes(s), macs=net.macs(s), latency_ms=net.macs(s) / 1e6) for s, _ in candidates
        ]

    return genes, Repair(genes, [as_constraint(limit) for limit in limits], costs)


def rows(genes, n=30, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(genes.lower, genes.upper + 1, (n, len(genes.lower))).astype(float)


@pytest.mark.parametrize("limit", ["macs <= 1.5e6", "bytes <= 1200000", "latency_ms < 1.5"])
def test_what_is_over_a_limit_becomes_the_widest_of_its_shape_that_is_not(limit):
    net = fake_network()
    genes, mend = repair(net, limit)
    holds = as_constraint(limit).violation
    x, changed = rows(genes), 0
    for row, (subnet, _) in zip(x, mend(x), strict=True):
        before = genes.decode(row)[0]
        line = [genes.decode(genes.shrink(row, k / STEPS, False))[0] for k in range(STEPS + 1)]
        fits = [
            s
            for s in line
            if holds(Record(point=s, bytes=net.bytes(s), macs=net.macs(s), latency_ms=net.macs(s) / 1e6)) <= 0
        ]
        assert subnet == (fits[-1] if fits else before)
        changed += subnet != before
    assert 0 < changed < len(x)


def test_bits_are_lowered_where_the_narrowest_is_too_large():
    data = dn.datasets.shapes(300, size=8, classes=4, rng=0)
    net = dn.nets.resnet20(data, width=8, divisor=4, points=(0.5, 1.0), rng=0)
    net.recalibrate(data.calibration.x)
    net = dn.quantize(net, data, bits=(8, 4))
    least = net.bytes(Genes(net, dn.Space(bits=(8,))).decode(np.zeros(len(net.spaces) + 2))[0])
    genes, mend = repair(net, f"bytes <= {least - 1}")
    made = [s for s, _ in mend(np.array([genes.upper]))]
    assert set(made[0].bits) <= {4, "fp32"} and net.bytes(made[0]) < least


def test_limits_that_nothing_meets_leave_candidates_alone():
    genes, mend = repair(fake_network(), "macs <= 1")
    assert mend(rows(genes)) == [genes.decode(row) for row in rows(genes)]


def test_no_candidate_over_a_hard_limit_is_evaluated_unless_it_is_a_named_point(data):
    front = search(data, constraints=("latency_ms <= 0.5", "accuracy >= 0.6"))
    assert all(r.latency_ms <= 0.5 or r.name for r in front.evaluated)
    assert all(r.feasible for r in front.records)


def test_a_limit_of_accuracy_is_not_repaired():
    genes, mend = repair(fake_network(), "accuracy >= 0.9", "macs >= 1e9")
    assert mend(rows(genes)) == [genes.decode(row) for row in rows(genes)]


@pytest.mark.parametrize(
    ("objectives", "constraints", "matter"),
    [
        (("error", "macs"), (), False),
        (("accuracy", "top5"), ("macs <= 5",), False),
        (("error", "bytes"), (), True),
        (("error", "macs"), ("latency_ms <= 1",), True),
        (("error", "macs"), (lambda r: 0.0,), True),
        (("error", dn.Objective("own", lambda n, p, s: 0.0)), (), True),
    ],
)
def test_bits_are_dropped_where_nothing_can_gain_from_them(objectives, constraints, matter):
    assert bits_matter(objectives, [as_constraint(c) for c in constraints]) == matter
    data = dn.datasets.shapes(60, size=8, classes=4, rng=0)
    net = dn.nets.mlp(data, points=(0.5, 1.0), rng=0)
    net.recalibrate(data.calibration.x)
    net = dn.quantize(net, data, bits=(8, 4))
    genes = Genes(net, dn.Space(bits="per layer"), matter)
    assert len(genes.lower) == len(net.spaces) + (len(net.layers) if matter else 1) + 1
    assert (set(genes.decode(genes.lower)[0].bits) == {4}) == matter
