"""benchmarks/search.py as a toy with the packages that are here, and what it says of gaps and missed goals."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import cbuild
import numpy as np
import pytest

OTHERS = ("pymoo", "pygmo", "deap", "optuna", "moocore")


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(cbuild.ROOT / "benchmarks"))
    monkeypatch.setattr(script("search"), "pin_to_one_core", lambda: None)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "search.json").read_text())
    return found


def absent(name: str) -> bool:
    found: bool = script("optimisers").missing(name)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


def test_a_toy_runs_through_to_tables_and_plot(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert script("search").main(["--quick", "--out", str(finished)]) == 0
    text, result = capsys.readouterr().out, result_of(finished)
    for name in OTHERS:
        assert (f"{name} is not installed: its cells are left out" in text) == absent(name)
    here = [
        c.key for c in script("search").cells(script("search").QUICK) if c.needs == "dynadnn" or not absent(c.needs)
    ]
    assert list(result["cells"]) == here
    assert result.keys() >= {"cpu", "versions", "date", "seed", "commit", "design"}
    assert "**Milliseconds per generation" in (finished / "search.md").read_text()
    assert (finished / "search.png").stat().st_size > 1000


def test_finished_cells_are_not_run_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("a finished cell was run")

    monkeypatch.setattr(script("search"), "run_cell", never)
    monkeypatch.setattr(script("search"), "report", lambda *arguments: 0)
    assert script("search").main(["--quick", "--out", str(finished)]) == 0
    assert "missing:" not in capsys.readouterr().out


def test_packages_that_are_not_installed_are_said_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("search", "search_report"):
        monkeypatch.setattr(script(module), "missing", lambda name: True)
    assert script("search").main(["--quick", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert all(f"{name} is not installed" in text for name in (*OTHERS, "matplotlib"))
    assert {key.rsplit("/")[-1] for key in result_of(tmp_path)["cells"]} == {"dynadnn"}
    assert "missing:" not in text and not (tmp_path / "search.png").exists()


def test_a_missing_cell_is_reported(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script("search"), "report", lambda *arguments: 0)
    result, key = result_of(finished), "front/ZDT1/24 evaluations/dynadnn"
    del result["cells"][key]
    (tmp_path / "search.json").write_text(json.dumps(result))
    assert script("search").main(["--quick", "--table", "--out", str(tmp_path)]) == 1
    assert f"missing: {key}" in capsys.readouterr().out


def test_results_of_another_design_are_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text((finished / "search.json").read_text())
    with pytest.raises(SystemExit, match="has quick True"):
        script("search").main(["--table", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        script("search").main(["--only", "nothing", "--unknown"])
    assert script("search").main(["--quick", "--only", "nothing", "--out", str(tmp_path)]) == 2


def full_result(ratio: float, ours: float) -> dict[str, Any]:
    """As of a whole run: one timing and one front, with pymoo's hypervolume 0.86 and some noise."""
    search = script("search")
    noise = np.random.default_rng(0).normal(size=31) * 1e-4
    front = {
        who: {"evaluations": 20000, "hypervolume": list(v + noise)} for who, v in (("dynadnn", ours), ("pymoo", 0.86))
    }
    cells = {f"front/ZDT1/20000 evaluations/{who}": record for who, record in front.items()}
    timing = {"ms": {"dynadnn": ratio, "pygmo": 1.0}, "ratio": ratio}
    begun = search.begin(search.FULL, False, Path("none.json"))
    return {**begun, "cells": {**cells, "generation/ZDT1/population 100/pygmo": timing}}


@pytest.mark.parametrize(
    ("ratio", "ours", "short"), [(0.3, 0.86, 0), (0.4, 0.86, 1), (0.3, 0.8598, 1), (0.3, 0.859, 2)]
)
def test_figures_that_miss_their_goals_are_short(ratio: float, ours: float, short: int) -> None:
    goals = script("search_report").judge(full_result(ratio, ours))
    assert len(goals.short) == short


def test_answers_that_differ_are_short_and_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    result = full_result(0.3, 0.86)
    result["cells"]["rank/1000 rows/2 objectives"] = {"differs": "the ranks are not moocore's"}
    assert script("search_report").judge(result).short == ["rank/1000 rows/2 objectives"]
    assert "not timed: the ranks are not moocore's" in capsys.readouterr().out


def test_a_search_that_ends_far_from_the_front_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    search = script("search")
    far = {"dynadnn": lambda p, *rest: p.front(9) + 1, "pymoo": lambda p, *rest: p.front(9)}
    monkeypatch.setattr(search, "OPTIMISERS", far)
    assert "differs" in search.generation(search.QUICK, "ZDT1", 8, "pymoo", 2)


@pytest.mark.parametrize("name", ["dynadnn", "pymoo", "deap", "optuna"])
def test_every_package_evaluates_as_often(name: str) -> None:
    optimisers = script("optimisers")
    if name != "dynadnn" and absent(name):
        pytest.skip(f"{name} is not installed")
    problem, counted = optimisers.PROBLEMS["ZDT1"], []
    watched = optimisers.Problem(
        **{**vars(problem), "evaluate": lambda x: (counted.append(len(x)), problem.evaluate(x))[1]}
    )
    f = optimisers.OPTIMISERS[name](watched, 8, 3, 1)
    assert sum(counted) == 24 and f.shape[1] == 2


def test_the_rank_test_gives_the_values_of_scipy() -> None:
    """Of scipy.stats.mannwhitneyu(a, b, method="asymptotic"), SciPy 1.17."""
    a, b = np.arange(12) ** 2 % 17, np.arange(1, 10) ** 3 % 19  # with ties
    assert script("search_report").mann_whitney(a, b) == pytest.approx(0.6944778576933941, rel=1e-12)
    assert script("search_report").mann_whitney(a, b + 5.25) == pytest.approx(0.18730406505907427, rel=1e-12)


def test_the_rank_test_sees_no_difference_between_equal_samples() -> None:
    assert script("search_report").mann_whitney([1.0, 1, 1], [1, 1, 1]) == 1.0
