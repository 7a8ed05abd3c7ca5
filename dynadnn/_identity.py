"""Identity – which network and which operating point a kept measurement belongs to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from ._network import Network
    from ._points import Subnet


class PointDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A sub-net as files hold it; fields as in ``Subnet``."""

    widths: tuple[int, ...] = ()
    bits: tuple[int | str, ...] = ()
    depth: tuple[int, ...] = ()

    def subnet(self) -> Subnet:
        """Return the sub-net."""
        from ._points import Subnet

        return Subnet(self.widths, self.bits, self.depth)


def point_document(subnet: Subnet) -> PointDocument:
    """Return what files hold of a sub-net."""
    return PointDocument(tuple(subnet.widths), tuple(subnet.bits), tuple(subnet.depth))


def structure_hash(net: Network) -> str:
    """Hash of what decides a network's latency: its layers and their sizes, not the values of its weights.

    Parameters
    ----------
    net : Network

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    _describe(digest, net)
    return digest.hexdigest()[:16]


def network_hash(net: Network) -> str:
    """Hash of structure, weights and preprocessing; tables of operating points do not enter.

    Parameters
    ----------
    net : Network

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    _describe(digest, net)
    for _, array in _weights(net):
        digest.update(np.ascontiguousarray(array))
    digest.update(repr(net.preprocess).encode())
    return digest.hexdigest()


def _describe(digest: Any, net: Network) -> None:
    spaces = [(space.name, int(space.full), int(space.unit)) for space in net.spaces]
    arrays = [(name, array.dtype.str, array.shape) for name, array in _weights(net)]
    digest.update(repr((tuple(net.shape), int(net.outputs), spaces, arrays, int(net.macs()))).encode())


def _weights(net: Network) -> list[tuple[str, np.ndarray[Any, Any]]]:
    return sorted(((name, np.asarray(array)) for name, array in net.weights.items()), key=lambda item: item[0])
