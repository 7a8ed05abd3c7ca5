import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(path):
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_use_public_names_only_and_carry_no_outputs(path):
    assert not re.search(r"dn\._|\._[a-z]|from dynadnn", "\n".join(cells(path)))
    assert all(not c.get("outputs") for c in nbformat.read(path, as_version=4).cells)
    assert path.stat().st_size < 50_000


def test_the_first_curve_takes_eight_lines():
    path = next(p for p in NOTEBOOKS if p.stem == "01_quickstart")
    lines = []
    for source in cells(path):
        lines += [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if ".plot(" in source:
            break
    assert ".plot(" in lines[-1] and len(lines) <= 8
