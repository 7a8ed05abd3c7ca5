"""Quantisation-aware training: what `qat=` means, and which bits a step trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._arguments import generator, positive_int
from ._codes import check_views
from ._errors import UnsupportedError
from ._methods import Choice
from ._network import Network
from ._points import Subnet

_STREAM = 31  # of random numbers


@dataclass(frozen=True)
class QAT:
    """Quantisation-aware training of one set of weights at one or several bits.

    Every pass computes what the integer network will: weights are rounded to codes, one scale per output channel, and
    each tensor that the integer engine stores is rounded to 8 bits; gradients go straight through the rounding (not
    where a tensor was clipped). The first point of a step, and every point of a method that trains one at a time, runs
    at 8 bits and then at some of the fewer bits, drawn at random: all of them in every step would train the weights for
    few bits at the expense of 8. The other points of a step run at one of the bits. Statistics of batch norms and
    ranges of tensors are kept per point and bits, and `quantize` takes them over.

    Parameters
    ----------
    bits : int or tuple of int, default 8
        Bits that will be offered, 8 first, for example ``(8, 4)``.
    ranges : "running" or "learned", default "running"
        Ranges of tensors: a running average of the largest magnitude per batch (Jacob et al., CVPR 2018), or learned
        by gradient from there (Esser et al., ICLR 2020).
    targets : "widest" or "labels", default "widest"
        What fewer bits learn from: the outputs of the step's first pass, at 8 bits, or what that pass itself learns
        from. Losses that take no outputs of another network use labels.
    random : int, default 1
        How many of the fewer bits follow 8 in a step.

    Raises
    ------
    ValueError
        If bits are not 8, or 8 followed by some of 4, 3, 2.

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.digits(rng=0)
    >>> net = dn.nets.mlp(data, rng=0)
    >>> history = dn.fit(net, data, epochs=1, qat=dn.QAT((8, 4)), progress=False, rng=0)
    >>> list(dn.quantize(net, data, bits=(8, 4)).points)
    ['1.0', '1.0/4bit']
    """

    bits: int | tuple[int, ...] = 8
    ranges: str = "running"
    targets: str = "widest"
    random: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", check_views(self.bits))
        object.__setattr__(self, "random", positive_int(self.random, "random"))
        if self.ranges not in ("running", "learned"):
            raise ValueError(f"ranges is {self.ranges!r}: it must be 'running' or 'learned'")
        if self.targets not in ("widest", "labels"):
            raise ValueError(f"targets is {self.targets!r}: it must be 'widest' or 'labels'")

    @property
    def views(self) -> tuple[int, ...]:
        """Bits as a tuple."""
        assert isinstance(self.bits, tuple)
        return self.bits

    def expand(self, choices: Sequence[Choice], layers: int, seed: int, step: int) -> list[Choice]:
        """Return a step's passes with bits, the first at 8 bits."""
        draw = generator(seed, _STREAM, step)
        passes = []
        for number, choice in enumerate(choices):
            views = self._some(draw) if number == 0 else (self.views[int(draw.integers(len(self.views)))],)
            for position, bits in enumerate(views):
                soft = choice.soft or (number == 0 and position > 0 and self.targets == "widest")
                passes.append(Choice(with_bits(choice.subnet, bits, layers), soft))
        return passes

    def _some(self, draw: np.random.Generator) -> tuple[int, ...]:
        """Return 8 and as many of the fewer bits as a step trains, most first."""
        rest = self.views[1:]
        if self.random >= len(rest):
            return self.views
        return self.views[0], *(rest[i] for i in sorted(draw.permutation(len(rest))[: self.random].tolist()))


def with_bits(subnet: Subnet, bits: int, layers: int) -> Subnet:
    """Return a point of the quantised network with all layers at the same bits."""
    return Subnet(subnet.widths, (bits,) * layers, subnet.depth)


def check_qat(qat: Any, net: Network, ema: Any, precision: str) -> QAT | None:
    """Return what `qat=` means for a network, or raise."""
    if qat is None:
        return None
    if isinstance(qat, bool) or not isinstance(qat, QAT | int | np.integer | tuple | list):
        raise TypeError(f"qat must be None, bits such as 8 or (8, 4), or dn.QAT(...), not {qat!r}")
    checked = qat if isinstance(qat, QAT) else QAT(check_views(qat))
    if net.quantised:
        raise UnsupportedError(
            f"qat trains a float network, this one is quantised to {net.views} bits: train the float one, then "
            "dn.quantize it"
        )
    if net._spec.groups > 1:
        raise UnsupportedError("qat is not built for networks of several channel groups: build the network without")
    if ema is not None:
        raise UnsupportedError("qat with ema is not built: ranges and statistics would not be those of the average")
    if precision != "fp32":
        raise UnsupportedError(
            f"qat with precision={precision!r} is not built: tensors are float32 between their codes"
        )
    return checked
