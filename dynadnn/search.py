"""Multi-objective search: NSGA-II by ask and tell, and the measures that compare fronts.

Everything here works on real vectors and objective values; it knows no networks. All objectives are minimised.
"""

from __future__ import annotations

import base64
import binascii
import operator
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._errors import FormatError

__all__ = ["NSGA2", "Population", "crowding_distance", "hypervolume", "igd_plus", "nondominated_rank"]

Floats = NDArray[np.float64]

_FLOAT64 = np.dtype(np.float64)
_FORMAT = 1


def _floats(value: ArrayLike, name: str, ndim: int) -> Floats:
    """`value` as a contiguous float64 array of `ndim` dimensions."""
    if type(value) is np.ndarray and value.dtype is _FLOAT64 and value.ndim == ndim:
        return value if value.flags.c_contiguous else np.ascontiguousarray(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: rows of different lengths; expected {ndim} regular dimensions") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}, expected real numbers")
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}, expected {ndim} dimension{'s' if ndim > 1 else ''}")
    return np.ascontiguousarray(array, dtype=np.float64)


def _rows(value: ArrayLike, name: str, rows: int, columns: int) -> Floats:
    """`value` as (rows, columns); a flat array is taken where there is one column."""
    array = np.asarray(value)
    if columns == 1 and array.shape == (rows,):
        array = array.reshape(rows, 1)
    if array.shape != (rows, columns):
        raise ValueError(f"{name} has shape {array.shape}, expected ({rows}, {columns})")
    return _floats(array, name, 2)


def _count(value: Any, name: str, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if not least <= number <= 2**31 - 1:
        raise ValueError(f"{name} is {number}, must be at least {least}" if number < least else f"{name} is too large")
    return number


def _seed(rng: int | np.random.Generator | None) -> int:
    if rng is None:
        return secrets.randbits(64)
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(0, 2**64, dtype=np.uint64))
    try:
        seed = operator.index(rng)
    except TypeError:
        raise TypeError(f"rng must be None, an integer or a numpy.random.Generator, not {rng!r}") from None
    if not 0 <= seed < 2**64:
        raise ValueError(f"rng is {seed}, must be in 0 .. 2**64 - 1")
    return seed


def _mask(integer: bool | ArrayLike, variables: int) -> NDArray[np.bool_]:
    mask = np.asarray(integer)
    if mask.dtype != np.bool_:
        raise TypeError(f"integer must be True, False or a mask of {variables} booleans, not dtype {mask.dtype}")
    if mask.shape not in ((), (variables,)):
        raise ValueError(f"integer has shape {mask.shape}, expected one boolean or ({variables},)")
    return np.ascontiguousarray(np.broadcast_to(mask, (variables,)))


def _check_bounds(lower: Floats, upper: Floats, integer: NDArray[np.bool_]) -> None:
    if lower.size == 0:
        raise ValueError("lower has no elements; at least 1 variable")
    bad = ~(np.isfinite(lower) & np.isfinite(upper))
    if bad.any():
        k = int(bad.argmax())
        raise ValueError(f"variable {k}: lower is {lower[k]}, upper is {upper[k]}; both must be finite")
    if (lower > upper).any():
        k = int((lower > upper).argmax())
        raise ValueError(f"variable {k}: lower is {lower[k]}, above upper, which is {upper[k]}")
    bad = integer & ((lower != np.floor(lower)) | (upper != np.floor(upper)))
    if bad.any():
        k = int(bad.argmax())
        raise ValueError(f"variable {k} is an integer; its bounds {lower[k]} and {upper[k]} must be whole numbers")


@dataclass(frozen=True)
class Population:
    """Vectors and what they were evaluated to; row i of each array belongs together.

    Attributes
    ----------
    x : ndarray, shape (n, d)
        Vectors; integer variables hold whole numbers.
    f : ndarray, shape (n, m)
        Objectives, minimised; NaN where the evaluation failed.
    g : ndarray, shape (n, c)
        Constraints, feasible where at most 0.
    """

    x: Floats
    f: Floats
    g: Floats

    def __len__(self) -> int:
        return len(self.x)


class NSGA2:
    """NSGA-II: asks for vectors, is told their objectives, keeps the best.

    Real variables use simulated binary crossover (eta 15, probability 0.9) and polynomial mutation (eta 20, one
    variable in d), integer variables uniform crossover and a change to another value. A vector that the population
    has already is asked for only if nothing new can be found. The result depends on the seed and the answers alone.

    Parameters
    ----------
    lower, upper : array_like, shape (d,)
        Bounds of each variable, included. A number stands for all variables if the other one is an array.
    integer : bool or array_like of bool, shape (d,)
        Which variables are whole numbers; their bounds must be whole.
    objectives, constraints : int
        Numbers of columns of `f` and `g`.
    population : int
        Vectors per generation, even, at least 4.
    rng : None, int or numpy.random.Generator
        Seed; None draws one. It is kept in `seed`.

    Attributes
    ----------
    seed : int
        Passing it as `rng` repeats the search.
    generation : int
        Number of `tell` calls so far.

    Raises
    ------
    ValueError
        Bounds that are not finite, lower above upper, bounds of integer variables that are not whole, an odd
        population or one below 4.

    References
    ----------
    Deb, Pratap, Agarwal, Meyarivan: A fast and elitist multiobjective genetic algorithm: NSGA-II. IEEE Transactions
    on Evolutionary Computation 6(2), 2002.

    Examples
    --------
    >>> import numpy as np
    >>> from dynadnn.search import NSGA2, hypervolume
    >>> search = NSGA2(np.full(2, -2.0), np.full(2, 2.0), population=20, rng=0)
    >>> for _ in range(30):
    ...     x = search.ask()
    ...     search.tell(x, np.stack([(x**2).sum(1), ((x - 1) ** 2).sum(1)], 1))
    >>> hypervolume(search.front.f, [2, 2]) > 3  # 10/3 if every vector between (0, 0) and (1, 1) were there
    True
    """

    def __init__(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        *,
        integer: bool | ArrayLike = False,
        objectives: int = 2,
        constraints: int = 0,
        population: int = 100,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        low, high = np.asarray(lower), np.asarray(upper)
        if low.ndim == 0 and high.ndim == 1:
            low = np.broadcast_to(low, high.shape)
        elif high.ndim == 0 and low.ndim == 1:
            high = np.broadcast_to(high, low.shape)
        self._lower, self._upper = _floats(low, "lower", 1).copy(), _floats(high, "upper", 1).copy()
        if self._lower.shape != self._upper.shape:
            raise ValueError(f"lower has {self._lower.size} elements, upper has {self._upper.size}; expected as many")
        self._integer = _mask(integer, self._lower.size).copy()
        _check_bounds(self._lower, self._upper, self._integer)
        self._objectives = _count(objectives, "objectives", 1)
        self._constraints = _count(constraints, "constraints", 0)
        self._size = _count(population, "population", 4)
        if self._size % 2:
            raise ValueError(f"population is {self._size}, must be even")
        self.seed = _seed(rng)
        self._search = _core.NSGA2(
            self._lower,
            self._upper,
            self._integer,
            self._objectives,
            self._constraints,
            self._size,
            crossover_probability=0.9,
            crossover_eta=15.0,
            mutation_probability=0.0,
            mutation_eta=20.0,
            seed=self.seed,
        )

    def __repr__(self) -> str:
        return (
            f"NSGA2({self._lower.size} variables, {self._objectives} objectives, {self._constraints} constraints, "
            f"population={self._size}, seed={self.seed}, generation={self.generation})"
        )

    @property
    def generation(self) -> int:
        """Number of `tell` calls so far."""
        return self._search.generation

    def ask(self) -> Floats:
        """Vectors to evaluate.

        Returns
        -------
        ndarray, shape (population, d)
            A new array; asking again before `tell` gives the same vectors.
        """
        return self._search.ask()

    def tell(self, x: ArrayLike, f: ArrayLike, g: ArrayLike | None = None) -> None:
        """Take the results for the vectors of the last `ask` and choose the next population.

        Parameters
        ----------
        x : array_like, shape (population, d)
            The rows of `ask`, unchanged and in their order.
        f : array_like, shape (population, objectives)
            Objectives, minimised. A row with NaN is a failed evaluation: it never survives while others can.
        g : array_like, shape (population, constraints), optional
            Constraints, at most 0 where feasible. Feasible rows beat infeasible ones, smaller violations larger ones.

        Raises
        ------
        ValueError
            Wrong shapes, rows that were not asked for, infinite objectives, `g` missing or not wanted.
        RuntimeError
            No `ask` since the last `tell`.
        """
        if g is None and self._constraints:
            raise ValueError(f"g is missing; the search has {self._constraints} constraints")
        if g is not None and not self._constraints:
            if np.size(g):
                raise ValueError("g was given, but the search has constraints=0")
            g = None
        self._search.tell(
            _rows(x, "x", self._size, self._lower.size),
            _rows(f, "f", self._size, self._objectives),
            None if g is None else _rows(g, "g", self._size, self._constraints),
        )

    def start(self, x: ArrayLike) -> None:
        """Put known vectors among those of the first `ask`.

        Parameters
        ----------
        x : array_like, shape (k, d), k at most the population
            Clipped to the bounds; a repeated row is changed a little. The other rows stay random.

        Raises
        ------
        ValueError
            Too many rows, NaN, integer variables that are not whole, or after the first `tell`.
        """
        array = _floats(x, "x", 2)
        if array.shape[1] != self._lower.size:
            raise ValueError(f"x has shape {array.shape}, expected (k, {self._lower.size})")
        self._search.start(array)

    @property
    def population(self) -> Population:
        """The present population: (n, d), (n, m), (n, c) copies, n = 0 before the first `tell`."""
        x, f, g, _ = self._search.population()
        return Population(x, f, g)

    @property
    def front(self) -> Population:
        """Rows of the population that are feasible, were evaluated, and that no other one dominates."""
        x, f, g, rank = self._search.population()
        best = (rank == 0) & ~np.isnan(f).any(1) & (g <= 0).all(1)
        return Population(x[best], f[best], g[best])

    def state(self) -> dict[str, Any]:
        """Everything `from_state` needs to continue exactly, as plain values that fit into JSON.

        Returns
        -------
        dict
            Options as numbers and lists, the population as base64. Vectors that are waiting for `tell` are not
            stored: the next `ask` gives them again.
        """
        return {
            "format": _FORMAT,
            "lower": self._lower.tolist(),
            "upper": self._upper.tolist(),
            "integer": self._integer.tolist(),
            "objectives": self._objectives,
            "constraints": self._constraints,
            "population": self._size,
            "seed": self.seed,
            "core": base64.b64encode(self._search.state()).decode("ascii"),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> NSGA2:
        """Continue a search.

        Parameters
        ----------
        state : mapping
            What `state` returned, also after a way through JSON.

        Returns
        -------
        NSGA2
            Gives the same vectors and populations as the search that was stored.

        Raises
        ------
        dynadnn.FormatError
            A state that is not complete, not intact, or of a newer version. It is a ValueError.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping, not {type(state).__name__}")
        if state.get("format") != _FORMAT:
            raise FormatError(f"state has format {state.get('format')!r}, this version reads {_FORMAT}")
        try:
            search = cls(
                state["lower"],
                state["upper"],
                integer=np.asarray(state["integer"], dtype=np.bool_),
                objectives=state["objectives"],
                constraints=state["constraints"],
                population=state["population"],
                rng=state["seed"],
            )
            search._search.set_state(base64.b64decode(state["core"], validate=True))
        except KeyError as error:
            raise FormatError(f"state lacks {error}") from None
        except (TypeError, ValueError, binascii.Error) as error:
            raise FormatError(f"state cannot be read: {error}") from error
        return search


def nondominated_rank(f: ArrayLike, isa: str | None = None) -> NDArray[np.int32]:
    """Front of each row: 0 for rows that no other dominates, 1 for those that only rows of front 0 dominate, ...

    Parameters
    ----------
    f : array_like, shape (n, m)
        Objectives, minimised; infinities allowed. Equal rows do not dominate each other.
    isa : str, optional
        Instruction set that may be used at most, such as "ref" or "avx2"; the result does not depend on it.

    Returns
    -------
    ndarray of int32, shape (n,)

    Raises
    ------
    ValueError
        NaN, no objectives, or an unknown `isa`.

    References
    ----------
    Two objectives: Jensen, IEEE Transactions on Evolutionary Computation 7(5), 2003. More: bit sets, Roy et al., 2016.

    Examples
    --------
    >>> from dynadnn.search import nondominated_rank
    >>> nondominated_rank([[1, 4], [2, 2], [3, 3], [4, 1]]).tolist()
    [0, 0, 1, 0]
    """
    return _core.nondominated_rank(_floats(f, "f", 2), isa)


def crowding_distance(f: ArrayLike, rank: ArrayLike) -> Floats:
    """Crowding distance of each row among the rows of equal rank.

    Parameters
    ----------
    f : array_like, shape (n, m)
        Objectives.
    rank : array_like of int, shape (n,)
        Rows are compared only with rows of the same rank, such as those of `nondominated_rank`.

    Returns
    -------
    ndarray, shape (n,)
        Sum over the objectives of the distance between both neighbours, in units of the front's range; infinity for
        the extremes. Equal values are ordered by row; an objective without range adds nothing.

    Raises
    ------
    ValueError
        NaN, or `rank` of another length.
    TypeError
        Ranks that are not integers.

    References
    ----------
    Deb et al., IEEE Transactions on Evolutionary Computation 6(2), 2002.

    Examples
    --------
    >>> from dynadnn.search import crowding_distance
    >>> crowding_distance([[0, 4], [1, 2], [4, 0]], [0, 0, 0]).tolist()
    [inf, 2.0, inf]
    """
    ranks = np.asarray(rank)
    if ranks.dtype.kind not in "iu" and ranks.size:
        raise TypeError(f"rank has dtype {ranks.dtype}, expected integers")
    if ranks.ndim != 1:
        raise ValueError(f"rank has shape {ranks.shape}, expected 1 dimension")
    if ranks.dtype != np.int32:
        ranks = np.unique(ranks, return_inverse=True)[1].astype(np.int32)  # only equality matters
    return _core.crowding_distance(_floats(f, "f", 2), np.ascontiguousarray(ranks))


def hypervolume(f: ArrayLike, ref: ArrayLike) -> float:
    """Exact volume of what the rows of `f` dominate, bounded by `ref`.

    Parameters
    ----------
    f : array_like, shape (n, m)
        Objectives, minimised. Rows not better than `ref` in every objective add nothing.
    ref : array_like, shape (m,)
        Reference point.

    Returns
    -------
    float
        0 for no rows; infinity if a row that counts is infinitely better than `ref` in some objective.

    Raises
    ------
    ValueError
        NaN, or `ref` of another length. Time grows steeply with the number of objectives: up to 3 it is about
        n log n, at 6 keep n in the hundreds.

    References
    ----------
    While, Bradstreet, Barone: A fast way of calculating exact hypervolumes. IEEE Transactions on Evolutionary
    Computation 16(1), 2012.

    Examples
    --------
    >>> from dynadnn.search import hypervolume
    >>> hypervolume([[1, 2], [2, 1]], [3, 3])
    3.0
    """
    return _core.hypervolume(_floats(f, "f", 2), _floats(ref, "ref", 1))


def igd_plus(f: ArrayLike, ref: ArrayLike) -> float:
    """Mean distance from a reference front to what `f` dominates; 0 means that nothing of it is missed.

    Parameters
    ----------
    f : array_like, shape (n, m)
        Objectives, minimised.
    ref : array_like, shape (r, m)
        Points of the reference front, at least one.

    Returns
    -------
    float
        In units of the objectives; infinity if `f` has no rows.

    Raises
    ------
    ValueError
        NaN, no reference points, or different numbers of objectives.

    References
    ----------
    Ishibuchi, Masuda, Tanigaki, Nojima: Modified distance calculation in generational distance and inverted
    generational distance. EMO 2015.

    Examples
    --------
    >>> from dynadnn.search import igd_plus
    >>> igd_plus([[0, 1], [1, 0.5]], [[0, 1], [1, 0]])
    0.25
    """
    return _core.igd_plus(_floats(f, "f", 2), _floats(ref, "ref", 2))
