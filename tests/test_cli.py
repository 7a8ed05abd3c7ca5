import csv
import json
import re
import subprocess
import sys

import pytest

import dynadnn as dn
from dynadnn import _cli, _demo
from dynadnn._front import Front
from dynadnn._record import Record


def run(*arguments, **options):
    command = [sys.executable, "-m", "dynadnn", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run("demo", "--seconds", "6", "--json", "--out", "out", cwd=folder)


@pytest.mark.slow
def test_the_demo_ends_well_and_its_json_parses(demo):
    _, done = demo
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"points", "picked", "limit_ms", "code", "checks", "machine", "files"} <= result.keys()
    assert len(result["points"]) >= 6 and result["picked"] in {p["point"] for p in result["points"]}
    assert {"promise", "held", "figure"} == result["checks"][0].keys() and len(result["checks"]) == 5


@pytest.mark.slow
def test_the_demo_writes_its_files(demo):
    folder, _ = demo
    assert {p.name for p in (folder / "out").iterdir()} == {
        "model.safetensors",
        "front.json",
        "front.png",
        "history.csv",
    }
    with open(folder / "out" / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {"teacher", "student"} and all(float(row["loss"]) > 0 for row in rows)


@pytest.mark.slow
def test_the_line_that_the_demo_recommends_runs(demo, monkeypatch):
    folder, done = demo
    monkeypatch.chdir(folder)
    result, names = json.loads(done.stdout), {}
    exec(result["code"], names)
    assert list(names["engine"].active.point.widths if isinstance(names["engine"].active, Record) else
                names["engine"].active.widths) == result["widths"]  # fmt: skip
    assert names["engine"](dn.datasets.digits(rng=0).test.x[:2]).shape == (2, 10)


@pytest.mark.slow
def test_the_demo_says_what_it_did_on_the_error_stream_when_asked_for_json(demo):
    _, done = demo
    assert "teacher" in done.stderr and "Ship it with" in done.stderr


def test_info_prints_the_configuration():
    done = run("info")
    assert done.returncode == 0 and re.search(r"isa_used +\w+", done.stdout) and "threads" in done.stdout


def test_info_as_json_parses():
    result = json.loads(run("info", "--json").stdout)
    assert result["isa_used"] in result["isa_found"] and result["threads"] >= 1 and result["version"] == dn.__version__


def test_show_config_returns_what_it_prints(capsys):
    config = dn.show_config()
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in config)


@pytest.mark.parametrize(
    "arguments", [("fly",), ("demo", "--seconds", "0"), ("demo", "--seconds", "soon"), ("demo", "--data", "imagenet")]
)
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    assert _cli.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_a_failure_exits_with_1_and_one_line(tmp_path, capsys):
    assert _cli.main(["demo", "--data", "cifar10"]) == 1
    assert "--root" in capsys.readouterr().err
    assert _cli.main(["demo", "--data", "cifar10", "--root", str(tmp_path), "--out", str(tmp_path / "o")]) == 1
    (tmp_path / "file").write_text("")
    assert _cli.main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err


def test_ctrl_c_exits_with_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_demo, "run_demo", interrupted)
    assert _cli.main(["demo"]) == 130


def test_help_documents_the_exit_codes(capsys):
    assert _cli.main(["demo", "--help"]) == 0
    assert "exit codes" in capsys.readouterr().out
    assert _cli.main([]) == 0 and "demo" in capsys.readouterr().out
    assert _cli.main(["--version"]) == 0 and capsys.readouterr().out.strip() == dn.__version__


def test_the_demo_says_so_when_a_promise_is_not_kept(monkeypatch):
    from fakes import fake_data, fake_network

    class Data:
        test = fake_data().test

    front = dn.measure(fake_network(points=(0.25, 0.75, 1.0)), fake_data().val).evaluate(Data.test)
    teacher = Record(point=dn.Subnet(()), model="teacher fp32", latency_ms=1e-6, accuracy=0.1, accuracy_test=0.1)
    checks = _demo.verify(front, Front(None, [teacher], hashes={}), None, Data, limit=1e9)
    assert [c.held for c in checks] == [True, True, False, False, False]


def test_the_limit_is_written_as_people_write_it():
    assert [_demo.rounded(v) for v in (0.034567, 1.26, 12.7)] == [0.035, 1.3, 13.0]
