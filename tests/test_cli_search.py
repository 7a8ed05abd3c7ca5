"""The commands of searches and measurements."""

import json
import shutil

import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _cli, _cli_search, _device

QUICK = ("--population", "4", "--budget", "6", "--seed", "0")

pytestmark = pytest.mark.usefixtures("quick_profiles")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network, a device of another CPU, and data of one's own."""
    folder = tmp_path_factory.mktemp("cli")
    data = dn.datasets.digits(rng=0)
    net = dn.nets.mlp(data, width=32, points=(0.5, 1.0), rng=0)
    net.recalibrate(data.calibration.x)
    net.save(folder / "net.safetensors")
    dn.Device.from_speed(10, 1e10).save(folder / "board.json")
    np.savez(folder / "own.npz", x=data.train.x, y=data.train.y)
    return folder


def run(capsys, *arguments):
    code = _cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def explore(folder, capsys, out, *arguments):
    board = ("--device", folder / "board.json")
    return run(capsys, "explore", folder / "net.safetensors", *QUICK, *board, "--out", out, *arguments)


def test_explore_writes_a_front_and_its_network(folder, capsys, tmp_path):
    code, out, err = explore(folder, capsys, tmp_path, "--json")
    result = json.loads(out)
    assert code == 0 and result["evaluated"] == 6 and result["ended"].startswith("budget") and result["seed"] == 0
    assert "nothing is measured here" in err and "model of" in result["machine"]["cpu"]
    front = dn.Front.load(result["files"]["front"], dn.load(result["files"]["model"]))
    assert [r["accuracy"] for r in result["points"]] == [r.accuracy for r in front.records]
    assert front.ended == result["ended"] and front.records[0].point in front.network.tables


def test_explore_goes_on_from_a_checkpoint_and_prints_why_it_ended(folder, capsys, tmp_path, monkeypatch):
    first = explore(folder, capsys, tmp_path, "--checkpoint", tmp_path / "s.jsonl")
    assert first[0] == 0 and "budget: 6 points are evaluated" in first[1]
    lines = (tmp_path / "s.jsonl").read_bytes()
    explore(folder, capsys, tmp_path, "--checkpoint", tmp_path / "s.jsonl")
    assert (tmp_path / "s.jsonl").read_bytes() == lines


def test_explore_takes_objectives_limits_and_own_arrays(folder, capsys, tmp_path):
    limit = ("--constraint", "macs <= 3000", "--objective", "error", "--objective", "macs")
    code, out, _ = explore(folder, capsys, tmp_path, *limit, "--data", folder / "own.npz", "--json")
    assert code == 0 and all(r["macs"] <= 3000 for r in json.loads(out)["points"])


def test_explore_without_a_feasible_point_exits_with_3(folder, capsys, tmp_path):
    code, out, err = explore(folder, capsys, tmp_path, "--constraint", "macs <= 1", "--json")
    assert code == 3 and out == "" and "'macs <= 1' is missed by" in err and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_explore_with_workers_finds_the_same(folder, capsys, tmp_path):
    alone = json.loads(explore(folder, capsys, tmp_path, "--json")[1])["points"]
    assert json.loads(explore(folder, capsys, tmp_path, "--json", "--workers", "1")[1])["points"] == alone


def test_explore_joins_a_dask_cluster(folder, capsys, tmp_path):
    distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    alone = json.loads(explore(folder, capsys, tmp_path, "--json")[1])["points"]
    options = dict(n_workers=1, processes=False, protocol="tcp", dashboard_address=None)
    with distributed.LocalCluster(**options, local_directory=str(tmp_path / "dask")) as cluster:
        address = ("--scheduler", cluster.scheduler_address)
        assert json.loads(explore(folder, capsys, tmp_path, "--json", *address)[1])["points"] == alone


def test_a_scheduler_that_cannot_be_reached_is_named(folder, capsys, tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    monkeypatch.setattr(_cli_search, "CONNECT_SECONDS", 0.5)
    code, _, err = explore(folder, capsys, tmp_path, "--scheduler", "tcp://127.0.0.1:9")
    assert code == 1 and "no Dask scheduler answers at tcp://127.0.0.1:9" in err


def test_a_scheduler_without_workers_is_an_error(folder, capsys, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    monkeypatch.setattr(_cli_search, "WORKER_SECONDS", 0.2)
    options = dict(n_workers=0, processes=False, protocol="tcp", dashboard_address=None)
    with distributed.LocalCluster(**options) as cluster:
        code, _, err = explore(folder, capsys, tmp_path, "--scheduler", cluster.scheduler_address)
    assert code == 1 and "has no workers" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "mnist"), "--root"),
        (("--data", "birds"), "npz"),
        (("--population", "5"), "even"),
        (("--population", "2"), "at least 4"),
        (("--device", "nothing.json"), "nothing.json"),
        (("--constraint", "fast"), "constraint 'fast'"),
    ],
)
def test_what_explore_cannot_use_exits_with_1_and_leaves_no_checkpoint(folder, capsys, tmp_path, arguments, message):
    code, _, err = explore(folder, capsys, tmp_path, "--checkpoint", tmp_path / "s.jsonl", *arguments)
    assert code == 1 and message in err and not (tmp_path / "s.jsonl").exists()


def test_arrays_without_labels_are_refused(folder, capsys, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8, 8, 1), np.uint8))
    code, _, err = explore(folder, capsys, tmp_path / "o", "--data", tmp_path / "x.npz")
    assert code == 1 and "lacks the array y" in err


def test_profile_writes_a_device_that_it_goes_on_with(folder, capsys, tmp_path, monkeypatch):
    call = ("profile", folder / "net.safetensors", "--threads", "1", "--out", tmp_path / "d.json", "--json")
    code, out, _ = run(capsys, *call)
    figures = json.loads(out)["figures"]
    assert code == 0 and len(figures) == 2 and all(row["latency_ms"] > 0 for row in figures)
    assert len(dn.Device.load(tmp_path / "d.json")) == 2
    assert json.loads(run(capsys, *call)[1])["figures"] == figures
    monkeypatch.setattr(_device, "cpu_name", lambda: "another CPU")
    code, _, err = run(capsys, *call)
    assert code == 1 and "give another path" in err


def test_remeasure_fills_in_the_latencies_of_this_machine(folder, capsys, tmp_path):
    explore(folder, capsys, tmp_path)
    front, model = tmp_path / "front.json", tmp_path / "model.safetensors"
    code, out, _ = run(capsys, "remeasure", front, model, "--rounds", "3", "--json")
    assert code == 0 and all(r["latency_ms_measured"] > 0 for r in json.loads(out)["points"])
    again = dn.Front.load(front)
    assert again.machine.cpu == _device.cpu_name() and all(r.latency_ms_measured for r in again.records)
    code, out, _ = run(capsys, "remeasure", front, model, "--rounds", "3", "--out", tmp_path / "other.json")
    assert code == 0 and "other.json" in out and (tmp_path / "other.json").exists()


def test_remeasure_refuses_a_front_of_another_network(folder, capsys, tmp_path):
    explore(folder, capsys, tmp_path)
    dn.nets.mlp((8, 8, 1), 10, width=32, points=(0.5, 1.0), rng=1).save(tmp_path / "other.safetensors")
    code, _, err = run(capsys, "remeasure", tmp_path / "front.json", tmp_path / "other.safetensors")
    assert code == 1 and "another network" in err


def test_bench_times_the_named_points_or_those_that_are_asked_for(folder, capsys):
    code, out, _ = run(capsys, "bench", folder / "net.safetensors", "--rounds", "3", "--json")
    points = json.loads(out)["points"]
    assert code == 0 and [r["name"] for r in points] == ["0.5", "1.0"] and points[0]["macs"] < points[1]["macs"]
    assert all(r["latency_ms_p10"] <= r["latency_ms_measured"] <= r["latency_ms_p90"] for r in points)
    code, out, _ = run(capsys, "bench", folder / "net.safetensors", "--rounds", "3", "--point", "0.5")
    assert code == 0 and "0.5" in out and "latency_ms" in out
    assert run(capsys, "bench", folder / "net.safetensors", "--point", "tiny")[0] == 1


@pytest.mark.parametrize(
    "arguments", [("explore",), ("profile",), ("remeasure", "x"), ("bench", "x", "--threads", "0"),
                  ("explore", "x", "--workers", "2", "--scheduler", "y")],
)  # fmt: skip
def test_a_wrong_command_line_exits_with_2(capsys, arguments):
    assert run(capsys, *arguments)[0] == 2


@pytest.mark.parametrize("command", ["explore", "profile", "remeasure", "bench"])
def test_help_documents_the_exit_codes(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0 and "exit codes" in out and "no point meets all constraints" in out


def test_a_damaged_checkpoint_exits_with_1(folder, capsys, tmp_path):
    path = tmp_path / "s.jsonl"
    shutil.copy(folder / "board.json", path)
    code, _, err = explore(folder, capsys, tmp_path / "o", "--checkpoint", path)
    assert (
        code == 1 and "no checkpoint of a search" in err and path.read_bytes() == (folder / "board.json").read_bytes()
    )
