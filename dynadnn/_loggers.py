"""Logs of a run in files: a row per epoch, and per so many steps, that grow as training goes on."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from ._arguments import positive_int
from ._callbacks import Callback, Logs
from ._container import atomic_write

_MARKS = ("group", "epoch", "step")

Row = dict[str, Any]


class RowLogger(Callback):
    """A file of rows; what a subclass writes of each is its own.

    A checkpoint holds how many rows there were, and makes them safe on the disk. A resumed run drops the rows after
    that before it writes its first, so none is there twice; a run from its start begins the file anew.
    """

    _recorder = True
    _head_lines = 0

    def __init__(self, path: str | os.PathLike[str], *, every_steps: int | None = None) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be a str or a path, not {type(path).__name__}")
        self.path = os.fspath(path)
        self.every_steps = None if every_steps is None else positive_int(every_steps, "every_steps")
        self._rows = 0
        self._size: int | None = None  # bytes of these rows in the file; None if that is not known yet

    def on_train_begin(self, logs: Logs) -> None:
        """Begin the file, unless the run goes on from a checkpoint or an earlier channel group."""
        if not logs.get("resumed") and logs.get("group", 1) == 1:
            self._rows, self._size = 0, 0
            with open(self.path, "wb"):
                pass

    def on_step_end(self, logs: Logs) -> None:
        """Write a row of every n-th step."""
        if self.every_steps is not None and logs["step"] % self.every_steps == 0:
            self._write(self._row("step", logs))

    def on_epoch_end(self, logs: Logs) -> None:
        """Write a row of an epoch."""
        self._write(self._row("epoch", logs))

    def state(self) -> dict[str, int]:
        """Return how many rows there are; they are then on the disk."""
        if self._rows and os.path.exists(self.path):
            handle = os.open(self.path, os.O_RDWR)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return {"rows": self._rows}

    def load_state(self, state: dict[str, int]) -> None:
        """Go on after so many rows."""
        self._rows, self._size = int(state["rows"]), None

    def _row(self, kind: str, logs: Logs) -> Row:
        row: Row = {} if self.every_steps is None else {"kind": kind}
        if "group" in logs:
            row["group"] = int(logs["group"])
        row |= {"epoch": int(logs["epoch"]) + 1, "step": int(logs["step"])}
        return row | {key: float(value) for key, value in logs.items() if key not in _MARKS}

    def _write(self, row: Row) -> None:
        present = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        if self._size is None or present < self._size:
            self._size = self._find(present)
        data = self._encode(row)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        with open(handle, "r+b") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(data)
        self._size += len(data)
        self._rows += 1

    def _find(self, present: int) -> int:
        """Bytes of the rows that count, in a file that this object did not write last."""
        data = b""
        if present:
            with open(self.path, "rb") as file:
                data = file.read()
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
        there = max(0, len(ends) - self._head_lines)
        if there < self._rows:
            warnings.warn(
                f"{self.path} holds {there} rows, the checkpoint was made after {self._rows}: the rest is missing",
                UserWarning,
                stacklevel=2,
            )
            self._rows = there
        lines = self._rows + self._head_lines if self._rows else 0
        return int(ends[lines - 1]) if lines else 0

    def _encode(self, row: Row) -> bytes:
        raise NotImplementedError


class JSONLLogger(RowLogger):
    """Writes a line of JSON per epoch, and if you like per so many steps.

    Keys are epoch (from 1), step (steps finished so far) and all figures of the epoch or step; group (from 1) where
    channel groups are trained one after the other, and kind ("epoch" or "step") with `every_steps`. NaN is null. A
    file that is there is begun anew, but a resumed run goes on with it and has no row twice.

    Parameters
    ----------
    path : str or path
    every_steps : int, optional
        Also a line after every step whose number is a multiple of this.

    Raises
    ------
    OSError
        In training, if the file cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> import dynadnn as dn
    >>> data = dn.datasets.digits(rng=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "log.jsonl")
    >>> net = dn.nets.mlp(data, rng=0)
    >>> history = dn.fit(net, data, epochs=2, callbacks=[dn.JSONLLogger(path)], progress=False, rng=0)
    >>> sum(1 for line in open(path))
    2
    """

    def _encode(self, row: Row) -> bytes:
        return msgspec.json.encode(row) + b"\n"


class CSVLogger(RowLogger):
    """Writes a row of comma-separated values per epoch, and if you like per so many steps.

    Columns are epoch (from 1), step (steps finished so far) and all figures of the epoch or step, empty where a row
    has none; group (from 1) where channel groups are trained one after the other, and kind ("epoch" or "step") with
    `every_steps`. A file that is there is begun anew, but a resumed run goes on with it and has no row twice.

    Parameters
    ----------
    path : str or path
    every_steps : int, optional
        Also a row after every step whose number is a multiple of this.

    Raises
    ------
    OSError
        In training, if the file cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> import dynadnn as dn
    >>> data = dn.datasets.digits(rng=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "log.csv")
    >>> net = dn.nets.mlp(data, rng=0)
    >>> history = dn.fit(net, data, epochs=2, callbacks=[dn.CSVLogger(path)], progress=False, rng=0)
    >>> open(path).readline().startswith("epoch,step,loss,accuracy,lr,val_loss")
    True
    """

    _head_lines = 1

    def _encode(self, row: Row) -> bytes:
        assert self._size is not None
        columns: list[str] = []
        if self._size:
            with open(self.path, newline="", encoding="utf-8") as file:
                columns = next(csv.reader(file))
        new = [key for key in row if key not in columns]
        head = b""
        if new and columns:
            self._widen(columns + new)
        elif new:
            head = _line(new)
        return head + _line(row.get(key, "") for key in columns + new)

    def _widen(self, columns: list[str]) -> None:
        """Give all rows so far more columns, empty ones."""
        with open(self.path, "rb") as file:
            text = file.read(self._size).decode()
        _, *rows = csv.reader(io.StringIO(text))
        data = b"".join([_line(columns), *(_line(row + [""] * (len(columns) - len(row))) for row in rows)])
        atomic_write(self.path, data)
        self._size = len(data)


def _line(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
