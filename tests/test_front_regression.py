"""Fronts without accuracies: chosen, plotted and kept by their first objective that is no cost."""

import matplotlib
import numpy as np
import pytest

import dynadnn as dn
from dynadnn._machine import Machine
from dynadnn._record import Record

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def record(width, error, latency, **fields):
    return Record(
        point=dn.Subnet((int(32 * width),)), name=str(width), error=error, loss=error, latency_ms=latency, **fields
    )


def front_of(rows, **options):
    return dn.Front(None, [record(*row[:3], values=row[3]) for row in rows], hashes={"": "0"}, **options)


@pytest.fixture
def front():
    rows = [(0.25, 0.30, 1.0, 0.6), (0.5, 0.12, 2.0, 0.3), (0.75, 0.10, 3.0, 0.2), (1.0, 0.09, 4.0, 0.25)]
    return front_of([(*row[:3], {"mae": row[3], "auroc": 1 - row[3]}) for row in rows])


@pytest.fixture(scope="module")
def trained():
    draw = np.random.default_rng(0)
    x = draw.standard_normal((400, 12)).astype(np.float32)
    y = np.tanh(x @ draw.standard_normal((12, 2)).astype(np.float32) / 4)
    data = dn.datasets.from_arrays(x, y, val=0.2, test=0.2, rng=0)
    net = dn.nets.mlp(data, points=(0.25, 0.5, 1.0), rng=0)
    dn.fit(net, data, epochs=4, optimizer=dn.AdamW(lr=5e-3), progress=False, rng=0)
    return net, data, dn.measure(net, data.val)


def test_the_point_of_the_least_error_within_a_latency_is_picked(front):
    assert front.quality == "error"
    assert front.pick(latency_ms=2.5).name == "0.5" and front.pick().name == "1.0"


def test_a_limit_of_the_error_or_a_metric_picks_the_fastest_point(front):
    assert front.pick(error=0.11).name == "0.75"
    assert front.pick(mae=0.3).name == "0.5"
    assert front.pick(mae=0.26, latency_ms=10).name == "1.0"


def test_a_metric_of_which_more_is_better_is_a_lower_limit(front):
    assert front.pick(auroc=0.75).name == "0.75"
    with pytest.raises(LookupError, match=r"auroc >= 0\.9; the nearest is 0\.75"):
        front.pick(auroc=0.9)


def test_the_nearest_point_is_named_with_its_error(front):
    with pytest.raises(LookupError, match=r"error <= 0\.05; the nearest is 1\.0 with error 0\.09"):
        front.pick(error=0.05)


def test_an_accuracy_cannot_be_a_limit_and_an_unknown_name_neither(front):
    with pytest.raises(LookupError, match="known accuracy"):
        front.pick(accuracy=0.9)
    with pytest.raises(TypeError, match=r"no limit 'speed'; this front has error, .*mae"):
        front.pick(speed=1)


def test_the_knee_is_that_of_error_and_latency(front):
    assert front.knee().name == "0.5"


def test_the_first_objective_decides_if_it_is_another_metric():
    rows = [(0.5, 0.1, 1.0, {"mae": 0.5}), (1.0, 0.2, 2.0, {"mae": 0.4})]
    front = front_of(rows, objectives=("latency_ms", "mae"))
    assert front.quality == "mae" and front.pick().name == "1.0"


def test_an_own_objective_to_maximise_is_maximised(tmp_path):
    rows = [(0.5, None, 1.0, {"snr": 5.0}), (1.0, None, 2.0, {"snr": 9.0})]
    front = front_of(rows, objectives=("snr", "latency_ms"), maximize=("snr",))
    front.save(tmp_path / "f.json")
    for some in (front, dn.Front.load(tmp_path / "f.json")):
        assert some.pick().name == "1.0" and some.pick(snr=4).name == "0.5"
        assert some.hypervolume((4.0, 3.0)) == pytest.approx(1 * 1 + 5 * 1)
    plt.close("all")


def test_hypervolume_is_the_area_of_error_and_latency(front):
    steps = [(0.30, 1.0), (0.12, 2.0), (0.10, 3.0), (0.09, 4.0)]
    area = sum((0.4 - e) * (n - t) for (e, t), n in zip(steps, (2, 3, 4, 5), strict=True))
    assert front.hypervolume((0.4, 5.0)) == pytest.approx(area)


def test_an_accuracy_is_never_replaced_by_an_objective():
    some = Record(point=dn.Subnet((8,)), accuracy=0.9, error=0.1, loss=0.3, latency_ms=1.0)
    assert dn.Front(None, [some], objectives=("loss", "latency_ms"), hashes={}).quality == "accuracy"


def test_the_plot_has_the_error_upwards_and_falls(front):
    front.add("paper", error=0.2, latency_ms=2.5).add("not drawn", accuracy=0.9, latency_ms=2.5)
    ax = front.plot()
    assert ax.get_ylabel() == "mean squared error" and ax.get_ylim()[1] < 1
    (line,) = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
    assert list(line.get_ydata()) == [0.30, 0.12, 0.10, 0.09]
    assert any(t.get_text() == "knee: error 0.12 in 2 ms" for t in ax.get_legend().get_texts())
    assert [t.get_text() for t in ax.texts] == ["0.25", "0.5", "0.75", "1.0", "paper"]
    plt.close("all")


def test_fronts_judged_by_different_figures_do_not_go_into_one_plot(front):
    other = dn.Front(None, [Record(point=dn.Subnet((8,)), accuracy=0.9, error=0.1, latency_ms=1.0)], hashes={})
    with pytest.raises(ValueError, match="'a' by error, 'b' by accuracy"):
        dn.plot_fronts({"a": front, "b": other})
    with pytest.raises(ValueError, match="fronts is empty"):
        dn.plot_fronts({})


@pytest.mark.parametrize("figure", [{}, {"error": 0.1, "mae": 0.2}, {"accuracy": 0.9, "error": 0.1}])
def test_a_reference_has_one_figure(front, figure):
    with pytest.raises(TypeError, match="accuracy= or one figure"):
        front.add("x", latency_ms=1, **figure)


def test_references_of_other_figures_survive_saving(front, tmp_path):
    front.add("paper", mae=0.2, latency_ms=2.5).save(tmp_path / "f.json")
    (reference,) = dn.Front.load(tmp_path / "f.json").references
    assert (reference.metric, reference.figure, reference.accuracy) == ("mae", 0.2, None)


def test_measured_regressions_have_errors_and_can_be_chosen_from(trained):
    net, data, front = trained
    for r in front.records:
        figures = net.evaluate(data.val, r.point, metrics=("loss", "rmse", "mae"))
        assert r.accuracy is None and r.error == r.loss == figures["loss"]
        assert r.values == {"rmse": figures["rmse"], "mae": figures["mae"]}
    best = min(front.records, key=lambda r: r.error)
    assert front.pick() == best and front.knee() in front.records
    assert "mean squared error" in str(front) and best.label in str(front)
    assert dn.measure(net, data.val, points=["0.5"], metrics=()).records[0].values == {}


def test_errors_on_test_data_are_added_and_drawn(trained):
    net, data, _ = trained
    front = dn.measure(net, data.val).evaluate(data.test)
    for r in front.records:
        assert r.values["error_test"] == net.evaluate(data.test, r.point)["loss"]
    assert "on test" in str(front)
    assert any(t.get_text() == "on test data" for t in front.plot().get_legend().get_texts())
    plt.close("all")


def test_two_points_of_a_regression_are_compared_on_the_same_images(trained):
    net, data, front = trained
    difference = front.compare("1.0", "0.25", data.test)
    rows = [np.square(net(data.test.x, p) - data.test.y).mean(axis=1) for p in ("1.0", "0.25")]
    assert difference.mean == pytest.approx(float(np.mean(rows[0] - rows[1])), rel=1e-5)
    assert difference.low < difference.mean < difference.high and "points" not in str(difference)


def test_a_regression_is_searched_by_default(trained):
    net, data, _ = trained
    device = dn.Device.from_speed(50, 1e10)
    front = dn.explore(net, data, device=device, population=8, budget=16, progress=False, rng=0)
    assert len(front) > 1 and front.quality == "error" and front.pick(error=1.0) == front.records[0]
    mae = dn.explore(net, data, objectives=("mae", "macs"), device=device, budget=8, progress=False, rng=0)
    assert mae.quality == "mae" and Machine(mae.machine.cpu).cpu.startswith("model of")


def test_accuracies_on_test_data_are_crosses_in_the_plot():
    some = Record(
        point=dn.Subnet((8,)), accuracy=0.9, error=0.1, latency_ms=1.0, accuracy_test=0.8,
        accuracy_test_interval=(0.75, 0.84),
    )  # fmt: skip
    ax = dn.Front(None, [some], hashes={}).plot()
    assert ax.get_legend_handles_labels()[1][-1] == "on test data" and ax.get_ylim()[0] < 75
    plt.close("all")
