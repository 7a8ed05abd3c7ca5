"""Non-uniform sub-nets – one group of channels after the other removed where a validation split misses it least."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arguments import Rng, seed_of, thread_count
from ._checkpoint import describe, digest
from ._data import Data, Split
from ._errors import UnsupportedError
from ._identity import network_hash
from ._metrics import TARGETS, task_of
from ._narrowing import Evaluations, Narrowing, Plan
from ._network import Network
from ._points import Subnet
from ._ranking import ChannelRanking, rank_channels
from ._table import Table

if TYPE_CHECKING:
    from ._device import Device

_OWN = ("val", "checkpoint", "resume", "threads", "rng")  # options of fit that the search sets itself


@dataclass(frozen=True)
class NonUniform:
    """What `nonuniform` found.

    Attributes
    ----------
    network : Network
        With a named point per target, and statistics for each.
    table : Table
        Per named point: cost as a share of the widest, MACs, bytes, and loss and accuracy with its 95 % interval on
        the validation split. They chose these points, so they flatter them a little: judge once on the test split.
    steps : Table
        Every removal in order: space, channels left, share, loss, accuracy, whether the network was fine-tuned then.
    nested : tuple of Subnet
        From the widest to the narrowest; each is part of the one before.
    """

    network: Network
    table: Table
    steps: Table
    nested: tuple[Subnet, ...]


def nonuniform(
    net: Network,
    data: Data,
    *,
    targets: Sequence[float] = (0.75, 0.5, 0.25),
    step: float = 1 / 8,
    order: str | ChannelRanking | None = "auto",
    metric: str = "loss",
    val: Split | None = None,
    device: Device | None = None,
    floor: float | None = None,
    fine_tune: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = True,
    threads: int | None = None,
    rng: Rng = None,
) -> NonUniform:
    """Find sub-nets whose layers differ in width (Yang and Fan 2021; Yang et al. 2022).

    From the widest point on, one group of channels at a time is removed from the space that loses least: every space
    is tried, with statistics computed for just that sub-net, and judged on the validation split. Each sub-net is part
    of the one before, so all share one set of weights. Those that come down to a target get a name.

    Parameters
    ----------
    net : Network
        It is not changed.
    data : Data
        ``data.val`` judges, ``data.calibration`` gives statistics, ``data.train`` is for ranking by noise and
        fine-tuning; the test split is not touched.
    targets : sequence of float
        Shares of the widest point's multiply-accumulates (of its latency with `device`), above 0 and below 1. The
        point of 0.5 is called "0.5", and is what ``net(x, 0.5)`` means from then on.
    step : float, default 1/8
        Group of channels, as a share of a space; at least, and a multiple of, the network's divisor (8 unless it was
        built with another; 4 is the least that int8 can use).
    order : "auto", "l1", "l2", "bn_gamma", "noise", ChannelRanking or None
        Order in which the channels of a space go, see `rank_channels`. "auto" is "l1" for a network with one point,
        and None, the order they have, for one that was trained with several.
    metric : "loss" or "accuracy"
        What a removal should harm least; equal accuracies are told apart by their loss. The loss is the less noisy of
        the two.
    val : Split, optional
        ``data.val`` without.
    device : Device, optional
        Count latency on this device, batch 1, one thread, in place of multiply-accumulates.
    floor : float, optional
        Accuracy on the validation split. Below it the network is fine-tuned if `fine_tune` is given, at most once
        between two targets; otherwise the search ends before, with a warning that names the targets it did not reach.
    fine_tune : mapping, optional
        Options of `fit`, for example ``{"epochs": 2, "method": dn.Sandwich()}``: trains the named points so far and
        the current one, by ``SGD(lr=0.01)`` if no optimizer is given. Without a floor it is done at every target. What
        does not lower the mean validation loss of these points is taken back.
    checkpoint : path, optional
        A journal of every evaluation (JSON lines), and beside it the checkpoints of fine-tuning.
    resume : bool
        Go on from the journal if there is one: the end is the same.
    threads : int, optional
        All cores this process may use without; results do not depend on it.
    rng : None, int or Generator
        Of ranking by noise and of fine-tuning.

    Returns
    -------
    NonUniform

    Raises
    ------
    ValueError
        For arguments that do not fit, an empty validation split, a target that no sub-net comes down to, or a journal
        of another search.
    UnsupportedError
        If a quantised network is to be fine-tuned.

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.digits(rng=0).subset(256)
    >>> net = dn.nets.mlp(data, width=32, rng=0)
    >>> history = dn.fit(net, data, epochs=2, progress=False, rng=0)
    >>> found = dn.nonuniform(net, data, targets=(0.5,), rng=0)
    >>> list(found.network.points), found.network.macs("0.5") <= net.macs() / 2
    (['0.5', '1.0'], True)
    """
    shares = _check_targets(targets)
    path = None if checkpoint is None else os.fspath(checkpoint)
    split = _check(net, data, val, step, metric, floor, fine_tune)
    seed = Evaluations.seed(path) if rng is None and path is not None and resume else None
    seed = seed_of(rng) if seed is None else seed
    chosen = ("l1" if len(set(net.points.values())) == 1 else None) if order == "auto" else order
    if chosen == "noise":
        chosen = rank_channels(net, data, threads=threads, rng=seed)
    work, widest = _prepared(net, chosen)
    plan = Plan(
        targets=shares,
        step=float(step),
        metric=metric,
        device=device,
        floor=floor,
        fine_tune=fine_tune,
        checkpoint=path,
        resume=bool(resume),
        threads=thread_count(threads),
        seed=seed,
    )
    journal = None
    if path is not None:
        journal = Evaluations(path, _options(work, widest, data, split, plan), plan.resume)
    try:
        search = Narrowing(work, data, split, widest, plan, journal)
        search.run()
    finally:
        if journal is not None:
            journal.close()
    return NonUniform(search.net, search.table(), search.steps(), tuple(search.nested))


def _options(net: Network, widest: Subnet, data: Data, val: Split, plan: Plan) -> dict[str, Any]:
    """Return what a journal must agree on."""
    return {
        "network": network_hash(net),
        "point": repr(widest),
        "data": data.fingerprint,
        "val": digest(val.x, val.y),
        "targets": plan.targets,
        "step": plan.step,
        "metric": plan.metric,
        "device": None if plan.device is None else plan.device.machine.cpu,
        "floor": plan.floor,
        "fine_tune": {key: describe(value) for key, value in (plan.fine_tune or {}).items()},
        "seed": plan.seed,
    }


def _prepared(net: Network, order: str | ChannelRanking | None) -> tuple[Network, Subnet]:
    """Return the network with its channels in order and one point, its widest."""
    widest = net._find(None)
    if order is None:
        work = net.with_points({"1.0": widest})
    else:
        work = net.make_dynamic({"1.0": widest}, order=order, divisor=net.divisor)
    work._set_tables({})
    return work, widest


def _check_targets(targets: Any) -> list[float]:
    shares = [targets] if isinstance(targets, int | float) else list(targets)
    for share in shares:
        if isinstance(share, bool) or not isinstance(share, int | float | np.floating) or not 0 < share < 1:
            raise ValueError(
                f"targets holds {share!r}: each is a share of the widest point's cost, above 0 and below 1"
            )
    if not shares:
        raise ValueError("targets is empty: at least one is needed, for example (0.5,)")
    return sorted({float(s) for s in shares}, reverse=True)


def _check(
    net: Any, data: Any, val: Any, step: Any, metric: str, floor: Any, fine_tune: Mapping[str, Any] | None
) -> Split:
    """Check arguments; the split that judges."""
    if not isinstance(net, Network):
        raise TypeError(f"net must be a Network, not {type(net).__name__}")
    if not isinstance(data, Data):
        raise TypeError(f"data must be a Data (dn.datasets.from_arrays makes one of arrays), not {type(data).__name__}")
    split: Split = data.val if val is None else val
    if not isinstance(split, Split):
        raise TypeError(f"val must be a Split, not {type(split).__name__}")
    if len(split) == 0:
        raise ValueError("data.val is empty: nonuniform needs images to judge sub-nets on (never those of data.test)")
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < 1:
        raise ValueError(f"step must be a share of a space's channels, above 0 and below 1, not {step!r}")
    if metric not in ("loss", "accuracy"):
        raise ValueError(f"metric is {metric!r}: it must be 'loss' or 'accuracy'")
    by_loss = task_of(split.y, net.task) == TARGETS
    if by_loss and (metric == "accuracy" or floor is not None):
        raise ValueError("metric and floor are of accuracies, but the data has targets: leave them out")
    if floor is not None and (isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1):
        raise ValueError(f"floor must be an accuracy from 0 to 1, not {floor!r}")
    if fine_tune is not None:
        if not isinstance(fine_tune, Mapping) or "epochs" not in fine_tune:
            raise TypeError(f"fine_tune must be options of fit, for example {{'epochs': 2}}, not {fine_tune!r}")
        if own := sorted(set(fine_tune) & set(_OWN)):
            raise TypeError(f"fine_tune holds {own}, which nonuniform sets itself")
        if net.quantised:
            raise UnsupportedError(
                "fine_tune: this network is quantised, train the float network and quantise it after"
            )
    return split
