"""Post-training quantisation: int8 codes per output channel with nested 4-, 3- and 2-bit views."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._metrics import TARGETS, task_of
from ._network import Network
from ._points import Subnet, size_key

if TYPE_CHECKING:
    from ._data import Data

F32 = NDArray[np.float32]
LIMIT = {8: 127, 4: 119, 3: 111, 2: 95}  # largest code: above it the lowest offered view would round past its top value
Policy = Mapping[str, str] | Callable[[str], str | None] | None


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
    top = LIMIT[min(views)]
    whole = np.maximum(np.maximum(flat.max(axis=1) / top, -flat.min(axis=1) / 127), 2.0**-100)
    best, best_error = whole, np.full(len(flat), np.inf)
    for factor in [1.0] if views == (8,) else np.linspace(0.4, 1.0, 24):
        scale = whole * factor
        codes = np.clip(np.rint(flat / scale[:, None]), -127, top).astype(np.int8)
        error = np.zeros(len(flat))
        for bits in views:
            difference = view_codes(codes, bits) * scale[:, None] - flat
            error += (difference**2).sum(axis=1) * 4.0 ** (bits - 8)  # a bit less costs four times the error anyway
        better = error < best_error
        best, best_error = np.where(better, scale, best), np.where(better, error, best_error)
    kept = best.astype(np.float32)
    codes = np.clip(np.rint(flat / kept[:, None].astype(np.float64)), -127, top).astype(np.int8)
    return codes.reshape(weight.shape), kept


def quantize(
    net: Network,
    data_or_images: Data | Any,
    *,
    bits: int | tuple[int, ...] = 8,
    calibrate: str = "mse",
    policy: Policy = None,
    max_accuracy_drop: float | None = None,
) -> Network:
    """Return a network whose convolutions and linear layers hold int8 codes.

    Parameters
    ----------
    net : Network
        A float network; it is not changed.
    data_or_images : Data, Split or array
        Calibration images, of the training data: statistics and scales of every named point come from them.
    bits : int or tuple of int
        Bits offered, 8 first: ``(8, 4)`` adds a 4-bit view of the same codes and points such as ``"0.5/4bit"``.
    calibrate : "mse", "minmax" or "percentile"
        How the range of each activation is chosen.
    policy : mapping or callable, optional
        ``{"layer name": "fp32"}``, or a function of the name that returns it, leaves layers in float.
    max_accuracy_drop : float, optional
        Accuracy that may be lost at the widest point on ``data.val`` (0.01 is one point): layers are left in float, one
        at a time, always the one that helps most, until the loss is within it. Needs labels, so a Data.

    Returns
    -------
    Network
        Runs in integers; `Network.views` says which bits it offers.

    Raises
    ------
    ValueError
        If the network is quantised already, bits are not of 8, 4, 3, 2 with 8 first, or labels are missing.
    NonFiniteError
        If images or weights hold NaN or infinity.

    Examples
    --------
    >>> import dynadnn as dn, numpy as np
    >>> net = dn.nets.mlp((4,), 3, rng=0)
    >>> model = dn.quantize(net, np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    >>> model.views
    (8,)
    """
    views = _check_bits(bits)
    if net.quantised:
        raise ValueError(f"net is quantised already, to {net.views} bits: quantise the float network")
    if calibrate not in ("mse", "minmax", "percentile"):
        raise ValueError(f"calibrate must be 'mse', 'minmax' or 'percentile', not {calibrate!r}")
    images = getattr(data_or_images, "calibration", data_or_images)
    images = net._images(getattr(images, "x", images), "images")
    left = {layer.name for layer in net.layers if _is_float(policy, layer.name)}
    model = _quantized(net, images, views, calibrate, left)
    if max_accuracy_drop is None:
        return model
    if not hasattr(data_or_images, "val"):
        raise ValueError("max_accuracy_drop needs labels: pass the data set (dn.Data), not images")
    return _within_drop(net, model, data_or_images, images, calibrate, left, float(max_accuracy_drop))


def _check_bits(bits: Any) -> tuple[int, ...]:
    views = (bits,) if isinstance(bits, int | np.integer) else tuple(bits)
    ordered = list(views) == sorted(set(views), reverse=True)
    if not views or views[0] != 8 or any(b not in LIMIT for b in views) or not ordered:
        raise ValueError(f"bits must be 8, or 8 followed by some of 4, 3, 2, not {bits!r}")
    return tuple(int(b) for b in views)


def _is_float(policy: Policy, name: str) -> bool:
    wanted = policy.get(name) if isinstance(policy, Mapping) else policy(name) if policy else None
    if wanted not in (None, "int8", "fp32"):
        raise ValueError(f"policy gives {wanted!r} for {name!r}: it must be 'fp32', 'int8' or None")
    return wanted == "fp32"


def _quantized(net: Network, images: NDArray[Any], views: tuple[int, ...], calibrate: str, left: set[str]) -> Network:
    weights: dict[str, NDArray[Any]] = dict(net.weights)
    chosen = [layer.name for layer in net.layers if layer.name not in left]
    for name in chosen:
        codes, scale = quantize_weight(weights.pop(f"{name}.weight"), views)
        weights[f"{name}.codes"], weights[f"{name}.scale"] = codes, scale
    if not chosen:
        raise ValueError("policy leaves every layer in float: nothing would be quantised")
    model = Network(
        net._spec,
        weights,
        points={"1.0": 1.0},
        divisor=net.divisor,
        preprocess=net.preprocess,
        views=views,
        calibrate=calibrate,
        seed=net.seed,
        provenance=net.provenance,
        calibration=images,
    )
    points: dict[str, Subnet] = {}
    origin: dict[Subnet, Subnet] = {}
    for b in views:
        for name, subnet in net.points.items():
            bits = tuple(b if layer.quantised else "fp32" for layer in model.layers)
            points[name if b == 8 else f"{name}/{b}bit"] = made = Subnet(subnet.widths, bits, subnet.depth)
            origin[made] = subnet
    model._set_points(points)
    _calibrate_points(net, model, origin, images)
    return model


def _calibrate_points(net: Network, model: Network, origin: dict[Subnet, Subnet], images: NDArray[Any]) -> None:
    """Tables of the quantised points.

    Where the float network has statistics (from training, on far more images), they stay and are moved by what
    quantisation changes on the calibration images: mean + (mean of the integer layer - mean of the float layer),
    variance likewise by the ratio. The noise of few images cancels in the difference.
    """
    measured = net.copy()
    corrections = {}
    for subnet in [subnet for subnet in dict.fromkeys(origin.values()) if subnet in net.tables]:
        kept = net.tables[subnet]
        measured._recalibrate_point(subnet, images, kept=kept)
        here = measured.tables[subnet]
        ratio = np.where(here.variance > 1e-8, kept.variance / np.maximum(here.variance, 1e-8), 1).astype(np.float32)
        corrections[subnet] = (kept.mean - here.mean, ratio)
    for made, subnet in origin.items():
        model._recalibrate_point(made, images, moved=corrections.get(subnet))


def _within_drop(
    net: Network, model: Network, data: Data, images: NDArray[Any], calibrate: str, left: set[str], allowed: float
) -> Network:
    """Leave layers in float until the widest point loses no more than allowed."""
    if task_of(data.val.y, net.task) == TARGETS:
        raise ValueError("max_accuracy_drop needs labels: the data has targets, which have no accuracy")
    widest = max(net.points.values(), key=size_key)
    goal = net.evaluate(data.val, widest, metrics=("accuracy",))["accuracy"] - allowed

    def accuracy(candidate: Network) -> float:
        return float(candidate.evaluate(data.val, metrics=("accuracy",))["accuracy"])

    while accuracy(model) < goal:
        remaining = [layer.name for layer in model.layers if layer.quantised]
        if len(remaining) == 1:
            raise ValueError(f"max_accuracy_drop={allowed} cannot be met: every layer would stay in float")
        trials = [_quantized(net, images, model.views, calibrate, left | {name}) for name in remaining]
        best = max(range(len(trials)), key=lambda i: accuracy(trials[i]))
        left, model = left | {remaining[best]}, trials[best]
    return model
