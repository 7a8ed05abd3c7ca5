"""What `search.py` found, from its JSON alone: figures beside their goals, tables, plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import markdown
from common import Goals
from drawing import STYLES, figure, save
from numpy.typing import ArrayLike
from optimisers import OPTIMISERS, missing

import dynadnn as dn
from dynadnn._metrics import mean_ranks

Record = dict[str, Any]
LABELS = {"dynadnn": "dynadnn", "pymoo": "pymoo", "pygmo": "pygmo", "deap": "DEAP", "optuna": "Optuna"}
# Our time over pygmo's by problem and population, and over moocore's by rows and objectives: at most.
GENERATION = {("ZDT1", 100): 1 / 3, ("ZDT1", 1000): 1 / 20}
RANK = {(1000, 2): 0.25, (10000, 2): 0.25, (10000, 3): 0.25, (10000, 5): 0.12}
# Median hypervolume over pymoo's: at least. All problems: not lower than pymoo's at this level, by Bonferroni.
VOLUME = {"ZDT1": 0.9995}
LEVEL = 0.05


def mann_whitney(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of two samples' order, by the normal approximation with ties and correction for continuity."""
    first, both = np.asarray(a, float), np.concatenate([np.asarray(a, float), np.asarray(b, float)])
    n, total = len(first), len(both)
    m = total - n
    counts = np.unique(both, return_counts=True)[1]
    u = mean_ranks(both)[:n].sum() - n * (n + 1) / 2
    variance = n * m / 12 * (total + 1 - (counts**3 - counts).sum() / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    distance = max(0.0, abs(u - n * m / 2) - 0.5)
    return math.erfc(distance / math.sqrt(2 * variance))


def of_front(result: Record, name: str, budget: Sequence[Any], who: str) -> Record | None:
    found: Record | None = result["cells"].get(f"front/{name}/{budget[0] * budget[1]} evaluations/{who}")
    return found


# ---- figures and goals ----


def line(goals: Goals, name: str, text: str, held: bool | None, goal: str) -> None:
    print(f"{goals.verdict(name, held)} {name}: {text}" + (f" (goal {goal})" if goal else ""))


def judge(result: Record) -> Goals:
    """Print every figure with its goal; a toy has none."""
    goals, quick = Goals(), result["quick"]
    for key, cell in result["cells"].items():
        kind, *place = key.split("/")
        if kind == "front":
            continue
        if "differs" in cell:
            line(goals, key, f"not timed: {cell['differs']}", False, "the same answers")
            continue
        goal = None if quick else goal_of(kind, place)
        other = next(name for name in cell["ms"] if name != "dynadnn")
        text = f"{cell['ms']['dynadnn']:.4g} ms, {other} {cell['ms'][other]:.4g} ms, ratio {cell['ratio']:.4g}"
        line(goals, key, text, None if goal is None else cell["ratio"] <= goal, f"<= {goal:.3g}" if goal else "")
    judge_fronts(result, goals)
    return goals


def goal_of(kind: str, place: Sequence[str]) -> float | None:
    if kind == "generation":
        return GENERATION.get((place[0], int(place[1].split()[1]))) if place[2] == "pygmo" else None
    sizes = (int(place[0].split()[0]), int(place[1].split()[0]))
    return RANK.get(sizes) if kind == "rank" else None


def judge_fronts(result: Record, goals: Goals) -> None:
    """After the first budget: the median hypervolume beside pymoo's, and whether a lower one could be chance."""
    design = result["design"]
    level = LEVEL / len(design["problems"])
    for name in design["problems"]:
        ours, theirs = (of_front(result, name, design["budgets"][0], who) for who in ("dynadnn", "pymoo"))
        if ours is None or theirs is None:
            continue
        a, b = ours["hypervolume"], theirs["hypervolume"]
        p, medians = mann_whitney(a, b), (float(np.median(a)), float(np.median(b)))
        label = f"front/{name}/{ours['evaluations']} evaluations"
        held = None if result["quick"] else medians[0] >= medians[1] or p >= level
        text = f"median hypervolume {medians[0]:.6g}, pymoo {medians[1]:.6g}, p {p:.2g}"
        line(goals, label, text, held, "" if held is None else f"not below pymoo's at p < {level:.2g}")
        if name in VOLUME and held is not None:
            share = medians[0] / medians[1]
            goal = VOLUME[name]
            line(goals, f"{label}, over pymoo's", f"{share:.5f}", share >= goal, f">= {goal}")


# ---- tables ----


def tables(result: Record) -> list[dn.Table]:
    found = [generations(result)]
    long, short = result["design"]["budgets"]
    found.append(fronts(result, long, "hypervolume"))
    found.append(fronts(result, short, "igd_plus"))
    found.append(against_moocore(result))
    return found


def generations(result: Record) -> dn.Table:
    others = [name for name in OPTIMISERS if name != "dynadnn"]
    rows = []
    for name in result["design"]["timed_problems"]:
        for size in dict.fromkeys(entry[0] for entry in result["design"]["timed"]):
            cells = {who: result["cells"].get(f"generation/{name}/population {size}/{who}", {}) for who in others}
            shown = [beside(cells[who]) for who in others]
            rows.append((f"{name}, population {size}", *shown))
    title = "Milliseconds per generation: dynadnn / the other, and the median ratio"
    return dn.Table(("problem", *(LABELS[who] for who in others)), rows, title)


def beside(cell: Record) -> str:
    if "ms" not in cell:
        return "differs" if "differs" in cell else "missing"
    ours, theirs = cell["ms"].values()
    return f"{ours:.3g} / {theirs:.3g}: {cell['ratio']:.2g}"


def fronts(result: Record, budget: Sequence[Any], measure: str) -> dn.Table:
    """Median and quartiles of one measure after one budget, and the test against pymoo."""
    size, steps, names = budget
    rows: list[list[Any]] = []
    for name in result["design"]["problems"]:
        found = {who: of_front(result, name, budget, who) for who in names}
        row: list[Any] = [name, *(quartiles(cell[measure]) if cell else "missing" for cell in found.values())]
        ours, theirs = found["dynadnn"], found["pymoo"]
        row.append(f"{mann_whitney(ours[measure], theirs[measure]):.2g}" if ours and theirs else "missing")
        rows.append(row)
    what = "Hypervolume, reference 1.1: more is better" if measure == "hypervolume" else "IGD+: less is better"
    title = (
        f"{what}. Median [quartiles] of {result['design']['seeds']} seeds after {size * steps} evaluations, "
        f"{steps} generations of {size}; p: dynadnn against pymoo, Mann-Whitney"
    )
    return dn.Table(("problem", *(LABELS[who] for who in names), "p"), rows, title)


def quartiles(values: Sequence[float]) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.5g} [{low:.5g} {high:.5g}]"


def against_moocore(result: Record) -> dn.Table:
    rows = []
    for kind, word in (("rank", "ranking"), ("volume", "hypervolume")):
        for n, m in result["design"]["ranks" if kind == "rank" else "volumes"]:
            cell = result["cells"].get(f"{kind}/{n} rows/{m} objectives", {})
            ms = cell.get("ms", {})
            rows.append((word, n, m, ms.get("dynadnn"), ms.get("moocore"), cell.get("ratio")))
    return dn.Table(("what", "rows", "objectives", "dynadnn ms", "moocore ms", "ratio"), rows, "Against moocore")


# ---- plot ----


def plot(result: Record, path: Path) -> None:
    """Time per generation; hypervolume over pymoo's median; IGD+ after few evaluations."""
    drawn, axes = figure(3)
    styles = dict(zip(OPTIMISERS, STYLES, strict=False))
    draw_times(axes[0], result, styles)
    long, short = result["design"]["budgets"]
    draw_fronts(axes[1], result, long, "hypervolume", styles)
    draw_fronts(axes[2], result, short, "igd_plus", styles)
    for who, (colour, shape) in styles.items():
        axes[0].plot([], [], shape, color=colour, label=LABELS[who])
    axes[0].legend(fontsize=7)
    save(drawn, path)


def draw_times(ax: Any, result: Record, styles: dict[str, tuple[str, str]]) -> None:
    """A row of marks per problem and population; ours is the median over the comparisons."""
    places: list[str] = []
    for name in result["design"]["timed_problems"]:
        for size in dict.fromkeys(entry[0] for entry in result["design"]["timed"]):
            found = {who: result["cells"].get(f"generation/{name}/population {size}/{who}", {}) for who in styles}
            ms = {who: cell["ms"][who] for who, cell in found.items() if "ms" in cell}
            ours = [cell["ms"]["dynadnn"] for cell in found.values() if "ms" in cell]
            if ours:
                ms["dynadnn"] = float(np.median(ours))
            for who, value in ms.items():
                colour, shape = styles[who]
                ax.plot(value, len(places), shape, color=colour, markersize=7)
            places.append(f"{name}\npopulation {size}")
    ax.set(xscale="log", xlabel="time per generation (ms)", yticks=range(len(places)), yticklabels=places)
    ax.set(ylim=(len(places) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.3)


def draw_fronts(
    ax: Any, result: Record, budget: Sequence[Any], measure: str, styles: dict[str, tuple[str, str]]
) -> None:
    """Medians with quartiles, over pymoo's median where that is there."""
    size, steps, names = budget
    problems = result["design"]["problems"]
    for k, name in enumerate(problems):
        base = of_front(result, name, budget, "pymoo") or of_front(result, name, budget, "dynadnn")
        unit = float(np.median(base[measure])) if base else 1.0
        for j, who in enumerate(names):
            cell = of_front(result, name, budget, who)
            if cell is None:
                continue
            low, middle, high = np.percentile(cell[measure], (25, 50, 75)) / (unit or 1.0)
            colour, shape = styles[who]
            place = k + 0.15 * (j - (len(names) - 1) / 2)
            ax.errorbar(
                middle, place, xerr=[[middle - low], [high - middle]], color=colour, marker=shape, markersize=6,
                capsize=2, linewidth=1, linestyle="none",
            )  # fmt: skip
    better = "hypervolume (more is better)" if measure == "hypervolume" else "IGD+ (less is better)"
    ax.set(xlabel=f"{better} over pymoo's median", yticks=range(len(problems)), yticklabels=problems)
    ax.set(ylim=(len(problems) - 0.5, -0.5))
    ax.set_title(f"after {size * steps:,} evaluations, {result['design']['seeds']} seeds", fontsize=9)
    ax.grid(axis="x", alpha=0.3)


def report(result: Record, folder: Path) -> int:
    """Print figures and tables, write search.md and search.png; 1 if a figure falls short."""
    code = judge(result).finish()
    texts = [f"**{table.title}**\n\n{markdown(table)}\n" for table in tables(result)]
    print("\n" + "\n".join(texts))
    if not result["cells"]:
        return code
    machine = f"{result['cpu']}, one core, {result['date']}; `benchmarks/search.py`, versions in `search.json`.\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "search.md").write_text("\n".join(["# Search\n", machine, *texts]))
    if missing("matplotlib"):
        print("matplotlib is not installed: no plot")
    else:
        plot(result, folder / "search.png")
    return code
