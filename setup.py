"""Build of the C core and its binding; everything else is in pyproject.toml."""

import re
import sys
from pathlib import Path

import numpy
from setuptools import Extension, setup

version = re.search(r'^version = "(.+)"', Path("pyproject.toml").read_text(), re.M).group(1)
flags = ["-std=c11", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-pthread"]
if "gcc" in sys.version.lower() or sys.platform.startswith("linux"):
    # With tree-PRE gcc inserts two register copies per vpdpbusd. clang ignores the option, with a warning.
    flags += ["-fno-tree-pre", "-Wno-unknown-warning-option"]
core = Extension(
    "dynadnn._core",
    sources=sorted(str(p) for p in Path("csrc").rglob("*.c")),
    depends=sorted(str(p) for pattern in ("*.h", "*.inc") for p in Path("csrc").rglob(pattern)),
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[
        ("DN_VERSION", f'"{version}"'),
        ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
        ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
    ],
    extra_compile_args=flags,
    extra_link_args=["-pthread"] + (["-Wl,-s"] if sys.platform.startswith("linux") else []),
)
setup(ext_modules=[core])
