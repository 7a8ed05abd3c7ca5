"""Which dynadnn the tests import."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path

import pytest


def test_installed_package_is_the_one_that_is_tested() -> None:
    try:
        distribution = importlib.metadata.distribution("dynadnn")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("dynadnn is built in place, not installed")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("dynadnn is installed in editable mode")
    package = importlib.import_module("dynadnn")
    installed = Path(str(distribution.locate_file("dynadnn"))).resolve()
    assert [Path(p).resolve() for p in package.__path__] == [installed]
    core = importlib.import_module("dynadnn._core")
    assert Path(str(core.__file__)).resolve().parent == installed
