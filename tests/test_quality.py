"""Linters, type checkers and compiler warnings over the whole source."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

import cbuild
import pytest

ROOT = cbuild.ROOT
PYTHON_FOLDERS = [str(ROOT / name) for name in ("dynadnn", "tests", "benchmarks") if (ROOT / name).is_dir()]


def check(name: str, *arguments: str, cwd: Path = ROOT) -> None:
    """Run `python -m name` and fail with what it said if it found fault."""
    tool = name.split(".")[0]
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    done = cbuild.run([sys.executable, "-m", name, *arguments], cwd=cwd)
    if done.returncode:
        pytest.fail(f"{name} ended with {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)


def test_ruff_finds_nothing() -> None:
    check("ruff", "check", "--no-cache", "--output-format=concise", *PYTHON_FOLDERS)


def test_ruff_would_format_nothing() -> None:
    check("ruff", "format", "--check", "--diff", "--no-cache", *PYTHON_FOLDERS)


def test_mypy_is_content_in_strict_mode(tmp_path: Path) -> None:
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--strict", "--cache-dir", str(tmp_path / "mypy")]
    check("mypy", *settings, str(ROOT / "dynadnn"))


def test_stub_describes_the_extension(tmp_path: Path) -> None:
    pytest.importorskip("dynadnn._core", exc_type=ImportError)
    check("mypy.stubtest", "dynadnn._core", "--concise", cwd=tmp_path)


def compile_all(c_objects: Path, sources: list[Path], flags: list[str]) -> None:
    if cbuild.compiler() is None:
        pytest.skip("needs gcc or clang")
    try:
        cbuild.Build(c_objects, flags).objects(sources)
    except cbuild.CompileError as error:
        pytest.fail(str(error), pytrace=False)


def test_core_compiles_without_warnings(c_objects: Path) -> None:
    # -O1, because some warnings (uninitialised values) need the optimiser
    compile_all(c_objects, cbuild.core_sources(), ["-O1", "-Wconversion", *cbuild.WARNINGS])


def test_binding_compiles_without_warnings(c_objects: Path) -> None:
    import numpy

    headers = [Path(sysconfig.get_path("include")), Path(numpy.get_include())]
    if not (headers[0] / "Python.h").exists():
        pytest.skip("Python's headers are not installed")
    defines = ["-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION", "-DNPY_TARGET_VERSION=NPY_1_25_API_VERSION"]
    system = [part for folder in headers for part in ("-isystem", str(folder))]
    # Macros of Python.h and NumPy convert and cast inside our lines, so -Wconversion cannot be asked here.
    flags = ["-O1", "-fPIC", *cbuild.WARNINGS, *defines, *system]
    files = sorted((cbuild.CSRC / "python").glob("*.c"))
    entry = [p for p in files if "PyMODINIT_FUNC" in p.read_text()]  # Python calls it by name: it has no prototype
    compile_all(c_objects, [p for p in files if p not in entry], flags)
    compile_all(c_objects, entry, [*flags, "-Wno-missing-prototypes"])


@pytest.mark.skipif(not os.access("/bin/bash", os.X_OK), reason="needs bash")
def test_ci_script_is_valid_bash() -> None:
    done = cbuild.run(["/bin/bash", "-n", str(ROOT / ".ci" / "run")])
    assert done.returncode == 0, done.stderr
