"""The comparison scripts from end to end as toys: every cell, table and plot, resuming, and what is said of a gap."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import cbuild
import numpy as np
import pytest

FOLDER = str(cbuild.ROOT / "benchmarks")
SCRIPTS = ("incremental", "sampling", "halting", "nested")
QUICK = ["--small", "--rounds", "1"]


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    cells = importlib.import_module("cells")
    monkeypatch.setattr(cells, "pin_to_one_core", lambda: None)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(name: str, work: Path, *more: str) -> int:
    code: int = script("cells").main(script(name).COMPARISON, "a toy", [*QUICK, "--work", str(work), *more])
    return code


def result_of(name: str, work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "small" / f"{name}.json").read_text())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparisons")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_through_to_table_and_plot(name: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert run(name, finished, "--time") == 0
    code = run(name, finished)
    result, text = result_of(name, finished), capsys.readouterr().out
    unavailable = [key for key, cell in result["cells"].items() if "unavailable" in cell]
    assert set(result["cells"]) == set(result["expected"])
    assert code == (1 if unavailable else 0)
    assert all(f"missing: {key}" in text for key in unavailable)
    assert "| --- |" in text
    assert (finished / "small" / f"{name}.png").stat().st_size > 1000
    for cell in result["cells"].values():
        if "accuracy" in cell:
            assert cell.keys() >= {"interval", "val_accuracy", "macs", "bytes", "phases", "halts", "commit", "cpu"}
    assert result.keys() >= {"cpu", "versions", "date", "seed", "commit", "step_seconds"}


def test_tables_need_nothing_but_the_json(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "small" / "halting.json").read_bytes()
    assert run("halting", finished, "--table") == 0
    assert "**waves: what follows**" in capsys.readouterr().out
    assert (finished / "small" / "halting.json").read_bytes() == before


def test_finished_cells_are_not_run_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("a finished cell was run")

    for name in ("fit", "distill"):
        monkeypatch.setattr(script("cells").Bench, name, never)
    assert run("halting", finished) == 0
    assert "begins:" not in capsys.readouterr().out


def test_a_stopped_campaign_goes_on_where_it_was(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only, cells = ("--only", "waves/alone/*"), script("cells")
    calls = 0

    def one_epoch_only(clock: Any, logs: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # two epochs are over
            raise cells.OutOfTime

    with monkeypatch.context() as patch:
        patch.setattr(cells.Clock, "on_epoch_begin", one_epoch_only)
        assert run("halting", tmp_path, *only) == 1
    said = capsys.readouterr().out
    assert "the time is over" in said and "missing: waves/alone/seed 0" in said
    epochs: list[int] = []
    keep = cells.Clock.on_epoch_begin
    with monkeypatch.context() as patch:
        patch.setattr(cells.Clock, "on_epoch_begin", lambda c, logs: (epochs.append(logs["epoch"]), keep(c, logs))[1])
        run("halting", tmp_path, *only)
    assert epochs == [2, 0, 1, 2]  # the rest of the first seed, all of the second
    there, whole = result_of("halting", tmp_path), result_of("halting", finished)
    for seed in (0, 1):
        key = f"waves/alone/seed {seed}"
        assert there["cells"][key]["accuracy"] == whole["cells"][key]["accuracy"]


def test_the_time_limit_ends_a_campaign_before_the_next_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("halting", tmp_path, "--only", "waves/*", "--seconds", "0") == 1
    assert "the time is over" in capsys.readouterr().out
    assert not (tmp_path / "small" / "halting.json").exists()


def test_a_missing_cell_is_reported_and_shown_as_missing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = result_of("halting", finished)
    del result["cells"]["waves/cached/seed 1"]
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "halting.json").write_text(json.dumps(result))
    assert run("halting", tmp_path, "--table") == 1
    text = capsys.readouterr().out
    assert "missing: waves/cached/seed 1" in text
    assert "| cached | 1 of 2 seeds | missing |" in text


def test_results_of_another_design_are_refused(finished: Path, tmp_path: Path) -> None:
    result = result_of("nested", finished)
    result["design"]["epochs"] = 99
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "nested.json").write_text(json.dumps(result))
    with pytest.raises(SystemExit, match="has design"):
        run("nested", tmp_path, "--table")


def test_toys_and_results_are_never_mixed(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "halting.json").write_text((finished / "small" / "halting.json").read_text())
    with pytest.raises(SystemExit, match="has small True"):
        script("cells").main(script("halting").COMPARISON, "a toy", ["--out", str(tmp_path), "--table"])


def test_a_cell_without_its_step_times_waits_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sampling", tmp_path, "--only", "single-path, equal seconds/seed 0") == 1
    assert "it needs multi-path/seed 0" in capsys.readouterr().out


@pytest.mark.parametrize("half", ["cifar10", "waves"])
def test_a_halted_run_is_the_same_as_one_that_did_not_share_its_beginning(
    half: str, finished: Path, tmp_path: Path
) -> None:
    cells, halting = script("cells"), script("halting")
    key = f"{half}/halt trainee/seed 0"
    options = cells.parse(halting.COMPARISON, "toy", [*QUICK, "--work", str(tmp_path)])
    bench = cells.Bench(halting.COMPARISON, options, cells.Clock(None), result_of("halting", finished))
    chosen = next(h for h in halting.SMALL.halves if h.name == half)
    row = halting.Row(bench, chosen, 0, chosen.epochs, key)
    apart = halting.halted(row, ("trainee",), None)
    shared = bench.result["cells"][key]
    assert shared["halts"]
    for name in ("accuracy", "val_accuracy", "phases", "halts", "epochs"):
        assert shared[name] == apart[name], name
    first = bench.result["cells"][f"{half}/throughout/seed 0"]["first_halts"]
    assert first["trainee"] == shared["halts"][0]["epoch"]


def test_a_teacher_that_remembers_answers_the_same_bits(tmp_path: Path) -> None:
    import dynadnn as dn

    data = dn.datasets.digits(rng=0).subset(64)
    net = dn.nets.mlp(data, rng=0)
    dn.fit(net, data, epochs=1, batch=32, progress=False, rng=0)
    memo = script("distilled").Memo(net, tmp_path)
    first = memo(data.train.x[:32])
    memo.engine = None  # what is known is not computed again
    assert np.array_equal(first, net(data.train.x[:32]))
    assert np.array_equal(first, memo(data.train.x[:32]))


def test_distillation_that_ends_trains_on_labels_alone() -> None:
    import dynadnn as dn

    kd = dn.KD()
    until = script("distilled").SoftUntil(kd, 2)
    until.on_epoch_begin({"epoch": 1})
    assert kd.soft_weight == 0.9
    until.on_epoch_begin({"epoch": 2})
    assert kd.soft_weight == 0.0


def test_seconds_are_steps_times_the_step_time_of_each_phase() -> None:
    result = {"step_seconds": {"a": {"median": 0.5}, "b": {"median": 2.0}}}
    cells = script("cells")
    assert cells.seconds_of(result, {"a": 10, "b": 3}) == 11
    with pytest.raises(cells.Waiting, match="'c' is not measured"):
        cells.seconds_of(result, {"c": 1})


def test_time_to_an_accuracy_lies_between_two_lengths_of_a_row() -> None:
    halting = script("halting")
    half = {"name": "h", "seeds": 1}
    phases = {"h alone": 1}
    cells = {
        "h/alone/seed 0": {"accuracy": {"1.0": 0.8}, "phases": phases},
        "h/alone, equal seconds/seed 0": {"accuracy": {"1.0": 0.9}, "phases": {"h alone": 4}},
    }
    result = {"cells": cells, "step_seconds": {"h alone": {"median": 10.0}}}
    assert halting.seconds_to_reach(result, half, "alone", 0, 0.85) == pytest.approx(20)
    assert halting.seconds_to_reach(result, half, "alone", 0, 0.7) == 10
    assert halting.seconds_to_reach(result, half, "alone", 0, 0.95) is None


def test_phases_follow_the_halts() -> None:
    import dynadnn as dn
    from dynadnn._halting import Halt

    distilled = script("distilled")
    half = distilled.Half("h", (1, 1, 1), epochs=10, fixed=5, seeds=1)
    history = dn.History(steps=100, halted=[Halt("trainee", 3, "", 0, 0), Halt("teacher", 6, "", 0, 0)])
    found = distilled.phases(history, half, 10, None, True)
    assert found == {"h student + teacher + trainee": 30, "h student + teacher": 30, "h student": 40}
    assert distilled.phases(dn.History(steps=100), half, 10, 0, False) == {"h student": 100}
