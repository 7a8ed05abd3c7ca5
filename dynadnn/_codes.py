"""Codes of weights: int8 per output channel with nested views of 4, 3 and 2 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._points import Subnet
from ._tables import Tables

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
LIMIT = {8: 127, 4: 119, 3: 111, 2: 95}  # largest code: above it the lowest offered view would round past its top value
_FACTORS = np.linspace(0.4, 1.0, 24)


@dataclass(frozen=True, eq=False)
class Trained:
    """What quantisation-aware training found: `quantize` needs nothing else.

    Attributes
    ----------
    views : tuple of int
        Bits that were trained.
    scales : mapping of str to ndarray of float32, shape (out,)
        Scales of the weights of every layer.
    tables : mapping of Subnet to Tables
        Statistics and scales of every named point at all bits, keyed by points of the quantised network.
    """

    views: tuple[int, ...]
    scales: Mapping[str, F32]
    tables: Mapping[Subnet, Tables]


def check_views(bits: Any) -> tuple[int, ...]:
    """Bits as a tuple, 8 first, or ValueError."""
    views = (bits,) if isinstance(bits, int | np.integer) else tuple(bits)
    ordered = list(views) == sorted(set(views), reverse=True)
    if not views or views[0] != 8 or any(b not in LIMIT for b in views) or not ordered:
        raise ValueError(f"bits must be 8, or 8 followed by some of 4, 3, 2, not {bits!r}")
    return tuple(int(b) for b in views)


def view_codes(codes: NDArray[np.int8], bits: int) -> NDArray[np.int8]:
    """Codes as a view of fewer bits reads them: rounded to `bits` leading bits.

    v = clamp((q + 2^(7-b)) >> (8-b), -2^(b-1), 2^(b-1) - 1) * 2^(8-b), always from the 8-bit code q.
    """
    if bits == 8:
        return codes
    shift = 8 - bits
    rounded = (codes.astype(np.int16) + (1 << (shift - 1))) >> shift
    viewed: NDArray[np.int8] = (np.clip(rounded, -(1 << (bits - 1)), (1 << (bits - 1)) - 1) << shift).astype(np.int8)
    return viewed


def whole_scale(flat: F64, views: tuple[int, ...]) -> F64:
    """Smallest scale per row that clips no weight; `flat` is (out, weights per output)."""
    whole: F64 = np.maximum(np.maximum(flat.max(axis=1) / LIMIT[min(views)], -flat.min(axis=1) / 127), 2.0**-100)
    return whole


def best_factor(flat: F64, views: tuple[int, ...]) -> F64:
    """Part of the whole scale per row that loses least, squared errors of all views added up; 1 for 8 bits."""
    whole, top = whole_scale(flat, views), LIMIT[min(views)]
    best, best_error = np.ones(len(flat)), np.full(len(flat), np.inf)
    for factor in () if views == (8,) else _FACTORS:
        scale = whole * factor
        codes = np.clip(np.rint(flat / scale[:, None]), -127, top).astype(np.int8)
        error = np.zeros(len(flat))
        for bits in views:
            difference = view_codes(codes, bits) * scale[:, None] - flat
            error += (difference**2).sum(axis=1) * 4.0 ** (bits - 8)  # a bit less costs four times the error anyway
        better = error < best_error
        best, best_error = np.where(better, factor, best), np.where(better, error, best_error)
    return best


def encode(weight: F32, scale: F32, views: tuple[int, ...]) -> NDArray[np.int8]:
    """Codes of a weight with known scales, one per output channel."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    codes = np.clip(np.rint(flat / scale[:, None].astype(np.float64)), -127, LIMIT[min(views)]).astype(np.int8)
    return codes.reshape(weight.shape)


def quantize_weight(weight: F32, views: tuple[int, ...]) -> tuple[NDArray[np.int8], F32]:
    """Codes and scales of a weight, one scale per output channel.

    Parameters
    ----------
    weight : ndarray of float32, shape (out, ...)
    views : tuple of int
        Bits offered. With 8 alone the largest magnitude is kept in range; with fewer bits the scale is the one of 24
        tried that loses least, the squared errors of all views added up.

    Returns
    -------
    codes : ndarray of int8, same shape
    scale : ndarray of float32, shape (out,)
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    scale: F32 = (whole_scale(flat, views) * best_factor(flat, views)).astype(np.float32)
    return encode(weight, scale, views), scale
