"""What `explore` refuses, and what a checkpoint of it notices."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from fakes import fake_data, fake_network, search

import dynadnn as dn
from dynadnn import _evaluate
from dynadnn._goals import mark_of
from dynadnn._machine import cpu_name


@pytest.fixture(scope="module")
def data():
    return fake_data()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"constraints": "speed <= 1"}, "about 'speed'; there are error, accuracy"),
        ({"objectives": ("acuracy", "bytes")}, "no objective 'acuracy'"),
        ({"objectives": ("error", "error")}, "a name twice: error, error"),
        ({"objectives": (dn.Objective("error", lambda *a: 3.0), "bytes")}, "own objective is called 'error'"),
        ({"objectives": ("error", *[dn.Objective("a", lambda *a: 3.0)] * 2)}, "a name twice: error, a, a"),
        ({"objectives": ("error", "energy_mj")}, "energy_mj is not to be had here"),
        ({"constraints": "energy_mj <= 1"}, "energy_mj is not to be had here"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_evaluated(data, options, message, monkeypatch):
    monkeypatch.setattr(_evaluate, "accuracy_record", None)
    with pytest.raises(ValueError, match=message):
        search(fake_network(), data, **options)


@pytest.mark.parametrize("options", [{"device": "device.json"}, {"space": {"threads": (1,)}}])
def test_a_device_or_space_of_another_type_is_refused(data, options):
    with pytest.raises(TypeError, match="must be a dn"):
        search(fake_network(), data, **options)


def test_a_constraint_may_be_about_a_metric_that_is_no_objective(data):
    front = search(fake_network(), data, constraints="calibration_error >= 0.45", generations=2)
    missed = [r for r in front.evaluated if r.judged and r.values["calibration_error"] < 0.45]
    assert missed and all(r.violations for r in missed) and all(r.feasible for r in front.records)


def test_two_constraints_of_the_same_name_both_hold(data):
    with pytest.raises(dn.PointError, match=r"<lambda>' is 1, which is above 0"):
        search(fake_network(), data, constraints=[lambda r: 1.0, lambda r: -1.0], generations=1)


def test_own_constraints_are_not_asked_about_candidates_that_were_stopped(data):
    options = dict(population=16, generations=10, budget=120, constraints=[lambda r: r.loss - 0.9, "loss <= 0.9"])
    front = search(fake_network(), data, **options)
    assert any(r.stopped is not None for r in front.evaluated)
    assert all(r.failure is None for r in front.evaluated)


def test_the_exception_that_ends_a_search_holds_what_was_evaluated(data):
    def interrupt(state):
        if state.generation == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt) as caught:
        search(fake_network(), data, termination=interrupt)
    assert len(caught.value.evaluated) >= 24
    with pytest.raises(dn.PointError) as caught:
        search(fake_network(), data, constraints="bytes <= 1", generations=1)
    assert len(caught.value.evaluated) >= 12


class Cap:
    def __init__(self, most):
        self.most = most

    def __call__(self, record):
        return record.macs - self.most


def cap(most):
    return lambda record: record.macs - most


@pytest.mark.parametrize(
    "other", [{"constraints": cap(2e6)}, {"objectives": ("error", dn.Objective("a", lambda *_: 2))}]
)
def test_a_checkpoint_knows_functions_by_what_they_do(data, tmp_path, other):
    first = (
        {"constraints": cap(5e6)}
        if "constraints" in other
        else {"objectives": ("error", dn.Objective("a", lambda *_: 1))}
    )
    search(fake_network(), data, checkpoint=tmp_path / "s", generations=1, **first)
    search(fake_network(), data, checkpoint=tmp_path / "s", generations=2, **first)
    with pytest.raises(ValueError, match="is of another search"):
        search(fake_network(), data, checkpoint=tmp_path / "s", **other)


def test_functions_have_the_same_mark_in_every_process():
    text = "from test_explore_checks import Cap, cap; from dynadnn._goals import as_constraint as a; "
    text += "print([(c.text, c.mark) for c in (a(Cap(1)), a(cap(2)), a(print))])"
    command = [sys.executable, "-c", text]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    runs = [
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in "12"
    ]
    assert runs[0].stdout == runs[1].stdout and "Cap" in runs[0].stdout
    assert mark_of(Cap(1)) == mark_of(Cap(1)) != mark_of(Cap(2))
    assert mark_of(partial(max, 1)) != mark_of(partial(max, 2))


def test_a_flipped_bit_in_a_checkpoint_is_noticed(data, tmp_path):
    search(fake_network(), data, checkpoint=tmp_path / "s", generations=1)
    raw = (tmp_path / "s").read_bytes()
    start = raw.index(b"\n") + 1
    for at in range(start, raw.index(b"\n", start)):
        (tmp_path / "s").write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(dn.FormatError, match="line 2, is damaged"):
            search(fake_network(), data, checkpoint=tmp_path / "s", generations=1)


@pytest.mark.parametrize("length", [0, 5, 40])
def test_a_search_killed_in_its_first_line_begins_again(data, tmp_path, length):
    whole = search(fake_network(), data, checkpoint=tmp_path / "s", generations=1, rng=None)
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:length])
    again = search(fake_network(), data, checkpoint=tmp_path / "s", generations=1, rng=whole.seed)
    assert [r.point for r in again.evaluated] == [r.point for r in whole.evaluated]
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:length])
    assert len(search(fake_network(), data, checkpoint=tmp_path / "s", generations=1, rng=None)) > 0


def test_two_searches_do_not_write_one_checkpoint(data, tmp_path):
    path = tmp_path / "s"
    search(fake_network(), data, checkpoint=path, generations=1)
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        with pytest.raises(RuntimeError, match="belongs to a search that is running"):
            search(fake_network(), data, checkpoint=path)
        other.communicate("\n")
    search(fake_network(), data, checkpoint=path)


def table(scale):
    net = fake_network()
    points = {name: scale * net.macs(name) / 1e6 for name in net.points}
    return dn.Device.from_table(net, points, cpu=cpu_name())


NAMED = dict(space=dn.Space(widths=(0.25, 0.5, 1.0), uniform=True))


def test_an_interrupt_while_the_front_is_measured_again_loses_nothing(data, monkeypatch):
    monkeypatch.setattr(dn.Front, "remeasure", lambda front: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt) as caught:
        search(fake_network(), data, device=table(1), **NAMED)
    assert len(caught.value.evaluated) == 3


def test_other_latencies_than_those_of_a_checkpoint_are_refused(data, tmp_path):
    options = dict(NAMED, checkpoint=tmp_path / "s")
    search(fake_network(), data, device=table(1), **options)
    with pytest.raises(ValueError, match=r"ms for 0\.25 and the device"):
        search(fake_network(), data, device=table(100), **options)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_time_limit_below_zero_is_refused(data, seconds):
    with pytest.raises(ValueError, match="max_seconds must be None or at least 0"):
        search(fake_network(), data, max_seconds=seconds)


def test_a_front_without_its_network_says_that_it_cannot_be_measured(data, tmp_path):
    search(fake_network(), data, generations=1).save(tmp_path / "front.json")
    with pytest.raises(ValueError, match="has no network to measure"):
        dn.Front.load(tmp_path / "front.json").remeasure()


def test_fronts_to_plot_need_names(data):
    front = search(fake_network(), data, generations=1)
    with pytest.raises(TypeError, match="a dict from names to fronts, not a list"):
        dn.plot_fronts([front, front])
