import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import SPEED, fake_data, fake_network, search

import dynadnn as dn
from dynadnn import _course, _evaluate
from dynadnn._device import engine_calls
from dynadnn._goals import as_constraint
from dynadnn._space import Genes
from dynadnn._timing import nondominated


@pytest.fixture(scope="module")
def data():
    return fake_data()


@pytest.fixture(scope="module")
def front(data):
    return search(fake_network(), data)


def outcome(front):
    return [(r.point, r.threads, r.accuracy, r.latency_ms) for r in front.records]


def test_no_point_of_a_front_beats_another(front):
    costs = np.array([(r.error, r.latency_ms) for r in front.records])
    assert len(front) > 3 and nondominated(costs).all()
    everything = np.array([(r.error, r.latency_ms) for r in front.evaluated])
    assert all((np.any(c < everything, axis=1) | np.all(c <= everything, axis=1)).all() for c in costs)


def test_named_points_are_evaluated_and_keep_their_names(front):
    assert [r.name for r in front.evaluated if r.name] == ["0.25", "0.5", "1.0"]


def test_sub_nets_are_not_uniform_unless_asked_for(front, data):
    def fractions(f):
        return [{w / s.full for w, s in zip(r.point.widths, f.network.spaces, strict=True)} for r in f.evaluated]

    assert any(len(shares) > 1 for shares in fractions(front))
    uniform = search(fake_network(), data, space=dn.Space(uniform=True, widths=(0.25, 0.5, 0.75, 1.0)))
    assert all(len(shares) == 1 for shares in fractions(uniform)) and len(uniform.evaluated) == 4


def test_nothing_is_evaluated_twice(data, monkeypatch):
    seen, judge = [], _evaluate.accuracy_record
    monkeypatch.setattr(_evaluate, "accuracy_record", lambda n, s, *a, **k: seen.append(s) or judge(n, s, *a, **k))
    front = search(fake_network(), data)
    assert len(seen) == len(set(seen)) == len(front.evaluated)


def test_the_budget_is_the_most_evaluations(front, data):
    assert len(front.evaluated) <= 60
    assert len(search(fake_network(), data, budget=5).evaluated) == 5


def test_the_network_is_not_changed_and_the_fronts_has_statistics(front, data):
    net = fake_network()
    tables, points = dict(net.tables), dict(net.points)
    made = search(net, data)
    assert dict(net.tables) == tables and dict(net.points) == points
    assert all(r.point in made.network.tables for r in made.records)


def test_the_same_seed_gives_the_same_front(front, data):
    assert outcome(search(fake_network(), data)) == outcome(front)


def test_another_seed_evaluates_other_points(front, data):
    other = search(fake_network(), data, rng=1)
    assert {r.point for r in other.evaluated} != {r.point for r in front.evaluated}


def test_workers_do_not_change_the_front(front, data):
    with ThreadPoolExecutor(3) as executor:
        assert outcome(search(fake_network(), data, executor=executor)) == outcome(front)


def test_a_seed_that_was_not_given_is_recorded(data):
    first = search(fake_network(), data, rng=None)
    assert outcome(search(fake_network(), data, rng=first.seed)) == outcome(first)


def test_constraints_hold_on_the_front(front, data):
    limited = search(fake_network(), data, constraints=("latency_ms <= 0.5", "accuracy >= 0.8"))
    assert all(r.latency_ms <= 0.5 and r.accuracy >= 0.8 for r in limited.records)
    assert any(r.violations for r in limited.evaluated)


def test_own_constraints_are_functions_of_a_record(data):
    limited = search(fake_network(), data, constraints=lambda r: r.macs - 5e6)
    assert all(r.macs <= 5e6 for r in limited.records)


def test_without_a_feasible_point_the_error_says_how_far_the_nearest_is(data):
    with pytest.raises(dn.PointError, match=r"none of \d+ points meets.*'latency_ms <= 0\.001' is missed by \d+"):
        search(fake_network(), data, constraints="latency_ms <= 0.001", generations=2)


@pytest.mark.parametrize("text", ["latency_ms", "latency_ms << 5", "__import__('os')", "latency_ms <= five", 3])
def test_a_constraint_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="constraint"):
        as_constraint(text)


@pytest.mark.parametrize("how", ["error", "nan"])
def test_a_failed_evaluation_is_a_record_and_the_search_goes_on(data, how):
    net = fake_network()
    net.breaks = how
    front = search(net, data)
    failed = [r for r in front.evaluated if r.failure]
    assert failed and all(r.point.widths[0] == 8 for r in failed)
    assert ("Traceback" in failed[0].failure) == (how == "error")
    assert all(r.failure is None for r in front.records)


def test_if_every_evaluation_fails_the_error_says_why(data):
    net = fake_network()
    net.breaks = "error"
    with pytest.raises(dn.PointError, match=r"all 1 evaluations failed.*a narrow first layer"):
        search(net, data, space=dn.Space(widths=(0.25,)), init=())


def test_an_own_objective_is_minimised_or_maximised(data):
    few = dn.Objective("channels", lambda net, point, split: sum(point.widths))
    front = search(fake_network(), data, objectives=("error", few))
    assert all(r.values["channels"] == sum(r.point.widths) for r in front.records)
    most = search(fake_network(), data, objectives=(dn.Objective("c", lambda n, p, s: sum(p.widths), maximize=True),))
    assert most.records[0].point == fake_network().subnet(1.0)


def test_a_metric_can_be_an_objective(data):
    front = search(fake_network(), data, objectives=("calibration_error", "bytes"), generations=1)
    assert front.objectives == ("calibration_error", "bytes") and front.records[0].values["calibration_error"] < 0.5


def test_three_objectives_work(data):
    front = search(fake_network(), data, objectives=("error", "latency_ms", "bytes"), generations=2)
    costs = np.array([(r.error, r.latency_ms, r.bytes) for r in front.records])
    assert len(front) > 1 and nondominated(costs).all()


def test_accuracy_as_an_objective_is_maximised(data):
    front = search(fake_network(), data, objectives=("accuracy", "macs"))
    assert max(r.accuracy for r in front.records) == max(r.accuracy for r in front.evaluated)


def test_threads_can_be_varied(data):
    front = search(fake_network(), data, space=dn.Space(widths=(0.5, 1.0), uniform=True, threads=(1, 2)))
    assert {r.threads for r in front.evaluated} == {1, 2}
    assert "2 threads" in max(front.evaluated, key=lambda r: r.threads).label


def test_a_killed_search_goes_on_to_the_same_front(front, data, tmp_path, monkeypatch):
    path = tmp_path / "search.jsonl"
    net, calls, judge = fake_network(), [], _evaluate.accuracy_record

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return judge(*args, **kwargs)

    with monkeypatch.context() as m:
        m.setattr(_evaluate, "accuracy_record", dies)
        with pytest.raises(KeyboardInterrupt):
            search(net, data, checkpoint=path)
    with open(path, "ab") as file:
        file.write(b'{"point": {"wid')  # killed while it wrote
    calls.clear()
    monkeypatch.setattr(_evaluate, "accuracy_record", lambda *a, **k: calls.append(1) or judge(*a, **k))
    resumed = search(net, data, checkpoint=path, rng=None)
    assert outcome(resumed) == outcome(front)
    assert len(calls) == len(front.evaluated) - 19  # nothing twice
    assert all(r.point in resumed.network.tables for r in resumed.records)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 1 + len(front.evaluated) and all(json.loads(line) for line in lines)


def test_a_finished_search_answers_from_its_checkpoint(front, data, tmp_path, monkeypatch):
    net = fake_network()
    search(net, data, checkpoint=tmp_path / "s.jsonl")
    monkeypatch.setattr(_evaluate, "accuracy_record", lambda *a, **k: pytest.fail("evaluated again"))
    assert outcome(search(net, data, checkpoint=tmp_path / "s.jsonl")) == outcome(front)


def test_a_checkpoint_of_another_search_is_refused_with_the_differences(data, tmp_path):
    path = tmp_path / "s.jsonl"
    search(fake_network(), data, checkpoint=path, budget=3)
    with pytest.raises(ValueError, match="population: 12 there, 16 here"):
        search(fake_network(), data, checkpoint=path, population=16)
    assert len(search(fake_network(), data, checkpoint=path, population=16, resume=False, budget=3).evaluated) == 3


@pytest.mark.parametrize(
    "text", ["", "{}\n", "nothing\n", '{"format": "dynadnn-search", "version": 9, "options": {}}\n']
)
def test_a_file_that_is_no_checkpoint_is_refused(data, tmp_path, text):
    path = tmp_path / "s.jsonl"
    path.write_text(text)
    if text:
        with pytest.raises(dn.FormatError, match=r"s\.jsonl"):
            search(fake_network(), data, checkpoint=path)
    else:
        assert search(fake_network(), data, checkpoint=path, budget=3)


def test_a_damaged_line_is_named(data, tmp_path):
    path = tmp_path / "s.jsonl"
    search(fake_network(), data, checkpoint=path, budget=3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{}\n" + lines[1])
    with pytest.raises(dn.FormatError, match="line 2"):
        search(fake_network(), data, checkpoint=path)


def test_a_search_ends_when_it_gains_nothing_more(data):
    front = search(fake_network(), data, generations=50, budget=None, space=dn.Space(widths=(0.5, 1.0), uniform=True))
    assert len(front.evaluated) == 3
    assert _course._ended("stalled", [0, 1, 1.5, 2, 2, 2, 2, 2, 2], 9, 1, 0)
    assert not _course._ended("stalled", [0, 1, 1.5, 2, 2, 2, 2, 2, 2.1], 9, 1, 0)
    assert not _course._ended("stalled", [0.0] * 9, 9, 1, 0)


def test_termination_can_be_a_number_or_a_function(data):
    states = []
    search(fake_network(), data, termination=lambda s: states.append(s) or s.generation == 2, budget=None)
    assert [s.generation for s in states] == [1, 2] and states[1].evaluations > states[0].evaluations
    assert len(search(fake_network(), data, termination=1, budget=None).evaluated) <= 15
    with pytest.raises(ValueError, match="termination"):
        search(fake_network(), data, termination="soon")


def test_no_evaluation_starts_after_max_seconds(data):
    front = search(fake_network(), data, max_seconds=1e9, generations=2)
    assert len(front) > 0
    with pytest.raises(dn.PointError, match="nothing was evaluated"):
        search(fake_network(), data, max_seconds=0)


def test_measuring_all_latencies_does_not_use_up_the_time_for_evaluating_any(data, monkeypatch):
    now, latencies = [0.0], dn.Device.latencies

    def slow(device, net, points, *args, **options):
        now[0] += len(points)
        return latencies(device, net, points, *args, **options)

    monkeypatch.setattr(dn.Device, "latencies", slow)
    monkeypatch.setattr(_course.time, "monotonic", lambda: now[0])
    assert len(search(fake_network(), data, population=20, max_seconds=12).evaluated) == 8


def test_points_are_measured_again_after_a_search_on_this_cpu(data):
    front = search(fake_network(), data, device=None, budget=8)
    assert all(r.latency_ms > 0 and r.latency_ms_measured > 0 and r.runs for r in front.records)
    assert all(r.latency_ms_measured for r in front.evaluated if r.name)


def test_a_device_of_another_cpu_measures_nothing_and_the_front_says_so(front):
    assert all(r.latency_ms_measured is None for r in front.records)
    assert "model of" in front.machine.cpu and "not measured here" in str(front)


def test_points_that_a_foreign_table_lacks_are_failures(data):
    net = fake_network()
    device = dn.Device.from_table(net, {p: i + 1.0 for i, p in enumerate(net.points)})
    front = search(net, data, device=device, space=dn.Space(widths=(0.25, 0.5, 0.75, 1.0), uniform=True))
    assert {r.name for r in front.records} == {"0.25", "0.5", "1.0"}
    assert sum(r.failure is not None for r in front.evaluated) == 1


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (dict(widths=()), "empty"),
        (dict(widths=(2.0,)), "fractions"),
        (dict(threads=(0,)), "threads"),
        (dict(bits="some"), "per layer"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        dn.Space(**space)


def test_bits_of_a_float_network_are_refused(data):
    with pytest.raises(dn.PointError, match="not quantised"):
        search(fake_network(), data, space=dn.Space(bits=(8, 4)))


def test_genes_and_sub_nets_correspond():
    net = fake_network()
    genes = Genes(net, dn.Space(depth=True, threads=(1, 2)))
    draw = np.random.default_rng(0)
    assert len(genes.lower) == len(net.spaces) + 1 + len(net.stages) + 1
    for _ in range(50):
        row = draw.integers(genes.lower, genes.upper + 1).astype(float)
        np.testing.assert_array_equal(genes.encode(*genes.decode(row)), row)
    for bound, width in ((genes.lower, 8), (genes.upper, 32)):
        assert genes.decode(bound)[0].widths[0] == width
    assert genes.encode(net.subnet(0.5), 4) is None


def test_objectives_must_be_names_or_objectives(data):
    for wrong, error in (((), ValueError), ((3,), TypeError)):
        with pytest.raises(error, match="objective"):
            search(fake_network(), data, objectives=wrong)
    with pytest.raises(TypeError, match="needs a function"):
        dn.Objective("x", 3)


def test_data_without_validation_images_is_refused(data):
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"data\.val is empty"):
        search(fake_network(), replace(data, val=data.val.take(np.arange(0))))


@pytest.fixture(scope="module")
def real():
    data = dn.datasets.shapes(300, size=8, classes=4, rng=0)
    net = dn.nets.resnet20(data, width=8, divisor=4, points=(0.5, 1.0), rng=0)
    net.recalibrate(data.calibration.x)
    return dn.quantize(net, data, bits=(8, 4)), data


def test_a_quantised_network_is_searched_and_shipped(real, tmp_path):
    net, data = real
    front = search(net, data, device=None, population=8, budget=16)
    assert {b for r in front.evaluated for b in r.point.bits} == {8, 4}
    assert all(r.latency_ms_measured > 0 for r in front.records)
    front.network.save(tmp_path / "m.safetensors")
    front.save(tmp_path / "f.json")
    loaded = dn.load(tmp_path / "m.safetensors")
    again = dn.Front.load(tmp_path / "f.json", loaded)
    engine = loaded.compile()
    for record in again.records:
        engine.select(record)
        expected = front.network(data.test.x[:3], record)
        np.testing.assert_array_equal(engine(data.test.x[:3]), expected)
        assert loaded.evaluate(data.val, record)["accuracy"] == record.accuracy


def test_bits_can_be_searched_per_layer(real):
    net, data = real
    genes = Genes(net, dn.Space(widths=(1.0,), bits="per layer"))
    assert len(genes.lower) == len(net.spaces) + len(net.layers) + 1
    subnet, _ = genes.decode(genes.lower)
    assert set(subnet.bits) == {4} and genes.encode(subnet, 1) is not None
    front = search(net, data, space=dn.Space(bits="per layer"), population=8, budget=10, objectives=("error", "bytes"))
    assert any(len(set(r.point.bits)) == 2 for r in front.evaluated)


def test_bits_that_are_not_offered_are_refused(real):
    with pytest.raises(dn.PointError, match=r"space\.bits holds 2; the network offers \(8, 4\)"):
        search(*real, space=dn.Space(bits=(8, 2)))


def test_latency_does_not_contain_the_binding_of_unnamed_points(real):
    net, _ = real
    names = [net.subnet(widths=[4] * len(net.spaces)), *(net.subnet(bits=b) for b in (8, 4)), *net.points.values()]
    calls = engine_calls(net, names, 1)
    bound = [call.func.points[call.args[1]] for call in calls]
    for call in calls:
        call()
    assert [call.func.points[call.args[1]] for call in calls] == bound


def test_a_search_says_why_it_ended(data, tmp_path):
    assert search(fake_network(), data, budget=5).ended == "budget: 5 points are evaluated"
    assert search(fake_network(), data, generations=2).ended == "generations: all 2 are done"
    assert search(fake_network(), data, termination=1).ended == "termination: 1 generations are done"
    small = search(fake_network(), data, generations=50, budget=None, space=dn.Space(widths=(0.5, 1.0), uniform=True))
    assert small.ended == "stalled: the hypervolume gained less than 0.1% in 5 generations"
    small.save(tmp_path / "f.json")
    assert dn.Front.load(tmp_path / "f.json").ended == small.ended


def test_the_best_so_far_of_a_checkpoint_needs_no_evaluation(data, tmp_path, monkeypatch):
    path = tmp_path / "s.jsonl"
    search(fake_network(), data, checkpoint=path, budget=30)
    monkeypatch.setattr(_evaluate, "accuracy_record", lambda *a, **k: pytest.fail("evaluated"))
    front = search(fake_network(), data, checkpoint=path, budget=60, max_seconds=0)
    assert outcome(front) == outcome(search(fake_network(), data, checkpoint=path, budget=30))
    assert front.ended == "max_seconds: 0 s are over"


def test_measured_latencies_are_kept_beside_the_checkpoint(data, tmp_path, monkeypatch):
    path, options = tmp_path / "s.jsonl", dict(device=None, population=4, generations=2, budget=None)
    first = search(fake_network(), data, checkpoint=path, **options)
    with open(path, "rb") as file:
        lines = file.readlines()
    path.write_bytes(b"".join(lines[:4]))  # what was measured is known, what was evaluated is lost
    monkeypatch.setattr(dn.Device, "_measure", lambda *a: pytest.fail("measured again"))
    again = search(fake_network(), data, checkpoint=path, **options)
    assert [(r.point, r.latency_ms) for r in again.evaluated] == [(r.point, r.latency_ms) for r in first.evaluated]
    (tmp_path / "s.jsonl.device.json").write_text("{}")
    with pytest.raises(dn.FormatError, match=r"s\.jsonl\.device\.json"):
        search(fake_network(), data, checkpoint=path, **options)


def test_other_figures_under_the_name_of_a_device_are_another_search(data, tmp_path):
    def table(factor):
        net = fake_network()
        return dn.Device.from_table(net, {p: factor * (i + 1.0) for i, p in enumerate(net.points)})

    options = dict(checkpoint=tmp_path / "s.jsonl", space=dn.Space(widths=(0.25, 0.5, 1.0), uniform=True))
    search(fake_network(), data, device=table(1), **options)
    search(fake_network(), data, device=table(1), **options)
    with pytest.raises(ValueError, match="latencies: "):
        search(fake_network(), data, device=table(2), **options)


@pytest.mark.parametrize("value", [np.zeros(3), [1.0], "much", None])
def test_an_objective_that_returns_no_number_is_a_failed_evaluation(data, value):
    own = dn.Objective("own", lambda net, point, split: value)
    with pytest.raises(dn.PointError, match="all 1 evaluations failed"):
        search(fake_network(), data, objectives=("error", own), space=dn.Space(widths=(0.5,)), init=())


@pytest.mark.parametrize("population", [2, 7])
def test_a_population_that_cannot_be_leaves_no_checkpoint(data, tmp_path, population):
    with pytest.raises(ValueError, match=f"population is {population}"):
        search(fake_network(), data, population=population, checkpoint=tmp_path / "s.jsonl")
    assert not list(tmp_path.iterdir())


def test_latencies_of_a_long_search_are_modelled_at_each_number_of_threads(data, monkeypatch):
    asked = []

    def profile(net, *, threads, model):
        asked.append((tuple(threads), model))
        return dn.Device.from_speed(**SPEED)

    monkeypatch.setattr("dynadnn._explore.profile_device", profile)
    space = dn.Space(threads=(1, 2))
    search(fake_network(), data, device=None, space=space, generations=1, budget=1)
    with pytest.raises(dn.PointError, match="nothing was evaluated"):
        search(fake_network(), data, device=None, space=space, population=240, budget=None, max_seconds=0)
    assert asked == [((1, 2), False), ((1, 2), True)]
