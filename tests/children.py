"""What child processes of the tests run; they import it by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def infer(seed: int, threads: int) -> Any:
    """Logits of every point of a random network, in whatever process this is."""
    import networks
    from engines import Compiled

    case = networks.random_network(seed)
    compiled = Compiled(case, None, threads=threads)
    return [compiled(case.images, number, threads) for number in range(len(case.subnets))]


def report_infer(seed: int, threads: int, send: Any) -> None:
    send.send([logits.tobytes() for logits in infer(seed, threads)])
    send.close()


def environment() -> dict[str, str]:
    """An environment in which `python -c` finds the tests and the same dynadnn."""
    import dynadnn._core

    package = str(Path(str(dynadnn._core.__file__)).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), package, *sys.path])}
