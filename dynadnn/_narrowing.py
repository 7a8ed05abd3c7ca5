"""The search behind `nonuniform` – the path from the widest sub-net down, its journal, and fine-tuning on the way."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arguments import generator
from ._data import Data, Split
from ._journal import Lines
from ._metrics import TARGETS, evaluate_outputs, task_of
from ._network import BATCH, Network
from ._optimizers import SGD
from ._points import Subnet, point_name
from ._table import Table

if TYPE_CHECKING:
    from ._device import Device

_TUNE = 47  # stream of random numbers
_COST, _TRAINED = -1, -2  # in place of a space: the cost of a step; -2, -3, ...: the points that were fine-tuned


@dataclass(frozen=True)
class Plan:
    """Arguments of `nonuniform`, checked."""

    targets: Sequence[float]
    step: float
    metric: str
    device: Device | None
    floor: float | None
    fine_tune: Mapping[str, Any] | None
    checkpoint: str | None
    resume: bool
    threads: int
    seed: int


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the journal: figures after removing from a space, of fine-tuned points, or the cost after a step."""

    step: int
    space: int
    tuned: int = 0
    loss: float | None = None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    cost: float | None = None


class Evaluations(Lines[Evaluation]):
    """The journal of `nonuniform`."""

    kind = "dynadnn-nonuniform"

    @staticmethod
    def encode(record: Evaluation) -> Any:
        """Return what JSON holds of an evaluation."""
        return record

    @staticmethod
    def decode(document: dict[str, Any]) -> Evaluation:
        """Return the evaluation of a line."""
        return msgspec.convert(document, Evaluation)


class Step(NamedTuple):
    """The path after one removal."""

    subnet: Subnet
    space: int
    figures: Evaluation
    cost: float
    tuned: bool


class Narrowing:
    """The path from the widest point down; `net` is changed.

    Attributes
    ----------
    nested : list of Subnet
        From the widest to the narrowest so far.
    path : list of Step
    """

    def __init__(
        self, net: Network, data: Data, val: Split, widest: Subnet, plan: Plan, journal: Evaluations | None
    ) -> None:
        self.net, self.data, self.plan, self.journal = net, data, plan, journal
        self.x, self.y = net._labelled(val)
        self.val = val
        self.calibration = net._images(data.calibration.x, "data.calibration")
        self.groups = [max(s.step, s.step * int(plan.step * s.full / s.step)) for s in net.spaces]
        self.known = {(e.step, e.space, e.tuned): e for e in (journal.records if journal else ())}
        self.tunings = 0
        self.engine: tuple[_core.Plan, _core.Engine] | None = None
        self.nested = [widest]
        self.path: list[Step] = []
        self.full = self._cost_of(widest)

    def run(self) -> None:
        """Go down to every target, and leave the network with the points that were reached."""
        plan = self.plan
        self._check_reachable()
        named = {"1.0": self.nested[0]}
        for number, target in enumerate(plan.targets):
            may_tune = plan.fine_tune is not None
            while self._cost() > target * self.full:
                taken = self._narrow()
                low = self._is_low(taken.figures)
                if low and plan.fine_tune is None:
                    self._warn(taken, plan.targets[number:])
                    return self._finish(named)
                self._take(taken)
                if low and may_tune:
                    self._tune(named)
                    may_tune = False
            if plan.floor is None and may_tune:
                self._tune(named)
            named[point_name(target)] = self.nested[-1]
        return self._finish(named)

    def _cost(self) -> float:
        return self.path[-1].cost if self.path else self.full

    def _cost_of(self, subnet: Subnet) -> float:
        """Return what targets are shares of; a latency that was measured before an interruption is kept."""
        if self.plan.device is None:
            return float(self.net.macs(subnet))
        key = (len(self.path), _COST, 0)
        if key not in self.known:
            self._remember(Evaluation(*key, cost=self.plan.device.latency(self.net, subnet, 1)))
        return float(self.known[key].cost or 0.0)

    def _remember(self, evaluation: Evaluation) -> Evaluation:
        self.known[evaluation.step, evaluation.space, evaluation.tuned] = evaluation
        if self.journal is not None:
            self.journal.append(evaluation)
        return evaluation

    # ---- one step ----

    def _candidates(self, subnet: Subnet) -> list[tuple[int, Subnet]]:
        """(space, sub-net without one more of its groups)."""
        found = []
        for i, (space, group, width) in enumerate(zip(self.net.spaces, self.groups, subnet.widths, strict=True)):
            left = max(space.step, (width - group) // space.step * space.step)
            if left < width:
                widths = (*subnet.widths[:i], left, *subnet.widths[i + 1 :])
                found.append((i, Subnet(widths, subnet.bits, subnet.depth)))
        return found

    def _narrow(self) -> Step:
        """Return the removal that harms least; of equal ones the one that saves most."""
        number, tried = len(self.path) + 1, []
        for space, subnet in self._candidates(self.nested[-1]):
            figures = self._figures(subnet, number, space)
            tried.append((self._harm(figures), self.net.macs(subnet), space, Step(subnet, space, figures, 0.0, False)))
        if not tried:
            raise ValueError(f"targets: no sub-net costs less than {self._cost() / self.full:.3f} of the widest")
        return min(tried, key=lambda t: t[:3])[3]

    def _harm(self, figures: Evaluation) -> tuple[float, float]:
        loss = np.inf if figures.loss is None else figures.loss
        if self.plan.metric == "accuracy" and figures.accuracy is not None:
            return -figures.accuracy, loss
        return loss, 0.0

    def _is_low(self, figures: Evaluation) -> bool:
        return self.plan.floor is not None and figures.accuracy is not None and figures.accuracy < self.plan.floor

    def _take(self, taken: Step) -> None:
        self.nested.append(taken.subnet)
        self.path.append(taken)
        self.path[-1] = taken._replace(cost=self._cost_of(taken.subnet))

    def _figures(self, subnet: Subnet, number: int, space: int) -> Evaluation:
        """Figures on the validation split, with statistics of just this sub-net; from the journal if it has them."""
        known = self.known.get((number, space, self.tunings))
        return known or self._remember(self._measured(subnet, number, space))

    def _measured(self, subnet: Subnet, number: int, space: int) -> Evaluation:
        if self.net._needs_tables:
            self.net._set_tables({})
            self.net._recalibrate_point(subnet, self.calibration)
        names = ("loss",) if task_of(self.y, self.net.task) == TARGETS else ("loss", "accuracy")
        result: dict[str, Any] = evaluate_outputs(self._outputs(subnet), self.y, names, self.net.task)
        low, high = result.get("accuracy_interval", (None, None))
        loss = float(result["loss"]) if np.isfinite(result["loss"]) else None
        return Evaluation(number, space, self.tunings, loss, result.get("accuracy"), low, high)

    def _outputs(self, subnet: Subnet) -> NDArray[np.float32]:
        """Run one engine for all candidates: weights are packed once, a candidate only binds its tables."""
        net, plan = self.net, self.net._plan(self.plan.threads)
        if self.engine is None or self.engine[0] is not plan:
            self.engine = (plan, _core.Engine(plan, input_shape=net.shape, outputs=net.outputs))
        engine = self.engine[1]
        engine.threads = self.plan.threads
        engine.points["candidate"] = plan.bind(*net._binding(subnet))
        starts = range(0, len(self.x), BATCH)
        return np.concatenate([engine(net._images(self.x[i : i + BATCH], "val"), "candidate") for i in starts])

    # ---- fine-tuning ----

    def _tune(self, named: Mapping[str, Subnet]) -> None:
        """Train the points so far and the current one; kept if that lowers their mean loss on the validation split."""
        from ._train import fit

        net, plan, number = self.net, self.plan, len(self.path)
        points = {**named, "current": self.nested[-1]}
        before, weights = self._mean_loss(points, number), dict(net.weights)
        net._set_points(points)
        self.tunings += 1
        fit(
            net,
            self.data,
            **{"progress": False, "optimizer": SGD(lr=0.01), "epochs": 1, **(plan.fine_tune or {})},
            val=self.val,
            checkpoint=None if plan.checkpoint is None else f"{plan.checkpoint}.tune{self.tunings}",
            resume=plan.resume,
            threads=plan.threads,
            rng=int(generator(plan.seed, _TUNE, self.tunings).integers(2**62)),
        )
        if not self._mean_loss(points, number) < before:
            net._set_weights(weights)
            self.tunings += 1  # what was measured with the weights that are gone stays apart
            return
        if self.path:
            figures = self._figures(self.nested[-1], number, _TRAINED - len(named))
            self.path[-1] = self.path[-1]._replace(figures=figures, tuned=True)

    def _mean_loss(self, points: Mapping[str, Subnet], number: int) -> float:
        losses = [self._figures(s, number, _TRAINED - i).loss for i, s in enumerate(points.values())]
        return float(np.mean([np.inf if loss is None else loss for loss in losses]))

    # ---- ends ----

    def _check_reachable(self) -> None:
        """Raise before hours are spent, if multiply-accumulates cannot come down so far."""
        widest, targets = self.nested[0], self.plan.targets
        if not self._candidates(widest):
            raise ValueError("net has no channels that can go: all its spaces are fixed, or as narrow as its divisor")
        widths = [min(w, s.step) for w, s in zip(widest.widths, self.net.spaces, strict=True)]
        least = self.net.macs(Subnet(tuple(widths), widest.bits, widest.depth)) / self.net.macs(widest)
        if self.plan.device is None and least > min(targets):
            raise ValueError(
                f"targets holds {min(targets):g}, but with {self.net.divisor} channels left in every space "
                f"{least:.3f} of the multiply-accumulates are left: net.make_dynamic(..., divisor=...) changes that"
            )

    def _warn(self, taken: Step, left: Sequence[float]) -> None:
        warnings.warn(
            f"the best removal brings the accuracy to {taken.figures.accuracy:.3f}, below the floor of "
            f"{self.plan.floor:g}: targets {', '.join(f'{t:g}' for t in left)} have no point (fine_tune= trains the "
            "network when that happens)",
            stacklevel=4,
        )

    def _finish(self, named: Mapping[str, Subnet]) -> None:
        self.net._set_points(dict(reversed(list(named.items()))))
        self.net._set_tables({})
        self.net.recalibrate(self.calibration)

    def table(self) -> Table:
        """Figures of the named points, on the validation split."""
        net, rows = self.net, []
        cost_of = {step.subnet: step.cost for step in self.path}
        tables = dict(net.tables)
        for name, subnet in net.points.items():
            e = self._measured(subnet, 0, 0)
            share = cost_of.get(subnet, self.full) / self.full
            rows.append((name, share, net.macs(subnet), net.bytes(subnet), e.accuracy, e.low, e.high, e.loss))
        net._set_tables(tables)
        columns = ("point", "share", "macs", "bytes", "accuracy", "accuracy_low", "accuracy_high", "loss")
        return Table(columns, rows, "validation split")

    def steps(self) -> Table:
        """Every removal, on the validation split."""
        rows = []
        for number, (subnet, space, e, cost, tuned) in enumerate(self.path, 1):
            where = (number, self.net.spaces[space].name, subnet.widths[space])
            rows.append((*where, cost / self.full, self.net.macs(subnet), e.accuracy, e.low, e.high, e.loss, tuned))
        columns = ("step", "space", "channels", "share", "macs", "accuracy", "accuracy_low", "accuracy_high", "loss")
        return Table((*columns, "tuned"), rows, "validation split")
