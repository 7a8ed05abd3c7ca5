"""Post-training quantisation: int8 codes per output channel with nested 4-, 3- and 2-bit views."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._codes import Trained, check_views, encode, quantize_weight
from ._metrics import TARGETS, task_of
from ._network import Network
from ._points import Subnet, size_key

if TYPE_CHECKING:
    from ._data import Data

F32 = NDArray[np.float32]
Policy = Mapping[str, str] | Callable[[str], str | None] | None


def quantize(
    net: Network,
    data_or_images: Data | Any,
    *,
    bits: int | tuple[int, ...] = 8,
    calibrate: str = "auto",
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
    calibrate : "auto", "trained", "mse", "minmax" or "percentile"
        How the range of each activation is chosen. "trained": scales, ranges and statistics are those of
        quantisation-aware training (``fit(..., qat=)``), so that the integers compute what was trained; images then
        serve only points that were not trained. "auto" is that where there is such training, "mse" elsewhere.
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
        If the network is quantised already, bits are not of 8, 4, 3, 2 with 8 first or were not trained, or labels are
        missing.
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
    views = check_views(bits)
    if net.quantised:
        raise ValueError(f"net is quantised already, to {net.views} bits: quantise the float network")
    if calibrate not in ("auto", "trained", "mse", "minmax", "percentile"):
        raise ValueError(f"calibrate must be 'auto', 'trained', 'mse', 'minmax' or 'percentile', not {calibrate!r}")
    trained = _trained_for(net, views, calibrate, policy)
    calibrate = "trained" if trained is not None else "mse" if calibrate == "auto" else calibrate
    images = getattr(data_or_images, "calibration", data_or_images)
    images = net._images(getattr(images, "x", images), "images")
    left = {layer.name for layer in net.layers if _is_float(policy, layer.name)}
    if trained is not None:
        model = trained_network(net, trained, views, images)
    else:
        model = _quantized(net, images, views, calibrate, left)
    if max_accuracy_drop is None:
        return model
    if not hasattr(data_or_images, "val"):
        raise ValueError("max_accuracy_drop needs labels: pass the data set (dn.Data), not images")
    return _within_drop(net, model, data_or_images, images, calibrate, left, float(max_accuracy_drop))


def _trained_for(net: Network, views: tuple[int, ...], calibrate: str, policy: Policy) -> Trained | None:
    """Return what training found, if it is to be used."""
    trained = net._trained
    if trained is None and calibrate == "trained":
        raise ValueError("calibrate is 'trained', but there is nothing of it: dn.fit(net, data, qat=...) last")
    if trained is None or calibrate not in ("auto", "trained"):
        return None
    other = "; calibrate='mse' quantises without what training found"
    lacking = [b for b in views if b not in trained.views]
    if lacking:
        raise ValueError(f"bits holds {lacking[0]}, but the network was trained for {trained.views} bits{other}")
    if policy is not None:
        raise ValueError(f"policy cannot leave layers in float that were trained in integers{other}")
    return trained


def _is_float(policy: Policy, name: str) -> bool:
    wanted = policy.get(name) if isinstance(policy, Mapping) else policy(name) if policy else None
    if wanted not in (None, "int8", "fp32"):
        raise ValueError(f"policy gives {wanted!r} for {name!r}: it must be 'fp32', 'int8' or None")
    return wanted == "fp32"


def _quantized(net: Network, images: NDArray[Any], views: tuple[int, ...], calibrate: str, left: set[str]) -> Network:
    chosen = [layer.name for layer in net.layers if layer.name not in left]
    if not chosen:
        raise ValueError("policy leaves every layer in float: nothing would be quantised")
    coded = {name: quantize_weight(net.weights[f"{name}.weight"], views) for name in chosen}
    model, origin = coded_network(net, coded, views, calibrate, images)
    _calibrate_points(net, model, origin, images)
    return model


def coded_network(
    net: Network,
    coded: Mapping[str, tuple[NDArray[np.int8], F32]],
    views: tuple[int, ...],
    calibrate: str,
    images: NDArray[Any] | None,
) -> tuple[Network, dict[Subnet, Subnet]]:
    """Return a network with codes instead of weights, its points without tables, and the float points they come from.

    `coded` maps layers to codes and scales.
    """
    weights: dict[str, NDArray[Any]] = dict(net.weights)
    for name, (codes, scale) in coded.items():
        del weights[f"{name}.weight"]
        weights[f"{name}.codes"], weights[f"{name}.scale"] = codes, scale
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
    return model, origin


def trained_network(net: Network, trained: Trained, views: tuple[int, ...], images: NDArray[Any] | None) -> Network:
    """Return the integer network that quantisation-aware training computed with."""
    coded = {
        name: (encode(net.weights[f"{name}.weight"], scale, trained.views), scale)
        for name, scale in trained.scales.items()
    }
    model, origin = coded_network(net, coded, views, "mse", images)
    model._set_tables({made: trained.tables[made] for made in origin if made in trained.tables})
    if images is not None:
        for made in [point for point in origin if point not in trained.tables]:
            model._recalibrate_point(made, images)
    return model


def _calibrate_points(net: Network, model: Network, origin: dict[Subnet, Subnet], images: NDArray[Any]) -> None:
    """Tables of the quantised points.

    Where the float network has statistics (from training, on far more images), they stay and are moved by what
    quantisation changes on the calibration images: mean + (mean of the integer layer - mean of the float layer). So
    are variances, but by their ratio where the images vary more than training's did: the difference would be too large
    then, as the ratio would be where they vary less and rounding is most of it. The noise of few images cancels.
    """
    measured = net.copy()
    corrections = {}
    for subnet in [subnet for subnet in dict.fromkeys(origin.values()) if subnet in net.tables]:
        kept = net.tables[subnet]
        measured._recalibrate_point(subnet, images, kept=kept)
        here = measured.tables[subnet]
        most = np.maximum(np.maximum(kept.variance, here.variance), np.finfo(np.float32).tiny)
        ratio = (kept.variance / most).astype(np.float32)
        corrections[subnet] = (kept.mean - here.mean, ratio, np.maximum(0, kept.variance - here.variance * ratio))
    for made, subnet in origin.items():
        own = net.tables[subnet].affine if subnet in net.tables else None
        model._recalibrate_point(made, images, moved=corrections.get(subnet), affine=own)


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

    if calibrate == "trained" and accuracy(model) < goal:
        raise ValueError(
            f"max_accuracy_drop={allowed} is not met by what was trained: train longer, or calibrate='mse', which "
            "leaves layers in float"
        )
    while accuracy(model) < goal:
        remaining = [layer.name for layer in model.layers if layer.quantised]
        if len(remaining) == 1:
            raise ValueError(f"max_accuracy_drop={allowed} cannot be met: every layer would stay in float")
        trials = [_quantized(net, images, model.views, calibrate, left | {name}) for name in remaining]
        best = max(range(len(trials)), key=lambda i: accuracy(trials[i]))
        left, model = left | {remaining[best]}, trials[best]
    return model
