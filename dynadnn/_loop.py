"""The training loop: epochs, steps, validation, halting, checkpoints. Policy here, numbers in the core."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _checkpoint, _continue, _rollback
from ._ahead import Ahead
from ._arguments import generator
from ._augment import Augment, Labels, label_loss, mixed, moved, own_labels, transformed
from ._batches import Batch
from ._callbacks import Callbacks, Progress
from ._data import Data, Split, calibration_images
from ._errors import NonFiniteError
from ._halting import EarlyHalting, Halt
from ._history import History
from ._interrupts import OneInterrupt
from ._losses import BCE, CrossEntropy
from ._methods import Incremental, MultiPath, all_joined
from ._metrics import LABELS, METRICS, TARGETS, Metric, evaluate_outputs, task_of
from ._network import Network, remember, spec_json
from ._optimizers import Rate
from ._points import Subnet
from ._qat_session import QatSession
from ._saving import Due, remove_leftovers
from ._session import Session, Uninterrupted
from ._settings import Settings, Teaching

F32 = NDArray[np.float32]
_ORDER = 5  # stream of random numbers
_MOST_SKIPPED = 100  # steps in a row that may be skipped before a run is called broken


class Loop:
    """One run of `fit` or `distill`."""

    def __init__(
        self, net: Network, data: Data, val: Split | None, settings: Settings, teaching: Teaching | None
    ) -> None:
        self.net, self.data, self.val, self.settings, self.teaching = net, data, val, settings, teaching
        self.train = data.train
        self.images = len(self.train) if data.stream is None else data.stream.n
        self.batches: Iterator[Batch] | None = None  # what is left of the epoch, if images arrive in batches
        self.steps_per_epoch = self.images // settings.batch
        self.rate = Rate(settings.schedule, settings.optimizer, self.steps_per_epoch * settings.epochs)
        same: dict[str, Any] = {
            "batch": settings.batch,
            "threads": settings.threads,
            "seed": settings.seed,
            "frozen": settings.frozen,
            "taps": None if teaching is None else teaching.taps(),
        }
        if settings.qat is None:
            private = isinstance(settings.method, MultiPath) and settings.method.private_affine
            bf16 = settings.precision == "bf16"
            self.session = Session(net, ema=settings.ema, bf16=bf16, private_affine=private, **same)
        else:
            self.session = QatSession(net, settings.qat, self._calibration(), **same)
        self.names = list(net.points)
        self.task = task_of(self.train.y, LABELS if isinstance(settings.loss, BCE) else None)
        self.history = History(seed=settings.seed)
        self.callbacks = Callbacks(settings.callbacks)
        self.progress = Progress(settings.progress, settings.epochs, self.steps_per_epoch)
        self.epoch = self.step = self.skipped = self.in_a_row = 0
        self.sums: dict[str, float] = {}
        self.counted = 0
        self.best: float | None = None
        self.best_arrays: dict[str, NDArray[Any]] = {}
        self.finished = self.stopping = False
        self.earlier_seconds = 0.0
        self.due = Due(settings.checkpoint)
        self.good: _rollback.Good | None = None  # the state to go back to
        self.candidate: _rollback.Good | None = None  # it takes its place once a step from it has gone well
        self.source: _continue.Source | None = None
        self.interrupts = OneInterrupt()
        self._fingerprint: dict[str, str] | None = None
        self.overlap = settings.threads > 1  # make a batch while the step before it runs
        self.offset: Callable[[NDArray[Any]], F32] | None = None  # what is added to the outputs: frozen groups'

    # ---- the run ----

    def run(self) -> History:
        """Train to the end; on any exception the network holds the last finished step."""
        with self.interrupts:
            return self._run()

    def _run(self) -> History:
        self.started = time.perf_counter()
        self.net._set_task(self.task)
        resumed = self._begin()
        try:
            if not self.finished:
                self.stopping |= self.callbacks(
                    "train_begin", {"epochs": self.settings.epochs, "steps": self.rate.steps, "resumed": resumed}
                )
                self._epochs()
                self.callbacks("train_end", self._logs())
        except BaseException:
            self._abandon()
            raise
        finally:
            self.progress.close()
        return self._finish()

    def _begin(self) -> bool:
        """Go on from the checkpoint, if there is one, or begin; whether it went on."""
        s = self.settings
        if s.continue_from is not None:
            self.source = _continue.read_source(s.continue_from, self._network_fingerprint(), self.session)
        if s.checkpoint is not None:
            remove_leftovers(s.checkpoint.path)
            if s.resume and os.path.exists(s.checkpoint.path):
                self._resume(s.checkpoint.path)
                return True
        if self.source is not None:
            self.progress.say(f"begins with {_continue.begin(self.source, self.session, s.optimizer)}")
            if self.teaching is not None:
                self.teaching.begin_from(self.source)
        return False

    def _epochs(self) -> None:
        s = self.settings
        self._keep()
        while self.epoch < s.epochs and self._unfinished() and not self.stopping:
            first = self.step - self.epoch * self.steps_per_epoch
            self.epoch_started = time.perf_counter()
            self.stopping |= self.callbacks("epoch_begin", {"epoch": self.epoch})
            self.progress.begin_epoch(self.epoch, first)
            order = self._order(first).reshape(-1, s.batch)
            # Batches that arrive are not read ahead: they may be written over, and belong to the thread that asks.
            ahead = self.overlap and self.batches is None
            with Ahead(partial(self._batch, self.epoch, order), self.steps_per_epoch, ahead) as batches:
                for k in range(first, self.steps_per_epoch):
                    went_back = self.step != self.epoch * self.steps_per_epoch + k
                    if self.step >= self.rate.last or self.stopping or went_back:
                        break
                    self.interrupts.rearm()
                    self._step(order[k], partial(batches, k))
                    if self.due(self.step):
                        self._save()
            done = self.step - self.epoch * self.steps_per_epoch
            if done == self.steps_per_epoch or self.step >= self.rate.last:
                self._end_epoch()
                self._keep()
            self._save()

    def _unfinished(self) -> bool:
        """Whether there are steps to take, or an epoch that had its last step is to be ended."""
        return self.step < self.rate.last or self.step > self.epoch * self.steps_per_epoch

    def _order(self, first: int) -> NDArray[np.int64]:
        """Rows of an epoch that goes on at step `first`; batches keep the order in which they arrive."""
        if self.data.stream is not None:
            size = self.settings.batch
            self.batches = self.data.stream.steps(self.epoch, size, first * size)
            return np.arange(self.steps_per_epoch * size)
        order = generator(self.settings.seed, _ORDER, self.epoch).permutation(self.images)
        return order[: self.steps_per_epoch * self.settings.batch]

    def _step(self, rows: NDArray[np.int64], make: Callable[[], Batch]) -> None:
        start = time.perf_counter()
        lr, momentum = self.rate.at(self.step)
        self.stopping |= self.callbacks("step_begin", {"epoch": self.epoch, "step": self.step, "lr": lr})
        batch = make()
        try:
            figures, macs = self._passes(rows, batch)
        except NonFiniteError as error:
            self._nonfinite(str(error))
            return
        try:
            with Uninterrupted():
                self.session.commit(self.settings.optimizer, lr, momentum, self.settings.clip_norm)
                if self.teaching is not None:
                    self.teaching.commit(lr, momentum)
                for key, value in figures.items():
                    self.sums[key] = self.sums.get(key, 0.0) + value
                self.counted += 1
                self.step += 1
                self.in_a_row = 0
                self.history.steps += 1
                self.history.macs += macs
                self.history.train_seconds += time.perf_counter() - start
                if self.candidate is not None:
                    self.good, self.candidate = self.candidate, None
                logs = {"epoch": self.epoch, "step": self.step, "lr": lr, **figures}
                self.callbacks.record("step_end", logs)
        except NonFiniteError as error:
            self._nonfinite(str(error))
            return
        self.progress.step(figures["loss"])
        self.stopping |= self.callbacks("step_end", logs)
        limit = self.settings.max_seconds
        if limit is not None and self._seconds() > limit and self.step < self.rate.last:
            self.stopping = True
            self._halt("training", f"max_seconds={limit:g} is over", self.rate.last - self.step)

    def _passes(self, rows: NDArray[np.int64], batch: Batch) -> tuple[dict[str, float], int]:
        """Forward and backward of every sub-net of a step; nothing is committed."""
        s, (x, y, weight) = self.settings, batch
        if self.teaching is not None:
            self.teaching.targets(rows, x, y, weight, self.step)
        figures, macs, widest = {"loss": 0.0}, 0, None
        offset = None if self.offset is None else self.offset(x)
        choices = s.method.choose(self.net._rules, self.session.points, s.seed, self.step, self.rate.steps)
        if s.qat is not None:
            choices = s.qat.expand(choices, len(self.net.layers), s.seed, self.step)
        for number, choice in enumerate(choices):
            outputs = self.session.forward(x, choice.subnet, self.step, number)
            soft = widest if choice.soft else None
            if offset is None:
                loss, gradient = self._loss(outputs, y, weight, soft)
            else:
                own, outputs = outputs, outputs + offset
                loss, gradient = self._group_loss(own, outputs, y, weight, soft)
            inner = None if self.teaching is None else self.teaching.inner(self.session, choice.subnet, weight)
            if inner is not None:
                loss = loss + inner[0]
            mean = float(loss.mean(dtype=np.float64))
            if not np.isfinite(mean):
                raise NonFiniteError(f"loss is {mean}; {self.session.diagnose()}")
            self.session.backward(gradient, None if inner is None else inner[1])
            figures["loss"] += mean
            macs += 3 * self.session.macs(choice.subnet) * len(rows)
            if number == 0:
                widest = outputs
                if self.task != TARGETS:
                    figures["accuracy"] = METRICS[self.task]["accuracy"](outputs, own_labels(y))
        if self.teaching is not None:
            macs += self.teaching.macs() * len(rows)
        return figures, macs

    def _group_loss(self, own: F32, together: F32, y: Labels, weight: F32 | None, soft: F32 | None) -> tuple[F32, F32]:
        """Loss per sample and gradient of a channel group: of its own outputs, of all groups', or some of both."""
        method = self.settings.method
        share = method.share(self.settings.loss) if isinstance(method, Incremental) else 0.0
        parts = [(share, own), (1 - share, together)]
        found = [(part, *self._loss(outputs, y, weight, soft)) for part, outputs in parts if part > 0]
        if len(found) == 1:
            return found[0][1:]
        (a, loss, gradient), (b, other, slope) = found
        return np.float32(a) * loss + np.float32(b) * other, np.float32(a) * gradient + np.float32(b) * slope

    def _loss(self, outputs: F32, y: Labels, weight: F32 | None, soft: F32 | None) -> tuple[F32, F32]:
        if self.teaching is not None:
            return self.teaching.loss(outputs, y, weight, soft)
        if soft is None or not isinstance(self.settings.loss, CrossEntropy | BCE):
            return label_loss(self.settings.loss, outputs, y, weight)
        return self.settings.loss.soft(outputs, soft, weight, 1.0, 1.0, None)

    def _batch(self, epoch: int, order: NDArray[np.int64], k: int) -> Batch:
        """Images of step k of an epoch, augmented, with labels and weights; or what arrives next."""
        if self.batches is not None:
            return next(self.batches)
        s, train, rows = self.settings, self.train, order[k]
        y, weight = train.y[rows], None if train.weight is None else train.weight[rows]
        if s.augment is None:
            return Batch(np.ascontiguousarray(train.x[rows]), y, weight)
        threads = 1 if self.overlap else s.threads  # the others are at work on a step
        options = {"seed": s.seed, "epoch": epoch}
        x = moved(train.x, rows, s.augment, self.data.preprocess, threads=threads, **options)
        x = transformed(x, s.augment, step=k, **options)
        if s.augment.mixup:
            return Batch(*mixed(x, y, weight, s.augment.mixup, step=k, **options))
        return Batch(x, y, weight)

    def _nonfinite(self, text: str) -> None:
        """Forget a step that gave NaN or infinity and go on or back, or raise with step and layer."""
        self.session.trainer.discard()
        if self.teaching is not None:
            self.teaching.discard()
        if self.settings.on_nonfinite == "rollback":
            self._roll_back(text, self.epoch + 1, self.step + 1)
            return
        text = f"epoch {self.epoch + 1}, step {self.step + 1}: {text}"
        self.in_a_row += 1
        if self.settings.on_nonfinite == "raise" or self.in_a_row > _MOST_SKIPPED:
            raise NonFiniteError(text + " (a lower learning rate or clip_norm may help)")
        with Uninterrupted():
            self.skipped += 1
            self.step += 1
            self.history.skipped = self.skipped
        self.progress.say(f"skipped: {text}")

    def _keep(self) -> None:
        """Keep the state at the start of an epoch, unless it is not finite itself."""
        if self.settings.on_nonfinite != "rollback" or self.step != self.epoch * self.steps_per_epoch:
            return
        document, arrays = self._state()
        if _rollback.is_finite(arrays):
            self.candidate = _rollback.keep(document, arrays)
        else:
            self._roll_back("the weights are not finite any more", self.epoch, self.step)

    def _roll_back(self, text: str, epoch: int, step: int) -> None:
        """Go back to the last good state with half the learning rate; NonFiniteError if that was too often."""
        h, good = self.history, self.good or self.candidate
        if good is None:
            raise NonFiniteError(f"epoch {epoch}, step {step}: {text}")
        to = good.document.step
        factor = _rollback.FACTOR ** (len(h.rollbacks) + 1)
        all_of_them = [*h.rollbacks, _rollback.Rollback(epoch, step, to, factor, text)]
        spent = h.macs, h.train_seconds, self.earlier_seconds
        self.progress.close()
        with Uninterrupted():
            self._restore(good.document, good.arrays)
            self.good, self.candidate = good, None
            h.macs, h.train_seconds, self.earlier_seconds = spent
            h.rollbacks = all_of_them[: _rollback.MOST]
            self.rate.scale = _rollback.FACTOR ** len(h.rollbacks)
        if len(all_of_them) > _rollback.MOST:
            raise NonFiniteError(
                f"epoch {epoch}, step {step}: {text} (still after {_rollback.MOST} rollbacks, "
                f"with {self.rate.scale:g} times the learning rate)"
            )
        self.progress.say(f"epoch {epoch}, step {step}: back to step {to}, lr times {factor:g}: {text}")

    # ---- the end of an epoch ----

    def _end_epoch(self) -> None:
        record = {key: value / max(1, self.counted) for key, value in self.sums.items()} or {"loss": float("nan")}
        record["lr"] = self.rate.at(max(0, self.step - 1))[0]
        try:
            if self.val is not None:
                self.session.export()
                record.update(self._validate(self.session.judged(), self.val))
            if self.teaching is not None:
                self.teaching.validate()
        except NonFiniteError as error:
            if self.settings.on_nonfinite != "rollback":
                raise
            self._roll_back(str(error), self.epoch + 1, self.step)
            return
        with Uninterrupted():
            self._record(record)
            self.callbacks.record("epoch_end", self._logs())
        self.progress.end_epoch(self.epoch - 1, {k: v[-1] for k, v in self.history.history.items()})
        self.stopping |= self.callbacks("epoch_end", self._logs())

    def _record(self, record: dict[str, float]) -> None:
        """Count an epoch as finished, and halt what is to be halted; nothing is measured here."""
        self.sums, self.counted = {}, 0
        record["seconds"] = time.perf_counter() - self.epoch_started
        for key, value in record.items():
            self.history.history.setdefault(key, []).append(value)
        self.epoch += 1
        losses: list[float] = []
        if self.settings.halting is not None:
            rule = self.settings.halting
            losses = rule.series(self.history.history, rule.key(self.names))
            self._halt_training(rule, losses)
        if self.teaching is not None:
            self.history.halted += self.teaching.epoch_end(self.history.history, losses, self)

    def _validate(self, net: Network, val: Split) -> dict[str, float]:
        """Figures of every named point, and their mean."""
        wanted: tuple[Metric, ...] = ("loss",) if self.task == TARGETS else ("loss", "accuracy")
        wanted += tuple(m for m in self.settings.metrics if m not in wanted)
        known: dict[Subnet, dict[str, float]] = {}
        for subnet in dict.fromkeys(net.points.values()):
            if self.offset is None or net is not self.net:
                figures = net.evaluate(val, subnet, wanted)
            else:
                x, y = net._labelled(val)
                figures = evaluate_outputs(net._outputs(x, subnet) + self.offset(x), y, wanted, net.task)
            known[subnet] = {f"val_{key}": value for key, value in figures.items() if isinstance(value, float)}
        record = {key: float(np.mean([f[key] for f in known.values()])) for key in next(iter(known.values()))}
        if len(net.points) > 1:
            for name, subnet in net.points.items():
                record.update({f"{key}/{name}": value for key, value in known[subnet].items()})
        return record

    def _halt_training(self, rule: EarlyHalting, losses: Sequence[float]) -> None:
        if not losses or not rule.training or self.rate.decay is not None:
            return
        if not all_joined(self.settings.method, self.session.points, self.step, self.rate.steps):
            return  # the mean of the points says nothing yet
        if self.best is None or losses[-1] < self.best:
            self.best = losses[-1]
            self.best_arrays = {} if self.rate.tied else self.session.state()
        if self.step >= self.rate.steps or not rule.stop_training(losses):
            return
        why = f"no gain of {rule.min_gain:g} per epoch in {rule.patience} epochs"
        if self.rate.tied:
            self.rate.halt(self.step, rule.cooldown)
            self._halt(
                "training",
                f"{why}; final decay over {self.rate.last - self.step} steps",
                self.rate.steps - self.rate.last,
            )
        else:
            self._halt("training", f"{why}; best weights restored", self.rate.steps - self.step)
            self.stopping = True
            if self.best_arrays:
                self.session.restore(self.best_arrays)

    def _halt(self, what: str, why: str, steps: int) -> None:
        taken = max(1, self.history.steps)
        saved = self.history.train_seconds / taken * steps, self.history.macs / taken * steps
        self.history.halted.append(Halt(what, self.epoch, why, *saved))
        self.progress.say(f"{what} halted: {why}")

    # ---- ends ----

    def _finish(self) -> History:
        with Uninterrupted():
            self.session.export()
        named = list(self.net.points.values())
        figures = {}
        if self.history.history.get("val_accuracy"):
            figures = {"val_accuracy": self.history.history["val_accuracy"][-1]}
        images = self._calibration()
        remember(self.net, self.data, images, seed=self.settings.seed, steps=self.history.steps, metrics=figures)
        if self.net._needs_tables:
            self.net.recalibrate(images, points=named)
        self.session.finish(images)
        if self.teaching is not None:
            self.teaching.finish(self.data, images)
        self.history.seconds = self._seconds()
        if not self.finished:
            self.finished = self.step >= self.rate.last or self._stopped_for_good()
            self._save()
        return self.history

    def _calibration(self) -> NDArray[Any]:
        """Return training images changed as this run changed them, for the final statistics."""
        augment = self.settings.augment
        same = (augment or Augment()) == (self.data.augment or Augment())
        return (self.data.calibration if same else calibration_images(self.train, augment, self.data.preprocess)).x

    def _abandon(self) -> None:
        """After an exception: the last finished step, in the network and in the checkpoint."""
        with Uninterrupted():
            self.session.trainer.discard()
            self.session.export()
            if self.teaching is not None:
                self.teaching.discard()
            remember(self.net, self.data, self._calibration(), seed=self.settings.seed, steps=self.history.steps)
            if self.history.steps:
                self._save()

    def _stopped_for_good(self) -> bool:
        """Whether a rule halted training and no final decay follows."""
        return self.rate.decay is None and any(
            halt.what == "training" and not halt.why.startswith("max_seconds") for halt in self.history.halted
        )

    def _seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    def _logs(self) -> dict[str, Any]:
        epochs = self.history.epochs
        last = {key: values[-1] for key, values in self.history.history.items() if values and len(values) == epochs}
        return {"epoch": self.epoch - 1, "step": self.step, **last}

    # ---- checkpoints ----

    def fingerprint(self) -> dict[str, str]:
        """Return what must be equal for a run to be the same run."""
        if self._fingerprint is None:
            self._fingerprint = self._find_fingerprint()
        return self._fingerprint

    def _find_fingerprint(self) -> dict[str, str]:
        s = self.settings
        options: dict[str, Any] = {
            key: getattr(s, key)
            for key in ("epochs", "method", "loss", "metrics", "optimizer", "schedule", "batch", "augment", "clip_norm")
        }
        options |= {
            "ema": s.ema,
            "precision": s.precision,
            "frozen": s.frozen,
            "halting": s.halting,
            "on_nonfinite": s.on_nonfinite,
        }
        if s.qat is not None:
            options["qat"] = s.qat
        found = {key: _checkpoint.describe(value) for key, value in options.items()}
        found |= self._network_fingerprint()
        if self.source is not None:
            found["continue_from"] = self.source.digest
        found["data"] = self.data.fingerprint[:16]
        found["val"] = "none" if self.val is None else _checkpoint.digest(self.val.x, self.val.y)
        if self.session.private:
            found["affine"] = "private"
        if not s.fresh:
            found["rng"] = str(s.seed)
        return found | (self.teaching.fingerprint() if self.teaching is not None else {})

    def _network_fingerprint(self) -> dict[str, str]:
        return {
            "graph": _checkpoint.digest(spec_json(self.net)),
            "points": repr({name: (p.widths, p.depth) for name, p in self.net.points.items()}),
            "preprocess": repr(self.net.preprocess),
        }

    def _save(self) -> None:
        if self.settings.checkpoint is None:
            return
        document, arrays = self._state()
        document.good, arrays["good"] = _rollback.to_file(None if self.finished else self.good, self.step)
        _checkpoint.save(self.settings.checkpoint.path, document, arrays)
        self.due.saved()

    def _state(self) -> tuple[_checkpoint.CheckpointDoc, dict[str, Any]]:
        """Everything that this run needs to go on from here."""
        h = self.history
        arrays = {"student": self.session.state(), "best": self.best_arrays}
        taught: dict[str, Any] = {}
        if self.teaching is not None:
            taught, more = self.teaching.state()
            arrays |= more
        document = _checkpoint.document(
            fingerprint=self.fingerprint(),
            seed=self.settings.seed,
            epoch=self.epoch,
            step=self.step,
            skipped=self.skipped,
            sums=self.sums,
            counted=self.counted,
            history=_checkpoint.pack_history(h.history),
            halted=_checkpoint.pack_halts(h.halted),
            decay=self.rate.decay,
            best=self.best,
            seconds=self._seconds(),
            train_seconds=h.train_seconds,
            macs=h.macs,
            finished=self.finished,
            callbacks=self.callbacks.states(),
            teaching=taught,
            in_a_row=self.in_a_row,
            rollbacks=[(r.epoch, r.step, r.to_step, r.factor, r.why) for r in h.rollbacks],
        )
        return document, arrays

    def _resume(self, path: str | os.PathLike[str]) -> None:
        wanted = self.fingerprint()
        document, arrays = _checkpoint.load(path, wanted)
        if document.seed != self.settings.seed:
            raise ValueError(
                f"checkpoint {os.fspath(path)!r} has seed {document.seed}: pass rng={document.seed} to go on"
            )
        for owner in ("student", "best") if arrays.get("best") else ("student",):
            _checkpoint.check_arrays(path, owner, arrays.get(owner, {}), self.session.state())
        self._restore(document, arrays)
        self.good = _rollback.from_file(document.good, arrays.get("good", {}))
        self.progress.say(f"resumed after epoch {self.epoch}, step {self.step}")

    def _restore(self, document: _checkpoint.CheckpointDoc, arrays: _rollback.Arrays) -> None:
        """Take back what `_state` returned."""
        self.session.restore(arrays["student"])
        self.best, self.best_arrays = document.best, dict(arrays.get("best", {}))
        self.epoch, self.step, self.skipped = document.epoch, document.step, document.skipped
        self.sums, self.counted, self.rate.decay = dict(document.sums), document.counted, document.decay
        h = self.history
        h.history = _checkpoint.unpack_history(document.history)
        h.halted = [Halt(*halt) for halt in document.halted if not halt[2].startswith("max_seconds")]
        h.steps, h.skipped, h.macs = document.step - document.skipped, document.skipped, document.macs
        h.train_seconds, self.earlier_seconds, self.finished = (
            document.train_seconds,
            document.seconds,
            document.finished,
        )
        self.in_a_row = document.in_a_row
        h.rollbacks = [_rollback.Rollback(*r) for r in document.rollbacks]
        self.rate.scale = _rollback.FACTOR ** len(h.rollbacks)
        self.stopping |= self._stopped_for_good()
        self.callbacks.load(copy.deepcopy(document.callbacks))
        if self.teaching is not None:
            self.teaching.restore(document.teaching, arrays)
