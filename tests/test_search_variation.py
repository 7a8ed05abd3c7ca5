"""Crossover and mutation against the formulas of Deb's code: turned around, they give uniform random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)
Floats = NDArray[np.float64]
ROWS, VARIABLES = 40000, 12
SMALL, LARGE, CROSSING, MUTATION = 0.3, 0.6, 15.0, 20.0


def offspring(
    first: Floats, crossover: float, mutation: float, integer: bool = False, seed: int = 1
) -> tuple[Floats, Floats]:
    """Parents whose first variable is given, others random so that no row repeats; and their children.

    The first variable lies in -1 .. 3, and is a whole number if asked.
    """
    lower, upper = np.zeros(VARIABLES), np.ones(VARIABLES)
    lower[0], upper[0] = -1, 3
    whole = np.zeros(VARIABLES, bool)
    whole[0] = integer
    search = core.NSGA2(lower, upper, whole, 2, 0, ROWS, crossover, CROSSING, mutation, MUTATION, seed)
    x = np.random.default_rng(seed).random((ROWS, VARIABLES))
    x[:, 0] = first
    search.start(x)
    place = np.linspace(0, 1, ROWS)
    search.tell(search.ask(), np.stack([place, 1 - place], 1))  # one front: every parent may be chosen
    return x, search.ask()


def is_uniform(u: Floats) -> bool:
    """Kolmogorov and Smirnov's test at one in a thousand."""
    u = np.sort(u)
    steps = np.arange(len(u) + 1) / len(u)
    distance = max((steps[1:] - u).max(), (u - steps[:-1]).max())
    return bool(distance < 1.95 / np.sqrt(len(u)))


def spread_number(spread: Floats, room: float) -> Floats:
    """The random number that Deb's crossover turns into a spread factor, with this room to the bound."""
    power = CROSSING + 1
    alpha = 2 - (1 + 2 * room / (LARGE - SMALL)) ** -power
    return np.where(spread <= 1, spread**power, 2 - spread**-power) / alpha


def test_crossover_spreads_children_as_debs_code_does() -> None:
    _, children = offspring(np.resize([SMALL, LARGE], ROWS), 1.0, 1e-18)
    pairs = np.sort(children[:, 0].reshape(-1, 2), axis=1)
    left, right = pairs[~np.isin(pairs, (SMALL, LARGE)).any(1)].T
    assert 0.2 * ROWS / 2 < len(left) < 0.3 * ROWS / 2  # parents differ in half of the pairs, and half of these cross
    middle, half = (SMALL + LARGE) / 2, (LARGE - SMALL) / 2
    below, above = spread_number((middle - left) / half, SMALL + 1), spread_number((right - middle) / half, 3 - LARGE)
    assert is_uniform(below) and is_uniform(above)
    np.testing.assert_allclose(below, above, atol=1e-9)  # one random number for both children


def test_crossed_genes_are_dealt_to_either_child() -> None:
    _, children = offspring(np.resize([SMALL, LARGE], ROWS), 1.0, 1e-18)
    first, second = children[:, 0].reshape(-1, 2).T
    crossed = ~np.isin(first, (SMALL, LARGE))
    assert 0.4 < (first < second)[crossed].mean() < 0.6


def changed_genes(parents: Floats, children: Floats) -> NDArray[np.int64]:
    """Per child; at least one, because a child that equals a row of the population is changed in one gene."""
    found: NDArray[np.int64] = sum(~np.isin(children[:, k], parents[:, k]) for k in range(VARIABLES))
    assert found.min() >= 1
    return found


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.9])
def test_pairs_cross_with_the_crossover_probability(probability: float) -> None:
    parents, children = offspring(np.zeros(ROWS), probability, 1e-18)
    share = (changed_genes(parents, children) > 1).mean()
    assert abs(share - probability) < 0.04


def mutation_number(x: float, child: Floats) -> Floats:
    """The random number that Deb's mutation turns into a step from x, on -1 .. 3."""
    power, step = MUTATION + 1, (child - x) / 4
    below, above = (1 - (x + 1) / 4) ** power, (1 - (3 - x) / 4) ** power
    left = ((1 + np.minimum(step, 0)) ** power - below) / (2 * (1 - below))
    right = (2 - above - (1 - np.maximum(step, 0)) ** power) / (2 * (1 - above))
    return np.where(step < 0, left, right)


@pytest.mark.parametrize("x", [-0.9, 1.25, 2.99])
def test_mutation_steps_as_debs_code_does(x: float) -> None:
    _, children = offspring(np.full(ROWS, x), 0.0, 1.0)
    assert is_uniform(mutation_number(x, children[:, 0]))


def test_half_of_the_mutations_at_a_bound_stay_there() -> None:
    _, children = offspring(np.full(ROWS, -1.0), 0.0, 1.0)
    assert abs((children[:, 0] == -1).mean() - 0.5) < 0.04


def test_one_variable_in_d_mutates() -> None:
    parents, children = offspring(np.zeros(ROWS), 0.0, 0.0)
    stays = 1 - 1 / VARIABLES
    expected = 1 - stays**VARIABLES - stays ** (VARIABLES - 1)  # two or more of independent ones
    assert abs((changed_genes(parents, children) > 1).mean() - expected) < 0.03


def test_whole_numbers_mutate_to_every_other_value_alike() -> None:
    _, children = offspring(np.zeros(ROWS), 0.0, 1.0, integer=True)
    values, counts = np.unique(children[:, 0], return_counts=True)
    assert values.tolist() == [-1, 1, 2, 3]
    assert np.abs(counts / ROWS - 0.25).max() < 0.04
