"""What fronts say of their search: importances, hypervolume over generations, parallel coordinates, comparisons."""

import matplotlib
import numpy as np
import pytest
from fakes import fake_data, fake_network

import dynadnn as dn
from dynadnn import _importance
from dynadnn._machine import Machine
from dynadnn._record import Record

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DEVICE = dn.Device.from_speed(50, 1e10)


@pytest.fixture(scope="module")
def searched():
    return dn.explore(
        fake_network(),
        fake_data(),
        device=DEVICE,
        population=12,
        generations=4,
        termination=None,
        progress=False,
        rng=0,
    )


def front_of(costs, cpu="test CPU", **options):
    records = [
        Record(point=dn.Subnet((8 * (i + 1),)), accuracy=1 - e, error=e, latency_ms=t) for i, (e, t) in enumerate(costs)
    ]
    return dn.Front(None, records, machine=Machine(cpu), hashes={}, **options)


# ---- importances ----


def test_shares_of_independent_genes_are_those_of_the_variance():
    draw = np.random.default_rng(0)
    x = draw.integers(1, 9, (300, 4)).astype(float)
    parts = np.array([3.0, 2.0, 1.0, 0.0])
    fit = _importance.permutation(x, x @ parts + draw.normal(0, 0.05, 300))
    assert fit.shares == pytest.approx(parts**2 / (parts**2).sum(), abs=0.05) and fit.r2 > 0.99


def test_genes_that_act_together_both_have_the_whole_share():
    x = np.random.default_rng(0).choice([-1.0, 1.0], (200, 3))
    fit = _importance.permutation(x, x[:, 0] * x[:, 1])
    assert fit.shares[:2] == pytest.approx([1, 1], abs=0.15) and fit.shares[2] < 0.05


def test_noise_is_not_predicted():
    draw = np.random.default_rng(0)
    assert _importance.permutation(draw.normal(size=(150, 3)), draw.normal(size=150)).r2 < 0.1


def test_a_constant_objective_depends_on_nothing():
    fit = _importance.permutation(np.eye(20), np.ones(20))
    assert not fit.shares.any()


def test_left_out_errors_in_closed_form_are_those_of_leaving_out():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(15, 2))
    y = x[:, 0] ** 2
    y = (y - y.mean()) / y.std()
    squares = np.square(x[:, None] - x[None]).sum(axis=2)
    _, length, r2 = _importance._fit(squares, y)
    kernel, best = np.exp(-squares / length), []
    for ridge in _importance.RIDGES:
        errors = []
        for i in range(15):
            rest = np.delete(np.arange(15), i)
            weights = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge * np.eye(14), y[rest])
            errors.append(y[i] - kernel[i, rest] @ weights)
        best.append(1 - np.square(errors).mean())
    assert r2 == pytest.approx(max(best), rel=1e-6)


def test_importances_of_a_search_name_genes_and_are_the_same_each_time(searched):
    table = searched.importances()
    assert table.columns == ("gene", "error", "latency_ms") and len(table) == len(searched.network.spaces)
    assert all(name.startswith("width ") for name in table["gene"]) and "R²" in table.title
    assert searched.importances().rows == table.rows
    assert table["error"] == sorted(table["error"], reverse=True)


def test_the_later_layers_matter_more_where_they_do():
    net = fake_network()  # its accuracy weighs the last space most
    draw = np.random.default_rng(0)
    records = []
    for _ in range(150):
        point = net.subnet(widths=[draw.integers(1, s.full // 8 + 1) * 8 for s in net.spaces])
        accuracy = net._accuracy(point)
        records.append(Record(point=point, accuracy=accuracy, error=1 - accuracy, latency_ms=1.0))
    shares = dict(zip(*(dn.Front(net, records).importances(["error"])[c] for c in ("gene", "error")), strict=True))
    spaces = [f"width {s.name}" for s in net.spaces]
    assert np.mean([shares[n] for n in spaces[-3:]]) > 5 * np.mean([shares[n] for n in spaces[:3]])


def test_bits_depth_and_threads_are_genes_where_they_vary():
    points = [((8, 16), (8, 8), (1,)), ((8, 8), (4, 4), (2,)), ((8, 8), (4, 4), (1,))]
    records = [Record(point=dn.Subnet(*p), threads=i + 1) for i, p in enumerate(points)]
    names, genes = _importance.gene_matrix(records)
    assert names == ["width 2", "bits", "depth stage 1", "threads"]
    assert genes.T.tolist() == [[16, 8, 8], [8, 4, 4], [1, 2, 1], [1, 2, 3]]
    mixed = [Record(point=dn.Subnet((8,), b)) for b in ((8, "fp32"), (4, 8), (8, 8))]
    assert _importance.gene_matrix(mixed, layers=["stem", "head"])[0] == ["bits stem", "bits head"]


def test_too_few_points_have_no_importances():
    with pytest.raises(ValueError, match="3 evaluated points have error and latency_ms; importances need 12"):
        front_of([(0.1, 1.0), (0.2, 2.0), (0.3, 3.0)]).importances()


# ---- hypervolume over generations, parallel coordinates ----


def test_hypervolume_never_falls_and_ends_with_that_of_all_points(searched):
    table = searched.history()
    assert table["generation"] == [1, 2, 3, 4] and table["evaluations"][-1] == len(searched.evaluated)
    assert np.all(np.diff(table["hypervolume"]) >= 0) and table["hypervolume"][0] > 0
    costs = [(r.error, r.latency_ms) for r in searched.evaluated]
    whole = searched.history((1.0, 10.0))["hypervolume"][-1]
    assert whole == pytest.approx(dn.search.hypervolume(costs, (1.0, 10.0)))


def test_a_resumed_search_has_the_same_generations(tmp_path):
    options = {"device": DEVICE, "population": 8, "progress": False, "rng": 0, "checkpoint": tmp_path / "s.jsonl"}
    dn.explore(fake_network(), fake_data(), budget=10, **options)
    resumed = dn.explore(fake_network(), fake_data(), budget=20, **options)
    whole = dn.explore(fake_network(), fake_data(), budget=20, **{**options, "checkpoint": None})
    assert resumed.history().rows == whole.history().rows and resumed.generations == whole.generations
    resumed.save(tmp_path / "f.json")
    assert dn.Front.load(tmp_path / "f.json").history().rows == whole.history().rows


def test_a_front_without_a_search_has_no_history():
    with pytest.raises(ValueError, match="not from a search"):
        front_of([(0.1, 1.0)]).history()


def test_a_reference_of_other_length_is_refused(searched):
    with pytest.raises(ValueError, match=r"ref has shape \(3,\)"):
        searched.history((1, 2, 3))


def test_the_history_plot_ends_at_all_points(searched):
    ax = searched.plot_history(plt.figure().subplots())
    (line,) = ax.lines
    assert line.get_xdata()[-1] == len(searched.evaluated) and line.get_ydata()[-1] == 100 and "%" in ax.get_ylabel()
    plt.close("all")


def test_parallel_coordinates_have_an_axis_per_column_and_better_further_up():
    front = front_of([(0.3, 1.0), (0.1, 2.0), (0.05, 6.0)])
    ax = front.plot_parallel()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["accuracy", "latency (ms)"]
    lines = [line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert lines[0] == pytest.approx([0, 1]) and lines[2] == pytest.approx([1, 0])
    assert {t.get_text() for t in ax.texts} == {"70 %", "95 %", "1", "6"}
    assert ax.get_legend().get_texts()[0].get_text().startswith("knee: 16")
    plt.close("all")


def test_parallel_coordinates_need_two_columns():
    with pytest.raises(ValueError, match="at least two"):
        front_of([(0.3, 1.0)]).plot_parallel(columns=["accuracy"])


# ---- comparing ----


def rows(table):
    return {row["measure"]: row for row in table}


def test_igd_and_epsilon_are_in_units_of_the_common_range():
    a, b = front_of([(0.1, 1.0), (0.0, 2.0)]), front_of([(0.2, 1.0), (0.0, 3.0)])
    table = rows(dn.compare_fronts(a, b))
    # ranges: 0.2 and 2 ms; the best points are a's two
    assert table["IGD+"]["a"] == 0 and table["IGD+"]["b"] == pytest.approx((0.5 + 0.5) / 2)
    assert table["ε"]["a"] == pytest.approx(0.0) and table["ε"]["b"] == pytest.approx(0.5)


def test_several_seeds_are_compared_in_pairs():
    a = [front_of([(0.10 + s, 1.0)]) for s in (0.0, 0.01, 0.02)]
    b = [front_of([(0.15 + s, 1.0)]) for s in (0.0, 0.01, 0.02)]
    table = dn.compare_fronts(a, b, ref=(1.0, 2.0))
    volume = rows(table)["hypervolume"]
    assert volume["a"] == pytest.approx(0.89) and volume["b"] == pytest.approx(0.84)
    assert [volume[c] for c in ("a - b", "low", "high")] == pytest.approx([0.05] * 3)
    assert rows(table)["share beaten by the other"]["b"] == 1.0 and "3 seeds" in table.title
    assert "tabular" in table.to_latex()


def test_seeds_must_pair_up():
    one = front_of([(0.1, 1.0)])
    with pytest.raises(ValueError, match="a has 2 fronts and b 1"):
        dn.compare_fronts([one, one], [one])


def test_regressions_are_compared_by_their_error_and_with_nothing_else():
    some = [Record(point=dn.Subnet((8,)), error=2.0, loss=2.0, latency_ms=1.0)]
    one = dn.Front(None, some, machine=Machine("test CPU"), hashes={})
    table = rows(dn.compare_fronts(one, one, ref=(3.0, 2.0)))
    assert table["hypervolume"]["a"] == 1.0 and table["error within 1 ms"]["b"] == 2.0
    with pytest.raises(ValueError, match="different figures: error and accuracy"):
        dn.compare_fronts(one, front_of([(0.1, 1.0)]))
