"""One small neural network, many operating points: its accuracy-latency curve on your own CPU."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ._errors import Error, FormatError, GraphError, NonFiniteError, PointError, UnsupportedError

_HOME = {
    "Augment": "datasets",
    "Data": "datasets",
    "Split": "datasets",
    "AdamW": "_optimizers",
    "BCE": "_losses",
    "Callback": "_callbacks",
    "CSVLogger": "_loggers",
    "ChannelRanking": "_ranking",
    "Checkpoint": "_saving",
    "CrossEntropy": "_losses",
    "Device": "_device",
    "EarlyHalting": "_halting",
    "Engine": "_engine",
    "Front": "_front",
    "GraphBuilder": "_graph",
    "History": "_history",
    "Hint": "_hints",
    "Huber": "_losses",
    "Incremental": "_methods",
    "JSONLLogger": "_loggers",
    "KD": "_distill",
    "LivePlot": "_live",
    "MSE": "_losses",
    "MultiPath": "_methods",
    "NSGA2": "search",
    "Network": "_network",
    "NonUniform": "_nonuniform",
    "Objective": "_explore",
    "Preprocess": "_preprocess",
    "Progressive": "_methods",
    "QAT": "_qat",
    "Record": "_record",
    "Runs": "_repeat",
    "SGD": "_optimizers",
    "Sandwich": "_methods",
    "SinglePath": "_methods",
    "Space": "_explore",
    "Subnet": "_points",
    "Table": "_table",
    "TensorBoard": "_tensorboard",
    "compare_fronts": "_compare",
    "derive_student": "_derive",
    "distill": "_distill",
    "explore": "_explore",
    "fit": "_train",
    "from_torch": "_torch",
    "load": "_files",
    "measure": "_measure",
    "nonuniform": "_nonuniform",
    "plot_fronts": "_front",
    "profile_device": "_device",
    "quantize": "_quantize",
    "rank_channels": "_ranking",
    "repeat": "_repeat",
    "show_config": "_show",
    "tune": "_tune",
}
_MODULES = ("datasets", "nets", "search")

__version__ = "0.1.0"

__all__ = [
    "Error",
    "FormatError",
    "GraphError",
    "NonFiniteError",
    "PointError",
    "UnsupportedError",
    "__version__",
    *_MODULES,
    *_HOME,
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
