"""The inner loops of the convolutions as gcc compiles them for a release: nothing but loads and products.

One register copy per product halves a kernel, and gcc makes them, or spills, without a word. What is looked at:

* A *loop* is a natural loop of a function's control flow graph: the target of a jump backwards that dominates the jump,
  and all from where the jump is reached without passing the target again. It is an *inner loop* if no other loop begins
  in it.
* Of those, the loops that hold a kernel's dot product count, except in epilogues (`finish…`), where a fused
  multiply-add is arithmetic like any other.
* In such a loop no instruction may move a vector register to a register, or a register to a vector register (gcc keeps
  addresses there when it runs out of general ones), and none may name a vector register and the stack.
"""

from __future__ import annotations

import platform
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import cbuild
import pytest

# Dot product and number of kernels: functions with inner loops that hold it.
KERNELS = {
    "conv_s8_avx2": ("vpmaddwd", 17),
    "conv_s8_avxvnni": ("vpdpbusd", 12),
    "conv_s8_avx512": ("vpdpbusd", 96),
    "wino_s8_avx2": ("vpmaddwd", 6),
    "linear_s8_avx2": ("vpmaddubsw", 4),
    "linear_s8_avxvnni": ("vpdpbusd", 4),
    "linear_s8_avx512": ("vpdpbusd", 4),
    "conv_f32_avx2": ("vfmadd231ps", 7),
    "conv_f32_avx512": ("vfmadd231ps", 13),
    "product_f32_avx2": ("vfmadd231ps", 2),
    "product_f32_avx512": ("vfmadd231ps", 8),
    "conv_bf16_avx2": ("vfmadd231ps", 7),
    "conv_bf16_avx512": ("vfmadd231ps", 13),
    "conv_bf16_avx512bf16": ("vdpbf16ps", 20),
}
VECTOR = re.compile(r"%[xyz]mm\d")
LISTING = """
0000000000000000 <nested>:
   0:\tpush   %rbp
   1:\tmov    %rsp,%rbp
   4:\tvmovaps %ymm1,%ymm0
   8:\tvmovups (%rsi),%ymm2
   c:\tvmovaps %ymm2,-0x20(%rbp)
  10:\tvmovq  %rax,%xmm3
  15:\tje     28 <nested+0x28>
  17:\t{vex} vpdpbusd %ymm1,%ymm2,%ymm0
  1d:\tvmovdqa64 %zmm1,%zmm17
  23:\tdec    %ecx
  25:\tjne    8 <nested+0x8>
  26:\tjmp    30 <nested+0x30>
  28:\tvpaddd 0x8(%rsp),%ymm0,%ymm0 # on the way round, behind the loop
  2e:\tjmp    8 <nested+0x8>
  30:\tvmovaps %ymm0,(%rsp)
  34:\tdec    %edx
  36:\tjne    4 <nested+0x4>
  38:\tret
"""
PREFIX = re.compile(r"^(?:(?:\{\w+\}|bnd|notrack|lock|repz?|repnz) )+")
"""Words that objdump writes before a mnemonic."""


@dataclass
class Function:
    """Instructions of one function, and for each the indices of those that may come next."""

    name: str
    addresses: list[int] = field(default_factory=list)
    code: list[str] = field(default_factory=list)

    def successors(self) -> list[list[int]]:
        index = {address: i for i, address in enumerate(self.addresses)}
        following: list[list[int]] = []
        for i, text in enumerate(self.code):
            mnemonic, _, operands = text.partition(" ")
            target = re.match(r"[0-9a-f]+", operands.strip()) if mnemonic.startswith("j") else None
            after = [index[int(target[0], 16)]] if target and int(target[0], 16) in index else []
            if not mnemonic.startswith(("jmp", "ret", "ud2", "hlt")) and i + 1 < len(self.code):
                after.append(i + 1)
            following.append(after)
        return following

    def inner_loops(self) -> list[list[str]]:
        """Return the instructions of every loop that no other loop begins in."""
        following = self.successors()
        starts = {0}
        for i, after in enumerate(following):
            if after != [i + 1]:
                starts.update(after, [i + 1])
        first = sorted(i for i in starts if i < len(self.code))
        last = dict(zip(first, [i - 1 for i in [*first[1:], len(self.code)]], strict=True))
        blocks = reverse_postorder({block: following[last[block]] for block in first})
        before: dict[int, list[int]] = {block: [] for block in blocks}
        for block in blocks:
            for after in following[last[block]]:
                before[after].append(block)
        dominators = find_dominators(before)
        loops: dict[int, set[int]] = {}
        for block in blocks:
            for head in set(following[last[block]]) & dominators[block]:
                body, todo = loops.setdefault(head, {head}), [block]
                while todo:
                    inside = todo.pop()
                    if inside not in body:
                        body.add(inside)
                        todo += before[inside]
        inner = [body for head, body in loops.items() if not (body & loops.keys()) - {head}]
        return [[self.code[i] for block in sorted(body) for i in range(block, last[block] + 1)] for body in inner]


def reverse_postorder(after: dict[int, list[int]]) -> list[int]:
    """Blocks that can be reached from block 0, each before what it dominates."""
    order: list[int] = []
    seen = {0}
    stack = [(0, iter(after[0]))]
    while stack:
        block, rest = stack[-1]
        for other in rest:
            if other not in seen:
                seen.add(other)
                stack.append((other, iter(after[other])))
                break
        else:
            order.append(block)
            stack.pop()
    return order[::-1]


def find_dominators(before: dict[int, list[int]]) -> dict[int, set[int]]:
    """For every block, in reverse postorder, the blocks that each way to it goes through, itself among them."""
    blocks = list(before)
    dominators = {block: set(blocks) for block in blocks}
    dominators[blocks[0]] = {blocks[0]}
    changed = True
    while changed:
        changed = False
        for block in blocks[1:]:
            found = set.intersection(*(dominators[b] for b in before[block])) | {block}
            if found != dominators[block]:
                dominators[block], changed = found, True
    return dominators


def parse(listing: str) -> list[Function]:
    functions: list[Function] = []
    for line in listing.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            functions.append(Function(head[1]))
        elif (instruction := re.match(r"\s+([0-9a-f]+):\t(\S.*)", line)) and functions:
            text = re.sub(r"\s*(?:<[^>]*>)?\s*(?:#.*)?$", "", instruction[2])
            functions[-1].addresses.append(int(instruction[1], 16))
            functions[-1].code.append(PREFIX.sub("", text))
    return [function for function in functions if function.code]


def find_faults(loop: list[str], has_frame: bool) -> list[str]:
    """Instructions that copy a vector register or take it through the stack."""
    stack = r"%rsp|%rbp" if has_frame else r"%rsp"
    faults = []
    for text in filter(VECTOR.search, loop):
        copies = text.startswith(("vmov", "vpextr", "vpinsr")) and "(" not in text
        if copies or re.search(rf"\([^)]*(?:{stack})", text):
            faults.append(text)
    return faults


@pytest.fixture(scope="module")
def build(c_objects: Path) -> cbuild.Build:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the kernels are x86-64 code")
    if shutil.which("objdump") is None:
        pytest.skip("needs objdump")
    compiler = cbuild.compiler()
    if compiler is None or "Free Software Foundation" not in cbuild.run([compiler, "--version"]).stdout:
        pytest.skip("needs gcc: what another compiler makes of the kernels is not known")
    return cbuild.Build(c_objects, cbuild.RELEASE)


@pytest.mark.parametrize("name", KERNELS)
def test_inner_loops_neither_copy_nor_spill_vectors(name: str, build: cbuild.Build) -> None:
    product, kernels = KERNELS[name]
    (made,) = build.objects([cbuild.CSRC / "kernels" / f"{name}.c"])
    done = cbuild.run(["objdump", "-d", "--no-show-raw-insn", str(made)])
    assert done.returncode == 0, done.stderr
    found, faults = set(), []
    for function in parse(done.stdout):
        if function.name.startswith("finish"):
            continue
        has_frame = any(re.fullmatch(r"mov\s+%rsp,%rbp", text) for text in function.code)
        for loop in function.inner_loops():
            if any(text.startswith(product) for text in loop):
                found.add(function.name)
                faults += [f"{function.name}: {text}" for text in find_faults(loop, has_frame)]
    assert not faults, f"{len(faults)} in {name}:\n" + "\n".join(faults[:40])
    assert len(found) == kernels, f"{name} has {len(found)} functions with such loops: {', '.join(sorted(found))}"


def test_faults_of_an_inner_loop_are_told_from_those_around_it() -> None:
    (function,) = parse(LISTING)
    (loop,) = function.inner_loops()
    assert find_faults(loop, has_frame=True) == [
        "vmovaps %ymm2,-0x20(%rbp)",
        "vmovq  %rax,%xmm3",
        "vmovdqa64 %zmm1,%zmm17",
        "vpaddd 0x8(%rsp),%ymm0,%ymm0",
    ]
    assert len(find_faults(loop, has_frame=False)) == 3
