"""Energy meters on fake sysfs trees: RAPL counters, INA sensors, power tables, and meters that cannot be read."""

import os
from functools import partial

import numpy as np
import pytest
from fakes import fake_data, fake_network

import dynadnn as dn
from dynadnn import _device, _energy, _measure
from dynadnn._energy import Found, Rapl, Sensors, find_meter, measure_energy
from dynadnn._timing import samples, time_calls

RANGE = 262_143_328_850


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def zone(number, name, microjoules=0, top=RANGE):
    folder = f"class/powercap/intel-rapl:{number}"
    return {f"{folder}/name": name, f"{folder}/energy_uj": microjoules, f"{folder}/max_energy_range_uj": top}


@pytest.fixture
def rapl(tmp_path):
    """A tree of one package with cores and memory, and an inference that takes 3, 2 and 1 mJ of them."""
    write(tmp_path, {**zone("0", "package-0", 5), **zone("0:0", "core", 5), **zone("0:1", "dram", RANGE - 2500)})

    def infer():
        for number, microjoules in (("0", 3000), ("0:0", 2000), ("0:1", 1000)):
            path = tmp_path / f"class/powercap/intel-rapl:{number}/energy_uj"
            path.write_text(str((int(path.read_text()) + microjoules) % (RANGE + 1)))

    return tmp_path, infer


def test_package_and_memory_are_summed_and_the_cores_shown_as_a_part(rapl):
    found = find_meter(rapl[0])
    (energy,) = measure_energy([rapl[1]], found, seconds=0.002)
    assert (
        energy.mj == pytest.approx(4) and energy.label == "measured" and energy.error_mj == pytest.approx(0, abs=1e-9)
    )
    assert energy.parts == pytest.approx({"package-0": 3, "core": 2, "dram": 1})
    assert energy.source == found.reason == "RAPL (package-0 + dram)"


def test_a_counter_that_wraps_around_goes_on(rapl):
    meter = find_meter(rapl[0]).meter
    begun = meter.begin()
    for _ in range(3):
        rapl[1]()
    assert int((rapl[0] / "class/powercap/intel-rapl:0:1/energy_uj").read_text()) < 1000
    assert meter.joules(begun) == pytest.approx({"package-0": 9e-3, "core": 6e-3, "dram": 3e-3})


def test_two_packages_are_both_counted(tmp_path):
    zones = {**zone("0", "package-0"), **zone("0:0", "dram"), **zone("1", "package-1"), **zone("1:0", "dram")}
    meter = find_meter(write(tmp_path, zones)).meter
    assert set(meter.counted) == {"package-0", "package-1", "dram", "dram-1"}


def test_the_error_bar_is_the_interval_over_the_blocks(rapl):
    path, calls = rapl[0] / "class/powercap/intel-rapl:0/energy_uj", iter(range(100))

    def uneven():  # a block is two calls, one of them to warm up: 1 mJ, 2 mJ, 1 mJ, ...
        path.write_text(str(int(path.read_text()) + 1000 * (1 + next(calls) // 2 % 2)))

    (energy,) = measure_energy([uneven], find_meter(rapl[0]), blocks=8, seconds=0)
    student = 2.364624  # 97.5 % of Student's distribution with 7 degrees of freedom
    assert energy.mj == pytest.approx(1.5)
    assert energy.error_mj == pytest.approx(student * np.std([1, 2] * 4, ddof=1) / np.sqrt(8), rel=1e-4)


def test_counters_for_root_alone_are_a_state_with_the_remedy(rapl, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(rapl[0] / "class/powercap/intel-rapl:0/energy_uj"))

    monkeypatch.setattr(Rapl, "begin", refuse)
    found = find_meter(rapl[0])
    assert found.meter is None and "energy_uj may not be read" in found.reason and "sudo chmod a+r" in found.reason
    assert measure_energy([rapl[1]], found)[0].label == "unavailable"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_a_state(rapl):
    (rapl[0] / "class/powercap/intel-rapl:0/energy_uj").chmod(0)
    assert "sudo chmod a+r" in find_meter(rapl[0]).reason


@pytest.mark.parametrize("text", ["", "no number"])
def test_damaged_counters_are_a_state(rapl, text):
    (rapl[0] / "class/powercap/intel-rapl:0/energy_uj").write_text(text)
    found = find_meter(rapl[0])
    assert found.meter is None and "RAPL: cannot be read" in found.reason


def test_a_meter_that_vanishes_while_it_measures_raises_nothing(rapl):
    def infer():
        (rapl[0] / "class/powercap/intel-rapl:0/energy_uj").unlink(missing_ok=True)

    found = find_meter(rapl[0])
    (energy,) = measure_energy([infer], found, seconds=0)
    assert energy.mj is None and energy.label == "unavailable" and "cannot be read any more" in energy.source


def test_counters_that_stand_still_are_no_measurement(rapl):
    (energy,) = measure_energy([lambda: None], find_meter(rapl[0]), seconds=0)
    assert energy.mj is None and "does not count" in energy.source


def test_a_machine_without_meters_says_so(tmp_path):
    assert find_meter(tmp_path) == Found(None, "no RAPL counters and no INA sensors on this machine")


BOARDS = {
    "hwmon power": ({"class/hwmon/hwmon0/name": "ina231", "class/hwmon/hwmon0/power1_input": 2_500_000}, 2.5),
    "hwmon volts and amperes": (
        {"class/hwmon/hwmon3/name": "ina3221", "class/hwmon/hwmon3/in1_input": 5000,
         "class/hwmon/hwmon3/in1_label": "CPU",
         "class/hwmon/hwmon3/curr1_input": 300}, 1.5,
    ),
    "another chip": ({"class/hwmon/hwmon0/name": "k10temp", "class/hwmon/hwmon0/power1_input": 1}, None),
    "Jetson Nano": (
        {f"bus/i2c/drivers/ina3221x/6-0040/iio:device0/{k}": v for k, v in (
            ("in_power0_input", 2000), ("rail_name_0", "POM_5V_IN"), ("in_power1_input", 700), ("rail_name_1", "CPU"))},
        2.0,
    ),
    "Odroid XU3": (
        {"bus/i2c/drivers/INA231/4-0040/sensor_W": 1.25, "bus/i2c/drivers/INA231/4-0040/sensor_name": "arm",
         "bus/i2c/drivers/INA231/4-0041/sensor_W": 0.5, "bus/i2c/drivers/INA231/4-0041/sensor_name": "mem"}, 1.75,
    ),
}  # fmt: skip


@pytest.mark.parametrize("board", BOARDS)
def test_sensors_of_boards_are_integrated_over_time(board, tmp_path):
    files, watts = BOARDS[board]
    meter = find_meter(write(tmp_path, files)).meter
    if watts is None:
        assert meter is None
        return
    meter._clock = iter(np.arange(0.0, 1e6, 0.5)).__next__  # every reading half a second after the last
    begun = meter.begin()
    used = meter.joules(begun)
    seconds = 0.5 * (len(begun[0]) - 1)
    assert sum(used[name] for name in meter.counted) == pytest.approx(watts * seconds)


def test_a_rising_power_is_integrated_by_trapezoids():
    powers, times = iter([1.0, 1.0, 3.0]), iter([0.0, 0.0, 2.0])
    meter = Sensors({"rail": lambda: next(powers)}, clock=lambda: next(times))
    samples = [meter._read()]
    done = type("Thread", (), {"join": lambda self: None})()
    assert meter.joules((samples, _energy.threading.Event(), done)) == {"rail": 4.0}


@pytest.fixture
def metered(rapl, monkeypatch):
    """A device on a machine whose inferences take 4 mJ."""
    found = find_meter(rapl[0])
    monkeypatch.setattr(_device, "find_meter", lambda: found)
    monkeypatch.setattr(_measure, "find_meter", lambda: found)
    quick = partial(measure_energy, seconds=0)
    few = {"rounds": 2, "block_ms": 0, "warmup_ms": 0}
    monkeypatch.setattr(_device, "samples", lambda calls, **options: samples(calls, **few))
    monkeypatch.setattr(_measure, "time_calls", lambda calls, **options: time_calls(calls, **few))
    monkeypatch.setattr(_device, "measure_energy", quick)
    monkeypatch.setattr(_measure, "measure_energy", quick)
    monkeypatch.setattr(_device, "engine_calls", lambda net, subnets, threads: [rapl[1]] * len(subnets))
    monkeypatch.setattr(_measure, "engine_calls", lambda net, subnets, threads: [rapl[1]] * len(subnets))
    return dn.Device()


def test_a_device_measures_an_energy_once_and_keeps_it(metered, tmp_path, monkeypatch):
    net = fake_network()
    energy = metered.energy(net, 0.5)
    assert energy.mj == pytest.approx(4) and energy.label == "measured" and "core" in energy.parts
    metered.save(tmp_path / "d.json")
    monkeypatch.setattr(_device, "measure_energy", lambda *a: pytest.fail("measured again"))
    assert metered.energy(net, 0.5) == dn.Device.load(tmp_path / "d.json").energy(net, 0.5) == energy
    assert "RAPL" in metered.energy_source


def test_measured_fronts_carry_energies_with_their_error_and_source(metered):
    front = dn.measure(fake_network(), fake_data().val)
    assert all(r.energy_mj == pytest.approx(4) and r.energy_label == "measured" for r in front.records)
    assert "energy mJ" in str(front) and "(measured)" in str(front)
    assert front.pick(energy_mj=5).name == "1.0"


def test_a_meter_that_fails_in_the_middle_leaves_the_power_table(metered, rapl):
    net = fake_network()
    metered.set_power({1: 2.0}, error=0.5, source="data sheet")
    assert metered.energy(net, 0.5).label == "measured"
    (rapl[0] / "class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    metered._meter.meter._zones["package-0"] = rapl[0] / "gone"
    energy = metered.energy(net, 1.0)
    assert energy.label == "modelled" and energy.mj == pytest.approx(2.0 * metered.latency(net, 1.0))
    assert "cannot be read any more" in metered.energy_source and "data sheet" in energy.source


def test_a_power_table_is_labelled_a_model_with_its_range(tmp_path):
    net = fake_network()
    device = dn.Device.from_table(net, {0.5: 2.0}, threads=3).set_power({1: 1.0, 5: 3.0}, source="wall meter")
    device.save(tmp_path / "d.json")
    energy = dn.Device.load(tmp_path / "d.json").energy(net, 0.5, 3)
    assert energy.mj == pytest.approx(4.0) and energy.label == "modelled" and energy.error_mj == pytest.approx(0.8)
    assert "wall meter: 2 W ± 20 % at 3 threads" in energy.source


def test_without_meter_and_table_the_reason_is_given():
    device = dn.Device.from_speed(1, 1)
    energy = device.energy(fake_network(), 0.5)
    assert energy.mj is None and energy.label == "unavailable" and "no meter is read" in energy.source
    assert "unavailable" in device.energy_source


@pytest.mark.parametrize(("watts", "error"), [(0, 0.2), ({}, 0.2), ({0: 1.0}, 0.2), ({1: float("nan")}, 0.2), (5, 1.5)])
def test_impossible_power_is_refused(watts, error):
    with pytest.raises(ValueError, match=r"watts is|error is"):
        dn.Device.from_speed(1, 1).set_power(watts, error=error)


def test_a_search_for_energy_keeps_labels_and_error_bars():
    device = dn.Device.from_speed(50, 1e10).set_power(4.0)
    front = dn.explore(
        fake_network(), fake_data(), objectives=("error", "energy_mj"), device=device, population=8, budget=12,
        progress=False, rng=0,
    )  # fmt: skip
    assert all(
        r.energy_label == "modelled" and r.energy_mj_error == pytest.approx(0.2 * r.energy_mj) for r in front.records
    )
