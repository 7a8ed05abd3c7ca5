"""A network: a checked structure, one set of weights, and operating points with what they need."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arguments import as_array, check_finite, check_images, thread_count
from ._errors import GraphError, PointError
from ._graph import GraphSpec, weight_shapes
from ._metrics import LABELS, TARGETS, Metric, evaluate_outputs, sigmoid, softmax, task_of
from ._points import Bits, ChannelSpace, PointRules, Subnet, point_name, size_key
from ._preprocess import Preprocess
from ._report import LabelReport, Report, TargetReport, make_report
from ._tables import Tables
from ._weights import check_labels, check_weights, node_bytes

if TYPE_CHECKING:
    from ._codes import Trained
    from ._data import Data, Split
    from ._engine import Engine
    from ._ranking import ChannelRanking

F32 = NDArray[np.float32]
BATCH = 1024  # images per call while evaluating, so that Ctrl-C and memory maps work


@dataclass(frozen=True)
class Layer:
    """A layer with weights; `bits` of a `Subnet` follow their order.

    Attributes
    ----------
    name, op : str
    channels : int
        Output channels at full width.
    parameters : int
        Weights and biases at full width.
    quantised : bool
    """

    name: str
    op: str
    channels: int
    parameters: int
    quantised: bool


class Network:
    """One set of weights with any number of operating points.

    Made by ``dn.nets``, `GraphBuilder`, `from_torch` or `load`. Calling it gives the outputs of the widest point, or of
    another one: ``net(x, 0.5)``.

    Attributes
    ----------
    shape : tuple of int
        Input of one image: (h, w, c), (time, channels) or (features,).
    outputs : int
    points : mapping of str to Subnet
        Named operating points.
    spaces : tuple of ChannelSpace
        Channels that can be narrowed; the order of ``Subnet.widths``.
    layers : tuple of Layer
        Layers with weights; the order of ``Subnet.bits``.
    weights : mapping of str to ndarray
        ``"name.weight"`` and ``"name.bias"`` in float32 (convolutions (out, h, w, in), linear layers (out, in)), of
        quantised layers ``"name.codes"`` (int8) and ``"name.scale"``; arrays are read-only.
    preprocess : Preprocess or None
        What uint8 images go through.
    tables : mapping of Subnet to Tables
        Statistics and scales of the points that have them.
    views : tuple of int
        Bits offered by quantised layers; empty for a float network.
    provenance : mapping
        Version, seed, fingerprint of the data, metrics: what is known of where it comes from.

    Examples
    --------
    >>> import dynadnn as dn
    >>> net = dn.nets.mlp((4,), 3, points=(0.5, 1.0), rng=0)
    >>> list(net.points), net.params(0.5) < net.params()
    (['0.5', '1.0'], True)
    """

    def __init__(
        self,
        spec: GraphSpec,
        weights: Mapping[str, NDArray[Any]],
        *,
        points: Iterable[Any] | Mapping[str, Any] = (1.0,),
        divisor: int = 8,
        preprocess: Preprocess | None = None,
        views: tuple[int, ...] = (),
        calibrate: str = "mse",
        seed: int | None = None,
        provenance: Mapping[str, Any] | None = None,
        calibration: NDArray[Any] | None = None,
    ) -> None:
        self._spec = spec
        self.divisor = divisor
        self.preprocess = preprocess
        self.seed = seed
        self.views = tuple(views)
        self.provenance: Mapping[str, Any] = MappingProxyType(dict(provenance or {}))
        self._calibrate = calibrate
        self._calibration = calibration
        self._tables: dict[Subnet, Tables] = {}
        self._trained: Trained | None = None  # what quantisation-aware training found, for these very weights
        self._settle(weights)
        self._points = self._rules.named(points)

    def _settle(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Everything that follows from the structure and which weights there are."""
        self._graph = self._spec.core()
        self._tensors: list[dict[str, Any]] = self._graph.tensors
        self._numbers = {node.name: i for i, node in enumerate(self._spec.nodes)}
        if len(self._numbers) != len(self._spec.nodes):
            raise GraphError("two nodes have the same name")
        if self.preprocess is not None:
            self.preprocess._rows(self._tensors[0]["channels"])
        self._weights = check_weights(weights, weight_shapes(self._spec, self._tensors))
        layers = [i for i, node in enumerate(self._spec.nodes) if node.op in ("conv2d", "linear")]
        names = [node.name for node in self._spec.nodes]
        quantised = [f"{names[i]}.codes" in self._weights for i in layers]
        if any(quantised) and not self.views:
            self.views = (8,)
        self._layers = tuple(
            Layer(names[i], self._spec.nodes[i].op, t["channels"], t["weights"] + t["biases"], q)
            for i, q in zip(layers, quantised, strict=True)
            for t in (self._tensors[i],)
        )
        self._rules = PointRules(self._graph, names, layers, quantised, self.views, self.divisor)
        self._needs_tables = self._graph.norm_channels > 0 or any(quantised)
        self._cached_plan: tuple[int, _core.Plan] | None = None
        self._cached_engine: Engine | None = None

    # ---- what it is ----

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self._spec.shape

    @property
    def outputs(self) -> int:
        """Values per image that the network returns."""
        info = self._tensors[self._spec.output]
        return int(info["height"] * info["width"] * info["channels"])

    @property
    def points(self) -> Mapping[str, Subnet]:
        """Named operating points, in order."""
        return MappingProxyType(self._points)

    @property
    def spaces(self) -> tuple[ChannelSpace, ...]:
        """Elastic channel spaces."""
        return self._rules.spaces

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Blocks and the number that must stay, per stage of elastic depth."""
        return self._rules.stages

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers with weights."""
        return self._layers

    @property
    def weights(self) -> Mapping[str, NDArray[Any]]:
        """Read-only parameters by name."""
        return MappingProxyType(self._weights)

    @property
    def tables(self) -> Mapping[Subnet, Tables]:
        """Statistics and scales by point."""
        return MappingProxyType(self._tables)

    @property
    def task(self) -> str | None:
        """What it was trained for: "classification", "multilabel", "regression", or None if nobody knows."""
        task = self.provenance.get("task")
        return None if task is None else str(task)

    def _set_task(self, task: str) -> None:
        self.provenance = MappingProxyType({**self.provenance, "task": task})

    @property
    def quantised(self) -> bool:
        """Whether any layer holds integer codes."""
        return bool(self.views)

    def subnet(
        self,
        width: float | None = None,
        *,
        widths: Iterable[int] | None = None,
        bits: Bits | Iterable[Bits] | None = None,
        depth: Iterable[int] | None = None,
    ) -> Subnet:
        """Describe an operating point; nothing is computed or stored.

        Parameters
        ----------
        width : float, optional
            Fraction of all widths, rounded to the divisor.
        widths : sequence of int, optional
            Active channels per elastic space, in the order of ``net.spaces``.
        bits : int or sequence, optional
            Of all quantised layers, or per layer in the order of ``net.layers``; the most without.
        depth : sequence of int, optional
            Kept blocks per stage; all without.

        Returns
        -------
        Subnet

        Raises
        ------
        PointError
            If the network cannot be run like that.
        """
        return self._rules.subnet(width, widths=widths, bits=bits, depth=depth)

    def _find(self, point: Any) -> Subnet:
        """Return the sub-net of a name, a fraction, a Subnet, a front's record or None (widest, most bits)."""
        if point is None:
            return max(self._points.values(), key=size_key)
        if isinstance(point, Subnet):
            return point if point in self._tables else self._rules.check(point)
        if isinstance(point, str):
            if point in self._points:
                return self._points[point]
            raise PointError(f"no point is called {point!r}: there are {', '.join(map(repr, self._points))}")
        if isinstance(point, int | float | np.integer | np.floating) and not isinstance(point, bool):
            return self._points.get(point_name(float(point))) or self._rules.subnet(float(point))
        record = getattr(point, "point", None)
        if isinstance(record, Subnet | str):
            return self._find(record)
        raise TypeError(f"point must be a name, a fraction, a Subnet or a record, not {type(point).__name__}")

    def _name_of(self, subnet: Subnet) -> str:
        return next((name for name, known in self._points.items() if known == subnet), self._rules._label(subnet))

    # ---- running ----

    def compile(
        self,
        *,
        threads: int | None = 1,
        isa: str | None = None,
        precision: str | None = None,
        tuned: bool = False,
        compact: bool = False,
    ) -> Engine:
        """Lower the network for this CPU.

        Parameters
        ----------
        threads : int, default 1
            The most a call may use; None is all cores this process may use.
        isa : str, optional
            Highest instruction set: "ref", "avx2", "avxvnni", "avx512", "neon" or "neondot"; the best one without.
        precision : "fp32" or "bf16", optional
            Arithmetic of a float network, fp32 without. "bf16" stores weights and activations in bfloat16 and sums in
            float32: half the memory, logits within a few percent of their range.
        tuned : bool, default False
            Use the tiles that `tune` measured on this CPU, if it did; without, nothing of the kind is read.
        compact : bool, default False
            Keep every weight once. Without, 3 x 3 convolutions of stride 1 keep transformed weights, which saves time:
            in int8 8 or 3.6 bytes of each weight of small layers, on CPUs that lack a byte dot product (AVX2), with the
            same outputs; in fp32 11 bytes for 4, and outputs that differ in their last digits.

        Returns
        -------
        Engine
            A snapshot: later changes of the network do not reach it.
        """
        from ._engine import compile_network

        return compile_network(
            self, threads=thread_count(threads), isa=isa, precision=precision, tuned=tuned, compact=compact
        )

    def _engine(self) -> Engine:
        if self._cached_engine is None:
            self._cached_engine = self.compile(threads=None)
        return self._cached_engine

    def _plan(self, threads: int) -> _core.Plan:
        """Return the network lowered for calibration; kept until the weights change."""
        if self._cached_plan is None or self._cached_plan[0] < threads:
            plan = _core.Plan(
                self._graph, self._core_params(), input_table=self._input_table(), threads=threads,
                least_bits=min(self.views, default=8),
            )  # fmt: skip
            self._cached_plan = (threads, plan)
        return self._cached_plan[1]

    def _core_params(self) -> list[tuple[Any, ...] | None]:
        """Parameters per node as the core takes them."""
        params: list[tuple[Any, ...] | None] = []
        for node in self._spec.nodes:
            weight, bias = self._weights.get(f"{node.name}.weight"), self._weights.get(f"{node.name}.bias")
            codes = self._weights.get(f"{node.name}.codes")
            if codes is not None:
                params.append((codes, self._weights[f"{node.name}.scale"], bias))
            else:
                params.append(None if weight is None else (weight, bias))
        return params

    def _input_table(self) -> F32 | None:
        return None if self.preprocess is None else self.preprocess.table(self._tensors[0]["channels"])

    def _binding(self, subnet: Subnet) -> tuple[Any, ...]:
        """Arguments of the core's Plan.bind for a point; PointError without statistics."""
        tables = self._tables.get(subnet)
        if tables is None:
            if self._needs_tables:
                name = self._name_of(subnet)
                raise PointError(
                    f"point {name!r} has no statistics: net.recalibrate(images, points=[...]) computes them from "
                    "calibration images (training does it for every named point)"
                )
            tables = Tables(*self._empty_statistics())
        binding = (*self._rules.arrays(subnet), tables.mean, tables.variance, tables.scale)
        return binding if tables.affine is None else (*binding, None, tables.affine)

    def _images(self, x: Any, name: str = "x") -> NDArray[Any]:
        """Images as the core takes them: checked, contiguous, one image allowed without its first axis."""
        array = as_array(x, name)
        if array.shape == self.shape:
            array = array[None]
        array = check_images(array, name, self.shape)
        if array.dtype == np.uint8 and self.preprocess is None:
            raise TypeError(
                f"{name} is uint8, but the network has no Preprocess: pass preprocessed float32, or give the network "
                "preprocess=dn.Preprocess(mean, std)"
            )
        return np.ascontiguousarray(array)

    def __call__(self, x: Any, point: Any = None) -> F32:
        """Return the outputs of images.

        Parameters
        ----------
        x : array of uint8 or float32, shape (n, *shape)
        point : str, float, Subnet or record, optional
            The widest without.

        Returns
        -------
        ndarray of float32, shape (n, outputs)

        Raises
        ------
        PointError
            If the point is unknown or has no statistics.
        """
        subnet = self._find(point)
        self._binding(subnet)
        return self._engine()(self._images(x), subnet)

    def _outputs(self, x: NDArray[Any], point: Any) -> F32:
        """Return the outputs in parts, for whole splits and memory maps."""
        if len(x) == 0:
            raise ValueError("the split is empty: it holds no images")
        parts = [self(x[start : start + BATCH], point) for start in range(0, len(x), BATCH)]
        return np.concatenate(parts)

    def predict(self, x: Any, point: Any = None) -> NDArray[Any]:
        """Labels of images, by what the network was trained for (`task`).

        Returns
        -------
        ndarray
            The class of the largest output, int64, shape (n,); of several labels 0 and 1, int64, shape (n, outputs),
            1 where the probability is above one half; of targets the outputs, float32, shape (n, outputs).
        """
        outputs = self(x, point)
        if self.task == TARGETS:
            return outputs
        return (outputs > 0).astype(np.int64) if self.task == LABELS else outputs.argmax(axis=1)

    def predict_proba(self, x: Any, point: Any = None) -> F32:
        """Softmax of the outputs, of several labels the sigmoid of each, shape (n, outputs).

        Raises
        ------
        ValueError
            If the network was trained on targets, which have no probabilities.
        """
        if self.task == TARGETS:
            raise ValueError("this network was trained on targets, which have no probabilities: use predict")
        outputs = self(x, point)
        return (sigmoid(outputs.astype(np.float64)) if self.task == LABELS else softmax(outputs)).astype(np.float32)

    def evaluate(
        self, split: Split | tuple[Any, Any], point: Any = None, metrics: Sequence[Metric] = ("accuracy", "loss")
    ) -> dict[str, Any]:
        """Figures of merit on a split.

        Parameters
        ----------
        split : Split or (x, y)
        point : optional
            Operating point; the widest without.
        metrics : sequence of str or function
            Of classes: "accuracy" (with "accuracy_interval", 95 %, Wilson), "loss", "error", "top5", "f1" (the same as
            "f1_macro": the mean over classes), "f1_micro", "balanced_accuracy", "auroc" (of several classes one
            against the rest, their mean), "calibration_error". Of several labels, y of 0 and 1, shape (n, outputs), in
            bytes or booleans, or in float32 for a network trained with `BCE`: "accuracy" (all labels of an image
            right), "error", "label_accuracy", "loss", "f1" and "f1_macro" (mean over labels), "f1_micro", "auroc" (mean
            over labels). Of targets: "loss" and "mse", "rmse", "mae".
            Functions take (outputs, y) and return a number.

        Returns
        -------
        dict of str to float

        Raises
        ------
        ValueError
            For an empty split, labels beyond the outputs, an unknown metric, or "auroc" where a class is absent.
        """
        x, y = self._labelled(split)
        return evaluate_outputs(self._outputs(x, point), y, metrics, self.task)

    def report(self, split: Split | tuple[Any, Any], point: Any = None) -> Report | LabelReport | TargetReport:
        """Figures per class, per label or per target of one point on a split.

        Returns
        -------
        Report, LabelReport or TargetReport
            Of classes with the confusion matrix and the calibration error, of several labels, or of targets; all have
            ``metrics`` and ``table(names)``, and print themselves.

        Raises
        ------
        ValueError
            For an empty split, or labels beyond the outputs.
        """
        x, y = self._labelled(split)
        return make_report(self._outputs(x, point), y, task_of(y, self.task))

    def _labelled(self, split: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        if hasattr(split, "train") and hasattr(split, "test"):
            raise TypeError("split is a whole data set: pass one of its splits, for example data.test")
        x, y = split if isinstance(split, tuple) else (split.x, split.y)
        y = as_array(y, "y")
        if len(x) != len(y):
            raise ValueError(f"y has {len(y)} rows, x has {len(x)}: they must be equal")
        if len(x) == 0:
            raise ValueError("the split is empty: it holds no images")
        check_labels(y, self.outputs)
        return x, y.astype(np.int64) if y.ndim == 1 else y.astype(np.uint8) if y.dtype != np.float32 else y

    def activations(self, x: Any, names: str | Iterable[str], point: Any = None) -> dict[str, F32]:
        """Values inside the network.

        Parameters
        ----------
        x : array, shape (n, *shape)
        names : str or sequence of str
            Nodes whose values to return, dequantised.
        point : optional

        Returns
        -------
        dict of str to ndarray of float32, shape (n, h, w, active channels)
        """
        wanted = [names] if isinstance(names, str) else list(names)
        missing = [name for name in wanted if name not in self._numbers]
        if missing:
            raise ValueError(f"names holds {missing}: nodes are {', '.join(self._numbers)}")
        subnet, images = self._find(point), self._images(x)
        plan = self._plan(thread_count(None))
        bound = plan.bind(*self._binding(subnet))
        core = _core.Engine(plan, input_shape=self.shape, outputs=self.outputs)
        return {name: core.activation(images, bound, self._numbers[name]) for name in wanted}

    # ---- cost ----

    def _cost(self, point: Any) -> tuple[Subnet, NDArray[np.int64], NDArray[np.int64]]:
        subnet = self._find(point)
        macs, params = self._graph.cost(*self._rules.arrays(subnet))
        return subnet, macs, params

    def macs(self, point: Any = None) -> int:
        """Multiply-accumulates of one image in convolutions and linear layers."""
        return int(self._cost(point)[1].sum())

    def params(self, point: Any = None) -> int:
        """Active parameters."""
        return int(self._cost(point)[2].sum())

    def bytes(self, point: Any = None) -> int:
        """Bytes of the active parameters at the point's bits, with scales and statistics."""
        return sum(self._node_bytes(point).values())

    def _node_bytes(self, point: Any) -> dict[str, int]:
        """Bytes by node, of those that have parameters."""
        subnet, _, params = self._cost(point)
        bits = dict(zip(self._rules.layer_names, subnet.bits, strict=True))
        return node_bytes(self._spec.nodes, self._tensors, params.tolist(), self._rules.active(subnet.widths), bits)

    # ---- changes ----

    def recalibrate(self, images: Any = None, points: Any = None) -> None:
        """Compute the statistics (and quantisation scales) of operating points from images; changes the network.

        Parameters
        ----------
        images : array, shape (n, *shape), or Split or Data, optional
            Calibration images of the training data; those kept from training without.
        points : sequence, optional
            Points of any kind; all named ones without. Names are not added.

        Raises
        ------
        NonFiniteError
            If the images, or values computed from them, hold NaN or infinity.
        ValueError
            If there are no images.
        """
        if images is None:
            images = self._calibration
            if images is None:
                raise ValueError("images is missing: this network keeps no calibration images, pass data.calibration.x")
        images = getattr(images, "calibration", images)
        images = self._images(getattr(images, "x", images), "images")
        check_finite(images, "images")
        if points is None:
            wanted = list(self._points.values())
        else:
            single = isinstance(points, str | int | float | Subnet) or hasattr(points, "point")
            wanted = [self._find(p) for p in ([points] if single else points)]
        if not self._needs_tables:
            return
        for subnet in dict.fromkeys(wanted):
            self._recalibrate_point(subnet, images)

    def _recalibrate_point(
        self,
        subnet: Subnet,
        images: NDArray[Any],
        *,
        kept: Tables | None = None,
        moved: tuple[F32, F32, F32] | None = None,
        scale: F32 | None = None,
        affine: F32 | None = None,
    ) -> None:
        """Tables of one point from checked images; its own scale and shift of batch norms, if it has them, stay.

        kept: normalise with these statistics, yet store what the images give. moved: (shift of the means, ratio and
        shift of the variances) to correct what the images give. scale: scales of tensors to keep instead of measuring
        them. affine: the point's own scale and shift, if it has none yet.
        """
        threads = thread_count(None)
        if subnet in self._tables and self._tables[subnet].affine is not None:
            affine = self._tables[subnet].affine
        tables = self._plan(threads).calibrate(
            *self._rules.arrays(subnet),
            images,
            range=self._calibrate,
            threads=threads,
            kept_mean=kept.mean if kept else None,
            kept_variance=kept.variance if kept else None,
            mean_shift=moved[0] if moved else None,
            variance_ratio=moved[1] if moved else None,
            variance_shift=moved[2] if moved else None,
            kept_scale=scale,
            affine=affine,
        )
        self._set_tables({**self._tables, subnet: Tables(*tables, affine)})

    def _empty_statistics(self) -> tuple[F32, F32]:
        n = self._graph.norm_channels
        return np.zeros(n, np.float32), np.ones(n, np.float32)

    def _set_tables(self, tables: Mapping[Subnet, Tables]) -> None:
        self._tables = dict(tables)
        self._cached_engine = None

    def _set_points(self, points: Mapping[str, Subnet]) -> None:
        self._points = {name: self._rules.check(subnet) for name, subnet in points.items()}
        self._cached_engine = None

    def _set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Replace the values of all parameters; points and tables stay."""
        self._weights = check_weights(weights, weight_shapes(self._spec, self._tensors))
        self._trained = None
        self._cached_plan = self._cached_engine = None

    def with_weights(self, weights: Mapping[str, ArrayLike]) -> Network:
        """Return a network with some parameters replaced.

        Parameters
        ----------
        weights : mapping of str to array of float32
            By the names in ``net.weights``, same shapes.

        Returns
        -------
        Network
            Statistics stay as they are: `recalibrate` if the change matters to them.
        """
        unknown = [key for key in weights if key not in self._weights]
        if unknown:
            raise ValueError(f"weights holds {unknown}: parameters are {', '.join(self._weights)}")
        made = self.copy()
        made._set_weights({**self._weights, **{k: np.array(as_array(v, k)) for k, v in weights.items()}})
        return made

    def make_dynamic(
        self,
        points: Iterable[Any] | Mapping[str, Any],
        *,
        order: str | ChannelRanking | None = "l1",
        divisor: int = 8,
        fixed: Iterable[str] = (),
    ) -> Network:
        """Return the network with channels in order of importance and new operating points.

        Parameters
        ----------
        points : sequence of float
            Fractions of the width, for example (0.25, 0.5, 1.0).
        order : "l1", "l2", "bn_gamma", "noise", ChannelRanking or None
            What makes a channel important: the norm of the weights that produce it, the scale of its batch norms, or
            how little noise it stands, trained on the calibration images kept from training (`rank_channels` trains it
            on labelled data); None keeps the order.
        divisor : int
            Active channels are multiples of this.
        fixed : sequence of str
            Layers that keep all channels.

        Returns
        -------
        Network
            At full width it computes the same, within rounding; narrower points need `recalibrate` or training.
        """
        from ._surgery import make_dynamic

        return make_dynamic(self, points, order, divisor, fixed)

    def with_points(self, points: Iterable[Any] | Mapping[str, Any]) -> Network:
        """Return a network with the same weights and statistics, and other named points.

        Parameters
        ----------
        points : sequence or mapping
            Fractions of the width, `Subnet` values, or dicts of what `subnet` takes; a mapping names them:
            ``{"small": {"width": 0.5, "depth": (2, 2, 2)}, "1.0": 1.0}``.

        Returns
        -------
        Network
            Points it had statistics for keep them; new ones need `recalibrate` or training.

        Raises
        ------
        PointError
            If the network cannot be run like that.

        Examples
        --------
        >>> import dynadnn as dn
        >>> net = dn.nets.resnet20((8, 8, 1), 10, rng=0)
        >>> deep = net.with_points({"shallow": {"depth": (1, 1, 1)}, "1.0": 1.0})
        >>> deep.macs("shallow") < deep.macs("1.0")
        True
        """
        made = self.copy()
        made._set_points(self._rules.named(points))
        return made

    def slice(self, point: Any = None) -> Network:
        """Return a network of one point alone: only its channels, blocks and tables."""
        from ._surgery import slice_network

        return slice_network(self, self._find(point))

    def _float_weight(self, name: str) -> F32:
        """Weights of a layer in float, whatever they are stored in."""
        codes = self._weights.get(f"{name}.codes")
        if codes is None:
            weight: F32 = self._weights[f"{name}.weight"]
            return weight
        scale = self._weights[f"{name}.scale"]
        whole: F32 = codes.astype(np.float32) * scale.reshape(-1, *(1,) * (codes.ndim - 1))
        return whole

    def copy(self) -> Network:
        """Return an independent copy; arrays are shared, since nothing changes them."""
        made = Network.__new__(Network)
        made.__setstate__(self.__getstate__())
        made._rules.share_arrays(self._rules)
        return made

    def save(self, path: str | os.PathLike[str], *, calibration: bool = False) -> None:
        """Write one ``.safetensors`` file; the old file stays if anything fails.

        Parameters
        ----------
        path : path
        calibration : bool, default False
            Also store the calibration images, which are somebody's data.
        """
        from ._files import save_network

        save_network(self, path, calibration=calibration)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "spec": self._spec,
            "weights": dict(self._weights),
            "points": dict(self._points),
            "tables": dict(self._tables),
            "divisor": self.divisor,
            "preprocess": self.preprocess,
            "views": self.views,
            "calibrate": self._calibrate,
            "seed": self.seed,
            "provenance": dict(self.provenance),
            "calibration": self._calibration,
            "trained": self._trained,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        tables, points, trained = state.pop("tables"), state.pop("points"), state.pop("trained", None)
        self.__init__(state.pop("spec"), state.pop("weights"), points=points, **state)  # type: ignore[misc]
        self._set_tables(tables)
        self._trained = trained

    # ---- showing ----

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for name, subnet in self._points.items():
            ready = "yes" if subnet in self._tables or not self._needs_tables else "no"
            rows.append((name, f"{self.macs(subnet):,}", f"{self.params(subnet):,}", f"{self.bytes(subnet):,}", ready))
        return rows

    def summary(self) -> str:
        """Text: layers with shapes and costs at full width, then the points."""
        _, macs, params = self._cost(self.subnet(width=1.0))
        lines = [f"{'node':<28} {'op':<16} {'output':<16} {'parameters':>12} {'MACs':>14}"]
        for node, tensor, m, p in zip(self._spec.nodes, self._tensors, macs.tolist(), params.tolist(), strict=True):
            size = " x ".join(str(tensor[key]) for key in ("height", "width", "channels"))
            lines.append(f"{node.name:<28} {node.op:<16} {size:<16} {p or '':>12} {m or '':>14}")
        lines += ["", f"{'point':<28} {'MACs':>16} {'parameters':>14} {'bytes':>14} {'statistics':>12}"]
        lines += [f"{n:<28} {m:>16} {p:>14} {b:>14} {t:>12}" for n, m, p, b, t in self._rows()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        kind = f", bits={self.views}" if self.views else ""
        return f"Network(shape={self.shape}, outputs={self.outputs}, points={list(self._points)}{kind})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{h}</th>" for h in ("point", "MACs", "parameters", "bytes", "statistics"))
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self._rows()
        )
        title = html.escape(repr(self))
        return f"<p><code>{title}</code></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def spec_json(net: Network) -> bytes:
    """Return the structure as canonical JSON, for fingerprints."""
    return msgspec.json.encode(net._spec)


def remember(net: Network, data: Data, images: NDArray[Any], **provenance: Any) -> None:
    """Keep what training knows: calibration images and where the data came from."""
    net._calibration = images
    known = {**net.provenance, "data": data.fingerprint, **provenance}
    net.provenance = MappingProxyType({k: v for k, v in known.items() if v is not None})
