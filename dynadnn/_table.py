"""Tables: what reports, fronts and profiles look like in a terminal, a notebook, a paper."""

from __future__ import annotations

import csv
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._arguments import missing_extra

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Parameters
    ----------
    columns : sequence of str
        Names of the columns; units belong into the name (``latency_ms``).
    rows : sequence of sequences
        One value per column: str, int, float, bool or None (shown empty).
    title : str
        Shown above the table.

    Raises
    ------
    ValueError
        If a row has not one value per column.

    Examples
    --------
    >>> print(Table(("point", "latency_ms"), [("0.5", 0.0312), ("1.0", 0.09)]))
    point  latency_ms
    0.5        0.0312
    1.0          0.09
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {i} has {len(row)} values for {len(self.columns)} columns {self.columns}")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a dict from column to value."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        """Return the values of one column."""
        if column not in self.columns:
            raise KeyError(f"no column {column!r}; there are {', '.join(self.columns)}")
        at = list(self.columns).index(column)
        return [row[at] for row in self.rows]

    def to_frame(self) -> Any:
        """Return the table as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            If pandas is not installed (extra ``frame``).
        """
        try:
            import pandas
        except ImportError as error:
            raise missing_extra("pandas", "frame") from error
        return pandas.DataFrame([list(row) for row in self.rows], columns=list(self.columns))

    def to_csv(self, path: str | Path) -> None:
        """Write the table as comma-separated values, full precision, UTF-8.

        Parameters
        ----------
        path : str or Path
            The file; replaced if it exists.
        """
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(["" if value is None else value for value in row] for row in self.rows)

    def to_latex(self) -> str:
        """Return the table as a LaTeX ``tabular`` (needs no package)."""
        right = self._right()
        lines = [r"\begin{tabular}{" + "".join("r" if r else "l" for r in right) + "}", r"\hline"]
        lines.append(" & ".join(c.translate(LATEX) for c in self.columns) + r" \\ \hline")
        lines += [" & ".join(cell(value).translate(LATEX) for value in row) + r" \\" for row in self.rows]
        return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"

    def __str__(self) -> str:
        cells = [list(self.columns), *([cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        right = self._right()
        lines = [
            "  ".join(
                text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n".join([self.title, *lines] if self.title else lines)

    def _repr_html_(self) -> str:
        right = self._right()

        def line(tag: str, texts: Sequence[str]) -> str:
            return (
                "<tr>"
                + "".join(
                    f'<{tag} style="text-align:{"right" if r else "left"}">{html.escape(text)}</{tag}>'
                    for text, r in zip(texts, right, strict=True)
                )
                + "</tr>"
            )

        body = "".join(line("td", [cell(value) for value in row]) for row in self.rows)
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        return f"<table>{caption}<thead>{line('th', self.columns)}</thead><tbody>{body}</tbody></table>"

    def _right(self) -> list[bool]:
        """Columns of numbers are aligned to the right."""
        return [
            bool(self.rows) and all(row[i] is None or isinstance(row[i], int | float) for row in self.rows)
            for i in range(len(self.columns))
        ]


def cell(value: Any) -> str:
    """Text of one value: four significant digits for floats, thousands separated for integers."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
