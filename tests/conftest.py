"""What the tests share: seeds in failure reports, places for data and builds, the CPU levels of this machine."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Interpreters that tests start must find the installed package, not the source folder they happen to stand in.
os.environ["PYTHONSAFEPATH"] = "1"

# Shells start what they run in the background deaf to Ctrl-C; tests of it must hear it, and so must what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Seeds:
    """Random sources whose seeds a failing test prints. DYNADNN_SEED moves them all."""

    def __init__(self) -> None:
        self.base = int(os.environ.get("DYNADNN_SEED", "0"))
        self.used: list[str] = []

    def note(self, seed: int) -> int:
        """Remember a seed that the test chose."""
        self.used.append(str(seed))
        return seed

    def range(self, count: int) -> Iterator[int]:
        """`count` seeds, each noted when its turn comes; only the last one matters to a failure."""
        for k in range(count):
            self.used = [str(self.base + k)]
            yield self.base + k

    def rng(self, stream: int = 0) -> np.random.Generator:
        self.note(self.base)
        return np.random.default_rng([self.base, stream])


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> Seeds:
    made = Seeds()
    request.node._seeds = made
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    made = getattr(item, "_seeds", None)
    if made is not None and report.failed and made.used:
        text = f"seed {', '.join(made.used[-5:])}; DYNADNN_SEED={made.base}"
        report.sections.append(("random seeds", text))
    return report


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of public data sets."""
    root = os.environ.get("DYNADNN_DATA")
    if not root:
        pytest.skip("DYNADNN_DATA does not name a folder of data sets")
    path = Path(root)
    if not path.is_dir():
        pytest.skip(f"DYNADNN_DATA names {root}, which is not a folder")
    return path


@pytest.fixture(scope="session")
def c_objects(request: pytest.FixtureRequest) -> Path:
    """A folder for compiled C that outlives the session where pytest keeps a cache."""
    cache = getattr(request.config, "cache", None)
    if cache is not None:
        folder: Path = cache.mkdir("dynadnn-c-objects")
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="dynadnn-c-"))


@pytest.fixture(scope="session")
def isas() -> list[str]:
    """The levels this CPU has, lowest first; "ref" is always there."""
    core = pytest.importorskip("dynadnn._core", exc_type=ImportError)
    return list(core.config()["isa_found"])


@pytest.fixture
def quick_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are profiled with few sub-nets, each timed once."""
    from dynadnn import _design, _profile_device

    monkeypatch.setattr(_design, "MOST", 24)
    monkeypatch.setattr(_profile_device, "ROUNDS", 1)
    monkeypatch.setattr(_profile_device, "BLOCK_MS", 0.01)
