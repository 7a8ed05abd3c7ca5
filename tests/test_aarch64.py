"""The C core on 64-bit ARM: cross-compiled without warnings, its C tests run in an emulator."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import cbuild
import pytest

COMPILERS = ("aarch64-linux-gnu-gcc",)
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
LIMIT = 1200  # seconds: only against hangs, an emulator is slow
NEWEST, PLAIN = "max", "cortex-a53"  # the second has no dot product
EMULATOR_FAULT = "accel/tcg"  # what an assertion of qemu's own names


@dataclass
class Arm:
    """A cross compiler and an emulator."""

    build: cbuild.Build
    emulator: str

    def run(self, check: str, cpu: str, *arguments: str) -> list[str]:
        """Run a C test on a CPU and return the lines it printed."""
        try:
            program = self.build.program(cbuild.C_TESTS / f"{check}.c")
        except cbuild.CompileError as error:
            pytest.fail(str(error), pytrace=False)
        done = cbuild.run([self.emulator, "-cpu", cpu, str(program), *arguments], timeout=LIMIT)
        if done.returncode and EMULATOR_FAULT in done.stderr:  # seen in children of processes with threads
            pytest.skip(f"{self.emulator} itself failed: {done.stderr[:200]}")
        assert done.returncode == 0, f"{check} ended with {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.splitlines()


@pytest.fixture(scope="module")
def arm(c_objects: Path, tmp_path_factory: pytest.TempPathFactory) -> Arm:
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("this machine is one: tests/test_c.py runs the same")
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    emulator = next(filter(None, map(shutil.which, EMULATORS)), None)
    if compiler is None or emulator is None:
        pytest.skip(f"needs {COMPILERS[0]} and {EMULATORS[0]}")
    source = tmp_path_factory.mktemp("probe") / "probe.c"
    source.write_text("#include <math.h>\nint main(int n, char **v) { return !v[0] || lrintf((float)n) != 1; }\n")
    program = source.with_suffix("")
    if cbuild.run([compiler, "-static", str(source), "-o", str(program), "-lm"]).returncode:
        pytest.skip(f"{compiler} cannot link a static program")
    for cpu in (NEWEST, PLAIN):
        if cbuild.run([emulator, "-cpu", cpu, str(program)]).returncode:
            pytest.skip(f"{emulator} cannot run a program on {cpu}")
    return Arm(cbuild.Build(c_objects, ["-O2", "-static", "-Wconversion", *cbuild.WARNINGS], compiler), emulator)


@pytest.mark.parametrize("cpu", [NEWEST, PLAIN])
def test_int8_kernels_equal_the_reference_on_arm(arm: Arm, cpu: str) -> None:
    lines = arm.run("check_kernels_s8", cpu)
    assert "conv_s8 neon" in lines
    assert ("conv_s8 neondot" in lines) == (cpu == NEWEST)


@pytest.mark.parametrize("cpu", [NEWEST, PLAIN])
def test_linear_layers_on_planes_equal_the_reference_on_arm(arm: Arm, cpu: str) -> None:
    lines = arm.run("check_linear_s8", cpu)
    assert "linear_s8 neon" in lines
    assert ("linear_s8 neondot" in lines) == (cpu == NEWEST)


def test_float_kernels_equal_the_reference_on_arm(arm: Arm) -> None:
    assert "conv_f32 neon" in arm.run("check_kernels_float", NEWEST)


@pytest.mark.parametrize("cpu", [NEWEST, PLAIN])
def test_every_arm_level_gives_the_logits_of_the_reference(arm: Arm, cpu: str) -> None:
    levels = ["ref", "neon", "neondot"] if cpu == NEWEST else ["ref", "neon"]
    assert arm.run("check_plan", cpu, "1", "1")[: len(levels) + 1] == [*levels, "check_plan: ok"]


@pytest.mark.parametrize("check", ["check_pool", "check_search", "check_wino_s8"])
def test_what_has_no_arm_code_of_its_own_passes_on_arm(arm: Arm, check: str) -> None:
    arm.run(check, NEWEST)


@pytest.mark.slow
def test_training_passes_on_arm(arm: Arm) -> None:
    arm.run("check_train", NEWEST, "1")
