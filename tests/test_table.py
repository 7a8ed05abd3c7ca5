import csv

import pytest

from dynadnn._table import Table

TABLE = Table(
    ("point", "latency_ms", "bytes", "ok"), [("0.5", 0.03125, 12345, True), ("<b>&_%", None, 7, False)], title="T & T"
)


def test_a_table_prints_aligned_columns():
    lines = str(TABLE).splitlines()
    assert lines[0] == "T & T"
    assert lines[1].split() == ["point", "latency_ms", "bytes", "ok"]
    assert lines[2].split() == ["0.5", "0.03125", "12,345", "yes"]
    assert lines[2].index("12,345") + 6 == lines[1].index("bytes") + 5


def test_html_is_escaped():
    text = TABLE._repr_html_()
    assert "<b>" not in text and "&lt;b&gt;&amp;_%" in text and "T &amp; T" in text


def test_latex_escapes_its_special_characters():
    assert r"<b>\&\_\%" in TABLE.to_latex()
    assert r"latency\_ms" in TABLE.to_latex()


def test_csv_keeps_full_precision_and_leaves_missing_values_empty(tmp_path):
    table = Table(("a", "b"), [(1 / 3, None)])
    table.to_csv(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["a", "b"], [repr(1 / 3), ""]]


def test_a_table_becomes_a_data_frame():
    pytest.importorskip("pandas")
    frame = TABLE.to_frame()
    assert list(frame.columns) == ["point", "latency_ms", "bytes", "ok"]
    assert frame["bytes"].tolist() == [12345, 7]


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "dynadnn\[frame\]"'):
        TABLE.to_frame()


def test_an_empty_table_has_headers_only():
    table = Table(("a",), [])
    assert len(table) == 0 and str(table) == "a" and "<th" in table._repr_html_() and table["a"] == []


def test_rows_are_dicts_and_columns_are_lists():
    assert next(iter(TABLE))["bytes"] == 12345
    assert TABLE["bytes"] == [12345, 7]
    with pytest.raises(KeyError, match="there are point"):
        TABLE["nothing"]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="row 1 has 1 values for 2 columns"):
        Table(("a", "b"), [(1, 2), (3,)])
