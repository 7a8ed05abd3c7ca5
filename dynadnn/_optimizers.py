"""Optimisers and learning-rate schedules: values that say how; the core does it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ._arguments import positive_int

Schedule = str | Callable[[int, int], float]


def _check(name: str, value: float, low: float, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not low <= value < high:
        raise ValueError(
            f"{name} must be at least {low}" + (f" and below {high}" if high < math.inf else "") + f", not {value}"
        )


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, as in PyTorch.

    Parameters
    ----------
    lr : float, default 0.1
        The largest learning rate of the schedule.
    momentum : float, default 0.9
    nesterov : bool, default True
    weight_decay : float, default 5e-4
        Added to the gradient; not of batch norms and biases.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        _check("lr", self.lr, 0)
        _check("momentum", self.momentum, 0, 1)
        _check("weight_decay", self.weight_decay, 0)
        if self.nesterov and self.momentum == 0:
            object.__setattr__(self, "nesterov", False)

    def update(self, lr: float, momentum: float) -> dict[str, Any]:
        """Arguments of the core's commit."""
        return {
            "optimizer": "sgd",
            "lr": lr,
            "momentum": momentum,
            "weight_decay": self.weight_decay,
            "nesterov": self.nesterov,
        }


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as in PyTorch.

    Parameters
    ----------
    lr : float, default 1e-3
    weight_decay : float, default 0.01
        Not of batch norms and biases.
    betas : (float, float), default (0.9, 0.999)
    eps : float, default 1e-8
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check("lr", self.lr, 0)
        _check("weight_decay", self.weight_decay, 0)
        for value in self.betas:
            _check("betas", value, 0, 1)
        _check("eps", self.eps, 0)

    @property
    def momentum(self) -> float:
        """What a schedule cycles: the first beta."""
        return self.betas[0]

    def update(self, lr: float, momentum: float) -> dict[str, Any]:
        """Arguments of the core's commit."""
        return {
            "optimizer": "adamw",
            "lr": lr,
            "weight_decay": self.weight_decay,
            "beta1": momentum,
            "beta2": self.betas[1],
            "epsilon": self.eps,
        }


Optimizer = SGD | AdamW


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)


@dataclass
class Rate:
    """Learning rate and momentum of every step, and the final decay that halting starts.

    `schedule` is "onecycle" (PyTorch's OneCycleLR: pct_start 0.25, cosine, lr / 25 to lr to lr / 25e4, momentum 0.95
    to 0.85 to 0.95), "cosine" (lr to 0), "constant", or a function (step, steps) -> lr.
    """

    schedule: Schedule
    optimizer: Optimizer
    steps: int
    decay: tuple[int, int, float, float] | None = field(default=None)  # first step, length, lr and momentum there
    scale: float = 1.0  # of all learning rates; rollbacks lower it

    def __post_init__(self) -> None:
        if not callable(self.schedule) and self.schedule not in ("onecycle", "cosine", "constant"):
            raise ValueError(
                f"schedule is {self.schedule!r}: it must be 'onecycle', 'cosine', 'constant' "
                "or a function (step, steps) -> lr"
            )
        positive_int(self.steps, "steps")

    @property
    def tied(self) -> bool:
        """Whether the schedule only comes to its end with the last step."""
        return self.schedule in ("onecycle", "cosine")

    @property
    def last(self) -> int:
        """Steps that will be taken in all."""
        return self.steps if self.decay is None else min(self.steps, self.decay[0] + self.decay[1])

    def halt(self, step: int, cooldown: float) -> None:
        """Begin the final decay with this step, over `cooldown` of the steps taken so far."""
        lr, momentum = self._at(min(step, self.steps - 1))
        self.decay = (step, max(1, round(cooldown * step)), lr, momentum)

    def at(self, step: int) -> tuple[float, float]:
        """(learning rate, momentum) of a step, from 0."""
        lr, momentum = self._at(step)
        return lr * self.scale, momentum

    def _at(self, step: int) -> tuple[float, float]:
        peak, momentum = self.optimizer.lr, self.optimizer.momentum
        if self.decay is not None and step >= self.decay[0]:
            first, length, lr, held = self.decay
            part = (step - first + 1) / length
            end = 0.95 if self.schedule == "onecycle" and momentum else held
            return _cosine(lr, min(lr, peak / 25e4), part), _cosine(held, end, part)
        if callable(self.schedule):
            return float(self.schedule(step, self.steps)), momentum
        if self.schedule == "constant":
            return peak, momentum
        if self.schedule == "cosine":
            return _cosine(peak, 0.0, step / self.steps), momentum
        return self._onecycle(step, peak, momentum)

    def _onecycle(self, step: int, peak: float, momentum: float) -> tuple[float, float]:
        top, end = 0.25 * self.steps - 1, float(self.steps - 1)
        if step <= top:
            part = step / top if top > 0 else 1.0
            lr, cycled = _cosine(peak / 25, peak, part), _cosine(0.95, 0.85, part)
        else:
            part = (step - top) / (end - top) if end > top else 1.0
            lr, cycled = _cosine(peak, peak / 25e4, part), _cosine(0.85, 0.95, part)
        return lr, cycled if momentum else 0.0
