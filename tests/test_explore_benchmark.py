"""benchmarks/explore.py as a toy, and the searches that it sets beside ours."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cbuild
import numpy as np
import pytest

import dynadnn as dn

CHOICES = ([4, 8, 12, 16], [8, 16, 24, 32], [16, 32])


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(cbuild.ROOT / "benchmarks"))


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


class Errors:
    """Made-up errors; counts what is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, wanted: Sequence[tuple[int, ...]]) -> list[float]:
        self.asked += wanted
        return [1 / (w[0] / 16 + w[1] / 32 + 4 * w[2] / 32) for w in wanted]


def costs(wanted: Sequence[tuple[int, ...]]) -> list[float]:
    return [float(sum(w)) for w in wanted]


def test_a_toy_runs_through_to_figures_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("optuna")
    explore = script("explore")
    assert explore.main(["--small", "--work", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "explore.json").read_text())
    assert result["points"] == [explore.SMALL.budget]
    assert result["rows"][explore.OURS]["ratio"] == 1
    for name, row in result["rows"].items():
        assert 0 < row["hypervolume"][0] < 1, name
        assert row["evaluated"] == [{explore.WHOLE: row["evaluated"][0], explore.UNIFORM: 2}.get(name, 24)] or (
            name == explore.OURS
        )
    assert (tmp_path / "explore.png").stat().st_size > 1000
    before = (tmp_path / "memo.jsonl").read_text()
    with (tmp_path / "memo.jsonl").open("a") as file:
        file.write('{"split": "val", "wid')  # a killed writer
    assert explore.main(["--small", "--work", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "explore.json").read_text())
    assert again["rows"] == result["rows"]
    assert (tmp_path / "memo.jsonl").read_text() == before
    assert capsys.readouterr().out.count("0 short") == 2


def test_random_search_evaluates_distinct_points() -> None:
    errors = Errors()
    found = script("explorers").random_search(CHOICES, errors, 20, seed=3)
    assert len(found) == len(set(found)) == 20
    assert errors.asked == found
    assert all(w in row for widths in found for w, row in zip(widths, CHOICES, strict=True))


def test_greedy_search_takes_an_eighth_from_the_space_that_loses_least() -> None:
    errors = Errors()
    found = script("explorers").greedy_search(CHOICES, errors, None)
    assert found[:4] == [(16, 32, 32), (12, 32, 32), (16, 24, 32), (16, 32, 16)]
    assert (4, 8, 16) in found  # to the narrowest
    assert errors.asked == found  # nothing twice
    # 4 of 16 and 8 of 32 lose the same, the first is taken; then 8 of 32 loses no more than 4 of 12
    assert found[4:6] == [(8, 32, 32), (12, 24, 32)]
    assert script("explorers").greedy_search(CHOICES, Errors(), 6) == found[:6]


def test_optuna_search_keeps_to_the_budget() -> None:
    pytest.importorskip("optuna")
    errors = Errors()
    found = script("explorers").optuna_search(CHOICES, errors, costs, 30, seed=0)
    assert len(found) == len(set(found)) == 30
    assert set(errors.asked) == set(found)


def test_a_front_is_chosen_by_validation_error_and_latency() -> None:
    rows = [(16, 32, 32), (4, 8, 16), (16, 8, 16), (12, 8, 16)]
    errors = [0.1, 0.4, 0.5, 0.3]
    assert script("explore").front_of(rows, errors, costs(rows)) == [(16, 32, 32), (4, 8, 16), (12, 8, 16)]


def test_the_memo_answers_as_recalibrate_and_predict_do(tmp_path: Path) -> None:
    data = dn.datasets.shapes(200, rng=0)
    net = dn.nets.mlp(data, points=(0.5, 1.0), rng=0)
    widths = tuple(net.subnet(width=0.5).widths)
    memo = script("explorers").Memo(net, data, tmp_path / "memo.jsonl", workers=1)
    error = memo.errors([widths, widths])
    memo.close()
    net.recalibrate(data.calibration.x)
    assert error == [1 - net.evaluate(data.val, 0.5)["accuracy"]] * 2
    again = script("explorers").Memo(net, data, tmp_path / "memo.jsonl", workers=1)
    assert np.array_equal(again.right([widths], "val")[0], net.predict(data.val.x, 0.5) == data.val.y)
    assert again.pool is None
    again.close()
