import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def block():
    (code,) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    return code


def cheaper(code):
    """The same calls on fewer images, epochs and evaluations."""
    code = code.replace("dn.datasets.digits(rng=0)", "dn.datasets.digits(rng=0).subset(128)")
    code = re.sub(r"epochs=\d+", "epochs=1", code)
    return re.sub(r"(explore\(model, data, )", r"\1budget=8, population=8, ", code)


@pytest.mark.slow
def test_the_first_example_of_the_readme_runs(tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(cheaper(block()), "README.md", "exec"), names)
    assert names["logits"].shape == (1, 10)
    assert names["best"] in names["front"].records


def test_the_example_fits_on_a_screen_and_uses_public_names_only():
    lines = [line for line in block().splitlines() if line.strip()]
    assert len(lines) <= 12 and not re.search(r"\b_\w|\._", block())


def test_files_that_the_readme_links_to_are_there():
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_names_both_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install '.[plot]' && dynadnn demo" in text and "pip install '.[test]' && pytest" in text


SLOTS = {
    "convolution": ("conv_s8", "conv_f32"),
    "linear": ("linear_s8", "linear_f32"),
    "depthwise": ("dwconv_s8", "dwconv_f32"),
    "leaky": ("pointwise_u8", "pointwise_f32"),
    "max": ("pool_u8", "pool_f32"),
    "training": (None, "train_f32"),
}


def test_the_support_matrix_is_that_of_the_kernel_list():
    kernels = set(re.findall(r"DN_KERNEL\((\w+), (\w+),", (ROOT / "csrc/kernels/kernels.inc").read_text()))
    lines = [line.strip("| ").split(" | ") for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    columns = [("s8", i) for i in ("ref", "avx2", "avxvnni", "avx512", "neon", "neondot")]
    columns += [("f32", i) for i in ("ref", "avx2", "avx512", "neon")]
    columns += [("bf16", i) for i in ("ref", "avx2", "avx512", "avx512bf16")]
    for word, (integer, real) in SLOTS.items():
        (row,) = [cells for cells in lines if len(cells) == 15 and cells[0].startswith(word)]
        for (kind, isa), cell in zip(columns, row[1:], strict=True):
            slot = integer if kind == "s8" else real.replace("f32", kind)
            assert (cell == "✓") == ((slot, isa) in kernels), (row[0], kind, isa)
