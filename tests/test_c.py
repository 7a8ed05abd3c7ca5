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


def test_the_benchmark_of_kernels_compares_and_times_every_kind_of_layer(
    address_build: tuple[cbuild.Build, dict[str, str]],
) -> None:
    build, environment = address_build
    program = build.program(cbuild.ROOT / "benchmarks" / "kernels.c")
    layers = ["conv 7 8 8 3 1", "first 7 3 8 3 2", "dwconv 7 8 8 5 2", "linear 1 20 10 1 1"]
    planes = ["planes8 1 20 10 1 1", "planes4 1 20 10 1 1"]
    layers += ["max_pool 6 8 8 2 2", "avg_pool 6 8 8 2 2", "add 6 8 8 1 1"]
    cases = [(isa, kind, layer) for isa in ("ref", "avx2") for kind in ("s8", "f32") for layer in layers]
    cases += [(isa, "s8", layer) for isa in ("ref", "avx2") for layer in planes]
    cases += [("ref", "train", f"{op} 8 16 16 1 1") for op in ("convgrad", "norm", "actgrad", "normgrad", "sums")]
    lines = "".join(f"{isa} {kind} {layer} 0.001\n" for isa, kind, layer in [*cases, ("nonsense", "s8", layers[0])])
    done = cbuild.run([str(program)], input=lines, env={**os.environ, **environment}, timeout=LIMIT)
    assert done.returncode == 0 and not done.stderr, f"ended with {done.returncode}\n{done.stderr[-8000:]}"
    answers = done.stdout.splitlines()
    assert len(answers) == len(cases) + 1 and answers[-1] == "-"
    for (isa, kind, layer), answer in zip(cases, answers, strict=False):
        if isa == "avx2" and answer == "-":
            continue  # not this CPU
        kernel, giga, share = answer.split("\t")
        assert kernel.split()[1] == isa and float(giga) > 0, (kind, layer, answer)
        probed = isa == "avx2" and layer.split()[0] in ("conv", "first", "dwconv", "linear", "planes8", "planes4")
        assert (float(share) > 0) == probed, (kind, layer, answer)


def test_pool_has_no_data_race(c_objects: Path, tmp_path: Path) -> None:
    if not cbuild.sanitizer_works(tmp_path, THREAD, {}):
        pytest.skip("this compiler or kernel has no thread sanitizer")
    program = cbuild.Build(c_objects, THREAD).program(cbuild.C_TESTS / "check_pool.c", layers=("base",))
    options = {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
    done = cbuild.run([str(program), "5"], env={**os.environ, **options}, timeout=LIMIT)
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
