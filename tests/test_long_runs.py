"""Long runs: saved in the middle of an epoch, killed, interrupted twice, on a full disk, continued, rolled back."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import dynadnn as dn
from dynadnn import _checkpoint, _incremental
from dynadnn._checkpoint import CheckpointDoc
from dynadnn._container import write_container
from dynadnn._distill import _DEFAULTS, Distillation
from dynadnn._interrupts import OneInterrupt
from dynadnn._loop import Loop
from dynadnn._train import make_loop

DATA = dn.datasets.digits(rng=0).subset(160)  # 4 steps of 40 images
IMAGES = dn.datasets.shapes(n=160, size=8, rng=0)
STEPS = 4
QUIET: dict[str, Any] = {"batch": 40, "progress": False, "rng": 0, "augment": None, "threads": 1}


def make(points: tuple[float, ...] = (0.5, 1.0), width: int = 16, rng: int = 0) -> dn.Network:
    return dn.nets.mlp(DATA, width=width, points=points, rng=rng)


def same(a: dn.Network, b: dn.Network) -> bool:
    return all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)


def figures(history: dn.History) -> dict[str, list[float]]:
    return {k: v for k, v in history.history.items() if k != "seconds"}


class CopyAt(dn.Callback):
    """Keeps the file that a kill after so many steps would leave."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.left, self.kept = path, step, path.with_name("kept")

    def on_step_begin(self, logs: dict[str, Any]) -> None:
        self.left -= 1
        if self.left == -1:
            for file in self.path.parent.glob(f"{self.path.name}*"):
                shutil.copy(file, self.kept.with_name(file.name.replace(self.path.name, "kept")))


class Raise(dn.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, logs: dict[str, Any]) -> None:
        if logs["step"] == self.step:
            raise KeyboardInterrupt


def fit(net: dn.Network, **options: Any) -> dn.History:
    return dn.fit(net, DATA, **{"epochs": 3, **QUIET, **options})


# ---- saving in the middle of an epoch ----


def plain(**options: Any) -> tuple[list[dn.Network], dn.History]:
    net = make((1.0,))
    return [net], fit(net, augment="auto", **options)


def sandwich(**options: Any) -> tuple[list[dn.Network], dn.History]:
    net = make((0.25, 0.5, 1.0), 32)
    return [net], fit(net, method=dn.Sandwich(random=2), ema=0.9, schedule="cosine", **options)


def single_path(**options: Any) -> tuple[list[dn.Network], dn.History]:
    net = make((0.25, 0.5, 1.0), 32)
    return [net], fit(net, method=dn.SinglePath(), optimizer=dn.AdamW(lr=1e-2), precision="bf16", **options)


TEACHER = make((1.0,), 32, rng=9)
fit(TEACHER, epochs=4)


def distilled(**options: Any) -> tuple[list[dn.Network], dn.History]:
    student, trainee = make(), make((1.0,), 24, rng=5)
    wanted = {"trainee": trainee, "halting": dn.EarlyHalting(patience=1), "augment": dn.Augment(shift=1)}
    history = dn.distill(student, TEACHER, DATA, epochs=3, **{**QUIET, **wanted, **options})
    return [student, trainee], history


def grouped(**options: Any) -> tuple[list[dn.Network], dn.History]:
    net = dn.nets.resnet20(IMAGES, width=16, groups=2, points=(0.5, 1.0), rng=0)
    return [net], dn.fit(net, IMAGES, epochs=2, **{**QUIET, "batch": 30, **options})


@pytest.mark.parametrize(
    ("run", "steps"),
    [(plain, (1, 6)), (sandwich, (5,)), (single_path, (11,)), (distilled, (3, 8, 10)), (grouped, (5, 11))],
)
def test_a_run_killed_in_an_epoch_goes_on_with_the_same_bits(
    run: Callable[..., Any], steps: tuple[int, ...], tmp_path: Path
) -> None:
    nets, history = run()
    for step in steps:
        path = tmp_path / str(step) / "run"
        path.parent.mkdir()
        copy = CopyAt(path, step)
        run(checkpoint=dn.Checkpoint(path, every_steps=1), callbacks=[copy])
        again, resumed = run(checkpoint=dn.Checkpoint(copy.kept, every_steps=3))
        assert all(same(a, b) for a, b in zip(nets, again, strict=True)), step
        assert figures(resumed) == figures(history), step
        assert (resumed.steps, resumed.macs) == (history.steps, history.macs)
        assert [h.epoch for h in resumed.halted] == [h.epoch for h in history.halted]


def saved_steps(monkeypatch: pytest.MonkeyPatch, checkpoint: Any) -> list[int]:
    found: list[int] = []
    real = _checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, "save", lambda path, doc, arrays: (found.append(doc.step), real(path, doc, arrays)))
        fit(make(), epochs=2, checkpoint=checkpoint)
    return found


def test_a_run_killed_after_its_last_step_still_ends_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    whole, cut = make(), make()
    history = fit(whole, checkpoint=dn.Checkpoint(tmp_path / "whole", every_steps=1))
    end = Loop._end_epoch

    def killed(loop: Loop) -> None:
        if loop.epoch == 2:
            shutil.copy(path, tmp_path / "kept")
        end(loop)

    monkeypatch.setattr(Loop, "_end_epoch", killed)
    fit(make(), checkpoint=dn.Checkpoint(path, every_steps=1))
    monkeypatch.undo()
    resumed = fit(cut, checkpoint=dn.Checkpoint(tmp_path / "kept", every_steps=1))
    assert figures(resumed) == figures(history) and resumed.epochs == 3
    assert same(whole, cut)


def test_a_run_is_saved_as_often_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    assert saved_steps(monkeypatch, path) == [4, 8, 8]
    for file in tmp_path.iterdir():
        file.unlink()
    assert saved_steps(monkeypatch, dn.Checkpoint(path, every_steps=3)) == [3, 4, 6, 8, 8]
    path.unlink()
    assert saved_steps(monkeypatch, dn.Checkpoint(path, every_seconds=1e-9)) == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 8]
    path.unlink()
    assert saved_steps(monkeypatch, dn.Checkpoint(path, every_seconds=3600)) == [4, 8, 8]


def test_how_often_a_run_is_saved_is_checked() -> None:
    for bad, kind, text in (
        ({"every_steps": 0}, ValueError, "every_steps"),
        ({"every_steps": 1.5}, TypeError, "every_steps"),
        ({"every_seconds": 0}, ValueError, "every_seconds"),
        ({"every_seconds": float("inf")}, ValueError, "every_seconds"),
        ({"every_seconds": "1"}, TypeError, "every_seconds"),
    ):
        with pytest.raises(kind, match=text):
            dn.Checkpoint("run", **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        dn.Checkpoint("")
    with pytest.raises(TypeError, match=r"path or dn\.Checkpoint"):
        fit(make(), checkpoint=3)


def test_temporary_files_of_killed_saves_are_removed_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (tmp_path / ".run.abcd_123.tmp").write_bytes(b"half")
    others = [".run.group1.abcd_123.tmp", ".runs.abcd_123.tmp", "run.abcd_123.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    fit(make(), epochs=1, checkpoint=path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["run", *others])


# ---- interruption ----


def test_ctrl_c_in_a_validation_loses_nothing_of_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, part, again = make(), make(), make()
    history = fit(whole)

    def interrupted(self: Loop, net: dn.Network, val: dn.Split) -> dict[str, float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_validate", interrupted)
        fit(part, checkpoint=tmp_path / "run")
    resumed = fit(again, checkpoint=tmp_path / "run")
    assert same(whole, again) and figures(resumed) == figures(history)


def test_time_runs_out_in_an_epoch_and_the_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole, again = make(), make()
    history = fit(whole)
    for _ in range(3):
        part = fit(make(), checkpoint=tmp_path / "run", max_seconds=1e-9)
        assert part.steps % STEPS != 0 and "max_seconds" in part.halted[-1].why
    resumed = fit(again, checkpoint=tmp_path / "run")
    assert part.steps == 3 and same(whole, again) and figures(resumed) == figures(history) and not resumed.halted


def test_a_run_that_a_rule_halted_stays_halted_if_it_was_killed_just_then(tmp_path: Path) -> None:
    path = tmp_path / "run"
    options: dict[str, Any] = {"epochs": 30, "schedule": "constant", "optimizer": dn.SGD(lr=0.5)}
    options |= {"halting": dn.EarlyHalting(patience=2, min_gain=0.2), "checkpoint": path}
    whole, again = make(), make()
    history = fit(whole, **options)
    assert history.halted and history.epochs < 30
    resumed = fit(again, **options)
    assert resumed.epochs == history.epochs and same(whole, again)
    document, arrays = _checkpoint.read(path)
    document.finished = False  # as it is saved after the epoch
    _checkpoint.save(path, document, arrays)
    resumed = fit(again := make(), **options)
    assert resumed.epochs == history.epochs and same(whole, again)


def press(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """Ctrl-C comes when this function is called, before its first line."""
    real, seen = getattr(owner, name), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)
    return seen


class Press(dn.Callback):
    """Ctrl-C during a step's callbacks, from the outside."""

    def __init__(self, step: int, swallow: int = 0) -> None:
        self.step, self.swallow = step, swallow

    def on_step_end(self, logs: dict[str, Any]) -> None:
        if logs["step"] >= self.step:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                self.swallow -= 1
                if self.swallow < 0:
                    raise


def test_a_second_ctrl_c_leaves_network_and_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    whole, reference, part, again = make(), make(), make(), make()
    history = fit(whole)
    with pytest.raises(KeyboardInterrupt):
        fit(reference, callbacks=[Raise(6)])
    with monkeypatch.context() as patch:
        seen = press(patch, Loop, "_abandon")
        with pytest.raises(KeyboardInterrupt):
            fit(part, checkpoint=path, callbacks=[Press(6)])
    assert seen == [1] and signal.getsignal(signal.SIGINT) is before
    assert same(part, reference) and _checkpoint.read(path)[0].step == 6
    assert figures(fit(again, checkpoint=path)) == figures(history) and same(whole, again)


def test_a_second_ctrl_c_does_not_lose_a_channel_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = dn.nets.resnet20(IMAGES, width=16, groups=2, points=(0.5, 1.0), rng=0)
    start = {key: value.copy() for key, value in net.weights.items()}
    seen = press(monkeypatch, _incremental, "put_group")
    with pytest.raises(KeyboardInterrupt):
        dn.fit(net, IMAGES, epochs=2, callbacks=[Press(3)], **{**QUIET, "batch": 30})
    assert seen == [1]
    part = _incremental.cut_group(net, 0)
    assert any(not np.array_equal(value, start[key]) for key, value in net.weights.items())
    assert part.tables == {} and len(net.tables) == 1


def test_a_callback_may_answer_ctrl_c_itself_and_the_next_one_is_heard() -> None:
    net, callback = make(), Press(3, swallow=2)
    with pytest.raises(KeyboardInterrupt):
        fit(net, callbacks=[callback])
    reference = make()
    with pytest.raises(KeyboardInterrupt):
        fit(reference, callbacks=[Raise(5)])
    assert same(net, reference)


def test_a_held_ctrl_c_is_raised_where_the_outermost_block_ends() -> None:
    order: list[str] = []
    with pytest.raises(KeyboardInterrupt), OneInterrupt():
        try:
            with OneInterrupt():
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                except KeyboardInterrupt:
                    order.append("first")
                os.kill(os.getpid(), signal.SIGINT)
                order.append("held")
            order.append("still held")
        finally:
            order.append("end")
    assert order == ["first", "held", "still held", "end"]


# ---- a full disk ----


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "close", "fchmod"])
def test_on_a_full_disk_training_ends_with_the_step_and_the_old_checkpoint(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    whole, reference, part = make(), make(), make()
    history = fit(whole)
    with pytest.raises(KeyboardInterrupt):
        fit(reference, callbacks=[Raise(6)])
    real = getattr(os, call)

    def fail(*args: Any, **kwargs: Any) -> None:
        if call == "close":
            real(*args)
        raise OSError(28, "No space left on device")

    class Fill(dn.Callback):
        def on_step_end(self, logs: dict[str, Any]) -> None:
            if logs["step"] == 6:
                target = "dynadnn._container.os." + call if call != "open" else "dynadnn._container.tempfile.mkstemp"
                monkeypatch.setattr(target, fail)

    with pytest.raises(OSError, match=r"run' after step 6 could not be written: No space left") as caught:
        fit(part, checkpoint=dn.Checkpoint(path, every_steps=1), callbacks=[Fill()])
    monkeypatch.undo()
    assert caught.value.errno == 28 and same(part, reference)
    assert _checkpoint.read(path)[0].step == 5 and os.listdir(tmp_path) == ["run"]
    again = make()
    assert figures(fit(again, checkpoint=path)) == figures(history) and same(whole, again)


# ---- other runs' checkpoints ----


def test_a_checkpoint_of_another_distillation_lists_the_differences(tmp_path: Path) -> None:
    path = tmp_path / "run"
    options: dict[str, Any] = {**QUIET, "epochs": 1, "checkpoint": path}
    dn.distill(make(), TEACHER, DATA, trainee=make((1.0,), 24), **options)
    other = make((1.0,), 32, rng=3)
    fit(other, epochs=1)
    with pytest.raises(ValueError) as caught:
        dn.distill(make(), other, DATA, kd=dn.KD(temperature=2), ema=0.9, trainee=make((1.0,), 40), **options)
    for key in ("teacher: ", "kd: KD(temperature=4.0", "trainee: ", "ema: None there, 0.9 here"):
        assert key in str(caught.value), key
    with pytest.raises(ValueError, match=r"epochs: 1 there, 3 here.*teacher: \w+ there, nothing here"):
        fit(make(), checkpoint=path)


def forge(path: Path, change: Callable[[CheckpointDoc, dict[str, Any]], None]) -> None:
    document, arrays = _checkpoint.read(path)
    flat = {f"{owner}|{name}": value for owner, part in arrays.items() for name, value in part.items()}
    change(document, flat)
    write_container(path, document, flat)


def test_a_file_that_is_no_checkpoint_of_this_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    fit(make(), checkpoint=path)
    forge(path, lambda document, flat: setattr(document, "format", 2))
    with pytest.raises(dn.FormatError, match=r"run has format 2.*update dynadnn"):
        fit(make(), checkpoint=path)
    make().save(path)
    with pytest.raises(dn.FormatError, match="not a 'checkpoint'"):
        fit(make(), checkpoint=path)


FORGED: dict[str, Callable[[CheckpointDoc, dict[str, Any]], Any]] = {
    "a missing array": lambda d, t: t.pop("student|2/weight"),
    "an array too many": lambda d, t: t.update({"student|99/weight": np.zeros(3, np.float32)}),
    "an array of another shape": lambda d, t: t.update({"student|2/weight": t["student|2/weight"][:-1]}),
    "an array of another type": lambda d, t: t.update({"student|2/weight": t["student|2/weight"].astype(np.float64)}),
    "a trainee's array too few": lambda d, t: t.pop("trainee|2/weight"),
    "no state of the teacher": lambda d, t: d.teaching.clear(),
    "a teacher's average of another size": lambda d, t: t.update({"teacher|mean": t["teacher|mean"][:-1]}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_well_sealed_checkpoint_is_refused_if_it_holds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    options: dict[str, Any] = {**QUIET, "epochs": 1, "checkpoint": path}
    dn.distill(make(), TEACHER, DATA, trainee=make((1.0,), 24), **options)
    forge(path, FORGED[name])
    with pytest.raises(dn.FormatError):
        dn.distill(make(), TEACHER, DATA, trainee=make((1.0,), 24), **options)


# ---- continuing ----


def repeated() -> dn.Data:
    """Batches that are the same in every epoch."""
    x, y = DATA.train.x, DATA.train.y
    batches = [(x[i : i + 40], y[i : i + 40]) for i in range(0, 160, 40)]
    return dn.datasets.from_batches(lambda epoch: batches, None, shape=(8, 8, 1), outputs=10, n=160)


@pytest.mark.parametrize("optimizer", [dn.SGD(lr=0.05), dn.AdamW(lr=1e-2)])
def test_a_continued_run_goes_on_as_if_it_had_not_ended(optimizer: Any, tmp_path: Path) -> None:
    data, path = repeated(), tmp_path / "first"
    options = {**QUIET, "optimizer": optimizer, "schedule": "constant", "ema": 0.9}
    whole, part, more = (dn.nets.mlp(data, width=16, rng=0) for _ in range(3))
    dn.fit(whole, data, epochs=3, **options)
    dn.fit(part, data, epochs=2, checkpoint=path, **options)
    history = dn.fit(more, data, epochs=1, continue_from=path, **options)
    assert same(whole, more) and not same(part, more) and history.steps == STEPS and history.epochs == 1


def test_another_kind_of_optimiser_begins_anew(tmp_path: Path) -> None:
    first, more = make(), make(rng=7)
    fit(first, optimizer=dn.AdamW(lr=1e-2), checkpoint=tmp_path / "first")
    fit(more, continue_from=tmp_path / "first", epochs=1)
    fit(first, epochs=1)
    assert same(first, more)


def test_what_is_taken_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(make(), checkpoint=tmp_path / "first")
    fit(make(), epochs=1, continue_from=dn.Checkpoint(tmp_path / "first"), progress=True)
    assert "begins with weights, statistics and optimiser state of" in capsys.readouterr().out


def test_a_continued_run_may_be_interrupted_and_resumed(tmp_path: Path) -> None:
    source, other, path = (tmp_path / name for name in ("first", "other", "second"))
    fit(make(), checkpoint=source)
    fit(make(), epochs=2, checkpoint=other)
    whole, again = make(), make()
    history = fit(whole, epochs=2, rng=1, continue_from=source)
    with pytest.raises(KeyboardInterrupt):
        fit(make(), epochs=2, rng=1, continue_from=source, checkpoint=path, callbacks=[Raise(5)])
    with pytest.raises(ValueError, match="continue_from: "):
        fit(make(), epochs=2, rng=1, continue_from=other, checkpoint=path)
    resumed = fit(again, epochs=2, rng=1, continue_from=source, checkpoint=path)
    assert same(whole, again) and figures(resumed) == figures(history)


def test_a_trainee_and_channel_groups_are_continued_too(tmp_path: Path) -> None:
    trainee = make((1.0,), 24, rng=5)
    options: dict[str, Any] = {**QUIET, "epochs": 2}
    dn.distill(make(), TEACHER, DATA, trainee=trainee, checkpoint=tmp_path / "first", **options)
    student, again = make(), make((1.0,), 24, rng=6)
    loop = make_loop(
        student,
        DATA,
        lambda s, val, notes: Distillation(student, TEACHER, DATA, dn.KD(), again, s, val),
        {},
        **{**_DEFAULTS, **options, "continue_from": tmp_path / "first"},
    )
    loop._begin()
    assert isinstance(loop.teaching, Distillation) and loop.teaching.session is not None
    state = loop.teaching.session.state()
    expected = _checkpoint.read(tmp_path / "first")[1]["trainee"]
    assert all(np.array_equal(state[key], expected[key]) for key in expected)
    nets, _ = grouped(checkpoint=tmp_path / "groups")
    more, _ = grouped(continue_from=tmp_path / "groups", optimizer=dn.SGD(lr=0.0, weight_decay=0.0))
    assert same(nets[0], more[0])


def test_a_checkpoint_of_another_network_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "first"
    fit(make(), checkpoint=path)
    with pytest.raises(ValueError, match=r"another network; graph: .*layer fc1: 1024 weights there, 1536 here"):
        fit(make(width=24), continue_from=path)
    with pytest.raises(ValueError, match=r"points: .* there, .* here"):
        fit(make((0.25, 1.0)), continue_from=path)


def test_what_cannot_be_continued_is_refused(tmp_path: Path) -> None:
    net, path = make(), tmp_path / "first"
    history = fit(net, epochs=1, checkpoint=path)
    with pytest.raises(TypeError, match="pass the network itself as net"):
        fit(net, continue_from=net)
    with pytest.raises(TypeError, match="not History"):
        fit(net, continue_from=history)
    with pytest.raises(ValueError, match="a checkpoint of its own"):
        fit(net, continue_from=path, checkpoint=path)
    with pytest.raises(FileNotFoundError):
        fit(net, continue_from=tmp_path / "nothing")
    fit(net, epochs=1, continue_from=path, checkpoint=path, resume=False)
    assert _checkpoint.read(path)[0].epoch == 1


# ---- going back ----


def fragile(outputs: Any, y: Any) -> tuple[Any, Any]:
    """Cross-entropy that breaks where outputs are large."""
    if np.abs(outputs).max() > 6:
        return np.full(len(y), np.nan, np.float32), np.zeros_like(outputs)
    return dn.CrossEntropy()(outputs, y, None)


ROLLBACK: dict[str, Any] = {"loss": fragile, "on_nonfinite": "rollback", "optimizer": dn.SGD(lr=1.0)}
ROLLBACK |= {"schedule": "constant", "epochs": 4}


def test_a_run_goes_back_with_half_the_learning_rate() -> None:
    net = make()
    history = fit(net, **ROLLBACK)
    assert history.epochs == 4 and history.steps == 4 * STEPS and 1 <= len(history.rollbacks) <= 10
    assert [r.factor for r in history.rollbacks] == [0.5 ** (i + 1) for i in range(len(history.rollbacks))]
    for back in history.rollbacks:
        epochs = back.epoch - 1 - back.to_step / STEPS  # whole ones besides that which broke
        assert epochs == (0 if back.step > (back.epoch - 1) * STEPS + 1 or back.epoch == 1 else 1), back
        assert "'fragile' returned NaN" in back.why
    assert history.history["lr"][-1] == history.rollbacks[-1].factor
    assert all(np.isfinite(v).all() for v in net.weights.values())


def test_what_comes_after_a_rollback_is_what_half_the_learning_rate_gives() -> None:
    calls: list[int] = []

    def once(outputs: Any, y: Any) -> tuple[Any, Any]:
        calls.append(1)
        if len(calls) == 3:
            return np.full(len(y), np.inf, np.float32), np.zeros_like(outputs)
        return dn.CrossEntropy()(outputs, y, None)

    options = {"epochs": 2, "schedule": "constant", "method": dn.SinglePath()}
    net, reference = make(), make()
    history = fit(net, loss=once, on_nonfinite="rollback", optimizer=dn.SGD(lr=0.2), **options)
    fit(reference, loss=dn.CrossEntropy(), optimizer=dn.SGD(lr=0.1), **options)
    assert same(net, reference) and [(r.epoch, r.step, r.to_step) for r in history.rollbacks] == [(1, 3, 0)]
    assert history.macs > 2 * STEPS * 40 and history.steps == 2 * STEPS


@pytest.mark.parametrize("step", [1, 5, 9, 12])
def test_a_run_with_rollbacks_resumes_with_the_same_bits(step: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    whole, again = make(), make()
    history = fit(whole, **ROLLBACK)
    copy = CopyAt(path, step)
    fit(make(), checkpoint=dn.Checkpoint(path, every_steps=1), callbacks=[copy], **ROLLBACK)
    resumed = fit(again, checkpoint=copy.kept, **ROLLBACK)
    assert same(whole, again) and figures(resumed) == figures(history)
    assert resumed.rollbacks == history.rollbacks and resumed.macs == history.macs


def test_a_run_that_goes_back_in_a_distillation_takes_the_trainee_along(tmp_path: Path) -> None:
    calls: list[int] = []

    def run(broken: int | None) -> tuple[dn.Network, dn.Network]:
        def teach(x: Any) -> Any:
            calls.append(1)
            out = TEACHER(x)
            return out * np.float32(np.nan) if len(calls) == broken else out

        calls.clear()
        student, trainee = make(), make((1.0,), 24, rng=5)
        halting = dn.EarlyHalting(trainee=False, training=False)
        options = {**QUIET, "augment": dn.Augment(shift=1), "trainee": trainee, "halting": halting, "epochs": 2}
        lr = 0.1 if broken is None else 0.2
        options |= {"optimizer": dn.SGD(lr=lr), "schedule": "constant", "on_nonfinite": "rollback"}
        dn.distill(student, teach, dn.Data(DATA.train, DATA.val.take([]), DATA.test, DATA.calibration, 10,
                   DATA.names, DATA.preprocess, None), **options)  # fmt: skip
        return student, trainee

    first, second = run(None), run(3)
    assert same(first[0], second[0]) and same(first[1], second[1])


def test_too_many_rollbacks_raise_and_leave_the_last_good_state() -> None:
    def broken(outputs: Any, y: Any) -> tuple[Any, Any]:
        return np.full(len(y), np.nan, np.float32), np.zeros_like(outputs)

    net, start = make(), make()
    with pytest.raises(dn.NonFiniteError, match="still after 10 rollbacks"):
        fit(net, loss=broken, on_nonfinite="rollback")
    assert same(net, start)


def test_weights_that_are_no_longer_finite_after_an_epoch_are_gone_back_from() -> None:
    class Break(dn.Callback):
        broken = False

        def on_step_end(self, logs: dict[str, Any]) -> None:
            if logs["step"] == 2 * STEPS and not self.broken:
                self.broken = True
                weight, bias = loop.session.trainer.get_params(loop.session._nodes[0])
                assert weight is not None
                weight[0] = np.inf
                loop.session.trainer.set_params(loop.session._nodes[0], weight, bias)

    for val in (None, (DATA.val.x, DATA.val.y)):
        data = dn.Data(DATA.train, DATA.val.take([]), DATA.test, DATA.calibration, 10, DATA.names, DATA.preprocess)
        options = {**_DEFAULTS, "epochs": 3, "on_nonfinite": "rollback", "val": val, "callbacks": (Break(),), **QUIET}
        loop = make_loop(make(), data, None, {}, **options)
        history = loop.run()
        assert [(r.step, r.to_step) for r in history.rollbacks] == [(2 * STEPS, STEPS)], history.rollbacks
        assert history.epochs == 3


def test_callbacks_go_back_too() -> None:
    class Count(dn.Callback):
        steps = 0
        most = 0

        def on_step_end(self, logs: dict[str, Any]) -> None:
            self.steps += 1
            self.most += 1

        def state(self) -> Any:
            return {"steps": self.steps}

        def load_state(self, state: Any) -> None:
            self.steps = state["steps"]

    count = Count()
    history = fit(make(), callbacks=[count], **ROLLBACK)
    assert count.steps == history.steps < count.most


def test_states_go_to_the_callback_of_the_same_class(tmp_path: Path) -> None:
    class First(dn.Callback):
        found: Any = None

        def state(self) -> Any:
            return type(self).__name__

        def load_state(self, state: Any) -> None:
            self.found = state

    class Second(First):
        pass

    fit(make(), checkpoint=tmp_path / "run", callbacks=[First(), Second(), Second()])
    callbacks = [Raise(99), Second(), First()]
    fit(make(), checkpoint=tmp_path / "run", callbacks=callbacks)
    assert [getattr(c, "found", None) for c in callbacks] == [None, "Second", "First"]


def test_the_checkpoint_of_a_finished_run_holds_no_state_to_go_back_to(tmp_path: Path) -> None:
    path = tmp_path / "run"
    fit(make(), checkpoint=path, epochs=2, on_nonfinite="rollback")
    assert not [key for key in load_file(path) if key.startswith("good|")]
