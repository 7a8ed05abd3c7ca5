"""Evaluations that end early: never on the front, and the front is that of full evaluation."""

import numpy as np
import pytest
from fakes import IMAGES, fake_data, fake_network

import dynadnn as dn
from dynadnn import _evaluate
from dynadnn._record import Record, from_document, to_document
from dynadnn._stopping import STEP, Archive, outputs_until
from dynadnn._timing import nondominated

OPTIONS = dict(population=12, generations=8, termination=None, progress=False, rng=0)
POINT = dn.Subnet((1,))


@pytest.fixture(scope="module")
def data():
    return fake_data()


def search(data, **options):
    return dn.explore(fake_network(), data, device=dn.Device.from_speed(10, 1e10), **{**OPTIONS, **options})


def record(wrong, n, **costs):
    accuracy = (n - wrong) / n
    return Record(point=POINT, accuracy=accuracy, error=1.0 - accuracy, **costs)


def test_the_front_is_that_of_full_evaluation_of_the_same_points(data):
    for seed in range(3):
        front = search(data, rng=seed)
        stopped = [r for r in front.evaluated if r.stopped is not None]
        assert len(stopped) > 5
        full, net = [], fake_network()
        for r in front.evaluated:
            judged, _ = _evaluate.accuracy_record(net, r.point, data.calibration.x, data.val, ("error", "latency_ms"))
            full.append((judged.error, r.latency_ms))
            assert r.error <= judged.error if r.stopped is not None else r.error == judged.error
        mask = nondominated(np.array(full))
        best = {full[i] for i in np.flatnonzero(mask)}
        assert {(r.error, r.latency_ms) for r in front.records} == best
        assert all(r.stopped is None for r in front.records)


def test_a_stopped_record_says_after_how_many_images_and_holds_the_best_that_was_possible(data):
    stopped = [r for r in search(data).evaluated if r.stopped is not None]
    assert all(r.stopped < IMAGES and (r.stopped % STEP == 0) for r in stopped)
    assert all(r.accuracy >= 1 - r.stopped / IMAGES and r.loss is None and not r.feasible for r in stopped)
    assert all(from_document(to_document(r)) == r for r in stopped)


def test_named_points_are_never_stopped(data):
    front = search(data, init=(fake_network().subnet(1.0),), generations=12)
    assert all(r.stopped is None for r in front.evaluated if r.name)


def test_without_early_stopping_everything_is_evaluated(data):
    assert all(r.stopped is None for r in search(data, stop_early=False).evaluated)


@pytest.mark.parametrize(
    "objectives", [("loss", "latency_ms"), ("error", "calibration_error"), ("latency_ms", "calibration_error")]
)
def test_objectives_without_a_bound_are_evaluated_on_all_images(data, objectives):
    assert all(r.stopped is None for r in search(data, objectives=objectives, generations=3).evaluated)


def test_a_resumed_search_stops_the_same_points(data, tmp_path):
    whole = search(data)
    search(data, checkpoint=tmp_path / "s", generations=4)
    again = search(data, checkpoint=tmp_path / "s")
    assert again.evaluated == whole.evaluated and again.records == whole.records


def test_with_several_numbers_of_threads_the_front_is_that_of_full_evaluation(data):
    front = search(data, space=dn.Space(threads=(1, 2)), objectives=("error", "latency_ms", "threads"))
    assert any(r.stopped is not None for r in front.evaluated)
    net, full = fake_network(), []
    for r in front.evaluated:
        judged, _ = _evaluate.accuracy_record(net, r.point, data.calibration.x, data.val, ("error",))
        full.append((judged.error, r.latency_ms, float(r.threads)))
    mask = nondominated(np.array(full))
    assert {(r.error, r.latency_ms, float(r.threads)) for r in front.records} == {full[i] for i in np.flatnonzero(mask)}


def dominated(candidate, others):
    """By definition: no coordinate worse, one better."""
    return any(all(o <= c for o, c in zip(other, candidate, strict=True)) and other != candidate for other in others)


def test_the_allowance_is_the_first_count_that_every_outcome_of_the_rest_leaves_beaten(seeds):
    n = 20
    y = np.zeros(n, np.int64)
    for seed in seeds.range(200):
        draw = np.random.default_rng(seed)
        columns = [("latency_ms",), ("bytes", "macs"), ()][draw.integers(3)]
        objectives = ("error", *columns) if draw.random() < 0.8 or not columns else columns
        some = [
            record(int(draw.integers(n + 1)), n, **{c: int(draw.integers(1, 6)) for c in columns})
            for _ in range(draw.integers(1, 8))
        ]
        archive = Archive(objectives, y)
        archive.tell(some)
        costs = {c: int(draw.integers(1, 6)) for c in columns}
        found = archive.allowance([Record(point=POINT, **costs)])
        others = [tuple(getattr(r, o) for o in objectives) for r in some]
        beaten = [
            w for w in range(n + 1) if dominated(tuple(getattr(record(w, n, **costs), o) for o in objectives), others)
        ]
        assert found == (min(beaten) if beaten else None), (objectives, costs, others)
        assert beaten == list(range(beaten[0], n + 1)) if beaten else True


def test_infeasible_failed_and_stopped_points_rule_nothing_out():
    archive = Archive(("error", "macs"), np.zeros(10, np.int64))
    useless = [
        Record(point=POINT, accuracy=1.0, error=0.0, macs=1, violations={"x": 1.0}),
        Record(point=POINT, failure="x"),
        Record(point=POINT, accuracy=1.0, error=0.0, macs=1, stopped=5),
    ]
    archive.tell(useless)
    assert archive.allowance([Record(point=POINT, macs=9)]) is None
    archive.tell([*useless, record(2, 10, macs=4)])
    assert archive.allowance([Record(point=POINT, macs=9)]) == 2
    assert archive.allowance([Record(point=POINT, macs=4)]) == 3
    assert archive.allowance([Record(point=POINT, macs=9), Record(point=POINT, macs=3)]) is None
    assert archive.allowance([Record(point=POINT)]) is None  # its MACs are unknown


@pytest.mark.parametrize("quantised", [False, True])
def test_outputs_in_parts_are_those_of_the_whole(quantised):
    data = dn.datasets.shapes(800, size=8, classes=4, rng=0)
    net = dn.nets.resnet20(data, width=8, divisor=4, points=(0.5, 1.0), rng=0)
    net.recalibrate(data.calibration.x)
    net = dn.quantize(net, data) if quantised else net
    split = dn.Split(data.train.x[:300], data.train.y[:300])
    for point in net.points.values():
        outputs, wrong = outputs_until(net, point, split, 301)
        np.testing.assert_array_equal(outputs, net._outputs(split.x, point))
        assert wrong == np.count_nonzero(net.predict(split.x, point) != split.y)
        some, wrong = outputs_until(net, point, split, 1)
        assert len(some) == STEP and wrong >= 1
