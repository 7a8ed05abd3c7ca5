"""What this build is and what it found: the first thing to put into a bug report."""

from __future__ import annotations

import sys
from typing import Any

from ._arguments import available_cores
from ._energy import find_meter
from ._machine import core_config, cpu_name, version


def configuration() -> dict[str, Any]:
    """Return version, compiler, instruction sets, threads and CPU."""
    import platform

    import numpy

    core, energy = core_config(), find_meter()
    return {
        "version": version(),
        "compiler": core.get("compiler"),
        "isa_found": core.get("isa_found"),
        "isa_used": core.get("isa_used"),
        "threads": available_cores(),
        "cpu": cpu_name(),
        "energy": energy.reason if energy.meter else f"unavailable: {energy.reason}",
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def configuration_text(config: dict[str, Any]) -> str:
    """Return the configuration as lines for reading."""
    width = max(map(len, config))
    shown = {k: ", ".join(v) if isinstance(v, list | tuple) else v for k, v in config.items()}
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


def show_config() -> dict[str, Any]:
    """Print what this build is and what it found, and return it.

    Returns
    -------
    dict
        ``version``, ``compiler``, ``isa_found`` (list), ``isa_used`` (of int8 convolutions), ``threads``
        (cores this process may use), ``cpu``, ``energy`` (its meter), ``numpy``, ``python``, ``system``.

    Examples
    --------
    >>> import dynadnn as dn
    >>> config = dn.show_config()  # doctest: +ELLIPSIS
    version ...
    >>> config["isa_used"] in config["isa_found"]
    True
    """
    config = configuration()
    sys.stdout.write(configuration_text(config) + "\n")
    return config
