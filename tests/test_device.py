import json

import numpy as np
import pytest
from fakes import fake_network

import dynadnn as dn
from dynadnn import _container, _device, _documents, _machine
from dynadnn._identity import network_hash, structure_hash

pytestmark = pytest.mark.usefixtures("quick_profiles")


@pytest.fixture
def net():
    return fake_network()


@pytest.fixture
def elsewhere(monkeypatch):
    """Call it to find oneself on another CPU."""
    return lambda: [monkeypatch.setattr(m, "cpu_name", lambda: "another CPU") for m in (_device, _machine)]


def test_a_point_is_measured_once_and_kept(net, monkeypatch):
    device = dn.Device()
    first = device.latency(net, 0.5)
    assert first > 0 and len(device) == 2  # the widest is measured along
    monkeypatch.setattr(device, "_measure", lambda *a: pytest.fail("measured again"))
    assert device.latency(net, "0.5") == device.latency(net, net.subnet(0.5)) == first


def test_latency_grows_with_the_width(net):
    device = dn.profile_device(net, threads=1)
    assert len(device) == 3
    assert device.latency(net, 0.25) < device.latency(net, 0.5) < device.latency(net, 1.0)


def test_points_without_statistics_are_measured_without_changing_the_network(net):
    point = net.subnet(0.75)
    assert dn.Device().latency(net, point) > 0
    assert point not in net.tables


def test_the_table_does_not_depend_on_the_weights_but_on_the_structure(net):
    other = fake_network(rng=1)
    assert structure_hash(net) == structure_hash(other) != structure_hash(fake_network(width=16))
    assert network_hash(net) != network_hash(other)
    device = dn.Device.from_table(net, {0.5: 1.25})
    assert device.latency(other, 0.5) == 1.25


def test_threads_are_kept_apart(net):
    device = dn.profile_device(net, threads=3, model=False)
    assert sorted(set(device.table()["threads"])) == [1, 2, 3] and len(device) == 9


def test_times_are_scaled_to_what_the_widest_point_took_at_first(net, monkeypatch):
    device, paces = dn.Device(), iter((1.0, 2.0))

    def times(calls, **options):
        pace = next(paces)  # the second time, the machine runs at half speed
        return np.array([[4.0 * pace] * 5] + [[3.0 * pace] * 5] * (len(calls) - 1)), np.ones(len(calls), int)

    monkeypatch.setattr(_device, "samples", times)
    assert [device.latency(net, p) for p in (0.5, 0.25, 1.0)] == [3.0, 3.0, 4.0]


def test_a_device_survives_saving_and_loading(net, tmp_path):
    device = dn.profile_device(net, threads=1, path=tmp_path / "d.json")
    loaded = dn.Device.load(tmp_path / "d.json")
    assert loaded.table().rows == device.table().rows
    assert loaded.machine == device.machine and loaded.is_here
    assert device.machine.cores >= 1 and device.machine.versions["numpy"] == np.__version__ and device.machine.date


def test_profiling_goes_on_from_its_file(net, tmp_path, monkeypatch):
    path = tmp_path / "d.json"
    dn.profile_device(net, threads=1, path=path)
    monkeypatch.setattr(dn.Device, "_measure", lambda *a: pytest.fail("measured again"))
    assert len(dn.profile_device(net, threads=1, path=path)) == 3


def test_on_another_cpu_kept_figures_are_used_and_nothing_is_measured(net, tmp_path, elsewhere):
    path = tmp_path / "d.json"
    device = dn.profile_device(net, threads=1, path=path, model=False)
    elsewhere()
    loaded = dn.Device.load(path)
    assert not loaded.is_here
    assert loaded.latency(net, 0.5) == device.latency(net, 0.5)
    with pytest.raises(dn.PointError, match="another CPU"):
        loaded.latency(net, 0.75)
    with pytest.raises(ValueError, match="another CPU"):
        loaded.check(net)
    with pytest.raises(ValueError, match="give another path"):
        dn.profile_device(net, threads=1, path=path)


def test_a_model_of_speed_needs_no_measurement(net):
    device = dn.Device.from_speed(gmacs=10, bytes_per_s=1e9)
    expected = net.macs(0.5) / 10e6 + net.bytes(0.5) / 1e6
    assert device.latency(net, 0.5) == pytest.approx(expected)
    assert not device.is_here
    with pytest.raises(ValueError, match="above 0"):
        dn.Device.from_speed(0, 1)


def test_a_given_table_refuses_figures_that_are_no_latencies(net):
    with pytest.raises(ValueError, match="finite number of milliseconds"):
        dn.Device.from_table(net, {0.5: float("nan")})


def test_energy_is_labelled_unavailable(net):
    energy = dn.Device.from_speed(1, 1).energy(net, 0.5)
    assert energy.mj is None and energy.label == "unavailable"


def test_kept_figures_can_be_checked(net):
    device = dn.profile_device(net, threads=1)
    table = device.check(net, n=2, rounds=2)
    assert len(table) == 2 and all(abs(e) < 10 for e in table["relative_error"])
    assert len(dn.Device().check(net)) == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t[: len(t) // 2],
        lambda t: t.replace('"latency_ms": ', '"latency_ms": 1'),
        lambda t: t.replace("dynadnn-device", "dynadnn-front"),
        lambda t: "[" * 100_000,
        lambda t: "",
        lambda t: "[]",
        lambda t: "\udcff",
    ],
)
def test_a_damaged_file_is_refused(net, tmp_path, damage):
    path = tmp_path / "d.json"
    dn.profile_device(net, threads=1, path=path, model=False)
    path.write_text(damage(path.read_text()), errors="surrogateescape")
    with pytest.raises(dn.FormatError, match=r"d\.json"):
        dn.Device.load(path)


def test_a_newer_file_says_so(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({"format": "dynadnn-device", "version": 99}))
    with pytest.raises(dn.FormatError, match="upgrade"):
        dn.Device.load(tmp_path / "d.json")


def test_a_well_formed_file_of_wrong_types_is_refused(tmp_path):
    _documents.save_document(tmp_path / "d.json", "dynadnn-device", 1, {"machine": 3})
    with pytest.raises(dn.FormatError, match="not a dynadnn-device file"):
        dn.Device.load(tmp_path / "d.json")


def test_a_failed_save_leaves_the_old_file(net, tmp_path, monkeypatch):
    path = tmp_path / "d.json"
    dn.profile_device(net, threads=1, path=path, model=False)
    before = path.read_bytes()

    def full(*_):
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as m:
            m.setattr(_container.os, name, full)
            with pytest.raises(OSError, match="disk full"):
                dn.Device().save(path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["d.json"]
