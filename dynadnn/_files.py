"""Saving and loading networks."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._codes import Trained, check_views
from ._container import FORMAT, PathLike, read_container, write_container
from ._errors import Error, FormatError
from ._graph import GraphSpec, check_name
from ._network import Network
from ._points import Bits, Subnet
from ._preprocess import Preprocess
from ._tables import Tables

_CALIBRATION = "@calibration"


class SubnetDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A sub-net, its names, and which of its tables are in the file."""

    widths: tuple[int, ...]
    bits: tuple[Bits, ...]
    depth: tuple[int, ...]
    tables: bool
    scale: bool
    affine: bool = False


class PreprocessDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Preprocess by its fields."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float


class NetworkDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything of a network that is no tensor."""

    format: int
    kind: str
    version: str
    graph: GraphSpec
    divisor: int
    views: tuple[int, ...]
    calibrate: str
    preprocess: PreprocessDoc | None
    subnets: tuple[SubnetDoc, ...]
    points: tuple[tuple[str, int], ...]
    packed_bits: int
    calibration: bool
    seed: int | None
    provenance: dict[str, Any]
    trained_views: tuple[int, ...] = ()  # what quantisation-aware training found
    trained_subnets: tuple[SubnetDoc, ...] = ()


def _pack(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Codes as their top bits, rounded as the kernels do, several to a byte."""
    low = 1 << (bits - 1)
    value = np.clip((codes.ravel().astype(np.int32) + (1 << (7 - bits))) >> (8 - bits), -low, low - 1) + low
    per = 8 // bits
    padded = np.zeros(-(-value.size // per) * per, np.uint8)
    padded[: value.size] = value
    shifts = (np.arange(per) * bits).astype(np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(-1, per) << shifts, axis=1).astype(np.uint8)
    return packed


def _unpack(packed: NDArray[np.uint8], shape: tuple[int, ...], bits: int) -> NDArray[np.int8]:
    low, per, count = 1 << (bits - 1), 8 // bits, int(np.prod(shape, dtype=np.int64))
    if packed.shape != (-(-count // per),) or packed.dtype != np.uint8:
        raise FormatError(f"packed codes of shape {packed.shape} do not hold {count} values of {bits} bits")
    shifts = (np.arange(per) * bits).astype(np.uint8)
    value = ((packed[:, None] >> shifts) & ((1 << bits) - 1)).ravel()[:count].astype(np.int16) - low
    return (value << (8 - bits)).astype(np.int8).reshape(shape)


def save_network(net: Network, path: PathLike, *, calibration: bool = False) -> None:
    """Write a network; see `Network.save`."""
    from . import __version__

    packed = 4 if net.views in ((4,), (3,)) else 2 if net.views == (2,) else 8
    tensors: dict[str, NDArray[Any]] = {}
    for key, value in net.weights.items():
        tensors[key] = _pack(value, packed) if packed < 8 and key.endswith(".codes") else value
    subnets = list(dict.fromkeys([*net.points.values(), *net.tables]))
    documents = []
    for i, subnet in enumerate(subnets):
        tables = net.tables.get(subnet)
        documents.append(
            SubnetDoc(
                subnet.widths,
                subnet.bits,
                subnet.depth,
                tables is not None,
                tables is not None and tables.scale is not None,
                tables is not None and tables.affine is not None,
            )
        )
        if tables is not None:
            tensors[f"@point/{i}/mean"], tensors[f"@point/{i}/variance"] = tables.mean, tables.variance
            if tables.scale is not None:
                tensors[f"@point/{i}/scale"] = tables.scale
            if tables.affine is not None:
                tensors[f"@point/{i}/affine"] = tables.affine
    if calibration:
        if net._calibration is None:
            raise ValueError("calibration is True, but this network keeps no calibration images")
        tensors[_CALIBRATION] = net._calibration
    trained, trained_subnets = net._trained, _save_trained(net, tensors)
    pre = net.preprocess
    document = NetworkDoc(
        format=FORMAT,
        kind="network",
        version=__version__,
        graph=net._spec,
        divisor=net.divisor,
        views=net.views,
        calibrate=net._calibrate,
        preprocess=None if pre is None else PreprocessDoc(pre.mean, pre.std, pre.scale),
        subnets=tuple(documents),
        points=tuple((name, subnets.index(subnet)) for name, subnet in net.points.items()),
        packed_bits=packed,
        calibration=calibration,
        seed=net.seed,
        provenance=dict(net.provenance),
        trained_views=() if trained is None else trained.views,
        trained_subnets=trained_subnets,
    )
    write_container(path, document, tensors)


def _save_trained(net: Network, tensors: dict[str, NDArray[Any]]) -> tuple[SubnetDoc, ...]:
    if net._trained is None:
        return ()
    for name, scale in net._trained.scales.items():
        tensors[f"@trained/scale/{name}"] = scale
    for i, tables in enumerate(net._trained.tables.values()):
        for kind in ("mean", "variance", "scale"):
            tensors[f"@trained/{i}/{kind}"] = getattr(tables, kind)
    return tuple(SubnetDoc(s.widths, s.bits, s.depth, True, True) for s in net._trained.tables)


def _load_trained(net: Network, document: NetworkDoc, special: dict[str, NDArray[Any]]) -> Trained | None:
    if not document.trained_views:
        return None
    if net.quantised:
        raise FormatError("a quantised network holds what training found for a float one")
    views = check_views(document.trained_views)
    scales = {layer.name: special.pop(f"@trained/scale/{layer.name}") for layer in net.layers}
    for layer in net.layers:
        scale = scales[layer.name]
        if (
            scale.dtype != np.float32
            or scale.shape != (layer.channels,)
            or not (np.isfinite(scale) & (scale > 0)).all()
        ):
            raise FormatError(f"scales of {layer.name!r} must be float32 above 0 of shape ({layer.channels},)")
        scale.flags.writeable = False
    tables: dict[Subnet, Tables] = {}
    for i, stored in enumerate(document.trained_subnets):
        known = net._rules.check(Subnet(stored.widths, (), stored.depth))
        if len(stored.bits) != len(net.layers) or not set(stored.bits) <= set(views):
            raise FormatError(f"bits {stored.bits} do not fit views {views}")
        mean, variance, scale = (special.pop(f"@trained/{i}/{kind}") for kind in ("mean", "variance", "scale"))
        tables[Subnet(known.widths, stored.bits, known.depth)] = check_tables(net, Tables(mean, variance, scale))
    return Trained(views, scales, tables)


def load(path: str | os.PathLike[str], *, sha256: str | None = None) -> Network:
    """Load a network that `Network.save` wrote. Nothing in a file is executed, and every byte is verified.

    Parameters
    ----------
    path : path
    sha256 : str, optional
        The hash the whole file must have, as ``sha256sum`` prints it.

    Returns
    -------
    Network

    Raises
    ------
    FormatError
        If the file is foreign, truncated, damaged, newer than this version, or not the one expected.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import dynadnn as dn, tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     dn.nets.mlp((4,), 3, rng=0).save(path)
    ...     dn.load(path).outputs
    3
    """
    document, tensors = read_container(path, "network", NetworkDoc, sha256)
    try:
        return _network(document, tensors)
    except (Error, ValueError, TypeError, KeyError, IndexError, OverflowError, NotImplementedError) as error:
        name = os.path.basename(os.fspath(path))
        raise FormatError(f"{name} holds a network that cannot be: {error}") from None


def _network(document: NetworkDoc, tensors: dict[str, NDArray[Any]]) -> Network:
    for node in document.graph.nodes:
        check_name(node.name)
    _check_document(document)
    special = {key: tensors.pop(key) for key in [k for k in tensors if k.startswith("@")]}
    weights = _unpacked(document, tensors)
    pre = document.preprocess
    calibration = special.pop(_CALIBRATION) if document.calibration else None
    subnets = [Subnet(s.widths, s.bits, s.depth) for s in document.subnets]
    net = Network(
        document.graph,
        weights,
        points={name: subnets[i] for name, i in document.points},
        divisor=document.divisor,
        preprocess=None if pre is None else Preprocess(pre.mean, pre.std, pre.scale),
        views=document.views,
        calibrate=document.calibrate,
        seed=document.seed,
        provenance=document.provenance,
    )
    if net.views != document.views:
        raise FormatError(f"views {document.views} do not fit the weights")
    if calibration is not None:
        net._calibration = net._images(calibration, "calibration")
    tables = {}
    for i, (subnet, stored) in enumerate(zip(subnets, document.subnets, strict=True)):
        if stored.tables:
            scale = special.pop(f"@point/{i}/scale") if stored.scale else None
            affine = special.pop(f"@point/{i}/affine") if stored.affine else None
            known = net._rules.check(subnet)
            tables[known] = check_tables(
                net, Tables(special.pop(f"@point/{i}/mean"), special.pop(f"@point/{i}/variance"), scale, affine)
            )
    trained = _load_trained(net, document, special)
    if special:
        raise FormatError(f"tensors that nothing names: {sorted(special)[:3]}")
    net._set_tables(tables)
    net._trained = trained
    return net


def _check_document(document: NetworkDoc) -> None:
    if not 1 <= document.divisor <= 1 << 20:
        raise FormatError(f"divisor is {document.divisor}")
    if any(v not in (8, 4, 3, 2) for v in document.views) or list(document.views) != sorted(
        set(document.views), reverse=True
    ):
        raise FormatError(f"views are {document.views}")
    if document.calibrate not in ("mse", "minmax", "percentile"):
        raise FormatError(f"calibrate is {document.calibrate[:40]!r}")
    if document.packed_bits not in (8, 4, 2) or (document.packed_bits < 8 and len(document.views) != 1):
        raise FormatError(f"packed_bits is {document.packed_bits} for views {document.views}")
    if any(not 0 <= i < len(document.subnets) for _, i in document.points):
        raise FormatError("a name of a point leads nowhere")
    if len({name for name, _ in document.points}) != len(document.points):
        raise FormatError("two points have the same name")


def _unpacked(document: NetworkDoc, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if document.packed_bits == 8:
        return tensors
    from ._graph import weight_shapes

    shapes = weight_shapes(document.graph, document.graph.core().tensors)
    return {
        key: _unpack(value, shapes[key.removesuffix("codes") + "weight"], document.packed_bits)
        if key.endswith(".codes")
        else value
        for key, value in tensors.items()
    }


def check_tables(net: Network, tables: Tables) -> Tables:
    """Tables whose shapes and values a point can have, read-only; FormatError."""
    n, grid = net._graph.norm_channels, (len(net._spec.nodes), net._spec.groups)
    for name, value, shape in (
        ("mean", tables.mean, (n,)),
        ("variance", tables.variance, (n,)),
        ("scale", tables.scale, grid),
        ("affine", tables.affine, (2, n)),
    ):
        if value is None:
            if name == "scale" and net.quantised:
                raise FormatError("a quantised network has no scales")
            continue
        if value.dtype != np.float32 or value.shape != shape or not np.isfinite(value).all():
            raise FormatError(f"{name} of a point must be finite float32 of shape {shape}")
        value.flags.writeable = False
    if (tables.variance < 0).any() or (tables.scale is not None and (tables.scale < 0).any()):
        raise FormatError("a variance or a scale of a point is below 0")
    return tables
