"""Training of networks with any number of operating points."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ._arguments import Rng, positive_int, seed_of, thread_count
from ._augment import Augment
from ._callbacks import Callback
from ._continue import source_path
from ._data import Data, Split
from ._errors import UnsupportedError
from ._halting import EarlyHalting
from ._history import History
from ._incremental import fit_groups
from ._loop import Loop
from ._losses import resolve_loss
from ._methods import Incremental, Method, MultiPath, check_method, default_method
from ._metrics import Metric
from ._network import Network
from ._optimizers import SGD, AdamW, Optimizer, Schedule
from ._qat import QAT, check_qat
from ._saving import Checkpoint, as_checkpoint
from ._settings import Settings, as_split
from ._weights import check_labels

Loss = Any


def fit(
    net: Network,
    data: Data,
    *,
    epochs: int,
    val: Split | tuple[Any, Any] | None = None,
    method: Method | None = None,
    loss: Loss = "auto",
    metrics: Sequence[Metric] = (),
    optimizer: Optimizer | None = None,
    schedule: Schedule = "onecycle",
    batch: int = 128,
    augment: Augment | str | None = "auto",
    clip_norm: float | None = None,
    ema: float | None = None,
    precision: str = "fp32",
    arithmetic: Any = None,
    qat: QAT | int | tuple[int, ...] | None = None,
    frozen: Iterable[str] | None = None,
    halting: EarlyHalting | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool | str = "auto",
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    resume: bool = True,
    continue_from: str | os.PathLike[str] | Checkpoint | None = None,
    on_nonfinite: str = "raise",
    max_seconds: float | None = None,
    threads: int | None = None,
    rng: Rng = None,
) -> History:
    """Train a network; it is changed, and ends with statistics for every named point.

    Parameters
    ----------
    net : Network
    data : Data
        Images of ``data.train``, or what `from_batches` gives; the last batch that is not full is dropped.
    epochs : int
    val : Split or (x, y), optional
        For the figures of every epoch; ``data.val`` without.
    method : Sandwich, SinglePath, MultiPath, Progressive or Incremental, optional
        Which points a step trains. None: the only point, `Sandwich` for several, `Incremental` for a network of channel
        groups.
    loss : "auto", CrossEntropy, BCE, MSE, Huber or function
        "auto" is ``CrossEntropy()`` for class labels, ``BCE()`` for several labels at once (uint8 or booleans of 0 and
        1, shape (n, outputs)) and ``MSE()`` for float32 targets (n, outputs). ``BCE(pos_weight=...)`` also takes 0 and
        1 in float32; ``Huber(delta=1.0)`` is for targets with outliers. A function takes (outputs, targets) and
        returns (loss per sample, gradient of their mean), shapes (n,) and (n, outputs). Sample weights multiply the
        loss of each sample, whichever it is.
    metrics : sequence
        More figures for validation, as in `Network.evaluate`.
    optimizer : SGD or AdamW, optional
        ``SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)`` without.
    schedule : "onecycle", "cosine", "constant" or function (step, steps) -> lr
    batch : int, default 128
    augment : "auto", Augment or None
        "auto" is what the data set says. With more than one thread, a batch is made while the step before it runs;
        images of `from_batches` are read when their step is due.
    clip_norm : float, optional
        Largest norm of all gradients together.
    ema : float, optional
        Decay of an exponential moving average of the weights, below 1, for example 0.999: what is validated and what
        the network ends with is the average (the first steps decay faster). Batch norms end with statistics of it.
    precision : "fp32" or "bf16", default "fp32"
        bf16 rounds every tensor between layers, its gradient, and the weights that layers read to bfloat16 (nearest,
        ties to even); sums, batch-norm statistics, the weights that are updated and the outputs stay float32. It shows
        what training in bfloat16 does to a network; it takes a third longer than fp32, and as much memory.
    qat : QAT, int or tuple of int, optional
        Quantisation-aware training at these bits, best from a network that has been trained: ``qat=(8, 4)`` is
        ``qat=QAT((8, 4))``. Validation figures are those of the integer network, and `quantize` takes over what was
        trained.
    frozen : sequence of str, optional
        Layers that are not updated, or what their names begin with before a dot.
    halting : EarlyHalting, optional
    callbacks : sequence of Callback
    progress : "auto", True or False
        A bar on a terminal or in a notebook, a line per epoch elsewhere; False is quiet.
    checkpoint : path or Checkpoint, optional
        Written after every epoch, at the end and on interruption; ``Checkpoint(path, every_steps=500)`` more often.
    resume : bool, default True
        Go on from the checkpoint if there is one, with the same bits as without the interruption. Network, data and
        options must be those of the run; threads, progress, callbacks, max_seconds and how often is saved may differ.
    continue_from : path, optional
        Of a checkpoint of the same network (layers, points, preprocessing). A new run, with options, data and epochs
        of its own, begins with its weights, statistics and, if the optimiser is of the same kind, the optimiser's
        state; in `distill` also with its trainee, if that is the same network. With `ema` it goes on from the average
        as well. An interrupted run is rather resumed: the same call again, with `checkpoint`.
    on_nonfinite : "raise", "skip" or "rollback"
        What NaN or infinity in a step does. "skip" leaves the step out, up to 100 in a row. "rollback" goes back to
        the last good state and on with half the learning rate, to the end of the run: the state at the start of the
        epoch, or of the one before it if not even the first step from there goes well. It is kept in memory and in
        checkpoints. Callbacks are handed the state that they had; ``History.rollbacks`` says when. After 10 rollbacks
        in a run NonFiniteError is raised, and the network holds the last good state.
    max_seconds : float, optional
        End after the step that passes this.
    threads : int, optional
        All cores this process may use without.
    rng : None, int or Generator

    Returns
    -------
    History

    Raises
    ------
    ValueError
        For arguments that do not fit, labels beyond the outputs, or a checkpoint of another run.
    NonFiniteError
        With on_nonfinite="raise"; the network keeps the last finished step.
    KeyboardInterrupt
        After Ctrl-C, also a second one; the network keeps the last finished step, which is saved.
    OSError
        If the checkpoint cannot be written; the one before it is still there, the network keeps the last finished step.

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.digits(rng=0)
    >>> net = dn.nets.mlp(data, rng=0)
    >>> history = dn.fit(net, data, epochs=2, progress=False, rng=0)
    >>> history.epochs
    2
    """
    missing = {"arithmetic": arithmetic}
    options = {
        "epochs": epochs,
        "val": val,
        "method": method,
        "loss": loss,
        "metrics": metrics,
        "optimizer": optimizer,
        "schedule": schedule,
        "batch": batch,
        "augment": augment,
        "clip_norm": clip_norm,
        "ema": ema,
        "precision": precision,
        "qat": qat,
        "frozen": frozen,
        "halting": halting,
        "callbacks": callbacks,
        "progress": progress,
        "checkpoint": checkpoint,
        "resume": resume,
        "continue_from": continue_from,
        "on_nonfinite": on_nonfinite,
        "max_seconds": max_seconds,
        "threads": threads,
        "rng": rng,
    }
    return train(net, lambda part, own: make_loop(part, data, None, missing, **own), options)


def train(net: Network, make: Callable[[Network, dict[str, Any]], Loop], options: dict[str, Any]) -> History:
    """Run one loop, or one per channel group."""
    method = options["method"]
    grouped = isinstance(net, Network) and net._spec.groups > 1
    if isinstance(method, Incremental) and not grouped:
        raise ValueError("method is Incremental(), but the network has one channel group: build it with groups=")
    if not grouped or not (method is None or isinstance(method, Incremental)):
        return make(net, options).run()
    check_qat(options["qat"], net, options["ema"], options["precision"])
    seed = seed_of(options["rng"])
    return fit_groups(net, make, {**options, "method": Incremental() if method is None else method}, seed)


def make_loop(net: Network, data: Data, teaching: Any, missing: dict[str, Any], **options: Any) -> Loop:
    """Check the options of `fit` and `distill`; `teaching` is a function of (settings, notes) or None."""
    for name, value in missing.items():
        if value is not None:
            raise UnsupportedError(f"{name}={value!r} is not built")
    if options["precision"] not in ("fp32", "bf16"):
        raise ValueError(f"precision is {options['precision']!r}: it must be 'fp32' or 'bf16'")
    if options["on_nonfinite"] not in ("raise", "skip", "rollback"):
        raise ValueError(f"on_nonfinite is {options['on_nonfinite']!r}: it must be 'raise', 'skip' or 'rollback'")
    if not isinstance(net, Network):
        raise TypeError(f"net must be a Network, not {type(net).__name__}")
    if not isinstance(data, Data):
        raise TypeError(f"data must be a Data (dn.datasets.from_arrays makes one of arrays), not {type(data).__name__}")
    notes: list[str] = []
    settings = _settings(net, data, options, notes)
    val = as_split(options["val"], data, net.shape)
    if val is not None:
        net._images(val.x[:1], "val")
        check_labels(val.y, net.outputs, "y of val")
    if settings.halting is not None and settings.halting.training and val is None:
        raise ValueError("halting needs validation images: pass val, or EarlyHalting(training=False)")
    taught = None if teaching is None else teaching(settings, val, notes)
    loop = Loop(net, data, val, settings, taught)
    for note in notes:
        loop.progress.say(note)
    return loop


def _settings(net: Network, data: Data, options: dict[str, Any], notes: list[str]) -> Settings:
    train = data.train
    net._images(train.x[:1], "data.train.x")
    check_labels(train.y, net.outputs, "y of data.train")
    points = list(net.points.values())
    method = options["method"]
    if method is None:
        method = default_method(net._spec.groups, points)
        notes.append(f"method: {type(method).__name__}, points {', '.join(net.points)}")
    if options["qat"] is not None and isinstance(method, MultiPath) and method.private_affine:
        raise UnsupportedError(
            "qat trains one scale and shift of every batch norm for all points, MultiPath(private_affine=True) one for "
            "each: use one of the two"
        )
    optimizer = options["optimizer"] or SGD()
    if not isinstance(optimizer, SGD | AdamW):
        raise TypeError(f"optimizer must be dn.SGD(...) or dn.AdamW(...), not {type(optimizer).__name__}")
    batch = positive_int(options["batch"], "batch")
    images = len(train) if data.stream is None else data.stream.n
    if batch > images:
        notes.append(f"batch: {images}, all there is ({batch} was asked for)")
        batch = images
    augment = _augment(options["augment"], data, notes)
    clip, limit = options["clip_norm"], options["max_seconds"]
    for name, value in (("clip_norm", clip), ("max_seconds", limit)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")
    halting = options["halting"]
    if halting is not None and not isinstance(halting, EarlyHalting):
        raise TypeError(f"halting must be dn.EarlyHalting(...), not {type(halting).__name__}")
    if halting is not None:
        halting.key(list(net.points))
    frozen = options["frozen"]
    rng, checkpoint = options["rng"], as_checkpoint(options["checkpoint"])
    return Settings(
        epochs=positive_int(options["epochs"], "epochs"),
        method=check_method(method) if options["method"] is not None else method,
        loss=resolve_loss(options["loss"], train.y, net.outputs),
        metrics=tuple(options["metrics"]),
        optimizer=optimizer,
        schedule=options["schedule"],
        batch=batch,
        augment=augment,
        clip_norm=clip,
        ema=_ema(options["ema"]),
        precision=options["precision"],
        frozen=None if frozen is None else (frozen,) if isinstance(frozen, str) else tuple(frozen),
        halting=halting,
        callbacks=tuple(options["callbacks"]),
        progress=options["progress"],
        checkpoint=checkpoint,
        resume=bool(options["resume"]),
        continue_from=source_path(options["continue_from"], checkpoint, bool(options["resume"])),
        on_nonfinite=options["on_nonfinite"],
        max_seconds=limit,
        threads=thread_count(options["threads"]),
        seed=seed_of(rng),
        fresh=not isinstance(rng, int | np.integer),
        qat=check_qat(options["qat"], net, options["ema"], options["precision"]),
    )


def _ema(decay: Any) -> float | None:
    if decay is None:
        return None
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1:
        raise ValueError(f"ema must be above 0 and below 1, for example 0.999, not {decay!r}")
    return float(decay)


def _augment(augment: Any, data: Data, notes: list[str]) -> Augment | None:
    if augment == "auto":
        chosen = data.augment
        notes.append(f"augment: {chosen if chosen is not None else 'none'}")
    elif augment is None or isinstance(augment, Augment):
        chosen = augment
    else:
        raise TypeError(f"augment must be 'auto', None or dn.Augment(...), not {augment!r}")
    if chosen is None or chosen == Augment():
        return None
    if data.stream is not None:
        raise ValueError("augment does not reach images that arrive in batches: change them there and leave it out")
    if chosen.moves and (data.train.x.dtype != np.uint8 or data.train.x.ndim != 4):
        kind = f"{data.train.x.dtype} of shape {data.train.x.shape}"
        raise ValueError(
            f"augment works on uint8 images (n, h, w, c), the data is {kind}: pass augment=None, or dn.Augment with "
            "transform and mixup alone"
        )
    return chosen
