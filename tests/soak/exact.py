"""int8 inference of hundreds of random networks against the oracle, bit for bit.

    python tests/soak/exact.py [--networks 500] [--seed 0] [--out FILE]

Every network comes with sub-nets of random widths, depths and bits. Each runs on every level of this CPU with 1, 2
and 3 threads, and once more with another rounding mode and subnormal numbers flushed to zero. Exits with 1 at the
first difference, whose seed it prints.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "benchmarks")]

import common  # noqa: E402
import networks  # noqa: E402
import numpy as np  # noqa: E402
import reference  # noqa: E402
from engines import Compiled, explain  # noqa: E402
from test_int8_exact import Environment  # noqa: E402

from dynadnn import _core  # noqa: E402


def check(case: networks.Case, levels: list[str], environment: Environment, seen: Counter[str]) -> str | None:
    """Compare every sub-net of one network; a description of the first difference, or None."""
    arguments = (case.net, case.params)
    want = [
        reference.run_int8(*arguments, tables, subnet, case.images, case.input_table).logits
        for subnet, tables in zip(case.subnets, case.tables, strict=True)
    ]
    for level in levels:
        compiled = Compiled(case, level, threads=3)
        for number, subnet in enumerate(case.subnets):
            seen["sub-nets"] += 1
            seen["sub-nets with fewer bits"] += subnet.bits is not None and min(subnet.bits) < 8
            for threads in (1, 2, 3):
                seen["runs"] += 1
                if not np.array_equal(compiled(case.images, number, threads), want[number]):
                    return f"{level}, {threads} threads, point {number}\n{explain(compiled, number, case.images)}"
            with environment.changed(rounding=1 + case.seed % 3, flush=True):
                got = compiled(case.images, number, 1)
            seen["runs"] += 1
            if not np.array_equal(got, want[number]):
                return f"{level}, odd floating-point mode, point {number}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    levels, environment, seen, start = list(_core.config()["isa_found"]), Environment(), Counter[str](), time.time()
    for seed in range(arguments.seed, arguments.seed + arguments.networks):
        case = networks.random_grouped_network(seed // 2) if seed % 4 == 3 else networks.random_network(seed)
        fault = check(case, levels, environment, seen)
        if fault:
            print(f"SHORT seed {seed}: {fault}")
            return 1
        seen["networks"] += 1
        if seed % 25 == 0:
            print(f"seed {seed}: {seen['runs']} runs equal, {time.time() - start:.0f} s", flush=True)
    print(f"ok    {dict(seen)} on {', '.join(levels)}: every logit equals the oracle's")
    result: dict[str, Any] = {"environment": common.environment(arguments.seed), "levels": levels, **seen}
    if arguments.out:
        common.write_json(arguments.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
