"""The C tests, compiled with sanitizers together with the core: one file, one test."""

from __future__ import annotations

import os
from pathlib import Path

import cbuild
import pytest

pytestmark = pytest.mark.skipif(cbuild.compiler() is None, reason="needs gcc or clang")

CHECKS = sorted(cbuild.C_TESTS.glob("check_*.c"))
ADDRESS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREAD = ["-O1", "-g", "-fsanitize=thread"]
LIMIT = 600  # seconds: only against hangs


@pytest.fixture(scope="session")
def address_build(c_objects: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[cbuild.Build, dict[str, str]]:
    folder = tmp_path_factory.mktemp("probe")
    plain = {"UBSAN_OPTIONS": "print_stacktrace=1"}
    for leaks in ("1", "0"):  # LeakSanitizer needs ptrace, which containers may forbid
        environment = {**plain, "ASAN_OPTIONS": f"detect_leaks={leaks}:allocator_may_return_null=1"}
        if cbuild.sanitizer_works(folder, ADDRESS, environment):
            return cbuild.Build(c_objects, ADDRESS), environment
    pytest.skip("this compiler has no address sanitizer")


@pytest.mark.parametrize("check", CHECKS, ids=lambda path: path.stem)
def test_c_check_passes_with_address_and_undefined_behaviour_sanitizers(
    check: Path, address_build: tuple[cbuild.Build, dict[str, str]]
) -> None:
    build, environment = address_build
    done = cbuild.run([str(build.program(check))], env={**os.environ, **environment}, timeout=LIMIT)
    assert done.returncode == 0, (
        f"{check.name} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    )


def test_pool_has_no_data_race(c_objects: Path, tmp_path: Path) -> None:
    if not cbuild.sanitizer_works(tmp_path, THREAD, {}):
        pytest.skip("this compiler or kernel has no thread sanitizer")
    program = cbuild.Build(c_objects, THREAD).program(cbuild.C_TESTS / "check_pool.c")
    options = {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
    done = cbuild.run([str(program), "5"], env={**os.environ, **options}, timeout=LIMIT)
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
