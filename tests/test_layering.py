"""The shape of the C core: who includes whom, what a header needs, what a file may hold."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import cbuild
import pytest

CSRC = cbuild.CSRC
MAY_INCLUDE = {
    "base": set[str](),
    "kernels": {"base"},
    "graph": {"base"},
    "plan": {"base", "graph", "kernels"},
    "train": {"base", "graph", "kernels"},
    "search": {"base"},
}
PUBLIC = "dynadnn.h"
MOST_LINES = 600
FILES = sorted(p for p in CSRC.rglob("*") if p.suffix in (".c", ".h", ".inc"))
C_STANDARD = (
    *("assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "limits", "locale", "math", "stdalign"),
    *("stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib", "string", "tgmath", "threads", "time"),
)
needs_compiler = pytest.mark.skipif(cbuild.compiler() is None, reason="needs gcc or clang")


def name(path: Path) -> str:
    return str(path.relative_to(CSRC))


def layer(path: Path) -> str:
    parts = path.relative_to(CSRC).parts
    return parts[0] if len(parts) > 1 else ""


def code(path: Path) -> str:
    """The text without comments and strings; lines keep their numbers."""
    pattern = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    return re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m.group()), path.read_text(), flags=re.S)


def is_template(path: Path) -> bool:
    """A header without an include guard is included again and again, with other macros each time: not alone."""
    return re.search(r"^#ifndef (\w+)\n#define \1\b", path.read_text(), re.M) is None


# Of vector headers only this machine's can be compiled; tests/test_aarch64.py compiles the kernels that use ARM's.
INTRINSICS = {"x86_64": "immintrin.h", "AMD64": "immintrin.h", "aarch64": "arm_neon.h", "arm64": "arm_neon.h"}
HEADERS = [p for p in FILES if p.suffix == ".h" and layer(p) != "python" and not is_template(p)]


def includes(path: Path) -> list[tuple[str, str]]:
    """Pairs of how (quote or angle) and what a file includes."""
    without_comments = re.sub(r"/\*.*?\*/|//[^\n]*", " ", path.read_text(), flags=re.S)
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', without_comments, re.M)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_file_includes_only_layers_below_it(path: Path) -> None:
    own = layer(path)
    for how, target in includes(path):
        if how == "<":
            foreign = target.split("/")[0] in ("Python.h", "structmember.h", "numpy", "frameobject.h")
            assert own == "python" or not foreign, f"{name(path)} includes <{target}>: only csrc/python may"
            continue
        if target == PUBLIC:
            continue
        other = target.split("/")[0] if "/" in target else ""
        assert (CSRC / target).is_file(), f'{name(path)} includes "{target}", which is not a path from csrc'
        if own == "python":
            assert other == "python", f'{name(path)} includes "{target}": the binding sees only {PUBLIC}'
        elif own == "":
            pytest.fail(f'{name(path)} includes "{target}": the public header includes nothing of ours')
        else:
            allowed = MAY_INCLUDE[own] | {own}
            assert other in allowed, f'{name(path)} includes "{target}": {own} may include {sorted(allowed)}'


def test_every_folder_is_a_known_layer() -> None:
    assert {layer(p) for p in FILES} <= {*MAY_INCLUDE, "python", ""}
    assert [p.name for p in FILES if layer(p) == ""] == [PUBLIC]


def test_public_header_includes_only_the_c_standard() -> None:
    for how, target in includes(CSRC / PUBLIC):
        assert how == "<" and target.removesuffix(".h") in C_STANDARD, target


@needs_compiler
@pytest.mark.parametrize("path", HEADERS, ids=name)
def test_header_compiles_alone(path: Path, tmp_path: Path) -> None:
    foreign = {"immintrin.h", "arm_neon.h"} - {INTRINSICS.get(platform.machine())}
    if any(target in foreign for _, target in includes(path)):
        pytest.skip("for another CPU")
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{name(path)}"\n#include "{name(path)}"\ntypedef int nothing;\n')
    cc = cbuild.compiler()
    assert cc is not None
    flags = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-fsyntax-only"]
    done = cbuild.run([cc, *cbuild.COMMON, *flags, str(source)])
    assert done.returncode == 0, done.stderr


def test_file_names_are_unique_in_the_tree() -> None:
    seen: dict[str, Path] = {}
    for path in FILES:
        assert path.name not in seen, f"{name(path)} and {name(seen[path.name])} have the same name"
        seen[path.name] = path


@pytest.mark.parametrize("path", FILES, ids=name)
def test_file_is_short_and_opens_with_its_purpose(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES, f"{name(path)} has {text.count(chr(10))} lines: split it"
    assert text.startswith(f"/* {path.name} - "), f"{name(path)} does not open with /* {path.name} - its purpose"


@pytest.mark.parametrize("path", [p for p in FILES if layer(p) != "python"], ids=name)
def test_core_neither_prints_nor_exits_nor_reads_its_surroundings(path: Path) -> None:
    for number, line in enumerate(code(path).splitlines(), 1):
        found = re.search(
            r"\b(?:v?f?printf|puts|fputs|putchar|perror|v?sprintf|exit|_exit|abort|getenv|fopen|system)\s*\(", line
        )
        assert found is None, f"{name(path)}:{number}: {found.group()}...) has no place in the core" if found else ""


@pytest.mark.parametrize("path", [p for p in FILES if layer(p) not in ("base", "python")], ids=name)
def test_feature_macros_and_raw_allocation_stay_in_base(path: Path) -> None:
    text = code(path)
    assert not re.search(r"#\s*define\s+_(?:GNU|POSIX|DEFAULT|XOPEN)", text), f"{name(path)} defines a feature macro"
    assert not re.search(r"\b(?:malloc|calloc|realloc|aligned_alloc|posix_memalign|free)\s*\(", text), name(path)


def test_kernels_neither_allocate_nor_fail() -> None:
    for path in FILES:
        if layer(path) == "kernels":
            text = code(path)
            assert not re.search(r"\b(?:dn_alloc|DN_NEW|dn_fail|dn_pool_run)\b", text), name(path)


def test_every_kernel_file_is_listed_and_every_listed_kernel_has_a_file() -> None:
    rows = re.findall(r"^DN_KERNEL\((\w+), (\w+),", (CSRC / "kernels" / "kernels.inc").read_text(), re.M)
    assert len(rows) == len(set(rows))
    listed = {f"{slot}_{isa}" for slot, isa in rows}
    isas = {isa for _, isa in rows} | {"ref", "avx2", "avxvnni", "avx512", "neon", "neondot"}
    files = {p.stem for p in FILES if layer(p) == "kernels" and p.suffix == ".c" and p.stem.rsplit("_", 1)[-1] in isas}
    assert files - listed == set(), "kernel files that kernels.inc does not list"
    assert listed - files == set(), "kernels that kernels.inc lists and no file is named after"
    assert {slot for slot, isa in rows if isa == "ref"} == {slot for slot, _ in rows}, "every slot has a reference"


def test_operations_switch_without_default() -> None:
    for path in FILES:
        for body in re.finditer(r"switch\s*\([^)]*\bop\)\s*\{", code(path)):
            depth, end = 1, body.end()
            text = code(path)
            while depth and end < len(text):
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            assert not re.search(r"\bdefault\s*:", text[body.end() : end]), (
                f"{name(path)}: a switch over ops has a default"
            )


@needs_compiler
def test_core_builds_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(
        '#include "dynadnn.h"\nint main(void) { return dn_version()[0] && dn_isa_available(DN_ISA_REF) ? 0 : 1; }\n'
    )
    line = (
        f"cc -std=c11 -O2 -ffp-contract=off -I{CSRC} $(find {CSRC} -name '*.c' ! -path '*/python/*') main.c -o all "
        "-lm -lpthread && ./all"
    )
    line = line.replace("cc ", f"{cbuild.compiler()} ", 1).replace("-O2", "-O0")  # the optimiser finds nothing new here
    done = cbuild.run(["sh", "-c", line], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
