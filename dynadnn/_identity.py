"""Identity – which network and which operating point a kept measurement belongs to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ._network import spec_json
from ._points import Subnet

if TYPE_CHECKING:
    from ._network import Network


class PointDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A sub-net as files hold it; fields as in ``Subnet``."""

    widths: tuple[int, ...] = ()
    bits: tuple[int | str, ...] = ()
    depth: tuple[int, ...] = ()

    def subnet(self) -> Subnet:
        """Return the sub-net."""
        return Subnet(self.widths, self.bits, self.depth)

    @property
    def label(self) -> str:
        """Widths, and the bits where there are any."""
        text = "-".join(map(str, self.widths))
        bits = [b for b in dict.fromkeys(self.bits) if b != "fp32"]
        return text + (f"/{','.join(map(str, bits))}bit" if bits else "")


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
    """Hash of structure, weights and preprocessing; of tables only what is trained, the points' own scales and shifts.

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
        digest.update(np.ascontiguousarray(array).data)
    digest.update(repr(net.preprocess).encode())
    own = {repr((s.widths, s.bits, s.depth)): t.affine for s, t in net.tables.items() if t.affine is not None}
    for name, affine in sorted(own.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(affine).data)
    return digest.hexdigest()


def _describe(digest: Any, net: Network) -> None:
    arrays = [(name, array.dtype.str, array.shape) for name, array in _weights(net)]
    digest.update(spec_json(net))
    digest.update(repr((arrays, net.views)).encode())


def _weights(net: Network) -> list[tuple[str, np.ndarray[Any, Any]]]:
    return sorted(net.weights.items())
