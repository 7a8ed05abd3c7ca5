"""What engines say of their layers: shares of the probe, bytes, kernels, times, and warnings from given times."""

import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _core, _engine_report
from dynadnn._codes import view_codes
from dynadnn._engine_report import Layer, Step, float_twin, make_report


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((32, 12, 12, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def net(images):
    made = dn.nets.resnet20((12, 12, 3), 5, width=8, points=(0.5, 1.0), rng=0)
    made.recalibrate(images)
    return made


@pytest.fixture(scope="module")
def model(net, images):
    return dn.quantize(net, images, bits=(8, 4))


# ---- probes ----


def test_the_probe_is_that_of_a_kernels_type_and_instruction_set():
    assert _core.probe("conv_s8 ref 8x16") == _core.probe("nothing") == _core.probe("") == _core.probe("conv_s8") == 0
    used = _core.config()["isa_used"]
    if used != "ref":
        assert _core.probe(f"conv_s8 {used} 8x16") > 1e9
        assert _core.probe(f"dwconv_s8 {used}") > 1e9


def test_a_probe_is_measured_once_per_process(monkeypatch):
    asked = []
    monkeypatch.setattr(_engine_report._core, "probe", lambda family: asked.append(family) or 5e10)
    _engine_report.probe.cache_clear()
    shares = [_engine_report.share_of_probe("conv_s8 isa 8x16", 10**6, ms, threads=1) for ms in (0.04, 0.08)]
    assert asked == ["conv_s8 isa"]
    assert shares == pytest.approx([0.5, 0.25])
    assert _engine_report.share_of_probe("conv_s8 isa 6x32", 10**6, 0.02, threads=2) == pytest.approx(0.5)
    assert _engine_report.share_of_probe("add_s8 isa", 0, 0.02, threads=1) is None
    _engine_report.probe.cache_clear()


def test_a_profile_names_every_step_and_its_share_of_the_probe(model, images, monkeypatch):
    monkeypatch.setattr(_engine_report, "probe", lambda family: 50.0 if family.startswith("conv") else 0.0)
    engine = model.compile()
    table = engine.profile(images[:2], repeats=2)
    steps = engine.points[engine.active].steps
    assert table["kernel"] == [step["kernel"] for step in steps]
    assert sum(table["macs"]) == model.macs() and sum(table["share"]) == pytest.approx(1)
    for row in table:
        if row["macs"] and row["kernel"].startswith("conv") and row["ms"]:
            assert row["share_of_probe"] == pytest.approx(row["gmacs_per_s"] / 50)
        else:
            assert row["share_of_probe"] is None


# ---- the report of an engine ----


@pytest.mark.parametrize("point", [None, "0.5", "1.0/4bit"])
def test_a_report_adds_up(model, point):
    report = model.compile().report(point=point, rounds=2)
    table = report.layers
    assert sum(table["bytes"]) == model.bytes(point)
    assert report.int8_ms == pytest.approx(sum(v for v in table["int8_ms"] if v is not None))
    assert report.fp32_ms == pytest.approx(sum(v for v in table["fp32_ms"] if v is not None))
    assert all(row["speedup"] == pytest.approx(row["fp32_ms"] / row["int8_ms"]) for row in table if row["speedup"])
    assert len(set(table["node"])) == len(table)
    for layer in model.layers:
        row = next(row for row in table if row["node"] == layer.name)
        assert row["kernel"].split(" ")[0] in ("conv_s8", "linear_s8") and row["int8_ms"] > 0 and row["fp32_ms"] > 0
    assert str(report).startswith(table.title) and "<table>" in report._repr_html_()


def test_a_report_follows_the_active_point_and_takes_images(model, images):
    engine = model.compile()
    engine.select("0.5")
    report = engine.report(images[:3], rounds=1)
    assert sum(report.layers["bytes"]) == model.bytes("0.5")


def test_a_float_network_has_no_int8_times(net):
    report = net.compile().report(rounds=2)
    assert report.int8_ms is None and set(report.layers["int8_ms"]) == {None} == set(report.layers["speedup"])
    assert report.fp32_ms > 0 and sum(report.layers["bytes"]) == net.bytes()
    assert not report.warnings


def test_a_report_of_no_rounds_and_of_a_point_without_statistics_is_refused(model):
    engine = model.compile()
    with pytest.raises(ValueError, match="rounds"):
        engine.report(rounds=0)
    with pytest.raises(dn.PointError, match="recalibrate"):
        engine.report(point=0.75)


@pytest.mark.parametrize("point", ["1.0", "0.5", "0.5/4bit"])
def test_the_float_twin_computes_what_the_quantised_point_rounds(model, images, point):
    subnet = model.points[point]
    twin, where = float_twin(model, subnet)
    expected, outputs = twin(images, where), model(images, point)
    assert not twin.quantised
    assert np.abs(outputs - expected).max() < 0.1 * np.abs(expected).max()


def test_the_float_twin_holds_the_weights_of_the_points_bits(model):
    name = model.layers[1].name
    codes, scale = model.weights[f"{name}.codes"], model.weights[f"{name}.scale"]
    for point, bits in (("1.0", 8), ("1.0/4bit", 4)):
        weight = float_twin(model, model.points[point])[0].weights[f"{name}.weight"]
        np.testing.assert_array_equal(weight, view_codes(codes, bits) * scale[:, None, None, None])


def test_layers_left_in_float_are_timed_in_both_and_not_warned_of(net, images):
    model = dn.quantize(net, images, policy={"stem": "fp32"})
    report = model.compile().report(rounds=2)
    stem = next(row for row in report.layers if row["node"] == "stem")
    assert "conv_f32" in stem["kernel"] and stem["int8_ms"] > 0 and stem["fp32_ms"] > 0
    assert sum(report.layers["bytes"]) == model.bytes()
    assert not any(text.startswith("stem") for text in report.warnings)


# ---- verdicts from given times ----

KNOWN = {"a": Layer(100, True), "b": Layer(200, True), "pool": Layer()}


def steps(**times):
    return [Step(node, f"kernel of {node}", ms) for node, ms in times.items()]


def test_layers_that_int8_slows_down_are_named():
    report = make_report(KNOWN, steps(a=0.02, b=0.03, pool=0.04), steps(a=0.01, b=0.09, pool=0.03))
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("a: int8 takes 0.02 ms and fp32 0.01 ms") and "policy" in report.warnings[0]
    assert report.layers["speedup"] == pytest.approx([0.5, 3, 0.75])
    assert (report.int8_ms, report.fp32_ms) == pytest.approx((0.09, 0.13))


def test_a_network_that_int8_slows_down_is_said_to_be():
    report = make_report(KNOWN, steps(a=0.01, b=0.03, pool=0.2), steps(a=0.02, b=0.09, pool=0.03))
    assert len(report.warnings) == 1 and "the whole network" in report.warnings[0]


def test_equal_times_do_not_pay():
    report = make_report(KNOWN, steps(a=0.01), steps(a=0.01))
    assert [text.split(":")[0] for text in report.warnings] == ["a", "the whole network"]


def test_layers_shorter_than_a_microsecond_get_no_verdict():
    assert make_report(KNOWN, steps(a=0.0009, b=0.01), steps(a=0.0008, b=0.02)).warnings == ()


def test_steps_of_a_node_add_up_and_conversions_count():
    int8 = [Step("a", "conv", 0.01), Step("b", "quantize", 0.002), Step("b", "conv", 0.01)]
    report = make_report(KNOWN, int8, steps(a=0.02, b=0.011))
    row = next(row for row in report.layers if row["node"] == "b")
    assert row["kernel"] == "quantize + conv" and row["int8_ms"] == pytest.approx(0.012)
    assert [text.split(":")[0] for text in report.warnings] == ["b"]


def test_a_step_that_only_one_network_has_is_shown_without_a_speedup():
    report = make_report(KNOWN, steps(a=0.01, convert=0.01), steps(a=0.04, other=0.01))
    assert report.layers["node"] == ["a", "convert", "other"]
    assert report.layers["speedup"][1:] == [None, None]
    assert (report.int8_ms, report.fp32_ms) == pytest.approx((0.02, 0.05))


@pytest.mark.parametrize(("width", "idle"), [(8, 0.5), (16, 0), (20, 0.375), (12, 0.25)])
def test_channels_that_nobody_reads_are_counted(width, idle):
    assert Layer(groups=1, width=width).idle == idle
    report = make_report({"a": Layer(0, True, 4, width)}, None, steps(a=0.01))
    assert report.layers["idle_channels"] == [idle]
    assert bool(report.warnings) == (width < 16)
    if width < 16:
        assert f"4 groups of {width} channels" in report.warnings[0] and f"{idle:.0%}" in report.warnings[0]
    assert make_report({"a": Layer(0, True, 1, width)}, None, steps(a=0.01)).warnings == ()


def test_narrow_groups_of_a_network_are_found(images):
    net = dn.nets.resnet20((12, 12, 3), 5, width=16, groups=2, points=(0.5, 1.0), rng=0)
    net.recalibrate(images)
    report = net.compile().report(rounds=1)
    narrow = [text.split(":")[0] for text in report.warnings]
    assert narrow == [layer.name for layer in net.layers if layer.channels // 2 < 16 and layer.name != "head"]
    assert all("2 groups of 8 channels" in text for text in report.warnings)


def test_names_in_a_report_are_escaped():
    text = make_report({"<b>": Layer(0, True)}, steps(**{"<b>": 0.02}), steps(**{"<b>": 0.01}))._repr_html_()
    assert "<b>" not in text and "&lt;b&gt;" in text


def test_a_compact_engine_keeps_a_byte_per_weight_and_gives_the_same_bits():
    net = dn.nets.resnet20((16, 16, 3), 10, points=(0.5, 1.0), divisor=4, rng=0)
    images = np.random.default_rng(0).normal(0, 1, (8, 16, 16, 3)).astype(np.float32)
    net.recalibrate(images)
    model = dn.quantize(net, images)
    fast, compact = model.compile(), model.compile(compact=True)
    for point in (0.5, 1.0):
        np.testing.assert_array_equal(compact(images, point), fast(images, point))
    assert compact.memory["weights"] < 1.3 * model.params(1.0)
    assert compact.memory["weights"] <= fast.memory["weights"]
