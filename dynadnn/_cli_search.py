"""The command line of searches and measurements: ``dynadnn explore``, ``profile``, ``remeasure`` and ``bench``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ._arguments import missing_extra

if TYPE_CHECKING:
    from ._data import Data
    from ._record import Record

DATA = ("digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "har", "speech_commands")
CONNECT_SECONDS, WORKER_SECONDS = 10, 30

Add = Callable[..., argparse.ArgumentParser]
T = TypeVar("T", int, float)


def add_commands(add: Add) -> None:
    """Add the commands to a parser.

    Parameters
    ----------
    add : callable
        ``add(name, run, help, description)`` returns the parser of a new command.
    """
    explore = add(
        "explore",
        _explore,
        "search the operating points of a network for those that no other beats",
        "Search the operating points of a saved network, and write the front, and the network with statistics for its "
        "points. Exits with 3 if no point meets all constraints.",
    )
    explore.add_argument("model", type=Path, help="network, as net.save wrote it")
    explore.add_argument(
        "--data", default="digits", help=f"{', '.join(DATA)}, or a .npz file with x and y (default: %(default)s)"
    )
    explore.add_argument("--root", type=Path, metavar="DIR", help="folder of the data set")
    explore.add_argument(
        "--objective", action="append", metavar="COLUMN", help="again for each (default: error, latency_ms)"
    )
    explore.add_argument(
        "--constraint", action="append", default=[], metavar="LIMIT", help='such as "latency_ms <= 5"; again for each'
    )
    explore.add_argument("--device", type=Path, metavar="FILE", help="latencies that dynadnn profile wrote")
    explore.add_argument("--population", type=_number, default=64, metavar="N", help="even, from 4 (default: 64)")
    explore.add_argument("--generations", type=_number, default=30, metavar="N", help="at most (default: 30)")
    explore.add_argument("--budget", type=_number, metavar="N", help="most points to evaluate")
    explore.add_argument("--seconds", type=float, metavar="N", help="no evaluation starts later")
    explore.add_argument("--seed", type=int, metavar="N", help="of the search (default: drawn, and printed)")
    explore.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="go on from here if it exists; kept up to date"
    )
    where = explore.add_mutually_exclusive_group()
    where.add_argument("--workers", type=_number, metavar="N", help="evaluate in so many processes")
    where.add_argument("--scheduler", metavar="ADDRESS", help="evaluate on a Dask cluster, tcp://host:port")
    explore.add_argument(
        "--out", type=Path, default=Path("dynadnn-explore"), metavar="DIR", help="where files go (default: %(default)s)"
    )
    profile = add(
        "profile",
        _profile,
        "measure the latencies of a network's points on this CPU",
        "Measure the named points of a saved network at 1, 2, 4, … threads, and what predicts its other sub-nets, and "
        "write a device file for explore. The file is written after every part: interrupted, the same command goes on.",
    )
    profile.add_argument("model", type=Path, help="network, as net.save wrote it")
    profile.add_argument("--threads", type=_number, metavar="N", help="most threads (default: the cores there are)")
    profile.add_argument(
        "--out",
        type=Path,
        default=Path("device.json"),
        metavar="FILE",
        help="gone on with if it exists (default: %(default)s)",
    )
    remeasure = add(
        "remeasure",
        _remeasure,
        "measure the latencies of a front again, on this machine",
        "Measure every point of a front in turns. The front must be of this network.",
    )
    remeasure.add_argument("front", type=Path, help="front, as front.save or dynadnn explore wrote it")
    remeasure.add_argument("model", type=Path, help="its network")
    remeasure.add_argument("--rounds", type=_number, default=100, metavar="N", help="blocks per point (default: 100)")
    remeasure.add_argument("--out", type=Path, metavar="FILE", help="where to (default: the front's file)")
    bench = add(
        "bench",
        _bench,
        "time the points of a network in turns",
        "Time single inferences of a saved network's points in turns; no data is needed.",
    )
    bench.add_argument("model", type=Path, help="network, as net.save wrote it")
    bench.add_argument(
        "--point", action="append", metavar="NAME", help="name or fraction; again for each (default: all named)"
    )
    bench.add_argument("--threads", type=_number, default=1, metavar="N", help="of the engine (default: 1)")
    bench.add_argument("--rounds", type=_number, default=100, metavar="N", help="blocks per point (default: 100)")


def _explore(options: argparse.Namespace, start: float) -> dict[str, Any]:
    from ._device import Device
    from ._explore import explore
    from ._files import load

    net = load(options.model)
    data = _data(options.data, options.root)
    device = None if options.device is None else Device.load(options.device)
    if device is not None and not device.is_here:
        sys.stderr.write(f"latencies are of {device.machine.cpu}, nothing is measured here\n")
    options.out.mkdir(parents=True, exist_ok=True)
    executor, close = _executor(options)
    try:
        front = explore(
            net,
            data,
            objectives=options.objective or ("error", "latency_ms"),
            constraints=options.constraint,
            device=device,
            population=options.population,
            generations=options.generations,
            budget=options.budget,
            max_seconds=options.seconds,
            executor=executor,
            checkpoint=options.checkpoint,
            progress=False if options.json else "auto",
            rng=options.seed,
        )
    finally:
        close()
    files = {"front": options.out / "front.json", "model": options.out / "model.safetensors"}
    front.save(files["front"])
    front.network.save(files["model"])
    if not options.json:
        print(front)
        print(f"\n{len(front.evaluated)} points evaluated, seed {front.seed}; {front.ended}")
        print(f"wrote {', '.join(map(str, files.values()))}")
    return {
        "points": _rows(front.records),
        "evaluated": len(front.evaluated),
        "stopped_early": sum(r.stopped is not None for r in front.evaluated),
        "failed": sum(r.failure is not None for r in front.evaluated),
        "ended": front.ended,
        "seed": front.seed,
        "machine": msgspec.to_builtins(front.machine),
        "files": {name: str(path) for name, path in files.items()},
    }


def _profile(options: argparse.Namespace, start: float) -> dict[str, Any]:
    from ._device import profile_device
    from ._files import load

    device = profile_device(load(options.model), threads=options.threads, path=options.out)
    table = device.table()
    if not options.json:
        print(table)
        print(f"wrote {options.out}")
    return {
        "figures": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
        "machine": msgspec.to_builtins(device.machine),
        "files": {"device": str(options.out)},
    }


def _remeasure(options: argparse.Namespace, start: float) -> dict[str, Any]:
    from ._files import load
    from ._front import Front

    front = Front.load(options.front, load(options.model)).remeasure(rounds=options.rounds)
    out = options.out or options.front
    front.save(out)
    if not options.json:
        print(front)
        print(f"wrote {out}")
    return {
        "points": _rows(front.records),
        "machine": msgspec.to_builtins(front.machine),
        "files": {"front": str(out)},
    }


def _bench(options: argparse.Namespace, start: float) -> dict[str, Any]:
    from ._files import load
    from ._machine import this_machine
    from ._measure import cost_record, measure_records
    from ._table import Table

    net = load(options.model)
    named = {net._find(p): p for p in (options.point or net.points)}
    records = [cost_record(net, s, name=name, threads=options.threads) for s, name in named.items()]
    timed = list(measure_records({"": net}, records, rounds=options.rounds).values())
    machine = this_machine()
    if not options.json:
        columns = ("point", "threads", "latency_ms", "p10_ms", "p90_ms", "bytes", "MACs")
        rows = [
            (r.name, r.threads, r.latency_ms_measured, r.latency_ms_p10, r.latency_ms_p90, r.bytes, r.macs)
            for r in timed
        ]
        print(Table(columns, rows, f"{machine.cpu}, {machine.isa}"))
    return {"points": _rows(timed), "machine": msgspec.to_builtins(machine)}


def _rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    from ._record import to_document

    return [{"label": r.label, **to_document(r)} for r in records]


def _data(name: str, root: Path | None) -> Data:
    """Read a data set by name, or arrays x and y of a file."""
    import numpy as np

    from . import datasets

    if name == "digits":
        return datasets.digits(rng=0)
    if name in DATA:
        if root is None:
            raise ValueError(f"--data {name} needs --root DIR, the folder of its published files")
        data: Data = getattr(datasets, name)(root)
        return data
    path = Path(name)
    if path.suffix != ".npz":
        raise ValueError(f"--data is {name!r}; it must be {', '.join(DATA)} or a .npz file")
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"x", "y"} - set(arrays.files)
        if missing:
            raise ValueError(f"{path} lacks the array {', '.join(sorted(missing))}; it holds {', '.join(arrays.files)}")
        return datasets.from_arrays(arrays["x"], arrays["y"], rng=0)


def _executor(options: argparse.Namespace) -> tuple[Any, Callable[[], None]]:
    """Return what evaluates, and what to call when it is no longer needed."""
    if options.scheduler is not None:
        client = connect(options.scheduler)
        return client, client.close
    if options.workers is not None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        spawn = multiprocessing.get_context("spawn")
        return (lambda: ProcessPoolExecutor(options.workers, mp_context=spawn)), lambda: None
    return None, lambda: None


def connect(address: str) -> Any:
    """Connect to a Dask scheduler that has workers.

    Raises
    ------
    ImportError
        If dask.distributed is not installed.
    ConnectionError
        If nothing answers there, or no worker joins.
    """
    try:
        make_client: Any = import_module("distributed").Client
    except ImportError:
        raise missing_extra("dask.distributed", "cluster") from None
    try:
        import_module("distributed.comm").resolve_address(address)  # a client that never connected waits at its end
        client = make_client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError, ImportError) as error:
        raise ConnectionError(f"no Dask scheduler answers at {address}: {error}") from error
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError as error:
        client.close()
        raise ConnectionError(
            f"the Dask scheduler at {address} has no workers: start some, dask worker {address}"
        ) from error
    return client


def above_zero(text: str, convert: Callable[[str], T], what: str, below: float = math.inf) -> T:
    """Read an argument above 0, or say that it is no `what`."""
    try:
        value = convert(text)
    except ValueError:
        value = convert("0")
    if not 0 < value < below:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what} above 0")
    return value


def _number(text: str) -> int:
    return above_zero(text, int, "whole number")
