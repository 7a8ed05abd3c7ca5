"""Repeating over seeds: intervals and paired tests against published quantiles."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dynadnn as dn
from dynadnn._repeat import _quantile, mean_interval, paired_p


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227), (200, 1.97190)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert _quantile(freedom) == pytest.approx(value, rel=2e-6)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    inside = sum(low <= 3 <= high for low, high in (mean_interval(draw.normal(3, 2, 5)) for _ in range(600)))
    assert 0.93 < inside / 600 < 0.97


def test_a_paired_difference_is_sure_where_separate_means_are_not() -> None:
    shared = np.random.default_rng(1).normal(0, 1, 6)
    better = dn.repeat(lambda s: {"accuracy": float(shared[s]) + 0.1 + 0.01 * (s % 2)}, seeds=6)
    worse = dn.repeat(lambda s: {"accuracy": float(shared[s])}, seeds=6)
    (row,) = better.minus(worse).rows
    assert row[2] > 0 and row[4] < 1e-4
    assert better.interval["accuracy"][0] < worse.mean["accuracy"]


def test_p_is_that_of_the_closed_form_for_four_degrees_of_freedom() -> None:
    sine, cosine2 = math.sqrt(18 / 22), 4 / 22  # t = 3 * sqrt(2): Abramowitz and Stegun 26.7.4
    assert paired_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(1 - sine * (1 + cosine2 / 2), rel=1e-6)
    assert paired_p(np.zeros(3)) == 1.0 and paired_p(np.array([1.0])) is None


def test_a_single_number_and_one_seed_are_enough() -> None:
    runs = dn.repeat(lambda seed: 1.5, seeds=[7])
    assert runs.seeds == (7,) and runs.mean == {"value": 1.5} and runs.interval["value"] == (-math.inf, math.inf)
    assert "1 seeds" in str(runs) and "<table" in runs._repr_html_()


@pytest.mark.parametrize(
    ("f", "seeds", "error", "text"),
    [
        (lambda s: 1.0, 0, ValueError, "seeds is empty"),
        (lambda s: 1.0, [1, 1], ValueError, "twice"),
        (lambda s: "good", 2, TypeError, "not str"),
        (lambda s: {"a": math.nan}, 2, ValueError, "a is nan for seed 0"),
        (lambda s: {str(s): 1.0}, 2, ValueError, "seed 1 gave"),
    ],
)
def test_bad_input_is_named(f: object, seeds: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        dn.repeat(f, seeds)  # type: ignore[arg-type]


def test_runs_of_other_seeds_are_not_paired() -> None:
    with pytest.raises(ValueError, match="same seeds"):
        dn.repeat(lambda s: 1.0, 2).minus(dn.repeat(lambda s: 1.0, 3))
