"""Compiles C for tests and benchmarks: objects are kept, and rebuilt when a source, header or flag changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
C_TESTS = ROOT / "tests" / "c"
COMMON = ["-std=c11", "-ffp-contract=off", f"-I{CSRC}"]
LIBRARIES = ["-lm", "-lpthread"]
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wmissing-prototypes", "-Wswitch", "-Werror"]
# What setup.py builds with, as far as it changes code; a test compares the two.
RELEASE = ["-O3", "-g0", "-fno-math-errno", "-fvisibility=hidden", "-fno-tree-pre"]


def core_sources() -> list[Path]:
    """Every C file that does not need Python."""
    return sorted(p for p in CSRC.rglob("*.c") if "python" not in p.relative_to(CSRC).parts)


@cache
def compiler() -> str | None:
    for name in (os.environ.get("CC", ""), "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


class CompileError(Exception):
    """The compiler refused; the text is what it said."""


@dataclass
class Build:
    """One set of flags, one folder of objects; by this machine's compiler unless another is named."""

    folder: Path
    flags: list[str]
    compiler: str | None = None

    def __post_init__(self) -> None:
        cc = self.compiler or compiler()
        assert cc is not None
        version = run([cc, "--version"]).stdout
        key = hashlib.sha256("\0".join([cc, version, str(ROOT), *COMMON, *self.flags]).encode()).hexdigest()[:16]
        self.cc, self.folder = cc, self.folder / key
        self.folder.mkdir(parents=True, exist_ok=True)

    def _object(self, source: Path) -> Path:
        return self.folder / (str(source.relative_to(ROOT)).replace(os.sep, "__") + ".o")

    def _is_current(self, source: Path) -> bool:
        made, rules = self._object(source), self._object(source).with_suffix(".d")
        if not made.exists() or not rules.exists():
            return False
        names = rules.read_text().replace("\\\n", " ").split(":", 1)[1].split()
        try:
            return all(Path(name).stat().st_mtime_ns <= made.stat().st_mtime_ns for name in names)
        except FileNotFoundError:
            return False

    def _compile(self, source: Path) -> Path:
        made = self._object(source)
        if not self._is_current(source):
            fresh = made.with_suffix(f".{os.getpid()}.tmp")
            rules = ["-MD", "-MF", str(made.with_suffix(".d")), "-MT", "x"]
            done = run([self.cc, *COMMON, *self.flags, *rules, "-c", str(source), "-o", str(fresh)])
            if done.returncode:
                raise CompileError(done.stderr)
            fresh.replace(made)
        return made

    def objects(self, sources: list[Path]) -> list[Path]:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return list(pool.map(self._compile, sources))

    def program(self, main: Path, layers: tuple[str, ...] = ()) -> Path:
        """Link a test or benchmark with the whole core, or with some layers of it."""
        program = self.folder / main.stem
        sources = [s for s in core_sources() if not layers or s.parent.name in layers]
        objects = self.objects([*sources, main])
        done = run([self.cc, *self.flags, "-o", str(program), *map(str, objects), *LIBRARIES])
        if done.returncode:
            raise CompileError(done.stderr)
        return program


def sanitizer_works(folder: Path, flags: list[str], environment: dict[str, str]) -> bool:
    """Whether a trivial program can be built and run with a sanitizer on this machine."""
    cc = compiler()
    assert cc is not None
    source = folder / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    program = folder / "probe"
    if run([cc, *flags, str(source), "-o", str(program)]).returncode:
        return False
    return run([str(program)], env={**os.environ, **environment}).returncode == 0
