"""NSGA-II, ranking, crowding, hypervolume, IGD+."""

import doctest
import itertools
import json
import threading
import weakref

import numpy as np
import pytest

import dynadnn.search as search_module
from dynadnn._errors import FormatError
from dynadnn.search import NSGA2, crowding_distance, hypervolume, igd_plus, nondominated_rank

# ---- oracles ----


def rank_oracle(f):
    """Peels one front after the other, by definition."""
    f = np.asarray(f, float)
    beats = (f[:, None] <= f[None]).all(2) & (f[:, None] < f[None]).any(2)
    rank = np.full(len(f), -1)
    left = np.arange(len(f))
    beaten_by = beats.sum(0)  # by rows that are left
    for level in itertools.count():
        if not len(left):
            return rank
        front = left[beaten_by[left] == 0]
        rank[front] = level
        beaten_by -= beats[front].sum(0)
        left = left[rank[left] < 0]


def crowding_oracle(f, rank):
    distance = np.zeros(len(f))
    for level in np.unique(rank):
        rows = np.flatnonzero(rank == level)
        for column in f.T:
            order = rows[np.argsort(column[rows], kind="stable")]
            spread = column[order[-1]] - column[order[0]]
            if spread > 0:
                distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
            distance[order[[0, -1]]] = np.inf
    return distance


def hypervolume_oracle(f, ref):
    """Inclusion and exclusion over all subsets."""
    f = [row for row in np.asarray(f, float) if (row < ref).all()]
    total = 0.0
    for size in range(1, len(f) + 1):
        for rows in itertools.combinations(f, size):
            total -= (-1) ** size * np.prod(ref - np.max(rows, axis=0))
    return total


def igd_plus_oracle(f, ref):
    gaps = np.maximum(f[None] - ref[:, None], 0)
    return np.sqrt((gaps**2).sum(2)).min(1).mean()


def objectives(kind, n, m, seed=0):
    rng = np.random.default_rng([seed, n, m])
    if kind == "continuous":
        return rng.random((n, m))
    if kind == "ties":
        return rng.integers(0, 4, (n, m)).astype(float)
    if kind == "one front":
        f = np.abs(rng.normal(size=(n, m))) + 1e-3
        return f / np.linalg.norm(f, axis=1, keepdims=True)
    if kind == "chain":
        return np.repeat(rng.permutation(n).astype(float)[:, None], m, 1)
    f = rng.random((n, m))  # duplicates
    f[rng.integers(0, max(n, 1), n // 2)] = f[: n // 2]
    return f


KINDS = ["continuous", "ties", "one front", "chain", "duplicates"]
ISAS = [None, "ref", "avx2", "avx512"]  # a level that the CPU lacks counts as the next lower one

# ---- ranking ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6])
def test_ranks_equal_those_of_peeling_front_after_front(kind, m):
    for n in [0, 1, 2, 3, 63, 64, 65, 130, 255, 511, 512, 513]:
        f = objectives(kind, n, m)
        expected = rank_oracle(f) if m > 1 else np.unique(f[:, 0], return_inverse=True)[1]
        for isa in ISAS:
            found = nondominated_rank(f, isa=isa)
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, expected, err_msg=f"{kind}, n={n}, m={m}, isa={isa}")


@pytest.mark.parametrize("m", [2, 3, 5])
def test_ranks_of_many_rows_agree_between_instruction_sets_and_with_each_other(m):
    f = np.round(objectives("continuous", 6000, m), 3)
    rank = nondominated_rank(f)
    np.testing.assert_array_equal(rank, nondominated_rank(f, isa="ref"))
    for level in range(1, rank.max() + 1):  # everyone has a better one in the front before, none in the own
        own, before = f[rank == level], f[rank == level - 1]
        assert ((before[:, None] <= own[None]).all(2) & (before[:, None] < own[None]).any(2)).any(0).all()
        assert not ((own[:, None] <= own[None]).all(2) & (own[:, None] < own[None]).any(2)).any()


def test_ranks_do_not_depend_on_the_order_of_rows():
    f = objectives("ties", 400, 3)
    order = np.random.default_rng(5).permutation(400)
    np.testing.assert_array_equal(nondominated_rank(f)[order], nondominated_rank(f[order]))


def test_ranking_treats_infinities_as_values_and_both_zeros_as_equal():
    f = [[-np.inf, np.inf], [0.0, 0.0], [-0.0, 0.0], [0.0, -0.0], [np.inf, np.inf]]
    assert nondominated_rank(f).tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("m", [2, 3])
def test_ranking_stays_fast_when_one_outlier_stretches_the_range(m):
    f = 1e-300 * (1 + np.random.default_rng(0).random((20000, m)))
    f[0] = 1e300
    assert nondominated_rank(f).max() > 10  # quadratic sorting would take minutes


def test_a_chain_of_many_rows_is_ranked_without_much_memory():
    f = objectives("chain", 20000, 3)
    np.testing.assert_array_equal(nondominated_rank(f), f[:, 0].astype(int))


def test_ranking_refuses_nan_and_names_the_place():
    with pytest.raises(ValueError, match="row 1, objective 2 is NaN"):
        nondominated_rank([[1, 2, 3], [1, 2, np.nan]])


@pytest.mark.parametrize("bad", [[1.0, 2.0], 3.0, np.zeros((2, 2, 2)), np.zeros((3, 0))])
def test_ranking_refuses_other_shapes(bad):
    with pytest.raises(ValueError, match="f "):
        nondominated_rank(bad)


def test_ranking_refuses_what_is_not_a_real_number():
    with pytest.raises(TypeError, match="f has dtype"):
        nondominated_rank([["a", "b"]])
    with pytest.raises(TypeError, match="f has dtype"):
        nondominated_rank(np.ones((2, 2), complex))
    with pytest.raises(ValueError, match="isa must be"):
        nondominated_rank([[1, 2]], isa="sse9")


def test_arguments_are_never_changed_and_may_be_strided_or_integers():
    base = np.random.default_rng(0).integers(0, 9, (40, 6))
    f = base[::2, ::2]
    before = base.copy()
    np.testing.assert_array_equal(nondominated_rank(f), rank_oracle(f))
    crowding_distance(f, nondominated_rank(f))
    hypervolume(f, np.full(3, 10))
    np.testing.assert_array_equal(base, before)


# ---- crowding ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_crowding_equals_the_definition_with_ties_in_row_order(kind, m):
    for n in [0, 1, 2, 3, 10, 64, 300]:
        f = objectives(kind, n, m)
        rank = nondominated_rank(f)
        np.testing.assert_allclose(crowding_distance(f, rank), crowding_oracle(f, rank), rtol=1e-12)


def test_crowding_takes_any_integers_as_ranks():
    f = objectives("continuous", 50, 3)
    rank = np.random.default_rng(1).integers(-(2**62), 2**62, 5)[np.random.default_rng(2).integers(0, 5, 50)]
    np.testing.assert_allclose(crowding_distance(f, rank), crowding_oracle(f, rank))
    np.testing.assert_allclose(crowding_distance(f, rank.astype(np.uint64)), crowding_oracle(f, rank))


def test_crowding_is_finite_inside_a_front_that_spans_all_doubles():
    f = [[-1.7e308, 1.7e308], [0, 0], [1.7e308, -1.7e308]]
    assert crowding_distance(f, [0, 0, 0])[1] == 2
    assert not np.isnan(crowding_distance([[-np.inf, 1], [0, 0], [np.inf, -1]], [0, 0, 0])).any()


def test_crowding_refuses_nan_wrong_lengths_and_ranks_that_are_not_integers():
    with pytest.raises(ValueError, match="row 0, objective 0 is NaN"):
        crowding_distance([[np.nan, 1]], [0])
    with pytest.raises(ValueError, match="rank has 1 elements, f has 2 rows"):
        crowding_distance([[1, 2], [2, 1]], [0])
    with pytest.raises(TypeError, match="rank has dtype float64"):
        crowding_distance([[1, 2]], [0.0])


# ---- hypervolume ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6])
def test_hypervolume_equals_inclusion_and_exclusion(kind, m):
    for n in range(0, 9):
        f = objectives(kind, n, m)
        ref = np.full(m, 0.8 if kind in ("continuous", "one front", "duplicates") else 3.0)
        assert hypervolume(f, ref) == pytest.approx(hypervolume_oracle(f, ref), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 6, 7])
def test_hypervolume_agrees_with_moocore(m):
    moocore = pytest.importorskip("moocore")
    for kind in ("continuous", "one front", "ties"):
        f = objectives(kind, 60, m)
        ref = np.full(m, 1.1 if kind != "ties" else 4.0)
        assert hypervolume(f, ref) == pytest.approx(moocore.hypervolume(f, ref=ref), rel=1e-11)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_hypervolume_ignores_order_repetition_and_dominated_rows(m):
    f = objectives("one front", 40, m)
    ref = np.full(m, 1.2)
    value = hypervolume(f, ref)
    more = np.concatenate([f[::-1], f[:20], f + 0.05])
    assert hypervolume(more, ref) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_hypervolume_of_rows_on_or_beyond_the_reference_is_nothing(m):
    ref = np.ones(m)
    touching = np.zeros(m)
    touching[-1] = 1
    assert hypervolume([touching, ref, ref + 1, np.full(m, np.inf)], ref) == 0
    assert hypervolume(np.zeros((0, m)), ref) == 0


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_hypervolume_of_an_infinitely_good_row_is_infinite(m):
    f = np.full((2, m), 0.5)
    f[1, 0] = -np.inf
    assert hypervolume(f, np.ones(m)) == np.inf
    f[1, m - 1] = 2 if m > 1 else -np.inf  # no longer better than the reference everywhere
    assert hypervolume(f, np.ones(m)) == (pytest.approx(0.5**m) if m > 1 else np.inf)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_hypervolume_scales_with_the_objectives(m):
    f = objectives("one front", 30, m)
    scale = 10.0 ** np.array([200, -200, 150, -150, 0][:m])
    ref = np.full(m, 1.1)
    assert hypervolume(f * scale, ref * scale) == pytest.approx(hypervolume(f, ref) * np.prod(scale), rel=1e-9)


def test_hypervolume_refuses_nan_and_a_reference_of_another_length():
    with pytest.raises(ValueError, match="row 0, objective 1 is NaN"):
        hypervolume([[1, np.nan]], [2, 2])
    with pytest.raises(ValueError, match="ref: objective 0 is NaN"):
        hypervolume([[1, 1]], [np.nan, 2])
    with pytest.raises(ValueError, match="ref has 3 elements, f has 2 objectives"):
        hypervolume([[1, 1]], [2, 2, 2])


# ---- IGD+ ----


def test_igd_plus_equals_the_definition():
    for m in (1, 2, 3, 5):
        f, ref = objectives("continuous", 20, m), objectives("one front", 33, m)
        assert igd_plus(f, ref) == pytest.approx(igd_plus_oracle(f, ref), rel=1e-13)


def test_igd_plus_is_zero_for_a_front_that_misses_nothing_and_infinite_for_an_empty_one():
    ref = objectives("one front", 20, 3)
    assert igd_plus(ref, ref) == 0
    assert igd_plus(ref - 0.1, ref) == 0
    assert igd_plus(np.zeros((0, 3)), ref) == np.inf
    assert igd_plus([[np.inf, 0]], [[np.inf, 0]]) == 0


def test_igd_plus_refuses_an_empty_reference_and_nan():
    with pytest.raises(ValueError, match="ref has no rows"):
        igd_plus([[1, 2]], np.zeros((0, 2)))
    with pytest.raises(ValueError, match="ref has 3 objectives, f has 2"):
        igd_plus([[1, 2]], [[1, 2, 3]])
    with pytest.raises(ValueError, match="f: row 0, objective 0 is NaN"):
        igd_plus([[np.nan, 2]], [[1, 2]])


# ---- problems ----


def zdt1(x):
    g = 1 + 9 * x[:, 1:].mean(1)
    return np.stack([x[:, 0], g * (1 - np.sqrt(x[:, 0] / g))], 1)


def run(search, problem, generations, constraint=None):
    for _ in range(generations):
        x = search.ask()
        search.tell(x, problem(x), None if constraint is None else constraint(x))
    return search


def test_a_single_objective_is_minimised():
    search = NSGA2(np.full(8, -3.0), np.full(8, 5.0), objectives=1, population=40, rng=2)
    for _ in range(120):
        x = search.ask()
        search.tell(x, ((x - 1) ** 2).sum(1))  # one column may come flat
    assert search.front.f.min() < 1e-3


def test_an_integer_problem_is_solved_exactly():
    target = np.arange(12) % 5
    search = NSGA2(np.zeros(12), np.full(12, 6), integer=True, population=60, rng=3)

    def problem(x):
        return np.stack([np.abs(x - target).sum(1), np.abs(x - (6 - target)).sum(1)], 1)

    run(search, problem, 150)
    assert search.front.f.min(0).max() == 0


def test_integers_stay_whole_and_within_bounds_beside_real_variables():
    low, high = np.array([-3, 0.5, 7, -2.0]), np.array([4, 0.75, 7, -1])
    mask = np.array([True, False, True, False])
    search = NSGA2(low, high, integer=mask, population=20, rng=4)
    seen = []
    for _ in range(60):
        x = search.ask()
        seen.append(x)
        search.tell(x, np.stack([x[:, 0] + x[:, 1], x[:, 3] - x[:, 0]], 1))
    seen = np.concatenate(seen)
    assert (seen >= low).all() and (seen <= high).all()
    assert (seen[:, mask] == np.round(seen[:, mask])).all()
    assert set(seen[:, 0]) == set(range(-3, 5))
    assert len(np.unique(seen[:, 1])) > 100


# ---- state, seeds ----


def history(search, generations=6, problem=zdt1):
    out = []
    for _ in range(generations):
        x = search.ask()
        search.tell(x, problem(x))
        out.append((x, search.population.x, search.population.f))
    return out


def same(a, b):
    return all(np.array_equal(u, v) for p, q in zip(a, b, strict=True) for u, v in zip(p, q, strict=True))


def test_the_same_seed_gives_the_same_search_and_another_seed_another():
    runs = [history(NSGA2(np.zeros(9), np.ones(9), population=20, rng=rng)) for rng in (7, 7, 8)]
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_the_recorded_seed_repeats_a_search_of_unknown_seed():
    for rng in (None, np.random.default_rng(3), np.uint64(2**64 - 1)):
        first = NSGA2(np.zeros(5), np.ones(5), population=8, rng=rng)
        assert same(history(first), history(NSGA2(np.zeros(5), np.ones(5), population=8, rng=first.seed)))
    assert NSGA2([0], [1], rng=None).seed != NSGA2([0], [1], rng=None).seed


def test_asking_twice_gives_the_same_vectors_in_arrays_of_their_own():
    search = NSGA2(np.zeros(3), np.ones(3), population=8, rng=0)
    first = search.ask()
    first_copy = first.copy()
    first[:] = 9
    np.testing.assert_array_equal(search.ask(), first_copy)


@pytest.mark.parametrize("moment", [0, 1, 5])
@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("integer", [False, True])
def test_a_state_that_went_through_json_continues_exactly(moment, asked, integer):
    def problem(x):
        f = zdt1(np.abs(x) / 8)
        f[::7] = np.nan
        return f

    search = NSGA2(np.full(6, -1), np.full(6, 7), integer=integer, population=16, rng=5)
    history(search, moment, problem)
    if asked:
        search.ask()
    other = NSGA2.from_state(json.loads(json.dumps(search.state())))
    assert other.generation == search.generation == moment and other.seed == search.seed
    np.testing.assert_array_equal(other.population.f, search.population.f)
    np.testing.assert_array_equal(other.front.x, search.front.x)
    assert same(
        [[np.nan_to_num(a) for a in h] for h in history(search, 6, problem)],
        [[np.nan_to_num(a) for a in h] for h in history(other, 6, problem)],
    )


def test_start_vectors_and_their_state_survive_a_round_trip():
    search = NSGA2(np.zeros(3), np.ones(3), population=8, rng=5)
    search.start([[0.25, 0.5, 0.75], [-4, 9, 0.5]])
    x = search.ask()
    np.testing.assert_array_equal(x[:2], [[0.25, 0.5, 0.75], [0, 1, 0.5]])
    np.testing.assert_array_equal(NSGA2.from_state(search.state()).ask(), x)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": None},
        {"core": ""},
        {"core": "AAAA"},
        {"core": "not base64!"},
        {"core": 5},
        {"seed": 1},
        {"seed": -1},
        {"population": 8},
        {"population": 7},
        {"lower": "x"},
        {"upper": [0.5] * 3},
        {"integer": [True] * 3},
        {"objectives": 3},
        {"constraints": 10**12},
    ],
)
def test_a_changed_state_is_refused(change):
    search = NSGA2(np.zeros(3), np.ones(3), population=6, rng=0)
    history(search, 2)
    with pytest.raises(FormatError, match="state"):
        NSGA2.from_state({**search.state(), **change})


@pytest.mark.parametrize("key", ["lower", "core", "seed", "format"])
def test_an_incomplete_state_is_refused(key):
    state = NSGA2([0, 0], [1, 1], population=6, rng=0).state()
    del state[key]
    with pytest.raises(ValueError, match=key):
        NSGA2.from_state(state)


# ---- constraints, failures, duplicates ----


def test_feasible_rows_beat_infeasible_ones_and_smaller_violations_larger_ones():
    search = NSGA2([0.0], [1.0], constraints=2, population=10, rng=0)
    x = search.ask()
    violation = np.arange(10.0) - 4  # rows 0 .. 4 feasible
    search.tell(x, np.stack([x[:, 0], x[:, 0]], 1), np.stack([violation, -np.ones(10)], 1))
    assert len(search.front) == 1 and (search.front.g <= 0).all()
    y = search.ask()
    search.tell(y, np.full((10, 2), -1.0), np.full((10, 2), 2.5))  # wonderful but infeasible by 5 in total
    survivors = search.population.x[:, 0]
    assert set(x[:, 0]) == set(survivors)  # violations 1 .. 5 of the first rows are no larger
    z = search.ask()
    search.tell(z, np.full((10, 2), 9.0), np.full((10, 2), 0.75))  # infeasible by 1.5
    survivors = set(search.population.x[:, 0])
    assert set(x[:6, 0]) <= survivors and not set(x[6:, 0]) & survivors


def test_constrained_search_ends_on_the_constraint():
    search = NSGA2(np.zeros(2), np.ones(2), constraints=1, population=40, rng=1)
    run(search, lambda x: x, 60, lambda x: 1 - x.sum(1, keepdims=True))
    front = search.front
    assert len(front) > 30 and (front.g <= 0).all()
    excess = front.f.sum(1) - 1
    assert (excess >= 0).all() and np.median(excess) < 0.02 and np.ptp(front.f[:, 0]) > 0.9


def test_the_front_is_empty_while_nothing_is_feasible():
    search = NSGA2([0.0], [1.0], constraints=1, population=4, rng=0)
    assert len(search.front) == len(search.population) == 0
    x = search.ask()
    search.tell(x, np.ones((4, 2)), np.ones((4, 1)))
    assert len(search.front) == 0 and len(search.population) == 4


def test_failed_rows_never_survive_while_others_can():
    search = NSGA2(np.zeros(4), np.ones(4), constraints=1, population=20, rng=0)
    rng = np.random.default_rng(0)
    good = 0
    for _ in range(10):
        x = search.ask()
        f, g = rng.random((20, 2)), rng.random((20, 1)) - 0.5
        failed = rng.random(20) < 0.7
        f[failed & (rng.random(20) < 0.5), 0] = np.nan
        g[failed & ~np.isnan(f).any(1)] = np.nan
        good += int((~failed).sum())
        search.tell(x, f, g)
        population = search.population
        bad = np.isnan(population.f).any(1) | np.isnan(population.g).any(1)
        assert bad.sum() == max(0, 20 - good)
        assert not np.isnan(search.front.f).any()


def test_a_search_goes_on_when_every_evaluation_fails():
    search = NSGA2(np.zeros(2), np.ones(2), population=6, rng=0)
    for _ in range(3):
        search.tell(search.ask(), np.full((6, 2), np.nan))
    assert len(search.front) == 0
    run(search, zdt1, 2)
    assert len(search.front) > 0 and not np.isnan(search.population.f).any()


def test_no_vector_is_asked_for_twice_while_there_are_new_ones():
    search = NSGA2(np.zeros(4), np.full(4, 9), integer=True, population=40, rng=0)
    for _ in range(15):
        x = search.ask()
        both = np.concatenate([search.population.x, x])
        assert len(np.unique(both, axis=0)) == len(both)
        search.tell(x, np.stack([x.sum(1), (9 - x).sum(1)], 1))


def test_a_space_smaller_than_the_population_is_searched_without_hanging():
    search = NSGA2([0, 3], [1, 3], integer=True, population=10, rng=0)
    run(search, lambda x: x + np.array([0, 1.0]), 5)
    assert search.front.x.tolist() == [[0, 3]]  # and not ten copies of it


def test_fixed_variables_stay():
    search = NSGA2([0.5, 2, 0], [0.5, 2, 1], integer=[False, True, False], population=12, rng=0)
    run(search, lambda x: np.stack([x[:, 2], -x[:, 2]], 1), 10)
    assert (search.population.x[:, :2] == [0.5, 2]).all()


def test_extreme_bounds_give_vectors_within_them():
    low, high = np.array([-8e307, 0, -5e-324, 1e300]), np.array([8e307, 5e-324, 5e-324, 1.5e300])
    search = NSGA2(low, high, population=20, rng=0)
    for _ in range(10):
        x = search.ask()
        assert np.isfinite(x).all() and (x >= low).all() and (x <= high).all()
        search.tell(x, np.stack([np.sign(x[:, 0]), x[:, 3]], 1))


# ---- interface ----


def make(**options):
    return NSGA2(**{"lower": np.zeros(3), "upper": np.ones(3), "population": 6, "rng": 0, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"population": 2}, ValueError, "population is 2, must be at least 4"),
        ({"population": 7}, ValueError, "population is 7, must be even"),
        ({"population": 8.0}, TypeError, "population must be an integer, not 8.0"),
        ({"population": 2**40}, ValueError, "population"),
        ({"objectives": 0}, ValueError, "objectives is 0, must be at least 1"),
        ({"constraints": -1}, ValueError, "constraints is -1, must be at least 0"),
        ({"lower": [0, 2, 0]}, ValueError, "variable 1: lower is 2.0, above upper, which is 1.0"),
        ({"lower": [0, np.nan, 0]}, ValueError, "variable 1: lower is nan"),
        ({"upper": [1, 1, np.inf]}, ValueError, "variable 2: .*finite"),
        ({"lower": np.full(3, -1.7e308), "upper": np.full(3, 1.7e308)}, ValueError, "range"),
        ({"lower": [0, 0]}, ValueError, "lower has 2 elements, upper has 3"),
        ({"lower": [], "upper": []}, ValueError, "at least 1 variable"),
        ({"lower": np.zeros((3, 1))}, ValueError, r"lower has shape \(3, 1\)"),
        ({"lower": ["a", "b", "c"]}, TypeError, "lower has dtype"),
        ({"upper": [1, 1.5, 1], "integer": True}, ValueError, "variable 1 is an integer; its bounds 0.0 and 1.5"),
        ({"upper": [1, 1, 1e17], "integer": True}, ValueError, "variable 2 is an integer.*2.52"),
        ({"integer": [True, False]}, ValueError, r"integer has shape \(2,\)"),
        ({"integer": [1, 0, 1]}, TypeError, "integer must be True, False or a mask of 3 booleans"),
        ({"rng": -1}, ValueError, "rng is -1"),
        ({"rng": 0.5}, TypeError, "rng must be None, an integer or a numpy.random.Generator"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_one_bound_may_be_a_number():
    search = NSGA2(0, [1, 2, 3], population=4, rng=0)
    assert search.ask().shape == (4, 3)


@pytest.mark.parametrize(
    ("f", "g", "message"),
    [
        (np.zeros((5, 2)), None, r"f has shape \(5, 2\), expected \(6, 2\)"),
        (np.zeros((6, 3)), None, r"f has shape \(6, 3\), expected \(6, 2\)"),
        (np.zeros(6), None, r"f has shape \(6,\), expected \(6, 2\)"),
        (np.full((6, 2), np.inf), None, "f: row 0, objective 0 is infinite"),
        (np.zeros((6, 2)), np.zeros((6, 1)), "g was given, but the search has constraints=0"),
    ],
)
def test_wrong_answers_are_refused_and_the_right_ones_taken_after_that(f, g, message):
    search = make()
    x = search.ask()
    with pytest.raises(ValueError, match=message):
        search.tell(x, f, g)
    assert search.generation == 0
    search.tell(x, np.zeros((6, 2)))
    assert search.generation == 1


def test_missing_constraints_are_named():
    search = make(constraints=2)
    x = search.ask()
    with pytest.raises(ValueError, match="g is missing; the search has 2 constraints"):
        search.tell(x, np.zeros((6, 2)))
    with pytest.raises(ValueError, match=r"g has shape \(6, 1\), expected \(6, 2\)"):
        search.tell(x, np.zeros((6, 2)), np.zeros((6, 1)))


def test_rows_that_were_not_asked_for_are_refused():
    search = make()
    x = search.ask()
    changed = x.copy()
    changed[2, 1] += 1e-9
    for wrong, row in ((changed, 2), (x[::-1], 0)):
        with pytest.raises(ValueError, match=f"x: row {row} is not the row that was asked for"):
            search.tell(wrong, zdt1(wrong))
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\), expected \(6, 3\)"):
        search.tell(x[:4], zdt1(x[:4]))


def test_telling_without_asking_is_refused():
    search = make()
    with pytest.raises(RuntimeError, match="tell comes after ask"):
        search.tell(np.zeros((6, 3)), np.zeros((6, 2)))
    x = search.ask()
    search.tell(x, zdt1(x))
    with pytest.raises(RuntimeError, match="tell comes after ask"):
        search.tell(x, zdt1(x))


def test_start_vectors_are_checked():
    search = make(integer=True)
    for bad, message in (
        ([[0.5, 0, 0]], "variable 0 is an integer, not 0.5"),
        ([[np.nan, 0, 0]], "variable 0 is NaN"),
        (np.zeros((7, 3)), "7 start vectors, the population holds 6"),
        (np.zeros((2, 2)), r"x has shape \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            search.start(bad)
    x = search.ask()
    search.tell(x, zdt1(x))
    with pytest.raises(ValueError, match="before the first tell"):
        search.start(np.zeros((1, 3)))


def test_start_vectors_asked_for_earlier_must_be_asked_for_again():
    search = make()
    x = search.ask()
    search.start([[0.5, 0.5, 0.5]])
    with pytest.raises(RuntimeError, match="tell comes after ask"):
        search.tell(x, zdt1(x))
    np.testing.assert_array_equal(search.ask()[0], [0.5, 0.5, 0.5])


def test_the_population_is_a_copy():
    search = run(make(), zdt1, 1)
    search.population.x[:] = 7
    search.front.f[:] = 7
    assert search.population.x.max() <= 1 and search.front.f.min() < 7


def test_the_class_can_be_subclassed_and_referenced_weakly():
    class Mine(NSGA2):
        """A subclass."""

    search = Mine([0], [1], population=4, rng=0)
    assert isinstance(Mine.from_state(search.state()), Mine)
    assert weakref.ref(search)() is search
    assert "population=4" in repr(search)


def test_threads_cannot_mix_up_a_generation():
    search = NSGA2(np.zeros(20), np.ones(20), population=400, rng=0)
    problems = []

    def work():
        for _ in range(30):
            try:
                x = search.ask()
                search.tell(x, zdt1(x))
            except RuntimeError:
                pass  # in use, or told already
            except ValueError as error:
                if "not the row that was asked for" not in str(error):
                    problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems and search.generation > 0
    x = search.ask()
    search.tell(x, zdt1(x))
    np.testing.assert_array_equal(search.population.f, zdt1(search.population.x))


def test_the_examples_in_the_documentation_hold():
    assert doctest.testmod(search_module).failed == 0
