"""Logs of a run: files of rows, TensorBoard, a plot in a notebook; none loses or doubles a row by an interruption."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_long_runs import (
    DATA,
    IMAGES,
    QUIET,
    ROLLBACK,
    STEPS,
    TEACHER,
    CopyAt,
    Press,
    Raise,
    fit,
    make,
    press,
)

import dynadnn as dn
from dynadnn import _checkpoint, _live, _loop, _session
from dynadnn._callbacks import Logs
from dynadnn._loggers import RowLogger

KINDS = (dn.CSVLogger, dn.JSONLLogger)


def read(path: Path) -> list[dict[str, str]]:
    """Rows without times, in one form for both kinds of file."""
    text = path.read_text()
    if text.startswith("{"):
        rows = [{key: "nan" if v is None else str(v) for key, v in json.loads(line).items()} for line in text.split()]
    else:
        rows = [{key: v for key, v in row.items() if v} for row in csv.DictReader(text.splitlines())]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# ---- files of rows ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_per_epoch_holds_the_figures_of_the_history(kind: type[RowLogger], tmp_path: Path) -> None:
    history = fit(make(), callbacks=[kind(tmp_path / "log")])
    rows = read(tmp_path / "log")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"] and [row["step"] for row in rows] == ["4", "8", "12"]
    for key, values in history.history.items():
        if key != "seconds":
            assert [float(row[key]) for row in rows] == values, key


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_steps_come_between_those_of_epochs(kind: type[RowLogger], tmp_path: Path) -> None:
    history = fit(make(), epochs=2, callbacks=[kind(tmp_path / "log", every_steps=2)])
    rows = read(tmp_path / "log")
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("step", "2"),
        ("step", "4"),
        ("epoch", "4"),
        ("step", "6"),
        ("step", "8"),
        ("epoch", "8"),
    ]
    assert {"loss", "accuracy", "lr"} <= rows[0].keys() and "val_loss" not in rows[0]
    assert float(rows[-1]["val_loss"]) == history.history["val_loss"][-1]


def test_a_new_run_begins_the_file_anew(tmp_path: Path) -> None:
    logger = dn.CSVLogger(tmp_path / "log")
    for _ in range(2):
        fit(make(), epochs=2, callbacks=[logger])
    assert len(read(tmp_path / "log")) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [3, 4, 6, 11])
def test_after_a_kill_and_a_resumption_the_log_is_that_of_one_run(
    kind: type[RowLogger], step: int, tmp_path: Path
) -> None:
    whole, log, path = tmp_path / "whole", tmp_path / "log", tmp_path / "run"
    fit(make(), callbacks=[kind(whole, every_steps=1)])
    # the file has all rows of the run, the checkpoint is that of an earlier step, as after a kill
    copy = CopyAt(path, step)
    fit(make(), checkpoint=dn.Checkpoint(path, every_steps=3), callbacks=[kind(log, every_steps=1), copy])
    log.write_bytes(log.read_bytes() + b"half a row")
    fit(make(), checkpoint=copy.kept, callbacks=[kind(log, every_steps=1)])
    assert read(log) == read(whole)


@pytest.mark.parametrize("where", ["commit", "epoch"])
def test_ctrl_c_between_a_step_and_its_row_loses_neither(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, log, path = tmp_path / "whole", tmp_path / "log", tmp_path / "run"
    fit(make(), callbacks=[dn.CSVLogger(whole, every_steps=1)])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if where == "commit":
            press(patch, _session.Session, "commit")
        else:
            press(patch, _loop.Loop, "_record")
        fit(make(), checkpoint=path, callbacks=[dn.CSVLogger(log, every_steps=1)])
    assert len(read(log)) == {"commit": 1, "epoch": STEPS + 1}[where]
    fit(make(), checkpoint=path, callbacks=[dn.CSVLogger(log, every_steps=1)])
    assert read(log) == read(whole)


def test_the_same_logger_goes_on_in_the_same_process(tmp_path: Path) -> None:
    whole, log = tmp_path / "whole", dn.CSVLogger(tmp_path / "log")
    fit(make(), callbacks=[dn.CSVLogger(whole)])
    with pytest.raises(KeyboardInterrupt):
        fit(make(), checkpoint=tmp_path / "run", callbacks=[log, Raise(9)])
    fit(make(), checkpoint=tmp_path / "run", callbacks=[log])
    fit(make(), checkpoint=tmp_path / "run", callbacks=[log])  # finished: nothing to add
    assert read(tmp_path / "log") == read(whole)


def test_rows_of_steps_that_a_run_went_back_from_are_not_in_the_log(tmp_path: Path) -> None:
    history = fit(make(), callbacks=[dn.JSONLLogger(tmp_path / "log", every_steps=1)], **ROLLBACK)
    steps = [int(row["step"]) for row in read(tmp_path / "log") if row["kind"] == "step"]
    assert history.rollbacks and steps == list(range(1, history.steps + 1))


@pytest.mark.parametrize("step", [2, 9, 11])
def test_channel_groups_follow_one_another_in_one_log(step: int, tmp_path: Path) -> None:
    def run(log: Path, **options: Any) -> None:
        net = dn.nets.resnet20(IMAGES, width=16, groups=2, points=(0.5, 1.0), rng=0)
        own = {**QUIET, "batch": 30, **options, "callbacks": [dn.CSVLogger(log), *options.get("callbacks", ())]}
        dn.fit(net, IMAGES, epochs=2, **own)

    whole, log, path = tmp_path / "whole", tmp_path / "log", tmp_path / "run"
    run(whole)
    copy = CopyAt(path, step)
    run(log, checkpoint=dn.Checkpoint(path, every_steps=1), callbacks=[copy])
    run(log, checkpoint=copy.kept)
    rows = read(log)
    assert [(row["group"], row["epoch"]) for row in rows] == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
    assert rows == read(whole)


def test_figures_of_a_halted_trainee_are_not_repeated(tmp_path: Path) -> None:
    options = {**QUIET, "epochs": 8, "halting": dn.EarlyHalting(training=False, patience=1, min_gain=0.9)}
    trainee = make((1.0,), 24, rng=5)
    log = dn.JSONLLogger(tmp_path / "log")
    history = dn.distill(make(), TEACHER, DATA, trainee=trainee, callbacks=[log], **options)
    epochs = len(history.history["trainee_val_loss"])
    assert epochs < 8 and ["trainee_val_loss" in row for row in read(tmp_path / "log")] == [
        i < epochs for i in range(8)
    ]


def test_a_log_that_lost_rows_is_said_and_goes_on(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(make(), checkpoint=path, callbacks=[dn.CSVLogger(log), Raise(9)])
    log.unlink()
    with pytest.warns(UserWarning, match="holds 0 rows, the checkpoint was made after 2"):
        fit(make(), checkpoint=path, callbacks=[dn.CSVLogger(log)])
    assert [row["epoch"] for row in read(log)] == ["3"]


def test_what_is_not_finite_is_written_so(tmp_path: Path) -> None:
    for kind in KINDS:
        logger = kind(tmp_path / "log")
        logger.on_train_begin({})
        logger.on_epoch_end({"epoch": 0, "step": 4, "loss": float("nan"), "lr": 0.1})
        assert read(tmp_path / "log") == [{"epoch": "1", "step": "4", "loss": "nan", "lr": "0.1"}]


def test_a_full_disk_ends_training_with_the_step_that_has_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reference, part = tmp_path / "run", make(), make()
    with pytest.raises(KeyboardInterrupt):
        fit(reference, callbacks=[Raise(6)])

    class Full(dn.CSVLogger):
        def _encode(self, row: dict[str, Any]) -> bytes:
            if row["step"] == 6:
                raise OSError(28, "No space left on device", self.path)
            return super()._encode(row)

    with pytest.raises(OSError, match=r"No space left on device: .*log"):
        fit(part, checkpoint=path, callbacks=[Full(tmp_path / "log", every_steps=1)])
    assert all((part.weights[key] == value).all() for key, value in reference.weights.items())
    assert _checkpoint.read(path)[0].step == 6


def test_loggers_refuse_what_is_no_path_and_folders_that_are_not_there(tmp_path: Path) -> None:
    for kind in KINDS:
        with pytest.raises(TypeError, match="path must be"):
            kind(3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="every_steps"):
            kind("log", every_steps=0)
        with pytest.raises(FileNotFoundError):
            fit(make(), callbacks=[kind(tmp_path / "nothing" / "log")])


# ---- TensorBoard ----


class FakeWriter:
    """What TensorBoard would show: the last purge hides what is at or after its step."""

    shown: list[tuple[str, float, int]] = []  # noqa: RUF012
    folders: list[str] = []  # noqa: RUF012

    def __init__(self, logdir: str, purge_step: int | None = None) -> None:
        FakeWriter.folders.append(logdir)
        if purge_step is not None:
            FakeWriter.shown = [item for item in FakeWriter.shown if item[2] < purge_step]

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        FakeWriter.shown.append((tag, value, step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> type[FakeWriter]:
    module = ModuleType("tensorboardX")
    module.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    FakeWriter.shown, FakeWriter.folders = [], []
    return FakeWriter


def test_tensorboard_gets_epochs_and_steps_and_no_purged_step_twice(
    tensorboard: type[FakeWriter], tmp_path: Path
) -> None:
    history = fit(make(), callbacks=[dn.TensorBoard(tmp_path / "runs", every_steps=2)])
    whole = [item for item in tensorboard.shown if item[0] != "seconds"]
    assert [(v, s) for tag, v, s in whole if tag == "val_loss"] == list(
        zip(history.history["val_loss"], (4, 8, 12), strict=True)
    )
    assert [s for tag, _, s in whole if tag == "step/loss"] == [2, 4, 6, 8, 10, 12]
    assert set(tensorboard.folders) == {str(tmp_path / "runs")}
    tensorboard.shown = []
    copy = CopyAt(tmp_path / "run", 7)
    options: dict[str, Any] = {"checkpoint": dn.Checkpoint(tmp_path / "run", every_steps=1)}
    fit(make(), callbacks=[dn.TensorBoard("a", every_steps=2), copy], **options)
    fit(make(), callbacks=[dn.TensorBoard("a", every_steps=2)], checkpoint=copy.kept)
    assert [item for item in tensorboard.shown if item[0] != "seconds"] == whole


def test_tensorboard_tells_channel_groups_apart(tensorboard: type[FakeWriter]) -> None:
    net = dn.nets.resnet20(IMAGES, width=16, groups=2, points=(0.5, 1.0), rng=0)
    dn.fit(net, IMAGES, epochs=1, callbacks=[dn.TensorBoard("a")], **{**QUIET, "batch": 30})
    steps = {tag: step for tag, _, step in tensorboard.shown if tag.endswith("/loss")}
    per_group = len(IMAGES.train) // 30
    assert steps == {"group1/loss": per_group, "group2/loss": 2 * per_group}


def test_without_tensorboardx_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r'pip install "dynadnn\[log\]"'):
        dn.TensorBoard("runs")


def test_tensorboardx_itself_takes_what_is_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    fit(make(), epochs=2, callbacks=[dn.TensorBoard(tmp_path / "runs", every_steps=1)])
    (file,) = (tmp_path / "runs").iterdir()
    assert b"val_loss" in file.read_bytes() and b"step/loss" in file.read_bytes()


# ---- the plot ----


@pytest.fixture
def matplotlib() -> Any:
    return pytest.importorskip("matplotlib")


def curves(live: dn.LivePlot) -> list[list[list[float]]]:
    assert live.figure is not None
    return [[list(line.get_ydata()) for line in axes.get_lines()] for axes in live.figure.axes]  # type: ignore[arg-type]


def test_a_plot_shows_losses_and_accuracies_with_their_units(matplotlib: Any) -> None:
    matplotlib.use("Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before, open_before = matplotlib.rcParams.copy(), pyplot.get_fignums()
    live = dn.LivePlot()
    history = fit(make(), callbacks=[live])
    assert live.figure is not None and matplotlib.rcParams == before
    loss, accuracy = live.figure.axes
    assert [a.get_xlabel() for a in (loss, accuracy)] == ["epoch", "epoch"]
    assert loss.get_ylabel() == "loss (mean per image)" and accuracy.get_ylabel() == "accuracy (%)"
    assert curves(live)[0] == [history.history["loss"], history.history["val_loss"]]
    assert curves(live)[1][1] == [100 * v for v in history.history["val_accuracy"]]
    assert len({line.get_linestyle() for line in loss.get_lines()}) == 2  # told apart without colour
    assert pyplot.get_fignums() == open_before


def test_a_notebook_shows_one_plot_and_updates_it(matplotlib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, bytes]] = []

    class Handle:
        def update(self, image: Any) -> None:
            events.append(("update", image.data))

    class Image:
        def __init__(self, data: bytes, format: str) -> None:
            self.data = data

    def display(image: Image, display_id: bool) -> Handle:
        events.append(("display", image.data))
        return Handle()

    fake = ModuleType("IPython.display")
    fake.Image, fake.display = Image, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setattr(_live, "in_notebook", lambda: True)
    live = dn.LivePlot()
    fit(make(), callbacks=[live])
    assert [name for name, _ in events] == ["display", "update", "update"]
    assert all(data.startswith(b"\x89PNG") for _, data in events) and events[0] != events[1]
    fit(make(), epochs=1, callbacks=[live])
    assert [name for name, _ in events[3:]] == ["display"] and len(curves(live)[0][0]) == 1


def test_a_resumed_run_plots_the_epochs_before_it(matplotlib: Any, tmp_path: Path) -> None:
    live, again = dn.LivePlot(), dn.LivePlot()
    fit(make(), callbacks=[live])
    with pytest.raises(KeyboardInterrupt):
        fit(make(), checkpoint=tmp_path / "run", callbacks=[dn.LivePlot(), Press(6)])
    fit(make(), checkpoint=tmp_path / "run", callbacks=[again])
    assert curves(live) == curves(again)


def test_a_plot_of_a_regression_has_one_axis_and_one_of_groups_a_line_between(matplotlib: Any) -> None:
    live = dn.LivePlot()
    live.on_train_begin({})
    logs: list[Logs] = [{"group": g, "loss": 1.0 / (i + g), "val_loss": 2.0} for g in (1, 2) for i in range(2)]
    for entry in logs:
        live.on_epoch_end(entry)
    assert live.figure is not None
    (axes,) = live.figure.axes
    assert [text.get_text() for text in axes.texts] == ["group 2"] and len(axes.get_lines()) == 3


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "dynadnn\[plot\]"'):
        dn.LivePlot()


def test_examples_in_the_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matplotlib: Any) -> None:
    import doctest

    from dynadnn import _loggers, _saving, _tensorboard

    monkeypatch.chdir(tmp_path)
    for module in (_loggers, _saving, _tensorboard, _live):
        found = doctest.testmod(module)
        assert found.attempted and found.failed == 0, module.__name__
