"""Distillation: a student learns from a teacher, and from a trainee that learns beside it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _checkpoint, _core
from ._arguments import as_array, check_finite
from ._augment import Augment, Labels, label_loss
from ._continue import Source, begin, fits
from ._data import Data, Split
from ._errors import FormatError, NonFiniteError
from ._halting import Halt
from ._hints import Hint, Hints, check_hints
from ._history import History
from ._loop import Loop
from ._losses import BCE, BUILT
from ._metrics import LABELS, METRICS, TARGETS, task_of
from ._network import Network, remember
from ._points import Subnet
from ._session import Session
from ._settings import Settings
from ._train import make_loop, train

F32 = NDArray[np.float32]
Teacher = Network | Callable[[Any], Any] | Any


@dataclass(frozen=True)
class KD:
    """Weights of the distillation loss: (1 - soft_weight) * CE + soft_weight * temperature**2 * KL.

    With `BCE` as loss, KL is that of each output's sigmoid, their mean; with `MSE` and `Huber` the soft part is the
    loss against the teacher's outputs, and the temperature has no part in it.

    Parameters
    ----------
    temperature : float, default 4
        Softens the outputs of teacher and student.
    soft_weight : float, default 0.9
        From 0 (labels only) to 1 (teacher only).
    trainee_weight : float, default 0.3
        Weight of the trainee's outputs, added to the rest.
    """

    temperature: float = 4.0
    soft_weight: float = 0.9
    trainee_weight: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be above 0 and finite, not {self.temperature}")
        if not 0 <= self.soft_weight <= 1:
            raise ValueError(f"soft_weight must be from 0 to 1, not {self.soft_weight}")
        if not 0 <= self.trainee_weight < float("inf"):
            raise ValueError(f"trainee_weight must be at least 0, not {self.trainee_weight}")


def distill(
    student: Network,
    teacher: Teacher,
    data: Data,
    *,
    epochs: int,
    kd: KD | None = None,
    trainee: Network | None = None,
    hints: Hint | Sequence[Hint] | None = None,
    **options: Any,
) -> History:
    """Train a student on labels and on a teacher's outputs; student (and trainee) are changed.

    Parameters
    ----------
    student : Network
    teacher : Network, array or function
        A network; outputs of shape (len(data.train), outputs), row by row; or f(images) -> outputs of raw images.
    data : Data
    epochs : int
    kd : KD, optional
        Temperature and weights; ``KD()`` without.
    trainee : Network, optional
        A larger network that is trained beside the student, on the teacher; the student learns from it too, until
        `EarlyHalting` stops it.
    hints : Hint or sequence of Hint, optional
        Layers of the student that learn from layers of the teacher, a `Network`, in passes of the widest point; until
        `EarlyHalting` stops the teacher.
    options
        All options of `fit`: loss (all but functions, see `KD`), method, halting, schedule, callbacks, checkpoint, rng
        and so on.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If the teacher's outputs or the layers that hints name do not fit, or images arrive in batches and the teacher
        is an array or is to be halted.

    Warns
    -----
    UserWarning
        If the teacher is less accurate on the validation images than the student.

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.digits(rng=0)
    >>> teacher, student = dn.nets.mlp(data, width=64, rng=0), dn.nets.mlp(data, width=16, rng=1)
    >>> history = dn.fit(teacher, data, epochs=2, progress=False, rng=0)
    >>> dn.distill(student, teacher, data, epochs=2, progress=False, rng=0).epochs
    2
    """
    kd = KD() if kd is None else kd
    if not isinstance(kd, KD):
        raise TypeError(f"kd must be dn.KD(...), not {type(kd).__name__}")
    given = check_hints(hints)
    unknown = options.keys() - _DEFAULTS.keys() - _MISSING.keys()
    if unknown:
        raise TypeError(f"distill has no option {sorted(unknown)[0]!r}: it takes kd, trainee and the options of fit")
    missing = {name: options.pop(name, None) for name in _MISSING}
    if trainee is student or trainee is teacher:
        raise ValueError("trainee must be a network of its own: pass trainee=net.copy()")

    def make(part: Network, own: dict[str, Any]) -> Loop:
        def teaching(settings: Settings, val: Split | None, notes: list[str]) -> Distillation:
            return Distillation(part, teacher, data, kd, trainee, settings, val, given)

        loop = make_loop(part, data, teaching, missing, **own)
        loops.append(loop)
        assert isinstance(loop.teaching, Distillation)
        if _ready(student):
            loop.teaching.compare(student)
        return loop

    loops: list[Loop] = []
    history = train(student, make, {**_DEFAULTS, **options, "epochs": epochs})
    if history.history.get("val_loss"):
        assert isinstance(loops[-1].teaching, Distillation)
        loops[-1].teaching.compare(student)
    return history


_DEFAULTS: dict[str, Any] = {
    "val": None,
    "method": None,
    "loss": "auto",
    "metrics": (),
    "optimizer": None,
    "schedule": "onecycle",
    "batch": 128,
    "augment": "auto",
    "clip_norm": None,
    "ema": None,
    "precision": "fp32",
    "qat": None,
    "frozen": None,
    "halting": None,
    "callbacks": (),
    "progress": "auto",
    "checkpoint": None,
    "resume": True,
    "continue_from": None,
    "on_nonfinite": "raise",
    "max_seconds": None,
    "threads": None,
    "rng": None,
}
_MISSING = {"arithmetic": None}


def _ready(net: Network) -> bool:
    return net._find(None) in net.tables


def _is_array(teacher: Teacher) -> bool:
    return not isinstance(teacher, Network) and (not callable(teacher) or hasattr(teacher, "__array__"))


def _check_numbered(teacher: Teacher, settings: Settings, what: str, why: str) -> None:
    """Refuse teachers that know images by number, where images have none; `what` an array is, `why` it is no use."""
    if _is_array(teacher):
        raise ValueError(f"teacher is an array {what}, but {why}: pass a Network or a function")
    if settings.halting is not None and settings.halting.teacher:
        raise ValueError(f"halting the teacher averages its outputs per image, but {why}: EarlyHalting(teacher=False)")


def _check_images(teacher: Teacher, data: Data, settings: Settings) -> None:
    """Refuse what needs images that can be told apart."""
    if data.stream is not None:
        why = "the images of this data set arrive in batches and have no index, so no outputs can be kept per image"
        _check_numbered(teacher, settings, "in the order of train.index", why)
    if settings.augment is not None and settings.augment.mixup:
        why = "mixup makes new images of pairs, whose outputs are not those of any image"
        _check_numbered(teacher, settings, "of outputs per image", why)


class Distillation:
    """Teacher, trainee and their part of every step."""

    def __init__(
        self,
        student: Network,
        teacher: Teacher,
        data: Data,
        kd: KD,
        trainee: Network | None,
        settings: Settings,
        val: Split | None,
        hints: tuple[Hint, ...] = (),
    ) -> None:
        if not isinstance(settings.loss, BUILT):
            raise ValueError(
                "loss is a function: distillation must know how outputs are compared with a teacher's, which it does "
                f"for {', '.join(f'dn.{kind.__name__}()' for kind in BUILT)}"
            )
        self.kd, self.settings, self.val, self.data = kd, settings, val, data
        self.task = task_of(data.train.y, LABELS if isinstance(settings.loss, BCE) else None)
        self.outputs = student.outputs
        self.teacher = teacher
        augment = settings.augment or Augment()
        self.cached = augment.only_flips and data.stream is None
        _check_images(teacher, data, settings)
        n = len(data.train)
        self.flips = self.cached and augment.flip and not _is_array(teacher)
        forms = 2 if self.flips else 1  # of an image: plain, then mirrored ones
        self.mean = np.zeros((forms * n, self.outputs), np.float32)  # of the teacher's outputs per image
        self.count = np.zeros(forms * n, np.int64)
        self.change: list[float] = []
        self.moved, self.seen = 0.0, 0
        self.teacher_halted = False
        self.seconds = {"teacher": 0.0, "trainee": 0.0}
        self.done = {"teacher": 0, "trainee": 0}  # multiply-accumulates
        self.run_teacher = self._runner(student)
        self.hints: Hints | None = None
        if hints:
            sizes = {"batch": settings.batch, "threads": settings.threads, "seed": settings.seed}
            self.hints = Hints(student, teacher, hints, data.train.x, **sizes)
        self.session: Session | None = None
        if trainee is not None:
            self._check_trainee(trainee)
            trainee._set_task(self.task)
            self.session = Session(
                trainee,
                batch=settings.batch,
                threads=settings.threads,
                seed=settings.seed + 1,
                frozen=None,
                bf16=settings.precision == "bf16",
            )
        self.trainee_halted = trainee is None
        self.trainee_losses: list[float] = []
        self.trainee_figures: dict[str, Any] = {}  # of this epoch
        self.soft: F32 | None = None
        self.trainee_outputs: F32 | None = None
        self.last_macs = 0
        self.teacher_figure: float | None = None
        self.compared = False

    def _runner(self, student: Network) -> Callable[[NDArray[np.int64], NDArray[Any]], F32]:
        """Return a function of (rows, images) that gives the teacher's outputs."""
        teacher, n = self.teacher, len(self.data.train)
        if isinstance(teacher, Network):
            if teacher.outputs != self.outputs or teacher.shape != student.shape:
                raise ValueError(
                    f"teacher takes {teacher.shape} and has {teacher.outputs} outputs, the student {student.shape} "
                    f"and {self.outputs}: they must be equal"
                )
            engine = teacher.compile(threads=self.settings.threads)
            point = teacher._find(None)
            teacher._binding(point)
            teacher._images(self.data.train.x[:1], "data.train.x")
            self.teacher_macs = teacher.macs()
            return lambda rows, x: engine(x, point)
        self.teacher_macs = 0
        if callable(teacher) and not hasattr(teacher, "__array__"):
            return lambda rows, x: self._checked(teacher(x), len(x))
        stored = as_array(teacher, "teacher")
        if stored.dtype != np.float32 or stored.shape != (n, self.outputs):
            raise ValueError(
                f"teacher must be float32 of shape ({n}, {self.outputs}), one row per training image, "
                f"not {stored.dtype} of shape {stored.shape}"
            )
        check_finite(stored, "teacher")
        self.cached = False  # it is one already
        return lambda rows, x: np.ascontiguousarray(stored[rows])

    def _checked(self, outputs: Any, n: int) -> F32:
        out = as_array(outputs, "the teacher's outputs")
        if out.dtype != np.float32 or out.shape != (n, self.outputs):
            raise ValueError(
                f"the teacher must return float32 of shape ({n}, {self.outputs}), not {out.dtype} of shape {out.shape}"
            )
        return np.ascontiguousarray(out)

    def _check_trainee(self, trainee: Network) -> None:
        if not isinstance(trainee, Network):
            raise TypeError(f"trainee must be a Network, not {type(trainee).__name__}")
        if trainee.outputs != self.outputs:
            raise ValueError(f"trainee has {trainee.outputs} outputs, the student {self.outputs}: they must be equal")
        trainee._images(self.data.train.x[:1], "data.train.x")
        if self.settings.halting is not None and self.settings.halting.trainee and self.val is None:
            raise ValueError("halting the trainee needs validation images: pass val, or EarlyHalting(trainee=False)")

    # ---- a step ----

    def targets(self, rows: NDArray[np.int64], x: NDArray[Any], y: Labels, weight: F32 | None, step: int) -> F32:
        """Return the teacher's outputs for a batch; the trainee's gradients are left waiting for commit."""
        start = time.perf_counter()
        self.last_macs = 0
        self.soft = self._teacher_outputs(rows, x, step)
        if self.hints is not None:
            self._look(x)
        self.seconds["teacher"] += time.perf_counter() - start
        self.trainee_outputs = None
        if self.session is not None and not self.trainee_halted:
            start = time.perf_counter()
            point = self.session.net._find(None)
            outputs = self.session.forward(x, point, step)
            loss, gradient = self._mixed(outputs, y, weight, self.soft)
            if not np.isfinite(loss).all():
                raise NonFiniteError(f"the trainee's loss is not finite; {self.session.diagnose()}")
            self.session.trainer.backward(gradient)
            self.trainee_outputs = outputs
            self.last_macs += 3 * self.session.macs(point)
            self.done["trainee"] += 3 * self.session.macs(point) * len(x)
            self.seconds["trainee"] += time.perf_counter() - start
        return self.soft

    def _teacher_outputs(self, rows: NDArray[np.int64], x: NDArray[Any], step: int) -> F32:
        if self.teacher_halted:
            known = self.count[rows] > 0
            if known.all():
                return self.mean[rows]
        if self.cached:
            forms = rows + len(self.data.train) * self._mirrored(rows, step) if self.flips else rows
            new = np.flatnonzero(self.count[forms] == 0)
            if len(new):
                self.mean[forms[new]] = self._live(rows[new], np.ascontiguousarray(x[new]), len(rows))
                self.count[forms[new]] = 1
            return self.mean[forms]
        outputs = self._live(rows, x, len(rows))
        if self.settings.halting is not None and self.settings.halting.teacher:
            self._average(rows, outputs)
        return outputs

    def _look(self, x: NDArray[Any]) -> None:
        """Look inside the teacher, until it is halted."""
        assert self.hints is not None
        self.hints.look(None if self.teacher_halted else x)
        if not self.teacher_halted:
            self.done["teacher"] += self.hints.teacher.macs * len(x)
            self.last_macs += self.hints.teacher.macs + self.hints.macs

    def _mirrored(self, rows: NDArray[np.int64], step: int) -> NDArray[np.bool_]:
        """Which images of a batch augmentation has mirrored."""
        epoch = step // (len(self.data.train) // self.settings.batch)
        return _core.augment_flips(rows, seed=self.settings.seed, epoch=epoch)

    def _live(self, rows: NDArray[np.int64], x: NDArray[Any], batch: int) -> F32:
        outputs = self.run_teacher(rows, x)
        if not np.isfinite(outputs).all():
            raise NonFiniteError("the teacher's outputs hold NaN or infinity")
        self.done["teacher"] += self.teacher_macs * len(x)
        self.last_macs += self.teacher_macs * len(x) // batch
        return outputs

    def _average(self, rows: NDArray[np.int64], outputs: F32) -> None:
        """Update the running average per image, and by how much it moves."""
        count = self.count[rows] + 1
        step = (outputs - self.mean[rows]) / count[:, None]
        again = count > 1
        new = self.mean[rows] + step
        if again.any():
            size = np.linalg.norm(new[again], axis=1)
            moved = np.linalg.norm(step[again], axis=1) / np.maximum(size, np.finfo(np.float32).tiny)
            self.moved += float(moved.sum(dtype=np.float64))
            self.seen += int(again.sum())
        self.mean[rows] = new
        self.count[rows] = count

    def loss(self, outputs: F32, y: Labels, weight: F32 | None, soft: F32 | None) -> tuple[F32, F32]:
        """Return loss per sample and gradient of a pass; `soft` (outputs of the widest) replaces the teacher."""
        assert self.soft is not None
        loss, gradient = self._mixed(outputs, y, weight, self.soft if soft is None else soft)
        share = self.kd.trainee_weight
        if self.trainee_outputs is not None and share > 0:
            more, _ = self.settings.loss.soft(
                outputs, self.trainee_outputs, weight, self.kd.temperature, share, gradient
            )
            loss = loss + np.float32(share) * more
        return loss, gradient

    def _mixed(self, outputs: F32, y: Labels, weight: F32 | None, soft: F32) -> tuple[F32, F32]:
        share = self.kd.soft_weight
        loss, gradient = label_loss(self.settings.loss, outputs, y, weight, 1 - share)
        loss = np.float32(1 - share) * loss
        if share > 0:
            more, _ = self.settings.loss.soft(outputs, soft, weight, self.kd.temperature, share, gradient)
            loss = loss + np.float32(share) * more
        return loss, gradient

    def taps(self) -> NDArray[np.int32] | None:
        """Nodes of the student that hints are for."""
        return None if self.hints is None else self.hints.taps

    def inner(self, session: Session, subnet: Subnet, weight: F32 | None) -> tuple[F32, tuple[F32 | None, ...]] | None:
        """(loss per sample, gradient per tap) of the hints, for the widest point, at all bits if those are trained."""
        if self.hints is None:
            return None
        widest = self.hints.widest
        whole = all(bits in ("fp32", 8) for bits in subnet.bits)
        if not whole or (subnet.widths, subnet.depth) != (widest.widths, widest.depth):
            return None
        return self.hints.add(session.trainer, weight)

    def commit(self, lr: float, momentum: float) -> None:
        """Update the trainee and the maps of hints."""
        if self.hints is not None:
            self.hints.commit(self.settings.optimizer, lr, momentum, self.settings.clip_norm)
        if self.session is not None and self.trainee_outputs is not None:
            self.session.commit(self.settings.optimizer, lr, momentum, self.settings.clip_norm)

    def discard(self) -> None:
        """Forget the trainee's part of a step."""
        if self.session is not None:
            self.session.trainer.discard()
        if self.hints is not None:
            self.hints.discard()

    def macs(self) -> int:
        """Multiply-accumulates of the last step per image, of teacher and trainee."""
        return self.last_macs

    # ---- the end of an epoch ----

    def validate(self) -> None:
        """Measure the trainee on the validation images."""
        self.trainee_figures = {}
        if self.session is not None and not self.trainee_halted and self.val is not None:
            self.session.export()
            self.trainee_figures = self.session.net.evaluate(self.val)

    def epoch_end(self, history: dict[str, list[float]], losses: Sequence[float], loop: Loop) -> list[Halt]:
        """Record the trainee's figures and apply the rules that halt it and the teacher."""
        rule, halts = self.settings.halting, []
        if not self.cached and not self.teacher_halted and (self.moved or self.seen):
            self.change.append(self.moved / max(1, self.seen))
        self.moved, self.seen = 0.0, 0
        left = max(0, self.settings.epochs - loop.epoch)
        if figures := self.trainee_figures:
            self.trainee_losses.append(figures["loss"])
            history.setdefault("trainee_val_loss", []).append(figures["loss"])
            if "accuracy" in figures:
                history.setdefault("trainee_val_accuracy", []).append(figures["accuracy"])
            student = history.get("val_loss", [])
            if rule is not None and rule.trainee and left and rule.stop_trainee(student, self.trainee_losses):
                self.trainee_halted = True
                caught = student[-1] <= self.trainee_losses[-1]
                why = "the student has caught up" if caught else f"no gain in {rule.patience} epochs"
                halts.append(self._halt("trainee", why, loop.epoch, left))
        watching = rule is not None and rule.teacher and not self.cached and not self.teacher_halted and left > 0
        if watching and rule is not None and self.change and rule.stop_teacher(self.change):
            self.teacher_halted = True
            halts.append(self._halt("teacher", "its average outputs have settled", loop.epoch, left))
        for halt in halts:
            loop.progress.say(f"{halt.what} halted: {halt.why}")
        return halts

    def _halt(self, what: str, why: str, epoch: int, left: int) -> Halt:
        return Halt(what, epoch, why, self.seconds[what] / epoch * left, self.done[what] / epoch * left)

    def compare(self, student: Network) -> None:
        """Warn once if the teacher is weaker than the student."""
        if self.compared or self.val is None:
            return
        metric = "mse" if self.task == TARGETS else "accuracy"
        if self.teacher_figure is None:
            if _is_array(self.teacher):
                return
            parts = [
                self.run_teacher(np.arange(0), np.ascontiguousarray(self.val.x[i : i + 256]))
                for i in range(0, len(self.val), 256)
            ]
            self.teacher_figure = METRICS[self.task][metric](np.concatenate(parts), self.val.y)
        other = METRICS[self.task][metric](student._outputs(self.val.x, None), self.val.y)
        if (self.teacher_figure > other) if metric == "mse" else (self.teacher_figure < other):
            self.compared = True
            warnings.warn(
                f"the teacher is weaker than the student: {metric} {self.teacher_figure:.4f} against {other:.4f} "
                "on the validation images; a stronger teacher or a lower KD(soft_weight=...) may help",
                UserWarning,
                stacklevel=3,
            )

    def finish(self, data: Data, images: NDArray[Any]) -> None:
        """Leave the trainee ready to use."""
        if self.session is not None:
            self.session.export()
            remember(self.session.net, data, images, seed=self.settings.seed)
            if self.session.net._needs_tables:
                self.session.net.recalibrate(images)

    # ---- checkpoints ----

    def fingerprint(self) -> dict[str, str]:
        """Return what must be equal to resume."""
        found = {"kd": repr(self.kd), "trainee": "none", "teacher": _checkpoint.describe(self.teacher)}
        if isinstance(self.teacher, Network):
            found["teacher"] = _checkpoint.digest(*(self.teacher.weights[k] for k in sorted(self.teacher.weights)))
        elif _is_array(self.teacher):
            found["teacher"] = _checkpoint.digest(as_array(self.teacher, "teacher"))
        if self.hints is not None:
            found["hints"] = repr(self.hints.hints)
        if self.session is not None:
            from ._network import spec_json

            found["trainee"] = _checkpoint.digest(spec_json(self.session.net))
        return found

    def begin_from(self, source: Source) -> None:
        """Take over the trainee of an earlier run, if it is the same network."""
        if self.session is not None and fits(source, self.session, "trainee"):
            begin(source, self.session, self.settings.optimizer, "trainee")

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[Any]]]]:
        """For checkpoints."""
        document = {
            "teacher_halted": self.teacher_halted,
            "trainee_halted": self.trainee_halted,
            "change": self.change,
            "moved": self.moved,
            "seen": self.seen,
            "trainee_losses": self.trainee_losses,
            "seconds": self.seconds,
            "done": self.done,
        }
        arrays: dict[str, dict[str, NDArray[Any]]] = {}
        if self.count.any():
            arrays["teacher"] = {"mean": self.mean, "count": self.count}
        if self.session is not None:
            arrays["trainee"] = self.session.state()
        return document, arrays | ({} if self.hints is None else self.hints.state())

    def restore(self, document: dict[str, Any], arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Take back what `state` returned."""
        try:
            self.teacher_halted, self.trainee_halted = (
                bool(document[f"{who}_halted"]) for who in ("teacher", "trainee")
            )
            self.change, self.trainee_losses = list(document["change"]), list(document["trainee_losses"])
            self.moved, self.seen = float(document["moved"]), int(document["seen"])
            self.seconds, self.done = dict(document["seconds"]), dict(document["done"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"the checkpoint's state of teacher and trainee is damaged: {error!r}") from None
        if "teacher" in arrays:
            wanted = {"mean": self.mean, "count": self.count}
            _checkpoint.check_arrays("checkpoint", "teacher", arrays["teacher"], wanted)
            self.mean, self.count = arrays["teacher"]["mean"].copy(), arrays["teacher"]["count"].copy()
        else:  # going back to where it had not been asked
            self.mean, self.count = np.zeros_like(self.mean), np.zeros_like(self.count)
        if self.session is not None:
            _checkpoint.check_arrays("checkpoint", "trainee", arrays.get("trainee", {}), self.session.state())
            self.session.restore(arrays["trainee"])
        if self.hints is not None:
            self.hints.restore(arrays)
