"""Checks of what is handed to a network: parameters and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import GraphError, NonFiniteError


def check_labels(y: NDArray[Any], outputs: int, name: str = "y") -> None:
    """Labels within the outputs, or targets of as many columns."""
    if y.ndim == 1 and y.dtype.kind in "iu":
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < outputs:
            raise ValueError(
                f"{name} holds labels from {int(y.min())} to {int(y.max())}: the network has outputs 0 to {outputs - 1}"
            )
    elif not (y.ndim == 2 and y.shape[1] == outputs and y.dtype == np.float32):
        raise TypeError(
            f"{name} must be integer labels (n,) or float32 targets (n, {outputs}), not {y.dtype} of shape {y.shape}"
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
