"""Importances – which genes of operating points (widths, bits, depth, threads) an objective depends on.

A kernel ridge regression is fitted to the evaluated records, and each gene's column is permuted: how much its answers
change is the gene's importance. All of it is linear algebra in NumPy, and the permutations are of a fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._quality import cost_matrix
from ._record import Record
from ._table import Table

if TYPE_CHECKING:
    from ._front import Front

F64 = NDArray[np.float64]
FEWEST, MOST = 12, 600  # records: below, nothing can be said; more than this make it slow and hardly better
REPEATS = 16
FLOAT_BITS = 32
LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # squared, of the kernel, over the mean squared distance
RIDGES = (1e-6, 1e-4, 1e-2, 1e-1, 1.0)


class Fit(NamedTuple):
    """Importance of each gene, and the share of the variance that the regression predicts of records left out."""

    shares: F64
    r2: float


def importances(front: Front, objectives: Sequence[str] | None) -> Table:
    """Table of importances; see `Front.importances`."""
    wanted = tuple(dict.fromkeys([*front.objectives, front.quality] if objectives is None else objectives))
    if objectives is None and front.quality == "accuracy" and "error" in wanted:
        wanted = tuple(name for name in wanted if name != "accuracy")
    costs, records = cost_matrix(by_table(front.evaluated), wanted, front.maximize)
    if len(records) < FEWEST:
        raise ValueError(f"{len(records)} evaluated points have {' and '.join(wanted)}; importances need {FEWEST}")
    names, genes = gene_matrix(records, *_names(front, records))
    if not names:
        raise ValueError("all evaluated points are the same: nothing was varied")
    fits = [permutation(genes, costs[:, i]) for i in range(len(wanted))]
    order = np.argsort(-fits[0].shares, kind="stable")
    rows = [(names[j], *(float(fit.shares[j]) for fit in fits)) for j in order]
    good = ", ".join(f"{name} {fit.r2:.2f}" for name, fit in zip(wanted, fits, strict=True))
    return Table(("gene", *wanted), rows, f"{len(records)} evaluated points; R² of points left out: {good}")


def gene_matrix(
    records: Sequence[Record], spaces: Sequence[str] = (), layers: Sequence[str] = ()
) -> tuple[list[str], F64]:
    """Names and values, shape (n, genes), of what differs between records.

    Parameters
    ----------
    records : sequence of Record
        Of one network.
    spaces : sequence of str
        Names of the channel spaces.
    layers : sequence of str
        Names of the layers with weights.
    """
    if not records:
        return [], np.zeros((0, 0))
    points = [r.point for r in records]
    lengths = {(len(p.widths), len(p.bits), len(p.depth)) for p in points}
    if len(lengths) > 1:
        raise ValueError("the points are of networks of different structure: importances are of one network")
    bits = np.array([[FLOAT_BITS if isinstance(b, str) else b for b in p.bits] for p in points], dtype=np.float64)
    bits = bits.reshape(len(points), -1)
    parts = {
        "width": np.array([p.widths for p in points], dtype=np.float64).reshape(len(points), -1),
        "bits": bits,
        "depth": np.array([p.depth for p in points], dtype=np.float64).reshape(len(points), -1),
        "threads": np.array([[r.threads] for r in records], dtype=np.float64),
    }
    known = {"width": spaces, "bits": layers, "depth": [f"stage {i + 1}" for i in range(len(points[0].depth))]}
    names, columns = [], []
    for part, values in parts.items():
        varied = [j for j in range(values.shape[1]) if np.ptp(values[:, j]) > 0]
        if part == "bits" and len(varied) > 1 and (values[:, varied] == values[:, varied[:1]]).all():
            varied = varied[:1]  # one number of bits for the whole network is one gene
            names.append("bits")
        elif part == "threads":
            names += ["threads"] * len(varied)
        else:
            own = known[part]
            names += [f"{part} {own[j] if j < len(own) else j + 1}" for j in varied]
        columns += [values[:, j] for j in varied]
    return names, np.array(columns).T.reshape(len(records), -1)


def permutation(x: F64, y: F64) -> Fit:
    """Permutation importance of each column of x for y.

    Parameters
    ----------
    x : ndarray of float64, shape (n, genes)
    y : ndarray of float64, shape (n,)

    Returns
    -------
    Fit
        ``shares[j]`` is E[(f(x) - f(x with column j permuted))²] / (2 Var f(x)). For independent columns that is the
        share of the variance that column j takes part in (Jansen's estimator of the total Sobol' index).

    References
    ----------
    Breiman: Random forests. Machine Learning 45, 2001. Jansen: Analysis of variance designs for model output. Computer
    Physics Communications 117, 1999. Saunders, Gammerman, Vovk: Ridge regression learning algorithm in dual variables.
    ICML 1998.
    """
    if np.ptp(y) == 0:
        return Fit(np.zeros(x.shape[1]), 1.0)
    if len(x) > MOST:
        rows = np.sort(np.random.default_rng(0).permutation(len(x))[:MOST])
        x, y = x[rows], y[rows]
    z = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    squares = np.square(z[:, None, :] - z[None, :, :]).sum(axis=2)
    weights, length, r2 = _fit(squares, (y - y.mean()) / y.std())
    answers = np.exp(-squares / length) @ weights
    draw = np.random.default_rng(0)
    orders = [draw.permutation(len(z)) for _ in range(REPEATS)]
    shares = np.zeros(x.shape[1])
    for j in range(x.shape[1]):
        own = np.square(z[:, None, j] - z[None, :, j])
        rest = squares - own
        for order in orders:
            changed = np.exp(-(rest + own[order]) / length) @ weights
            shares[j] += float(np.square(answers - changed).mean()) / REPEATS
    spread = 2 * float(answers.var())
    return Fit(shares / spread if spread > 0 else shares, r2)


def _fit(squares: F64, y: F64) -> tuple[F64, float, float]:
    """Weights and squared length of the kernel ridge regression that predicts left-out rows best, and its R²."""
    best: tuple[float, F64, float] | None = None
    unit = float(squares.mean()) + 1e-12
    for length in LENGTHS:
        values, vectors = np.linalg.eigh(np.exp(-squares / (unit * length)))
        turned = vectors.T @ y
        for ridge in RIDGES:
            inverse = 1 / (np.maximum(values, 0) + ridge)
            weights = vectors @ (inverse * turned)
            left_out = weights / ((vectors**2) @ inverse)  # errors of leave-one-out, in closed form
            error = float(np.square(left_out).mean())
            if best is None or error < best[0]:
                best = (error, weights, unit * length)
    assert best is not None
    return best[1], best[2], 1 - best[0] / float(y.var())


def by_table(records: Sequence[Record]) -> list[Record]:
    """Return records with the table's latencies, known of all alike, instead of those measured of some."""
    return [
        r
        if r.latency_ms is None or r.latency_ms_measured is None
        else msgspec.structs.replace(r, latency_ms_measured=None)
        for r in records
    ]


def _names(front: Front, records: Sequence[Record]) -> tuple[list[str], list[str]]:
    """Names of the channel spaces (by their first layer) and of the layers, where the front has its network."""
    nets = list(front._networks.values())
    if len(nets) != 1 or len(nets[0].spaces) != len(records[0].point.widths):
        return [], []
    return [space.name for space in nets[0].spaces], [layer.name for layer in nets[0].layers]
