"""Records – what is known of one operating point, and how files hold it."""

from __future__ import annotations

from typing import Any

import msgspec

from ._identity import PointDocument, point_document


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, eq=True):
    """One operating point with its figures; can be passed wherever a point is expected.

    Attributes
    ----------
    point : Subnet
        The sub-net.
    name : str or None
        What the network calls it, if it has a name.
    model : str or None
        Which network, on fronts of several.
    threads : int
        Threads of the engine.
    accuracy, error, loss : float or None
        On the split the front was made with, fractions; error is 1 - accuracy. A regression has no accuracy, and its
        error is the mean squared error.
    accuracy_interval : tuple of float or None
        95 % interval of the accuracy.
    latency_ms : float or None
        One inference, batch 1, as the device has it.
    latency_label : str
        Where that is from: ``"measured"``, ``"predicted"``, ``"modelled"`` or ``"given"``; empty where unknown.
    latency_ms_error : float or None
        Half the width of its 95 % interval.
    latency_ms_measured, latency_ms_p10, latency_ms_p90 : float or None
        Median, 10th and 90th percentile measured afterwards, in turns with the other points.
    runs : int
        Timed inferences behind the measured figures.
    energy_mj, energy_mj_error : float or None
        One inference, and half the width of its 95 % interval (of a model, of its stated range).
    energy_label : str
        Where that is from: ``"measured"``, ``"modelled"`` or ``"unavailable"``.
    bytes, macs : int or None
        Weights that the point reads, and multiply-accumulates of one inference.
    accuracy_test, accuracy_test_interval : float, tuple or None
        On data never used to choose, from `Front.evaluate`.
    values : dict
        Further metrics and objectives by name.
    violations : dict
        Constraint to how far it is missed; empty if feasible.
    failure : str or None
        Traceback of an evaluation that failed.
    stopped : int or None
        Images after which a search stopped looking, because no outcome of the others could have put the point on the
        front; accuracy and error are then the best that were still possible.
    """

    point: Any
    name: str | None = None
    model: str | None = None
    threads: int = 1
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    error: float | None = None
    loss: float | None = None
    latency_ms: float | None = None
    latency_label: str = ""
    latency_ms_error: float | None = None
    latency_ms_measured: float | None = None
    latency_ms_p10: float | None = None
    latency_ms_p90: float | None = None
    runs: int = 0
    energy_mj: float | None = None
    energy_label: str = "unavailable"
    energy_mj_error: float | None = None
    bytes: int | None = None
    macs: int | None = None
    accuracy_test: float | None = None
    accuracy_test_interval: tuple[float, float] | None = None
    values: dict[str, float] = {}
    violations: dict[str, float] = {}
    failure: str | None = None
    stopped: int | None = None

    def __hash__(self) -> int:
        """Hash, so that engines can keep what they bound for a record."""
        return hash((self.model, self.point, self.threads))

    @property
    def latency(self) -> float | None:
        """The measured latency if there is one, else the table's; milliseconds."""
        return self.latency_ms if self.latency_ms_measured is None else self.latency_ms_measured

    @property
    def judged(self) -> bool:
        """Whether the evaluation succeeded and was not stopped early: its accuracy is one, not a bound."""
        return self.failure is None and self.stopped is None

    @property
    def feasible(self) -> bool:
        """Whether the evaluation succeeded, was not stopped early, and no constraint is missed."""
        return self.judged and not self.violations

    @property
    def label(self) -> str:
        """Name of the point, or its channels per space, with the network's name before it if there are several."""
        return f"{self.model} {self._label}" if self.model else self._label

    @property
    def _label(self) -> str:
        if self.name:
            return self.name if self.threads == 1 else f"{self.name} × {self.threads} threads"
        text = "-".join(map(str, self.point.widths)) or "full"
        bits = [b for b in dict.fromkeys(self.point.bits) if b != "fp32"]
        text += f"/{','.join(map(str, bits))}bit" if bits not in ([], [8]) else ""
        return text if self.threads == 1 else f"{text} × {self.threads} threads"

    def column(self, name: str) -> float | None:
        """Value of a column or a further metric by name; None where unknown.

        Raises
        ------
        KeyError
            If nothing is called this.
        """
        if name in NUMBERS:
            value: float | None = getattr(self, name)
            return value
        if name in self.values:
            return self.values[name]
        if self.failure is not None:
            return None
        raise KeyError(f"no column {name!r}; there are {', '.join([*NUMBERS, *self.values])}")


NUMBERS = ("error", "accuracy", "loss", "latency_ms", "energy_mj", "bytes", "macs", "threads")


def key(record: Record) -> tuple[str | None, Any, int]:
    """Return what makes two records the same point."""
    return record.model, record.point, record.threads


def to_document(record: Record) -> dict[str, Any]:
    """Return what files hold of a record."""
    fields = {
        name: getattr(record, name)
        for name, default in zip(Record.__struct_fields__, _DEFAULTS, strict=True)
        if getattr(record, name) != default
    }
    return {**fields, "point": msgspec.to_builtins(point_document(record.point))}


def from_document(document: dict[str, Any]) -> Record:
    """Return the record of a document; raises ``msgspec.ValidationError``."""
    record = msgspec.convert(document, Record)
    point = msgspec.convert(record.point, PointDocument).subnet()
    return msgspec.structs.replace(record, point=point)


_DEFAULTS = tuple(
    (field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default)
    for field in msgspec.structs.fields(Record)
)
