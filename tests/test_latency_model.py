"""The latency model on a machine that is a formula: its clock drifts, and a layer takes what its products take."""

import json

import numpy as np
import pytest
from fakes import fake_network

import dynadnn as dn
from dynadnn import _design, _device, _documents, _machine, _profile_device
from dynadnn._design import design_subnets, draw_subnets, facts_of
from dynadnn._device_check import errors
from dynadnn._identity import point_document
from dynadnn._latency_model import LatencyModel, Profile, Sample, in_state
from dynadnn._points import Subnet
from dynadnn._profile_device import continue_profile, measure_unseen


class FormulaBench:
    """Layers take 5 µs and 0.1 ns per product of whole panels; the machine gets slower call by call."""

    calls, drift, fails_at = 0, 1e-4, None
    busy = 1.0  # what the 5 µs are multiplied with: others on the machine slow small layers down most

    def __init__(self, net, threads):
        self._net, self._threads, self._times, self._fixed, self.nodes = net, threads, [], [], []

    def add(self, subnet):
        facts = facts_of(self._net, [subnet])
        outputs = facts.outputs[0]
        macs = facts.macs[0] * (np.ceil(outputs / 16) * 16 / outputs)
        layers = [k for k in self._net._rules._layers if facts.macs[0, k] > 0]
        self._times.append((5e-3 + macs[layers] * 1e-7) / self._threads)
        self._fixed.append(len(layers) * 5e-3 / self._threads)
        self.nodes.append(tuple(layers))
        return len(self.nodes) - 1

    def _pace(self):
        FormulaBench.calls += 1
        if FormulaBench.calls == FormulaBench.fails_at:
            raise KeyboardInterrupt
        return 1 + FormulaBench.drift * FormulaBench.calls

    def whole(self, number, repeats):
        return (0.01 + self._times[number].sum() + (self.busy - 1) * self._fixed[number]) * self._pace()

    def layers(self, number, repeats):
        return self._times[number] * self._pace()


@pytest.fixture
def formula(monkeypatch, quick_profiles):
    monkeypatch.setattr(_design, "MOST", 60)
    monkeypatch.setattr(_profile_device, "Bench", FormulaBench)
    monkeypatch.setattr(dn.Device, "_measure", lambda *a: pytest.fail("measured by itself"))
    for name, value in (("calls", 0), ("drift", 1e-4), ("fails_at", None), ("busy", 1.0)):
        monkeypatch.setattr(FormulaBench, name, value)
    machine = _machine.Machine(_machine.cpu_name(), date="today")
    monkeypatch.setattr(_device, "this_machine", lambda: machine)
    monkeypatch.setattr(_profile_device, "this_machine", lambda: machine)
    return FormulaBench


@pytest.fixture
def net():
    return fake_network()


def true_ratio(net, subnet):
    bench = FormulaBench(net, 1)
    numbers = [bench.add(subnet), bench.add(net._find(None))]
    sums = [0.01 + bench._times[i].sum() for i in numbers]
    return sums[0] / sums[1]


def profiled(net, threads=1):
    """A device whose probe was given, with a model."""
    device = dn.Device.from_table(net, {"1.0": 2.0}, threads=threads, cpu=_machine.cpu_name())
    device._predictions.profile(net, _device.structure_hash(net), threads, lambda: None)
    return device


def test_every_layer_meets_every_width_of_its_inputs_and_outputs(net):
    subnets = design_subnets(net)
    facts = facts_of(net, subnets)
    assert subnets == design_subnets(net) and len(set(subnets)) == len(subnets) <= 240
    for k in net._rules._layers:
        for seen in (facts.inputs[facts.runs[:, k], k], facts.outputs[facts.runs[:, k], k]):
            full = int(seen.max())
            assert set(seen.astype(int)) >= set(range(8, full + 1, 8)) or full < 8


def test_a_quantised_network_is_met_with_all_its_bits_in_every_layer():
    data = np.random.default_rng(0).standard_normal((8, 8, 8, 1), np.float32)
    plain = dn.nets.resnet20((8, 8, 1), 4, points=(0.5, 1.0), rng=0)
    plain.recalibrate(data)
    subnets = design_subnets(dn.quantize(plain, data, bits=(8, 4)))
    assert all({s.bits[k] for s in subnets} == {8, 4} for k in range(len(plain.layers)))


def test_drawn_subnets_are_new_and_end_where_there_are_no_more():
    small = dn.nets.mlp((4,), 3, width=32, points=(1.0,), rng=0)
    first = [s for s, _ in zip(draw_subnets(small, np.random.default_rng(0)), range(3), strict=False)]
    rest = list(draw_subnets(small, np.random.default_rng(0), first))
    assert len(set(first) | set(rest)) == len(first) + len(rest)


def test_a_network_of_few_subnets_has_no_model(formula):
    small = dn.nets.mlp((4,), 3, width=8, points=(1.0,), rng=0)
    device = profiled(small)
    assert design_subnets(small) == [] and device._predictions.profiles == {}


def test_subnets_that_were_not_measured_are_predicted_although_the_clock_drifts(net, formula):
    formula.drift = 1e-3  # the machine is half as fast in the end
    device = profiled(net)
    known = {s.point.subnet() for s in next(iter(device._predictions.profiles.values())).samples}
    unseen = [s for s, _ in zip(draw_subnets(net, np.random.default_rng(7), known), range(40), strict=False)]
    found = np.array(device.latencies(net, unseen))
    wrong = np.abs(found / [2.0 * true_ratio(net, s) for s in unseen] - 1)
    assert np.median(wrong) < 0.01 and wrong.max() < 0.06
    assert any(s.depth != net._find(None).depth for s in unseen)


def test_an_estimate_says_what_was_given_measured_and_predicted(net, formula):
    device = profiled(net)
    predicted = device.estimate(net, net.subnet(0.75))
    assert predicted.label == "predicted" and predicted.ms == device.latency(net, net.subnet(0.75))
    assert 0 < predicted.error_ms < 0.2 * predicted.ms
    assert device.estimate(net, 1.0) == (2.0, "given", None)
    assert dn.Device.from_speed(1, 1).estimate(net).label == "modelled"
    row = _device.Row(_device.structure_hash(net), point_document(net._find(0.5)), 1, 1.0, 0.9, 1.2, 41)
    label, error = dn.Device(rows=[row]).estimate(net, 0.5)[1:]
    assert label == "measured" and 0 < error < 0.3
    assert device.table()["label"] == ["given"] and "latency model" in device.table().title


def test_predictions_are_kept_apart_by_threads(net, formula, monkeypatch):
    device = profiled(net, threads=2)
    assert device.latency(net, 0.5, threads=2) < 2.0
    monkeypatch.setattr(dn.Device, "_measure", lambda *a: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):  # of one thread nothing is known: it would be measured
        device.latency(net, 0.5, threads=1)


def test_a_profile_is_of_the_numbers_of_threads_that_it_is_asked_for(net, formula, monkeypatch):
    timing = _device.Timing(2.0, 2.0, 2.0, 41, 41)
    monkeypatch.setattr(dn.Device, "_measure", lambda self, net, subnets, threads: [timing] * len(subnets))
    assert sorted(t for _, t in dn.profile_device(net, threads=(3, 1))._predictions.profiles) == [1, 3]
    assert sorted(t for _, t in dn.profile_device(net, threads=3)._predictions.profiles) == [1, 2, 3]
    with pytest.raises(ValueError, match="threads"):
        dn.profile_device(net, threads=(1, 0))


def test_an_interrupted_profile_goes_on_to_the_same_file(net, formula, tmp_path, monkeypatch):
    formula.drift = 0.0
    timing = _device.Timing(2.0, 2.0, 2.0, 41, 41)
    monkeypatch.setattr(dn.Device, "_measure", lambda self, net, subnets, threads: [timing] * len(subnets))
    paths = [tmp_path / name for name in ("whole.json", "parts.json")]
    dn.profile_device(net, threads=1, path=paths[0])
    whole = formula.calls
    for fails_at in range(whole // 4, whole, whole // 4):
        formula.calls, formula.fails_at = 0, fails_at
        with pytest.raises(KeyboardInterrupt):
            dn.profile_device(net, threads=1, path=paths[1])
        half = dn.Device.load(paths[1])
        assert all(len(p.samples) % 16 == 0 and not p.complete for p in half._predictions.profiles.values())
        assert half._predictions.profiles or fails_at < whole // 3
        formula.fails_at = None
        dn.profile_device(net, threads=1, path=paths[1])
        assert paths[0].read_bytes() == paths[1].read_bytes()
        paths[1].unlink()


def test_a_profile_of_another_design_is_measured_anew(net, formula, monkeypatch):
    profile = Profile("x", 1)
    continue_profile(net, profile, lambda: None)
    first = list(profile.samples)
    profile.samples, profile.relative_error = first[:3][::-1], None
    assert continue_profile(net, profile, lambda: None) and [s.point for s in profile.samples] == [
        s.point for s in first
    ]
    assert not continue_profile(net, profile, lambda: None)


def test_conditions_of_every_part_are_recorded(net, formula, monkeypatch):
    monkeypatch.setattr(_profile_device, "celsius", lambda: 51.5)
    (profile,) = profiled(net)._predictions.profiles.values()
    assert len(profile.conditions) == -(-len(profile.samples) // 16)
    assert all(c.celsius == 51.5 and c.date == "today" and c.probe_ms > 0 for c in profile.conditions)


def test_a_file_answers_for_its_own_cpu_elsewhere_too_but_is_not_gone_on_with(net, formula, tmp_path, monkeypatch):
    device, path, point = profiled(net), tmp_path / "d.json", net.subnet(0.75)
    device.save(path)
    monkeypatch.setattr(_device, "cpu_name", lambda: "another CPU")
    loaded = dn.Device.load(path)
    assert not loaded.is_here and loaded.latency(net, point) == device.latency(net, point)
    with pytest.raises(dn.PointError, match="another CPU"):
        loaded.latency(net, point, threads=2)
    with pytest.raises(ValueError, match="another CPU"):
        loaded.check(net)
    with pytest.raises(ValueError, match="give another path"):
        dn.profile_device(net, threads=1, path=path)


def test_a_model_of_one_network_says_nothing_of_another(net, formula, monkeypatch):
    device = profiled(net)
    monkeypatch.setattr(_device, "cpu_name", lambda: "another CPU")
    with pytest.raises(dn.PointError, match="no figure"):
        device.latency(fake_network(width=16), 0.5)


def test_check_measures_unseen_subnets_and_reports_their_errors(net, formula):
    device = profiled(net)
    samples = next(iter(device._predictions.profiles.values())).samples
    table = device.check(net, n=30, rounds=2)
    assert len(table) == 30 and set(table["label"]) == {"predicted"}
    assert not {s.point.label for s in samples if s.point.depth == (3, 3, 3)} & {
        row["point"] for row in table if row["relative_error"] == 0
    }
    assert max(map(abs, table["relative_error"])) < 0.1 and table.title.startswith("30 sub-nets: median error")


def test_small_subnets_that_a_busy_machine_slows_down_most_are_checked_in_the_profiles_state(net, formula, monkeypatch):
    def median_error():
        formula.busy = 1.0
        (profile,) = profiled(net)._predictions.profiles.values()
        formula.busy = 1.5
        subnets, found = measure_unseen(net, profile, [], 40, 2, 0)
        return np.median(np.abs(found / [true_ratio(net, s) for s in subnets] - 1))

    brought = median_error()
    monkeypatch.setattr(_profile_device, "NARROW", 1.0)  # the probe alone
    assert brought < 0.03 and median_error() > 0.07


def test_a_sample_from_before_the_narrow_subnet_stays_as_it_is():
    samples = [Sample(point_document(Subnet((8,), (32,))), 0.5, (0.4,))]
    profile = Profile("x", 1, (0,), 12, 8, samples)
    assert profile.narrow == 1.0 and not profile.fault()
    assert in_state(np.array([0.5, 1.5]), np.ones(2), profile.narrow).tolist() == [0.5, 1.5]


@pytest.mark.parametrize("wrong", [{"n": 0}, {"rounds": 0}, {"n": 1.5}])
def test_check_refuses_what_is_no_number(net, formula, wrong):
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        profiled(net).check(net, **wrong)


def test_errors_rank_equal_figures_alike():
    found = errors([1.0, 2.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert found["median"] == 0 and found["spearman"] == pytest.approx(0.948683, abs=1e-6)
    assert errors([1.0, 2.0], [1.0, 2.0])["spearman"] is None


def test_the_network_need_not_have_statistics_and_keeps_none(formula):
    net = dn.nets.resnet20((8, 8, 1), 4, points=(0.5, 1.0), rng=0)
    profiled(net)
    assert not net.tables


def test_real_engines_are_timed_step_by_step(quick_profiles):
    net = dn.nets.resnet20((8, 8, 1), 4, width=8, points=(0.5, 1.0), rng=0)
    profile = Profile("x", 1)
    continue_profile(net, profile, lambda: None)
    assert profile.complete and profile.relative_error > 0
    assert all(0 < sum(s.layers) < 3 * s.whole + 1 for s in profile.samples)
    assert all(0 < ratio < 50 for ratio in LatencyModel(net, profile).predict([net.subnet(1.0), net.subnet(0.5)]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p["samples"].pop(),
        lambda p: p["samples"][0]["layers"].pop(),
        lambda p: p["samples"][0].update(whole=0.0),
        lambda p: p["samples"][0].update(whole=-1.0),
        lambda p: p["samples"][0].update(narrow=0.0),
        lambda p: p.update(size=1),
        lambda p: p["samples"][0].update(whole="1"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_or_not_used(net, formula, tmp_path, damage):
    path = tmp_path / "d.json"
    profiled(net).save(path)
    body = json.loads(path.read_text())
    damage(body["profiles"][0])
    content = {k: v for k, v in body.items() if k not in ("format", "version", "sha256")}
    _documents.save_document(path, _device.KIND, _device.VERSION, content)
    try:
        loaded = dn.Device.load(path)
    except dn.FormatError as error:
        assert "d.json" in str(error)
    else:
        assert not loaded._predictions.titles()


def test_a_file_from_before_models_still_loads(net, formula, tmp_path):
    path = tmp_path / "d.json"
    dn.Device.from_table(net, {0.5: 1.25}).save(path)
    body = json.loads(path.read_text())
    old = {k: v for k, v in body.items() if k not in ("format", "version", "sha256", "profiles")}
    _documents.save_document(path, _device.KIND, _device.VERSION, old)
    assert dn.Device.load(path).latency(net, 0.5) == 1.25


def test_temperature_is_that_of_the_cpus_zones(tmp_path, monkeypatch):
    for number, (kind, temp) in enumerate((("acpitz", "90000"), ("x86_pkg_temp", "48500"), ("cpu", "oops"))):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(kind)
        (zone / "temp").write_text(temp)
    monkeypatch.setattr(_machine, "THERMAL", tmp_path)
    assert _machine.celsius() == 48.5
    monkeypatch.setattr(_machine, "THERMAL", tmp_path / "none")
    assert _machine.celsius() is None
