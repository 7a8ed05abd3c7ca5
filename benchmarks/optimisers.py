"""NSGA-II of five packages on one problem, with one set of operators and equal evaluations.

Simulated binary crossover (eta 15, probability 0.9) and polynomial mutation (eta 20, one variable in d) everywhere;
pymoo changes nine children in ten, Optuna makes one child of a pair. The objectives are the same NumPy function of a
whole population, but for pygmo, which has its own in C++, checked to be equal.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dynadnn as dn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from problems import PROBLEMS, Problem

__all__ = ["OPTIMISERS", "PROBLEMS", "Optimiser", "Problem", "missing", "same_problem"]

Floats = NDArray[np.float64]
# Problem, population, generations (the first is drawn at random), seed: objectives of the last population.
Optimiser = Callable[[Problem, int, int, int], Floats]


def missing(name: str) -> bool:
    return importlib.util.find_spec(name) is None


def dynadnn(problem: Problem, population: int, generations: int, seed: int) -> Floats:
    search = dn.NSGA2(problem.lower, problem.upper, objectives=problem.objectives, population=population, rng=seed)
    for _ in range(generations):
        x = search.ask()
        search.tell(x, problem.evaluate(x))
    return search.population.f


def pymoo(problem: Problem, population: int, generations: int, seed: int) -> Floats:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as Base
    from pymoo.optimize import minimize

    class Theirs(Base):
        def __init__(self) -> None:
            super().__init__(n_var=problem.variables, n_obj=problem.objectives, xl=problem.lower, xu=problem.upper)

        def _evaluate(self, x: Floats, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = problem.evaluate(x)

    done = minimize(Theirs(), NSGA2(pop_size=population), ("n_gen", generations), seed=seed)
    return np.asarray(done.pop.get("F"))


def pygmo(problem: Problem, population: int, generations: int, seed: int) -> Floats:
    import pygmo as pg

    method = pg.nsga2(gen=generations - 1, cr=0.9, eta_c=15, m=1 / problem.variables, eta_m=20, seed=seed)
    return np.asarray(pg.algorithm(method).evolve(pg.population(_compiled(problem), population, seed=seed)).get_f())


def _compiled(problem: Problem) -> Any:
    """The same problem in pygmo's own C++."""
    import pygmo as pg

    number = int(problem.name[-1])
    if problem.name.startswith("ZDT"):
        return pg.problem(pg.zdt(number, problem.variables))
    return pg.problem(pg.dtlz(number, problem.variables, problem.objectives))


def same_problem(problem: Problem) -> bool:
    """Whether pygmo's compiled problem has our bounds and objectives."""
    theirs = _compiled(problem)
    x = np.random.default_rng(0).uniform(problem.lower, problem.upper, (20, problem.variables))
    f = np.array([theirs.fitness(row) for row in x])
    bounds = np.array_equal(theirs.get_bounds(), (problem.lower, problem.upper))
    return bounds and np.allclose(f, problem.evaluate(x), rtol=1e-12, atol=0)


def deap(problem: Problem, population: int, generations: int, seed: int) -> Floats:
    """The loop of DEAP's own example nsga2.py, with the faster of its two sorts."""
    from deap import base, tools

    class Fitness(base.Fitness):
        weights = (-1.0,) * problem.objectives

    class Individual(list):
        def __init__(self, values: list[float]) -> None:
            super().__init__(values)
            self.fitness = Fitness()

    def evaluated(rows: list[Any]) -> list[Any]:
        for row, f in zip(rows, problem.evaluate(np.array(rows)), strict=True):
            row.fitness.values = f.tolist()
        return rows

    low, high = problem.lower.tolist(), problem.upper.tolist()
    random.seed(seed)
    drawn = [Individual([random.uniform(a, b) for a, b in zip(low, high, strict=True)]) for _ in range(population)]
    parents = tools.selNSGA2(evaluated(drawn), population)
    for _ in range(generations - 1):
        chosen = tools.selTournamentDCD(parents, population)
        children = [Individual(list(row)) for row in chosen]
        for first, second in zip(children[::2], children[1::2], strict=True):
            if random.random() <= 0.9:
                tools.cxSimulatedBinaryBounded(first, second, 15.0, low, high)
            tools.mutPolynomialBounded(first, 20.0, low, high, 1 / problem.variables)
            tools.mutPolynomialBounded(second, 20.0, low, high, 1 / problem.variables)
        parents = tools.selNSGA2(parents + evaluated(children), population, nd="log")
    return np.array([row.fitness.values for row in parents])


def optuna(problem: Problem, population: int, generations: int, seed: int) -> Floats:
    """By ask and tell, a generation at a time; its result is all that no other trial dominates, as a study gives it."""
    import optuna as op

    op.logging.set_verbosity(op.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these operators count as experimental
        sampler = op.samplers.NSGAIISampler(
            population_size=population, seed=seed, crossover_prob=0.9,
            crossover=op.samplers.nsgaii.SBXCrossover(eta=15.0),
            mutation=op.samplers.nsgaii.PolynomialMutation(eta=20.0),
        )  # fmt: skip
        study = op.create_study(directions=["minimize"] * problem.objectives, sampler=sampler)
        space: dict[str, Any] = {
            f"x{k}": op.distributions.FloatDistribution(a, b)
            for k, (a, b) in enumerate(zip(problem.lower.tolist(), problem.upper.tolist(), strict=True))
        }
        for _ in range(generations):
            trials = [study.ask(space) for _ in range(population)]
            x = np.array([[trial.params[name] for name in space] for trial in trials])
            for trial, f in zip(trials, problem.evaluate(x), strict=True):
                study.tell(trial, f.tolist())
    f = np.array([trial.values for trial in study.get_trials(deepcopy=False)])
    return f[dn.search.nondominated_rank(f) == 0]


def quietly(optimiser: Optimiser) -> Optimiser:
    """Without what the packages print."""

    def run(problem: Problem, population: int, generations: int, seed: int) -> Floats:
        with contextlib.redirect_stdout(io.StringIO()):
            return optimiser(problem, population, generations, seed)

    return run


# By the name of the package; ours is first.
OPTIMISERS: dict[str, Optimiser] = {
    "dynadnn": dynadnn, "pymoo": quietly(pymoo), "pygmo": pygmo, "deap": deap, "optuna": optuna,
}  # fmt: skip
