"""What an operating point needs besides the weights: statistics and scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tables:
    """Statistics of the batch norms and quantisation scales of one point, in the layout of the core.

    Attributes
    ----------
    mean, variance : ndarray of float32, shape (norm channels,)
        Of all batch norms, one after the other, at full width; only active channels matter.
    scale : ndarray of float32, shape (nodes, groups), or None
        Real value of one quantisation step of each tensor; None for a float network.
    affine : ndarray of float32, shape (2, norm channels), or None
        Scale and shift of the point's own batch norms; None where those of the weights hold.
    """

    mean: F32
    variance: F32
    scale: F32 | None = None
    affine: F32 | None = None
