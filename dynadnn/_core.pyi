"""The C core. Internal: the package wraps every name here; users never import it."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, disjoint_base

_F32 = NDArray[np.float32]
_I32 = NDArray[np.int32]
_I64 = NDArray[np.int64]
_I8 = NDArray[np.int8]
_U8 = NDArray[np.uint8]

def config() -> dict[str, Any]: ...
def probe(kernel: str, /) -> float: ...  # MACs per second of its dot product on registers alone; 0 without one
def alloc_fail_at(n: int, /) -> None: ...
def alloc_fail_left() -> int: ...
def alloc_live() -> int: ...

@final
class Graph:
    """A checked network structure (immutable).

    nodes: one mapping per node with the fields of dn_node_spec by name: op, name, inputs (tuple of earlier node numbers) and what the op uses of height, width, channels,
    kernel (h, w), stride (h, w), pad (top, bottom, left, right), dilation (h, w), groups, bias, fixed, stage, block, value, map (int32 array or sequence). Missing fields: 1 for
    kernel, stride, dilation, groups; -1 for stage; else 0. Raises GraphError.
    """

    def __new__(cls, nodes: Sequence[Mapping[str, object]], output: int, groups: int = 1) -> Self: ...
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
    def check(self, active: _I32, bits: _I8 | None = None, depth: _I32 | None = None) -> None: ...
    def cost(
        self, active: _I32, bits: _I8 | None = None, depth: _I32 | None = None
    ) -> tuple[_I64, _I64]: ...  # MACs, parameters, per node

@final
class Plan:
    """Graph and weights lowered for one CPU.

    params: per node None, (weight, bias | None) in float32, or (codes int8, code_scale float32, bias | None). input_table: float32 (channels, 256) or None.
    """

    def __new__(
        cls,
        graph: Graph,
        params: Sequence[tuple[Any, ...] | None],
        *,
        input_table: _F32 | None = None,
        threads: int = 1,
        isa: str | None = None,
        precision: int = 32,
        least_bits: int = 2,
        compact: bool = False,
    ) -> Self: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def threads(self) -> int: ...
    def bind(
        self,
        active: _I32,
        bits: _I8 | None,
        depth: _I32 | None,
        mean: _F32,
        variance: _F32,
        scale: _F32 | None,
        tiles: _I8 | None = None,
        affine: _F32 | None = None,
        /,
    ) -> Point: ...  # scale: (nodes, groups); tiles: (nodes, 2), -1 where the plan chooses; affine: (2, channels), the point's own gamma and beta
    def calibrate(
        self,
        active: _I32,
        bits: _I8 | None,
        depth: _I32 | None,
        images: NDArray[Any],
        range: str = "mse",
        percentile: float = 99.99,
        threads: int = 1,
        kept_mean: _F32 | None = None,
        kept_variance: _F32 | None = None,
        mean_shift: _F32 | None = None,
        variance_ratio: _F32 | None = None,
        variance_shift: _F32 | None = None,
        kept_scale: _F32 | None = None,
        affine: _F32 | None = None,
    ) -> tuple[_F32, _F32, _F32 | None]: ...  # mean, variance, scale (None if the plan has no int8 layer)

@final
class Point:
    """One operating point bound to a plan (immutable)."""

    @property
    def table_bytes(self) -> int: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def steps(self) -> list[dict[str, Any]]: ...  # kernel node output is_int8 macs and byte offsets
    @property
    def tiles(
        self,
    ) -> list[
        tuple[str, list[tuple[str, int, int]]]
    ]: ...  # per step: shape, (name, most, rest) of each tile it can have

@disjoint_base
class Engine:
    """Runs points of one plan; `points` maps names, fractions and sub-nets to bound points and may be added to.

    Calling needs x: uint8 or float32, C-contiguous, shape (n, *input_shape); anything else is handed to self._convert(x) first. An unknown point is handed to self._bind(point),
    which returns a Point.
    """

    def __new__(cls, plan: Plan, *, input_shape: tuple[int, ...], outputs: int) -> Self: ...
    points: dict[Any, Point]
    @property
    def active(self) -> Any: ...
    @property
    def plan(self) -> Plan: ...
    threads: int
    @property
    def arena_bytes(self) -> int: ...
    def select(self, point: Any, /) -> None: ...
    @property
    def kept_bytes(self) -> int: ...
    @property
    def last_macs(self) -> int: ...
    def __call__(self, x: Any, point: Any = None, out: _F32 | None = None) -> _F32: ...
    def extend(self, x: Any, point: Any = None, out: _F32 | None = None) -> _F32: ...
    def profile_steps(
        self, x: NDArray[Any], point: Point, repeats: int = 1, /
    ) -> _I64: ...  # nanoseconds per step, summed
    def activation(self, x: NDArray[Any], point: Point, node: int, /) -> _F32: ...  # (n, h, w, active channels)

@final
class Trainer:
    """Trains one network. One call at a time: a second thread gets RuntimeError.

    params: per node None or (weight, bias | None), float32, any shape of the right size in natural order (conv2d [out][kh][kw][in/groups], linear [out][in], batchnorm gamma, beta).
    taps: nodes whose values `tap` gives and whose gradients `backward` adds to. frozen: uint8 per node, 1 = no update (of a batch norm: nor of its running statistics). input_table: float32 (channels, 256), needed for uint8 images.
    private_affine: each slot of statistics has its own gamma and beta of batch norms; passes with slot -1 use those of slot 0, and copies are about those of `affine`.
    """

    def __new__(
        cls,
        graph: Graph,
        params: Sequence[tuple[_F32, _F32 | None] | None],
        *,
        batch: int = 128,
        threads: int = 1,
        isa: str | None = None,
        stat_slots: int = 1,
        stat_momentum: float = 0.1,
        seed: int = 0,
        frozen: _U8 | None = None,
        input_table: _F32 | None = None,
        bf16: bool = False,
        taps: _I32 | None = None,
        coded: _U8 | None = None,
        learns_scales: bool = False,
        private_affine: bool = False,
    ) -> Self: ...
    def forward(
        self,
        x: _U8 | _F32,
        active: _I32,
        slot: int = -1,
        step: int = 0,
        depth: _I32 | None = None,
        bits: _I8 | None = None,
    ) -> _F32: ...  # logits (n, outputs)
    def backward(self, d_logits: _F32, taps: tuple[_F32 | None, ...] | None = None) -> None: ...
    def tap(self, tap: int, /) -> _F32: ...  # (n, h, w, active channels) in the last forward pass
    def commit(
        self,
        optimizer: str,  # "sgd" or "adamw"
        *,
        lr: float = 0.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        clip_norm: float = 0.0,
    ) -> float: ...  # gradient norm before clipping; NonFiniteError changes nothing
    def discard(self) -> None: ...
    def diagnose(self) -> str | None: ...
    def get_params(self, node: int, /) -> tuple[_F32 | None, _F32 | None]: ...  # flat copies, natural order
    def set_params(self, node: int, weight: _F32 | None, bias: _F32 | None, /) -> None: ...
    def get_grads(self, node: int, /) -> tuple[_F32 | None, _F32 | None]: ...
    def get_moments(
        self, node: int, /
    ) -> tuple[
        _F32 | None, _F32 | None, _F32 | None, _F32 | None
    ]: ...  # weight first, weight second, bias first, bias second
    def set_moments(
        self, node: int, weight1: _F32 | None, weight2: _F32 | None, bias1: _F32 | None, bias2: _F32 | None, /
    ) -> None: ...
    def get_stats(self, slot: int, /) -> tuple[_F32, _F32]: ...  # mean, biased variance of all batch norms
    def set_stats(self, slot: int, mean: _F32, variance: _F32, /) -> None: ...
    def set_code_scale(self, node: int, scale: _F32, largest: int, /) -> None: ...
    def set_scales(self, scale: _F32, /) -> None: ...  # per node, 0: not quantised
    def peaks(self) -> _F32: ...  # per node
    def slopes(self) -> NDArray[np.float64]: ...  # per node
    def batch_stats(self) -> tuple[_F32, _F32]: ...
    def tensor(self, node: int, /) -> _F32 | None: ...  # (n, numbers)
    steps: int
    affine: int

def cross_entropy(
    logits: _F32, labels: _I64, weight: _F32 | None = None, smoothing: float = 0.0, scale: float = 1.0
) -> tuple[_F32, _F32]: ...  # loss per sample, gradient of scale * mean(loss * weight)
def distillation(
    logits: _F32,
    teacher: _F32,
    weight: _F32 | None = None,
    temperature: float = 4.0,
    scale: float = 1.0,
    d_logits: _F32 | None = None,
) -> tuple[_F32, _F32]: ...  # temperature^2 * KL; adds to d_logits in place if given
def mse(outputs: _F32, targets: _F32, weight: _F32 | None = None, scale: float = 1.0) -> tuple[_F32, _F32]: ...
def augment(
    images: _U8,
    index: _I64,
    *,
    flip: bool = False,
    crop: int = 0,
    shift: int = 0,
    fill: int = 0,
    seed: int = 0,
    epoch: int = 0,
    threads: int = 1,
    out: _U8 | None = None,
    cutout: int = 0,
    cutout_fill: _U8 | None = None,
) -> _U8: ...  # (len(index), h, w, c); cutout_fill: (c,)
def augment_flips(index: _I64, *, seed: int, epoch: int) -> NDArray[np.bool_]: ...
def halt_training(history: NDArray[np.float64], patience: int, min_gain: float) -> bool: ...
def halt_trainee(
    student: NDArray[np.float64], trainee: NDArray[np.float64], patience: int, min_gain: float
) -> bool: ...
def halt_teacher(history: NDArray[np.float64], patience: int, min_gain: float) -> bool: ...

@disjoint_base
class NSGA2:
    def __new__(
        cls,
        lower: NDArray[np.float64],
        upper: NDArray[np.float64],
        integer: NDArray[np.bool_],
        objectives: int,
        constraints: int,
        population: int,
        crossover_probability: float,
        crossover_eta: float,
        mutation_probability: float,
        mutation_eta: float,
        seed: int,
    ) -> Self: ...
    @property
    def size(self) -> int: ...
    @property
    def generation(self) -> int: ...
    def ask(self) -> NDArray[np.float64]: ...
    def tell(self, x: NDArray[np.float64], f: NDArray[np.float64], g: NDArray[np.float64] | None = None) -> None: ...
    def start(self, x: NDArray[np.float64], /) -> None: ...
    def population(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]: ...
    def state(self) -> bytes: ...
    def set_state(self, state: bytes, /) -> None: ...

def nondominated_rank(f: NDArray[np.float64], isa: str | None = None) -> NDArray[np.int32]: ...
def crowding_distance(f: NDArray[np.float64], rank: NDArray[np.int32]) -> NDArray[np.float64]: ...
def hypervolume(f: NDArray[np.float64], ref: NDArray[np.float64]) -> float: ...
def igd_plus(f: NDArray[np.float64], ref: NDArray[np.float64]) -> float: ...
