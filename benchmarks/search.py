"""NSGA-II, ranking and hypervolume beside other packages: time per generation, and what equal evaluations reach.

usage: search.py [--only PATTERN] [--table] [--quick] [--out DIR]

Times are taken in turns, there and back, after both sides' answers were compared: of searches the IGD+ after the timed
generations, at most twice that of the other. Fronts of 31 seeds are compared with pymoo's by the Mann-Whitney test.
pymoo, pygmo, DEAP, Optuna and moocore are optional: what is not installed is said and left out. Every finished cell is
in the JSON, and the same command goes on after an interruption. Cells "generation", "rank" and "volume" are times, for
a quiet machine; "front" may be slow. Exits with 1 if a figure falls short of its goal or a cell is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from cells import QUIET
from common import RESULTS, environment, in_turns, pin_to_one_core, replace_json
from optimisers import OPTIMISERS, PROBLEMS, missing, same_problem
from search_report import report

import dynadnn as dn
from dynadnn.search import hypervolume, igd_plus, nondominated_rank

Record = dict[str, Any]
TWICE = 2.0  # how much farther from the front than another's a search may end whose time is compared
FRONT = 500  # points of a known front, at least


@dataclass(frozen=True)
class Design:
    """What is compared; part of the result.

    `timed`: population, other package, generations of a run; slow ones are timed over their first generations.
    `budgets`: evaluations as population and generations, with the packages that take part.
    """

    seeds: int
    problems: tuple[str, ...]
    timed_problems: tuple[str, ...]
    timed: tuple[tuple[int, str, int], ...]
    budgets: tuple[tuple[int, int, tuple[str, ...]], ...]
    ranks: tuple[tuple[int, int], ...]
    volumes: tuple[tuple[int, int], ...]
    seconds: float


FULL = Design(
    seeds=31,
    problems=("ZDT1", "ZDT2", "ZDT3", "ZDT4", "ZDT6", "DTLZ2"),
    timed_problems=("ZDT1", "DTLZ2"),
    timed=(
        *((100, "pymoo", 200), (100, "pygmo", 200), (100, "deap", 20), (100, "optuna", 5)),
        *((1000, "pymoo", 20), (1000, "pygmo", 20), (1000, "deap", 5), (1000, "optuna", 2)),
    ),
    budgets=((100, 200, ("dynadnn", "pymoo", "pygmo", "deap")), (20, 20, tuple(OPTIMISERS))),
    ranks=((1000, 2), (10000, 2), (10000, 3), (10000, 5)),
    volumes=((1000, 2), (1000, 3), (200, 4), (100, 5), (60, 6)),
    seconds=6.0,
)
QUICK = Design(
    seeds=3,
    problems=("ZDT1", "DTLZ2"),
    timed_problems=("ZDT1",),
    timed=tuple((8, name, 2) for name in OPTIMISERS if name != "dynadnn"),
    budgets=((8, 3, ("dynadnn", "pymoo", "pygmo", "deap")), (8, 2, tuple(OPTIMISERS))),
    ranks=((50, 2), (50, 3)),
    volumes=((20, 2), (20, 4)),
    seconds=0.0,
)


@dataclass(frozen=True)
class Cell:
    """One comparison; `needs` is the package that it cannot do without."""

    key: str
    needs: str
    run: Callable[[Design], Record]


# ---- cells ----


def rounds(design: Design, seconds: float) -> int:
    """How many turns of so many seconds fit into the time for one comparison: even, 2 to 60."""
    return 2 * max(1, min(30, int(design.seconds / max(seconds, 1e-3) / 2)))


def timed(design: Design, calls: dict[str, Callable[[], object]], other: str) -> Record:
    """Milliseconds of both sides, and the median ratio of ours to theirs."""
    started = perf_counter()
    for call in calls.values():
        call()
    turns = rounds(design, perf_counter() - started)
    medians, ratio = in_turns(calls, "dynadnn", turns)
    return {"ms": medians, "ratio": ratio[other], "rounds": turns}


def generation(design: Design, name: str, population: int, other: str, generations: int) -> Record:
    """Whole runs, divided by their generations."""
    problem = PROBLEMS[name]
    if other == "pygmo" and not same_problem(problem):
        return {"differs": f"pygmo's {name} has other objectives"}
    front, seed = problem.front(FRONT), 1
    calls = {
        who: partial(OPTIMISERS[who], problem, population, generations, seed) for who in ("dynadnn", other)
    }  # fmt: skip
    reached = {who: igd_plus(call(), front) for who, call in calls.items()}
    record: Record = {"generations": generations, "igd_plus": reached}
    if reached["dynadnn"] > TWICE * reached[other]:
        return {**record, "differs": f"IGD+ {reached['dynadnn']:.3g} against {reached[other]:.3g} of {other}"}
    found = timed(design, calls, other)
    found["ms"] = {who: value / generations for who, value in found["ms"].items()}
    return {**record, **found}


def front(design: Design, name: str, population: int, generations: int, who: str) -> Record:
    """Hypervolume and IGD+ of every seed's last front."""
    problem = PROBLEMS[name]
    reference, known = np.full(problem.objectives, 1.1), problem.front(FRONT)
    found: Record = {"hypervolume": [], "igd_plus": []}
    for seed in range(1, design.seeds + 1):
        f = OPTIMISERS[who](problem, population, generations, seed)
        found["hypervolume"].append(hypervolume(f, reference))
        found["igd_plus"].append(igd_plus(f, known))
    return {"evaluations": population * generations, **found}


def ranking(design: Design, rows: int, objectives: int) -> Record:
    import moocore

    f = np.random.default_rng([rows, objectives]).random((rows, objectives))
    theirs = np.asarray(moocore.pareto_rank(f))
    if not np.array_equal(nondominated_rank(f), theirs - theirs.min()):
        return {"differs": "the ranks are not moocore's"}
    return timed(
        design, {"dynadnn": lambda: nondominated_rank(f), "moocore": lambda: moocore.pareto_rank(f)}, "moocore"
    )  # fmt: skip


def volume(design: Design, rows: int, objectives: int) -> Record:
    """Of rows that all count: none dominates another."""
    import moocore

    f = np.abs(np.random.default_rng([rows, objectives]).normal(size=(rows, objectives)))
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    reference = np.full(objectives, 1.1)
    ours, theirs = hypervolume(f, reference), float(moocore.hypervolume(f, ref=reference))
    if not np.isclose(ours, theirs, rtol=1e-10, atol=0):
        return {"differs": f"hypervolume {ours!r}, moocore's is {theirs!r}"}
    calls: dict[str, Callable[[], object]] = {
        "dynadnn": lambda: hypervolume(f, reference),
        "moocore": lambda: moocore.hypervolume(f, ref=reference),
    }
    return timed(design, calls, "moocore")


def cells(design: Design) -> list[Cell]:
    made = [
        Cell(f"front/{name}/{size * steps} evaluations/{who}", who, partial(
            front, name=name, population=size, generations=steps, who=who))
        for size, steps, peers in design.budgets for who in peers for name in design.problems
    ]  # fmt: skip
    for kind, run, sizes in (("rank", ranking, design.ranks), ("volume", volume, design.volumes)):
        for n, m in sizes:
            made.append(Cell(f"{kind}/{n} rows/{m} objectives", "moocore", partial(run, rows=n, objectives=m)))
    for name in design.timed_problems:
        for size, other, steps in design.timed:
            call = partial(generation, name=name, population=size, other=other, generations=steps)
            made.append(Cell(f"generation/{name}/population {size}/{other}", other, call))
    return made


# ---- running ----


def begin(design: Design, quick: bool, path: Path) -> Record:
    """The JSON as it stands, or the beginning of one; of the same design."""
    fresh: Record = {"script": "benchmarks/search.py", "quick": quick, "design": dataclasses.asdict(design)}
    fresh = json.loads(json.dumps({**fresh, "cells": {}}))
    if not path.exists():
        return fresh
    found: Record = json.loads(path.read_text())
    for key in ("quick", "design"):
        if found.get(key) != fresh[key]:
            raise SystemExit(f"{path} has {key} {found.get(key)}, this script {fresh[key]}: move it away")
    return found


def run_cell(cell: Cell, design: Design, result: Record, head: Record, path: Path) -> None:
    """One cell; its record is in the JSON before the next begins, beside what another process put there meanwhile."""
    load = os.getloadavg()
    if not cell.key.startswith("front/") and load[0] > QUIET:
        print(f"the load average is {load[0]:.1f}: {cell.key} is not of a quiet machine", file=sys.stderr)
    record = cell.run(design)
    version = dn.__version__ if cell.needs == "dynadnn" else metadata.version(cell.needs)
    record |= {"version": version, "load_average": load, **{key: head[key] for key in ("date", "commit", "cpu")}}
    there = begin(design, result["quick"], path)["cells"] | {cell.key: record}
    result["cells"] = {each.key: there[each.key] for each in cells(design) if each.key in there}
    result |= head
    replace_json(path, result)
    print(f"done: {cell.key}", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cells whose key matches, as in a shell")
    parser.add_argument("--table", action="store_true", help="figures, tables and plot of what is there, nothing run")
    parser.add_argument("--quick", action="store_true", help="a toy of the same shape, in seconds, without goals")
    parser.add_argument("--out", type=Path, help="of search.json, .md and .png (default: results; quick: search-quick)")
    options = parser.parse_args(arguments)
    options.out = options.out or (Path("search-quick") if options.quick else RESULTS)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    design, path = QUICK if options.quick else FULL, options.out / "search.json"
    result, every = begin(design, options.quick, path), cells(design)
    asked = [cell for cell in every if fnmatch.fnmatch(cell.key, options.only)]
    if not asked:
        print(f"--only {options.only}: no cell has such a key")
        return 2
    absent = [name for name in dict.fromkeys(cell.needs for cell in every) if name != "dynadnn" and missing(name)]
    if not options.table:
        if any(not cell.key.startswith("front/") for cell in asked):
            pin_to_one_core()
        head = environment(1, tuple(dict.fromkeys(cell.needs for cell in every if cell.needs != "dynadnn")))
        for cell in asked:
            if cell.needs not in absent and cell.key not in begin(design, options.quick, path)["cells"]:
                run_cell(cell, design, result, head, path)
    for name in absent:
        print(f"      {name} is not installed: its cells are left out")
    lacking = [cell.key for cell in every if cell.key not in result["cells"] and cell.needs not in absent]
    for key in lacking:
        print(f"missing: {key}")
    return max(report(result, options.out), 1 if lacking else 0)


if __name__ == "__main__":
    sys.exit(main())
