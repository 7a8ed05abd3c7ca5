"""Predictions of a device: its profiles, the models made of them when first needed, and what these were asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ._identity import PointDocument
from ._latency_model import LatencyModel, Profile

if TYPE_CHECKING:
    from ._network import Network
    from ._points import Subnet

_Key = tuple[str, PointDocument, int]


class Predictions:
    """Latency models of a device.

    Attributes
    ----------
    profiles : dict
        By hash of a network's structure and number of threads; also those that are not complete.
    """

    def __init__(self, profiles: Iterable[Profile] = ()) -> None:
        self.profiles = {(p.network, p.threads): p for p in profiles}
        self._models: dict[tuple[str, int], LatencyModel] = {}
        self._known: dict[_Key, float] = {}

    def complete(self, network: str, threads: int) -> bool:
        """Whether sub-nets of a network can be predicted."""
        profile = self.profiles.get((network, threads))
        return profile is not None and profile.complete

    def ratios(self, net: Network, wanted: Mapping[_Key, Subnet]) -> dict[_Key, float]:
        """Latencies over the probe's, by key.

        Parameters
        ----------
        net : Network
        wanted : mapping
            Sub-nets by key, all of this network at one number of threads.
        """
        new = {key: subnet for key, subnet in wanted.items() if key not in self._known}
        if new:
            network, _, threads = next(iter(new))
            model = self._models.get((network, threads))
            if model is None:
                model = self._models[network, threads] = LatencyModel(net.copy(), self.profiles[network, threads])
            self._known.update(zip(new, model.predict(list(new.values())), strict=True))
        return {key: self._known[key] for key in wanted}

    def profile(self, net: Network, network: str, threads: int, save: Callable[[], None]) -> None:
        """Measure what the model of a network needs, or what is left of it.

        Parameters
        ----------
        net : Network
        network : str
            Hash of its structure.
        threads : int
        save : callable
            Called after every part.
        """
        from ._profile_device import continue_profile

        key = network, threads
        profile = self.profiles.setdefault(key, Profile(network, threads))
        if continue_profile(net, profile, save):
            self._models.pop(key, None)
            self._known.clear()
        if not profile.size:
            del self.profiles[key]

    def adopt(self, other: Predictions) -> None:
        """Take over the profiles that this lacks."""
        self.profiles = {**other.profiles, **self.profiles}

    def figures(self) -> list[Any]:
        """Return what predictions depend on, in a fixed order."""
        return [(*key, profile.nodes, profile.samples) for key, profile in sorted(self.profiles.items())]

    def titles(self) -> list[str]:
        """Say of each model what it is of, and how far it may be off."""
        return [
            f"latency model of {p.network} at {p.threads} thread{'s' * (p.threads > 1)} from {len(p.samples)} "
            f"sub-nets, 95 % of which it predicts within {p.relative_error or 0:.1%}"
            for p in self.profiles.values()
            if p.complete
        ]
