"""The C core. Internal: the package wraps every name here; users never import it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]

def config() -> dict[str, Any]: ...
def alloc_fail_at(n: int, /) -> None: ...
def alloc_fail_left() -> int: ...
def alloc_live() -> int: ...

class Graph:
    """A checked network structure (immutable).

    nodes: one mapping per node with the fields of dn_node_spec by name: op, name, inputs (tuple of earlier node numbers) and what the op uses of height, width, channels,
    kernel (h, w), stride (h, w), pad (top, bottom, left, right), dilation (h, w), groups, bias, fixed, stage, block, value, map (int32 array or sequence). Missing fields: 1 for
    kernel, stride, dilation, groups; -1 for stage; else 0. Raises GraphError.
    """

    def __new__(cls, nodes: Sequence[Mapping[str, object]], output: int, groups: int = 1) -> Graph: ...
    @property
    def tensors(
        self,
    ) -> list[
        dict[str, Any]
    ]: ...  # height width channels segments=[(space, full, repeat)] signed scale_from weights biases norm_offset stage block
    @property
    def spaces(self) -> list[tuple[int, bool, int, int]]: ...  # full, elastic, lead, unit
    @property
    def stages(self) -> list[tuple[int, int]]: ...  # blocks, must_keep
    @property
    def groups(self) -> int: ...
    @property
    def norm_channels(self) -> int: ...
    def check(self, active: I32, bits: I8 | None = None, depth: I32 | None = None) -> None: ...
    def cost(
        self, active: I32, bits: I8 | None = None, depth: I32 | None = None
    ) -> tuple[I64, I64]: ...  # MACs, parameters, per node

class Plan:
    """Graph and weights lowered for one CPU.

    params: per node None, (weight, bias | None) in float32, or (codes int8, code_scale float32, bias | None). input_table: float32 (channels, 256) or None.
    """

    def __new__(
        cls,
        graph: Graph,
        params: Sequence[tuple[Any, ...] | None],
        *,
        input_table: F32 | None = None,
        threads: int = 1,
        isa: str | None = None,
        precision: int = 32,
    ) -> Plan: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def threads(self) -> int: ...
    def bind(
        self, active: I32, bits: I8 | None, depth: I32 | None, mean: F32, variance: F32, scale: F32 | None, /
    ) -> Point: ...  # scale: (nodes, groups)
    def calibrate(
        self,
        active: I32,
        bits: I8 | None,
        depth: I32 | None,
        images: NDArray[Any],
        range: str = "mse",
        percentile: float = 99.99,
        threads: int = 1,
        mean_shift: F32 | None = None,
        variance_ratio: F32 | None = None,
    ) -> tuple[F32, F32, F32 | None]: ...  # mean, variance, scale (None if the plan has no int8 layer)

class Point:
    """One operating point bound to a plan (immutable)."""

    @property
    def table_bytes(self) -> int: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def steps(self) -> list[dict[str, Any]]: ...  # kernel node output is_int8 macs and byte offsets

class Engine:
    """Runs points of one plan; `points` maps names, fractions and sub-nets to bound points and may be added to.

    Calling needs x: uint8 or float32, C-contiguous, shape (n, *input_shape); anything else is handed to self._convert(x) first. An unknown point is handed to self._bind(point),
    which returns a Point.
    """

    def __new__(cls, plan: Plan, *, input_shape: tuple[int, ...], outputs: int) -> Engine: ...
    points: dict[Any, Point]
    @property
    def active(self) -> Any: ...
    @property
    def plan(self) -> Plan: ...
    threads: int
    @property
    def arena_bytes(self) -> int: ...
    def select(self, point: Any, /) -> None: ...
    def __call__(self, x: Any, point: Any = None, out: F32 | None = None) -> F32: ...
    def profile_steps(self, x: NDArray[Any], point: Point, repeats: int = 1, /) -> I64: ...  # nanoseconds per step, summed
    def activation(self, x: NDArray[Any], point: Point, node: int, /) -> F32: ...  # (n, h, w, active channels)
