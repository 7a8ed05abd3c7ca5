"""Parameters and labels: checks of what is handed to a network, and the bytes that parameters take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._errors import GraphError, NonFiniteError

if TYPE_CHECKING:
    from ._graph import NodeSpec


def check_labels(y: NDArray[Any], outputs: int, name: str = "y") -> None:
    """Labels within the outputs, or 0 and 1 or targets in as many columns."""
    if y.ndim == 1 and y.dtype.kind in "iu":
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < outputs:
            raise ValueError(
                f"{name} holds labels from {int(y.min())} to {int(y.max())}: the network has outputs 0 to {outputs - 1}"
            )
    elif y.ndim == 2 and y.shape[1] == outputs and y.dtype.kind in "biu":
        check_binary(y, name)
    elif not (y.ndim == 2 and y.shape[1] == outputs and y.dtype == np.float32):
        raise TypeError(
            f"{name} must be integer labels (n,), labels of 0 and 1 (n, {outputs}) or float32 targets (n, {outputs}), "
            f"not {y.dtype} of shape {y.shape}"
        )


def check_binary(y: NDArray[Any], name: str) -> None:
    """Only 0 and 1 in integers of two axes."""
    if y.size and not 0 <= int(y.min()) <= int(y.max()) <= 1:
        raise ValueError(
            f"{name} holds integers from {int(y.min())} to {int(y.max())} in {y.shape[1]} columns: several labels "
            "are 0 and 1, targets are float32"
        )


def check_weights(
    weights: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Parameters of the right names, shapes and types, finite and read-only."""
    wanted: dict[str, tuple[tuple[int, ...], type]] = {}
    for key, shape in shapes.items():
        name, kind = key.rsplit(".", 1)
        if kind == "weight" and f"{name}.codes" in weights:
            wanted[f"{name}.codes"] = (shape, np.int8)
            wanted[f"{name}.scale"] = (shape[:1], np.float32)
        else:
            wanted[key] = (shape, np.float32)
    if wanted.keys() != weights.keys():
        missing, extra = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
        raise GraphError(
            f"weights do not fit the structure: missing {sorted(missing)[:3]}, not known {sorted(extra)[:3]}"
        )
    checked: dict[str, NDArray[Any]] = {}
    for key, (shape, dtype) in wanted.items():
        value = weights[key]
        if value.dtype != dtype or value.shape != shape:
            raise GraphError(
                f"{key} must be {np.dtype(dtype)} of shape {shape}, not {value.dtype} of shape {value.shape}"
            )
        if dtype is np.float32 and not np.isfinite(value).all():
            raise NonFiniteError(f"{key} holds NaN or infinity")
        if value.flags.writeable or not value.flags.c_contiguous:
            value = np.ascontiguousarray(value).view()
            value.flags.writeable = False
        checked[key] = value
    return checked


def node_bytes(
    nodes: Sequence[NodeSpec],
    tensors: Sequence[Mapping[str, Any]],
    params: Sequence[int],
    active: NDArray[np.int32],
    bits: Mapping[str, Any],
) -> dict[str, int]:
    """Bytes of each node's active parameters, with scales and statistics.

    Parameters
    ----------
    nodes, tensors
        The structure.
    params : sequence of int
        Active parameters per node.
    active : ndarray of int32, shape (spaces,)
        Active channels.
    bits : mapping
        From layers to their bits; "fp32" for those left in float.
    """
    found: dict[str, int] = {}
    for node, tensor, count in zip(nodes, tensors, params, strict=True):
        if not count:
            continue
        channels = sum(int(active[space]) for space, _, _ in tensor["segments"])
        b = bits.get(node.name)
        if isinstance(b, int):
            biases = channels if tensor["biases"] else 0
            found[node.name] = ((count - biases) * b + 7) // 8 + 4 * channels + 4 * biases
        else:
            found[node.name] = 4 * count + (8 * channels if node.op == "batchnorm" else 0)
    return found
