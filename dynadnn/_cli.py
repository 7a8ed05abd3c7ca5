"""The command line: ``dynadnn demo``, ``explore``, ``profile``, ``remeasure``, ``bench`` and ``info``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._cli_search import above_zero, add_commands
from ._errors import InfeasibleError

EXIT_CODES = """exit codes:
  0    done
  1    failed; the last line says why
  2    the command line was wrong
  3    explore: no point meets all constraints; the last line says which one, and by how much the nearest misses it
  130  interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        ``sys.argv[1:]`` otherwise.

    Returns
    -------
    int
        Exit code: 0 done, 1 failed, 2 wrong command line, 3 no point meets all constraints, 130 interrupted.
    """
    start = time.monotonic()
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        result: dict[str, Any] = options.run(options, start)
        if options.json:
            import msgspec

            sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("dynadnn: interrupted\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (OSError, ValueError, LookupError, ArithmeticError, NotImplementedError, ImportError, MemoryError,
            RuntimeError) as error:  # fmt: skip
        sys.stderr.write(f"dynadnn {options.command}: {type(error).__name__}: {error}\n")
        return 3 if isinstance(error, InfeasibleError) else 1


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="dynadnn",
        description="One small neural network, many operating points: the accuracy-latency curve of this CPU.",
        epilog=EXIT_CODES,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="command")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON document on standard output, nothing else")
    demo = commands.add_parser(
        "demo",
        parents=[common],
        help="distil, quantise and explore a small network here, in under a minute",
        description="Train a teacher, distil a student of several widths, quantise it, search its operating points on "
        "this CPU, and recommend one. Needs no network connection with the digits that come with the package.",
        epilog=EXIT_CODES,
        formatter_class=formatter,
    )
    demo.add_argument("--data", choices=("digits", "cifar10"), default="digits", help="what to learn (default: digits)")
    demo.add_argument("--root", type=Path, metavar="DIR", help="folder with CIFAR-10 in its binary layout")
    demo.add_argument(
        "--out", type=Path, default=Path("dynadnn-demo"), metavar="DIR", help="where files go (default: %(default)s)"
    )
    demo.add_argument(
        "--seconds", type=_seconds, metavar="N", help="how long to take, roughly (default: 40, CIFAR-10: 1800)"
    )
    demo.set_defaults(run=_demo)

    def add(name: str, run: Any, text: str, description: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, parents=[common], help=text, description=description, epilog=EXIT_CODES, formatter_class=formatter
        )
        made.set_defaults(run=run)
        return made

    add_commands(add)
    info = commands.add_parser(
        "info",
        parents=[common],
        help="print version, compiler, instruction sets and threads",
        epilog=EXIT_CODES,
        formatter_class=formatter,
    )
    info.set_defaults(run=_info)
    parser.set_defaults(run=_help, json=False, parser=parser)
    return parser


def _seconds(text: str) -> float:
    return above_zero(text, float, "number of seconds", 1e7)


def _help(options: argparse.Namespace, start: float) -> dict[str, Any]:
    if options.version:
        from ._machine import version

        sys.stdout.write(version() + "\n")
    else:
        options.parser.print_help()
    return {}


def _info(options: argparse.Namespace, start: float) -> dict[str, Any]:
    from ._show import configuration, show_config

    return configuration() if options.json else show_config()


def _demo(options: argparse.Namespace, start: float) -> dict[str, Any]:
    from ._demo import run_demo

    if options.data == "cifar10" and options.root is None:
        raise ValueError("--data cifar10 needs --root DIR, the folder with data_batch_1.bin … test_batch.bin")
    seconds = options.seconds or (40.0 if options.data == "digits" else 1800.0)
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        return run_demo(options.data, options.root, options.out, seconds, start)
