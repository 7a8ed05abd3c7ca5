"""NSGA-II on ZDT1-4, ZDT6 and DTLZ1-7, against the fronts that are known."""

from __future__ import annotations

import numpy as np
import pytest
from problems import PROBLEMS, Problem

from dynadnn.search import NSGA2, hypervolume, igd_plus, nondominated_rank

# Generations of a population of 100, and the IGD+ that the median of three seeds stays below; about twice what is seen.
CONVERGES = {
    "ZDT1": (250, 0.008),
    "ZDT2": (250, 0.008),
    "ZDT3": (250, 0.005),
    "ZDT4": (300, 0.01),
    "ZDT6": (400, 0.008),
    "DTLZ1": (400, 0.05),
    "DTLZ2": (200, 0.06),
    "DTLZ3": (1200, 0.1),
    "DTLZ4": (200, 0.06),
    "DTLZ5": (200, 0.006),
    "DTLZ6": (1000, 0.2),
    "DTLZ7": (300, 0.09),
}
BEST = {name: 0.5 if name in ("DTLZ1", "DTLZ2", "DTLZ3", "DTLZ4", "DTLZ5") else 0.0 for name in PROBLEMS}


@pytest.fixture(params=PROBLEMS.values(), ids=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    found: Problem = request.param
    return found


def optima(problem: Problem, n: int) -> np.ndarray:
    """Objectives of vectors whose variables of distance are at their best; those that others dominate are left out."""
    x = np.full((n, problem.variables), BEST[problem.name])
    place = problem.objectives - 1
    x[:, :place] = np.random.default_rng(0).random((n, place))
    if problem.name == "DTLZ4":
        x[:, :place] **= 0.01  # its power moves most vectors to one edge
    f = problem.evaluate(x)
    return f[nondominated_rank(f) == 0]


def run(problem: Problem, generations: int, seed: int) -> NSGA2:
    search = NSGA2(problem.lower, problem.upper, objectives=problem.objectives, rng=seed)
    for _ in range(generations):
        x = search.ask()
        search.tell(x, problem.evaluate(x))
    return search


def test_the_search_converges_to_the_known_front(problem: Problem) -> None:
    generations, bound = CONVERGES[problem.name]
    front = problem.front(400)
    found = [igd_plus(run(problem, generations, seed).front.f, front) for seed in range(3)]
    assert np.median(found) < bound


def test_the_known_front_is_what_the_best_vectors_reach(problem: Problem) -> None:
    front, reached = problem.front(1500), optima(problem, 3000)
    assert (nondominated_rank(front) == 0).all()
    assert igd_plus(front, reached) < 0.01  # no vector is better than the front
    assert igd_plus(reached, front) < 0.02  # and the front is not better than all vectors


def test_the_known_front_bounds_every_vector(problem: Problem) -> None:
    front = problem.front(400)
    x = np.random.default_rng(1).uniform(problem.lower, problem.upper, (500, problem.variables))
    both = np.concatenate([front, problem.evaluate(x)])
    assert (nondominated_rank(both)[: len(front)] == 0).all()


def test_problems_are_those_of_pymoo(problem: Problem) -> None:
    get_problem = pytest.importorskip("pymoo.problems").get_problem
    sizes = {"n_var": problem.variables} | ({"n_obj": 3} if problem.objectives == 3 else {})
    theirs = get_problem(problem.name.lower(), **sizes)
    np.testing.assert_array_equal((theirs.xl, theirs.xu), (problem.lower, problem.upper))
    x = np.random.default_rng(2).uniform(problem.lower, problem.upper, (50, problem.variables))
    np.testing.assert_allclose(problem.evaluate(x), theirs.evaluate(x), rtol=1e-12)


def test_the_search_reaches_almost_all_of_the_volume_of_zdt1() -> None:
    whole = 1.1**2 - 1 / 3
    assert hypervolume(PROBLEMS["ZDT1"].front(1000), [1.1, 1.1]) == pytest.approx(whole, abs=1e-3)
    assert hypervolume(run(PROBLEMS["ZDT1"], 250, 1).front.f, [1.1, 1.1]) > 0.99 * whole  # random search reaches 0
