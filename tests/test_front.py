import json

import matplotlib
import numpy as np
import pytest
from fakes import fake_data, fake_network

import dynadnn as dn
from dynadnn import _front, _front_plot
from dynadnn._machine import Machine
from dynadnn._record import Record
from dynadnn._statistics import paired_difference, wilson

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def record(width, accuracy, latency, **fields):
    interval = wilson(accuracy, 1000)
    fields = {"bytes": int(1e5 * width), "macs": int(1e6 * width), "loss": 1 - accuracy, **fields}
    return Record(
        point=dn.Subnet((int(32 * width),)), accuracy=accuracy, accuracy_interval=interval, error=1 - accuracy,
        latency_ms=latency, **fields,
    )  # fmt: skip


@pytest.fixture
def front():
    rows = [(0.25, 0.80, 1.0), (0.5, 0.90, 2.0), (0.75, 0.92, 3.0), (1.0, 0.93, 4.0)]
    records = [record(*row, name=str(row[0])) for row in rows]
    return dn.Front(None, reversed(records), machine=Machine("test CPU", isa="ref"), hashes={"": "0"})


@pytest.fixture(scope="module")
def measured():
    return dn.measure(fake_network(), fake_data().val)


def test_records_are_sorted_by_latency(front):
    assert [r.name for r in front.records] == ["0.25", "0.5", "0.75", "1.0"]


def test_the_most_accurate_point_within_a_latency_is_picked(front):
    assert front.pick(latency_ms=3.5).name == "0.75"
    assert front.pick(latency_ms=2.0).name == "0.5"


def test_limits_hold_together(front):
    assert front.pick(latency_ms=3.5, bytes=60_000).name == "0.5"


def test_with_accuracy_alone_the_fastest_is_picked(front):
    assert front.pick(accuracy=0.91).name == "0.75"
    assert front.pick(accuracy=0.91, latency_ms=10).name == "1.0"


def test_no_limit_picks_the_most_accurate(front):
    assert front.pick().name == "1.0"


def test_the_nearest_point_is_named_if_none_is_within_the_limits(front):
    with pytest.raises(LookupError, match=r"latency_ms <= 0\.5; the nearest is 0\.25 with latency_ms 1"):
        front.pick(latency_ms=0.5)
    with pytest.raises(LookupError, match=r"accuracy >= 0\.99; the nearest is 1\.0 with accuracy 0\.93"):
        front.pick(accuracy=0.99)


def test_an_unknown_figure_cannot_be_a_limit(front):
    with pytest.raises(LookupError, match="known energy_mj"):
        front.pick(energy_mj=1)


def test_the_measured_latency_counts_where_there_is_one():
    records = [record(0.5, 0.9, 1.0, latency_ms_measured=5.0), record(1.0, 0.95, 4.0)]
    front = dn.Front(None, records, hashes={"": "0"})
    assert front.pick(latency_ms=4.5).accuracy == 0.95
    with pytest.raises(LookupError):
        front.pick(latency_ms=3)


def test_the_knee_is_furthest_from_the_line_between_the_ends(front):
    assert front.knee().name == "0.5"


@pytest.mark.parametrize(("rows", "knee"), [([(1.0, 0.9, 1.0)], 0.9), ([(0.5, 0.8, 1.0), (1.0, 0.9, 2.0)], 0.9)])
def test_one_or_two_points_have_a_knee(rows, knee):
    assert dn.Front(None, [record(*r) for r in rows], hashes={}).knee().accuracy == knee


def test_an_empty_front_has_no_knee_and_nothing_to_pick():
    front = dn.Front(None, [], hashes={})
    for call in (front.knee, front.pick):
        with pytest.raises(LookupError):
            call()
    assert "point" in str(front) and len(front) == 0
    assert front.hypervolume((1, 1)) == 0
    front.plot(plt.figure().subplots())
    plt.close("all")


def test_a_dominated_point_is_no_knee(front):
    worse = record(0.6, 0.5, 2.5)
    assert dn.Front(None, [*front.records, worse], hashes={}).knee().name == "0.5"


def test_hypervolume_is_the_dominated_area(front):
    area = front.hypervolume((0.3, 5.0))
    steps = [(0.20, 1.0), (0.10, 2.0), (0.08, 3.0), (0.07, 4.0)]
    expected = sum((0.3 - e) * (n - t) for (e, t), n in zip(steps, (2, 3, 4, 5), strict=True))
    assert area == pytest.approx(expected)


def test_measuring_gives_all_named_points_with_figures_and_times(measured):
    assert [r.name for r in measured.records] == ["0.25", "0.5", "1.0"]
    for r in measured.records:
        assert r.latency_ms == r.latency_ms_measured and r.latency_ms_p10 <= r.latency_ms <= r.latency_ms_p90
        assert r.runs > 0 and r.accuracy_interval[0] < r.accuracy < r.accuracy_interval[1]
        assert r.macs == measured.network.macs(r) and r.bytes == measured.network.bytes(r.point)


def test_measuring_can_be_restricted_to_some_points():
    net = fake_network()
    net.recalibrate(points=[net.subnet(0.75)])
    front = dn.measure(net, fake_data().val, points=[0.75, "1.0"])
    assert [r.name for r in front.records] == [None, "1.0"]


def test_several_networks_are_measured_together():
    nets = {"a": fake_network(), "b": fake_network(width=16, points=(0.5, 1.0))}
    front = dn.measure(nets, fake_data().val)
    assert {r.label for r in front.records} == {"a 0.25", "a 0.5", "a 1.0", "b 0.5", "b 1.0"}
    front.evaluate(fake_data().test)
    assert all(r.accuracy_test == r.accuracy for r in front.records)
    with pytest.raises(ValueError, match="2 networks: a, b"):
        _ = front.network


def test_measuring_nothing_is_refused():
    with pytest.raises(ValueError, match="nets is empty"):
        dn.measure({}, fake_data().val)


def test_points_that_are_equal_are_measured_once_under_both_names():
    front = dn.measure(fake_network(width=16, points=(0.5, 0.51, 1.0)), fake_data().val)
    assert [r.name for r in front.records] == ["0.5 = 0.51", "1.0"]


def test_test_accuracy_is_added_and_changes_no_choice(measured):
    front = dn.measure(fake_network(), fake_data().val)
    before = front.knee().point
    assert front.evaluate(fake_data(400).test) is front
    assert all(r.accuracy_test is not None and r.accuracy_test_interval for r in front.records)
    assert front.knee().point == before and "on test" in str(front) and "on test" not in str(measured)


def test_two_points_are_compared_on_the_same_images(measured):
    difference = measured.compare("1.0", "0.25", fake_data().test)
    assert difference.low > 0 and difference.is_clear and "points" in str(difference)
    a, b = (measured.network._accuracy(measured.network._find(p)) for p in ("1.0", "0.25"))
    assert difference.mean == pytest.approx(a - b, abs=0.002)
    assert not measured.compare("1.0", "1.0", fake_data().test).is_clear


def test_the_interval_of_a_paired_difference_holds_what_it_promises():
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        u = draw.random(300)
        a, b = u < 0.9, np.where(draw.random(300) < 0.8, u < 0.85, draw.random(300) < 0.85)
        hits += paired_difference(a, b).low <= 0.05 <= paired_difference(a, b).high
    assert 0.92 <= hits / 400 <= 0.99


def test_paired_rows_must_have_the_same_length():
    with pytest.raises(ValueError, match="same images"):
        paired_difference([1, 0], [1])


def test_a_front_survives_saving_and_loading(measured, tmp_path):
    measured.add("teacher", accuracy=0.99, latency_ms=3.0)
    measured.save(tmp_path / "front.json")
    loaded = dn.Front.load(tmp_path / "front.json", measured.network)
    assert loaded.records == measured.records and loaded.references == measured.references
    assert loaded.machine == measured.machine and loaded.network is measured.network
    alone = dn.Front.load(tmp_path / "front.json")
    assert alone.knee() == measured.knee()
    with pytest.raises(ValueError, match="loaded without its network"):
        _ = alone.network


def test_a_front_of_another_network_is_refused(measured, tmp_path):
    measured.save(tmp_path / "front.json")
    with pytest.raises(ValueError, match="another network"):
        dn.Front.load(tmp_path / "front.json", fake_network(rng=1))


def test_failed_records_survive_saving(front, tmp_path):
    failed = Record(point=dn.Subnet((8,), (8, "fp32"), (1,)), failure="Traceback", violations={"a <= 1": 0.5})
    dn.Front(None, front.records, evaluated=[*front.records, failed], hashes={}).save(tmp_path / "f.json")
    assert dn.Front.load(tmp_path / "f.json").evaluated[-1] == failed


def test_a_damaged_front_is_refused(front, tmp_path):
    path = tmp_path / "f.json"
    front.save(path)
    document = json.loads(path.read_text())
    document["records"][0]["accuracy"] = 1.0
    path.write_text(json.dumps(document))
    with pytest.raises(dn.FormatError, match="sha256"):
        dn.Front.load(path)


def test_a_record_of_wrong_types_is_refused(tmp_path):
    from dynadnn._documents import save_document

    body = {"networks": {}, "records": [{"point": 3}], "evaluated": [], "references": [], "machine": {"cpu": "x"}}
    save_document(tmp_path / "f.json", "dynadnn-front", 1, body)
    with pytest.raises(dn.FormatError, match="record"):
        dn.Front.load(tmp_path / "f.json")


def test_fronts_of_one_network_merge_and_of_others_do_not(tmp_path):
    net, data = fake_network(), fake_data()
    other = net.copy()
    other.recalibrate(points=[0.75])
    a, b = dn.measure(net, data.val, points=[0.25]), dn.measure(other, data.val, points=[0.75])
    merged = a.merge(b)
    assert len(merged) == 2 and all(r.point in merged.network.tables for r in merged.records)
    with pytest.raises(ValueError, match="different networks"):
        a.merge(dn.measure(fake_network(rng=1), data.val))
    a.machine = Machine("elsewhere")
    with pytest.raises(ValueError, match="two CPUs"):
        a.merge(b)


def test_references_must_be_figures(front):
    with pytest.raises(ValueError, match="fraction"):
        front.add("x", accuracy=97, latency_ms=1)
    with pytest.raises(ValueError, match="milliseconds"):
        front.add("x", accuracy=0.97, latency_ms=float("nan"))


def test_a_front_is_a_table(front, tmp_path):
    pytest.importorskip("pandas")
    frame = front.to_frame()
    assert list(frame["latency_ms"]) == [1.0, 2.0, 3.0, 4.0] and {"accuracy_low", "bytes", "macs"} <= set(frame.columns)
    front.to_csv(tmp_path / "f.csv")
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 5
    assert "tabular" in front.to_latex()
    assert "90.0 [88.0 91.7]" in str(front) and "test CPU" in str(front) and "not measured here" in str(front)


def test_names_are_escaped_in_html():
    front = dn.Front(None, [record(1.0, 0.9, 1.0, name="<script>")], hashes={})
    assert "<script>" not in front._repr_html_()


def test_plotting_takes_and_returns_axes_and_shows_nothing(measured, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *a: pytest.fail("shown"))
    before = dict(matplotlib.rcParams)
    ax = plt.figure().subplots()
    assert measured.plot(ax) is ax
    assert dict(matplotlib.rcParams) == before
    assert "(ms" in ax.get_xlabel() and "%" in ax.get_ylabel()
    assert any("knee" in t.get_text() for t in ax.get_legend().get_texts())
    fresh = measured.plot(mark=measured.records[0], measured=False)
    assert fresh is not ax and any("picked" in t.get_text() for t in fresh.get_legend().get_texts())
    plt.close("all")


def test_references_and_failed_points_are_no_trouble_for_plots(front):
    failed = Record(point=dn.Subnet((8,)), failure="no")
    whole = dn.Front(None, front.records, evaluated=[*front.records, failed, record(0.3, 0.7, 2.2)], hashes={})
    for i in range(8):
        whole.add(f"r{i}", accuracy=0.9, latency_ms=1.0 + i)
    ax = whole.plot()
    assert sum(t.get_text().startswith("r") for t in ax.texts) == 8
    plt.close("all")


def test_the_plot_of_another_cpu_says_so(front):
    ax = front.plot()
    assert "not measured on this machine" in ax.get_title(loc="right")
    plt.close("all")


def test_several_fronts_go_into_one_plot(front, measured):
    ax = dn.plot_fronts({"one": front, "two": measured})
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["one", "two"]
    plt.close("all")


def test_styles_differ_in_more_than_colour():
    assert len({m for _, m, _ in _front_plot.STYLES}) == len(_front_plot.STYLES)


def test_without_matplotlib_the_extra_is_named(front, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "dynadnn\[plot\]"'):
        front.plot()


def test_importing_fronts_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, dynadnn._front, dynadnn._explore; print([m for m in ('matplotlib', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_record_is_hashable_and_a_point(measured):
    r = measured.records[0]
    assert {r: 1}[r] == 1 and measured.network._find(r) == r.point
    with pytest.raises(KeyError, match="no column 'speed'"):
        r.column("speed")
    assert _front.key(r) == (None, r.point, 1)


def test_two_fronts_are_compared_in_a_table(front):
    worse = dn.Front(None, [record(0.3, 0.7, 1.5), record(1.0, 0.94, 9.0)], machine=front.machine, hashes={})
    table = {row["measure"]: (row["a"], row["b"]) for row in dn.compare_fronts(front, worse)}
    assert table["hypervolume"][0] > table["hypervolume"][1] > 0
    assert table["share beaten by the other"] == (0.0, 0.5) and table["points"] == (4, 2)
    assert any(k.startswith("accuracy within") for k in table)
    with pytest.raises(ValueError, match="two CPUs"):
        dn.compare_fronts(front, dn.Front(None, front.records, machine=Machine("x"), hashes={}))
    with pytest.raises(ValueError, match="front b has no point"):
        dn.compare_fronts(front, dn.Front(None, [], machine=front.machine, hashes={}))
