"""What a search minimises and respects: objectives and constraints."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

from ._quality import is_better_high
from ._record import NUMBERS, Record

if TYPE_CHECKING:
    from ._data import Split
    from ._network import Network
    from ._points import Subnet

COMPARISON = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Objective:
    """Something of one's own to minimise.

    Parameters
    ----------
    name : str
        Name of its column.
    function : callable
        ``f(net, point, split) -> float``; the network has statistics for the point.
    maximize : bool
        Larger is better.
    """

    name: str
    function: Callable[[Any, Any, Any], float]
    maximize: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"objective {self.name!r} needs a function f(net, point, split), not {self.function!r}")


@dataclass(frozen=True)
class Constraint:
    """A limit; `violation` is above 0 where it is missed, relative to the limit.

    `column` is what it is about, None for an own function, whose `mark` says what it does; `upper` says whether it is
    the most that is allowed.
    """

    text: str
    violation: Callable[[Record], float]
    column: str | None = None
    upper: bool = False
    mark: str = ""


def read_objectives(items: Any, metrics: Collection[str]) -> list[Objective | str]:
    """Check objectives: each an `Objective`, or the name of a column or metric, and all names different."""
    goals: list[Objective | str] = []
    for item in listed(items):
        if isinstance(item, Objective):
            if item.name in NUMBERS or item.name in metrics:
                raise ValueError(f"an own objective is called {item.name!r}, as a column or metric is: rename it")
        elif not isinstance(item, str):
            raise TypeError(f"an objective is a column name or dn.Objective(name, f), not {item!r}")
        elif item not in NUMBERS and item not in metrics:
            raise ValueError(
                f"there is no objective {item!r}: it is dn.Objective(name, f), a column ({', '.join(NUMBERS)}) or a "
                f"metric ({', '.join(sorted(set(metrics) - set(NUMBERS)))})"
            )
        goals.append(item)
    names = [name_of(goal) for goal in goals]
    if not names:
        raise ValueError("objectives is empty: at least one is needed")
    if len(set(names)) < len(names):
        raise ValueError(f"objectives holds a name twice: {', '.join(names)}")
    return goals


def name_of(goal: Objective | str) -> str:
    """Name of an objective's column."""
    return goal if isinstance(goal, str) else goal.name


def identity_of(goal: Objective | str) -> str:
    """Return what a checkpoint says of an objective."""
    return goal if isinstance(goal, str) else f"own {goal.name} {mark_of(goal.function)}"


def cost(record: Record, objective: Objective | str) -> float:
    """Value to minimise; NaN where unknown."""
    name = name_of(objective)
    value = record.column(name)
    if value is None:
        return math.nan
    better_high = is_better_high(name) if isinstance(objective, str) else objective.maximize
    return -float(value) if better_high else float(value)


def read_constraints(items: Any, metrics: Collection[str], goals: Sequence[Objective | str] = ()) -> list[Constraint]:
    """Read constraints; own functions of the same name get numbers, and what is there twice counts once."""
    known = (*NUMBERS, *(name_of(goal) for goal in goals), *metrics)
    found: dict[str, Constraint] = {}
    for item in listed(items):
        limit = as_constraint(item)
        if limit.column is None:
            text, number = limit.text, 1
            while limit.text in found:
                number += 1
                limit = replace(limit, text=f"{text} ({number})")
        elif limit.column not in known:
            raise ValueError(
                f"constraint {item!r} is about {limit.column!r}; there are {', '.join(dict.fromkeys(known))}"
            )
        found[limit.text] = limit
    return list(found.values())


def as_constraint(item: Any) -> Constraint:
    """Read ``"latency_ms <= 5"``, or take a function ``f(record) -> float`` that is at most 0 where it holds."""
    if callable(item):
        name = getattr(item, "__qualname__", type(item).__qualname__)
        return Constraint(name, lambda record: float(item(record)), mark=mark_of(item))
    match = COMPARISON.fullmatch(item) if isinstance(item, str) else None
    if match is None:
        raise ValueError(
            f'constraint {item!r} is neither "column <= number", "column >= number" nor a function of a record; '
            f"columns are {', '.join(NUMBERS)}"
        )
    name, comparison, limit = match[1], match[2], float(match[3])
    sign = 1.0 if comparison[0] == "<" else -1.0
    scale = abs(limit) if limit else 1.0

    def violation(record: Record) -> float:
        value = record.column(name)
        return math.nan if value is None else sign * (float(value) - limit) / scale

    return Constraint(item.strip(), violation, name, comparison[0] == "<")


def bits_matter(objectives: Sequence[Objective | str], constraints: Sequence[Constraint]) -> bool:
    """Whether anything can become better with fewer bits: costs that depend on them, or one's own functions."""
    indifferent = {"error", "accuracy", "loss", "macs", "threads"}
    columns = [o if isinstance(o, str) else None for o in objectives] + [c.column for c in constraints]
    return any(column is None or (column in NUMBERS and column not in indifferent) for column in columns)


def evaluate_objectives(
    net: Network, subnet: Subnet, split: Split, objectives: Sequence[Objective | str], result: dict[str, Any]
) -> dict[str, float]:
    """Values of own objectives and of further metrics that `Network.evaluate` returned."""
    values = {}
    for objective in objectives:
        if isinstance(objective, Objective):
            value = objective.function(net, subnet, split)
            if np.ndim(value) != 0:
                raise TypeError(
                    f"objective {objective.name!r} must return one number, not an array of shape {np.shape(value)}"
                )
            values[objective.name] = float(value)
        elif objective not in NUMBERS:
            values[objective] = float(result[objective])
    return values


def listed(items: Any) -> list[Any]:
    """Return the items, or the only one."""
    return list(items) if isinstance(items, Iterable) and not isinstance(items, str) else [items]


def mark_of(function: Any) -> str:
    """Short hash of what a function does, as far as its code, constants, defaults, attributes and enclosed values tell.

    A checkpoint is of one set of objectives and constraints; names alone do not tell two lambdas apart.
    """
    inner = getattr(function, "func", function)  # functools.partial
    if not hasattr(inner, "__code__"):
        inner = type(inner).__call__
    cells = getattr(inner, "__closure__", None) or ()
    told = (
        getattr(inner, "__code__", None),
        getattr(inner, "__defaults__", None),
        [_contents(cell) for cell in cells],
        getattr(function, "args", ()),
        getattr(function, "keywords", {}),
        getattr(function, "__dict__", {}),
    )
    return hashlib.sha256(repr([_told(part) for part in told]).encode()).hexdigest()[:8]


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _told(value: Any) -> Any:
    """Return what is the same in every process."""
    if isinstance(value, CodeType):
        return value.co_code.hex(), value.co_names, [_told(c) for c in value.co_consts]
    if isinstance(value, tuple | list):
        return [_told(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_told(v)) for v in value)
    if isinstance(value, dict):
        return sorted((repr(k), repr(_told(v))) for k, v in value.items())
    return value if isinstance(value, int | float | complex | str | bytes | None) else type(value).__qualname__
