"""Evaluating in other processes: the same front, data shipped once, workers that die."""

import gc
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from fakes import fake_data, fake_network

import dynadnn as dn
from dynadnn import _arguments, _pool

OPTIONS = dict(population=12, generations=5, termination=None, progress=False, rng=0)
SPAWN = multiprocessing.get_context("spawn")
QUICK = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")


@pytest.fixture(scope="module")
def data():
    return fake_data()


@pytest.fixture(scope="module")
def serial(data):
    return outcome(search(data))


def search(data, **options):
    return dn.explore(fake_network(), data, device=dn.Device.from_speed(10, 1e10), **{**OPTIONS, **options})


def outcome(front):
    return [[(r.point, r.accuracy, r.latency_ms, r.stopped) for r in some] for some in (front.records, front.evaluated)]


@dataclass
class Deadly:
    """An objective that kills its process for points of one first width, as often as the folder allows."""

    folder: str
    width: int
    times: int = 1

    def __call__(self, net, point, split):
        if point.widths[0] == self.width:
            for k in range(self.times):
                try:
                    Path(self.folder, str(k)).touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return float(sum(point.widths))


def loads():
    time.sleep(0.1)  # so that every worker gets one
    return os.getpid(), _pool.loads


def cores():
    return _arguments._sharing


def kill_one(pids, state):
    """After the first generation one worker is gone."""
    if state.generation == 1:
        os.kill(pids()[0], signal.SIGKILL)
        time.sleep(0.2)
    return False


def eventually(holds, seconds=10):
    """Wait for what other threads still do: Dask's client lets a future go in its own event loop."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        gc.collect()
        time.sleep(0.05)
    return holds()


def test_threads_share_the_data(data, serial):
    before = _pool.loads
    with ThreadPoolExecutor(3) as executor:
        assert outcome(search(data, executor=executor)) == serial
    assert _pool.loads == before and not _pool._held


def test_processes_find_the_same_front_get_the_data_once_and_may_die(data, serial, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ProcessPoolExecutor(2, mp_context=SPAWN) as executor:
        executor.submit(loads).result()  # the workers are older than the search
        found = search(data, executor=executor)
        counts = dict(f.result() for f in [executor.submit(loads) for _ in range(8)])
        assert outcome(found) == serial
        assert max(counts.values()) == 1 and len(counts) <= 2
        assert executor.submit(cores).result() == 2  # workers do not take each other's cores
        pids = lambda: list(executor._processes)  # noqa: E731
        assert outcome(search(data, executor=executor, termination=partial(kill_one, pids))) == serial
    assert not list(tmp_path.iterdir())


def test_a_worker_that_finds_no_file_asks_for_the_data(data, serial, monkeypatch):
    monkeypatch.setattr(_pool.Pool, "_write", lambda self: setattr(self, "_path", "/nonexistent/search.pickle"))
    with ProcessPoolExecutor(1, mp_context=SPAWN) as executor:
        assert executor.submit(loads).result()[1] == 0
        assert outcome(search(data, executor=executor)) == serial
        assert executor.submit(loads).result()[1] == 1


def test_a_worker_killed_in_an_evaluation_costs_a_retry(data, tmp_path):
    def run(**options):
        return search(data, objectives=("error", dn.Objective("channels", objective)), generations=3, **options)

    objective = Deadly(str(tmp_path), 8, times=0)
    expected = outcome(run())
    objective = Deadly(str(tmp_path), 8, times=3)
    assert outcome(run(executor=lambda: ProcessPoolExecutor(2, mp_context=QUICK))) == expected
    assert len(list(tmp_path.iterdir())) == 3


def test_a_point_that_kills_its_worker_again_and_again_is_a_failure(data, tmp_path):
    objective = dn.Objective("channels", Deadly(str(tmp_path), 8, times=10**6))
    with ProcessPoolExecutor(2, mp_context=QUICK) as executor:
        front = search(
            data,
            objectives=("error", objective),
            executor=executor,
            space=dn.Space(widths=(0.25, 0.5, 1.0), uniform=True),
        )
    (failed,) = [r for r in front.evaluated if r.failure]
    assert failed.point.widths[0] == 8 and "died 3 times" in failed.failure and len(front.evaluated) == 3


def test_workers_that_only_die_end_the_search(data, tmp_path, monkeypatch):
    monkeypatch.setattr(_pool, "MOST_DEATHS", 5)

    def fatal(net, point, split):
        os._exit(1)

    with pytest.raises(RuntimeError, match="workers died 5 times in a row"):
        search(
            data,
            objectives=("error", dn.Objective("x", fatal)),
            executor=lambda: ProcessPoolExecutor(2, mp_context=QUICK),
        )


def test_functions_of_a_notebook_reach_a_worker(data):
    pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    wide = dn.Objective("channels", lambda net, point, split: sum(point.widths))
    with ProcessPoolExecutor(1, mp_context=SPAWN) as executor:
        executor.submit(loads).result()
        front = search(data, objectives=("error", wide), executor=executor, generations=1)
    assert all(r.values["channels"] == sum(r.point.widths) for r in front.records)


NOTEBOOK = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import dynadnn as dn
data = dn.datasets.digits(rng=0).subset(100)
net = dn.nets.mlp(data, width=16, points=(0.5, 1.0), rng=0)
def channels(net, point, split):
    return sum(point.widths)
options = dict(device=dn.Device.from_speed(10, 1e10), population=4, budget=4, rng=0)
with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
    goals = ("error", dn.Objective("channels", channels))
    front = dn.explore(net, data, objectives=goals, executor=executor, **options)
assert all(r.values["channels"] == sum(r.point.widths) for r in front.evaluated), front.evaluated
"""


@pytest.mark.slow
def test_processes_work_inside_jupyter(tmp_path):
    for name in ("cloudpickle", "nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_what_cannot_be_sent_is_refused_with_a_way_out(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with ProcessPoolExecutor(1) as executor, pytest.raises(TypeError, match=r"cannot be sent.*cloudpickle"):
        search(data, objectives=("error", dn.Objective("x", lambda n, p, s: 0.0)), executor=executor)


class Plain:
    """The least an executor can be."""

    def __init__(self, broken=0):
        self.broken = broken

    def submit(self, f, *args):
        from concurrent.futures import BrokenExecutor

        future = Future()
        if self.broken:
            self.broken -= 1
            future.set_exception(BrokenExecutor("gone"))
        else:
            future.set_result(f(*args))
        return future


def test_anything_with_submit_is_an_executor(data, serial):
    assert outcome(search(data, executor=Plain())) == serial


def test_an_executor_that_breaks_and_cannot_be_made_again_is_an_error(data, serial):
    with pytest.raises(RuntimeError, match="pass executor=a function"):
        search(data, executor=Plain(broken=1))
    assert outcome(search(data, executor=lambda made=[1, 1]: Plain(broken=made.pop() if made else 0))) == serial


@pytest.mark.parametrize("executor", [3, lambda: 3])
def test_what_is_no_executor_is_refused(data, executor):
    with pytest.raises(TypeError, match=r"submit\(f, \*args\)"):
        search(data, executor=executor)


def test_an_error_on_the_way_to_a_worker_names_the_point(data):
    class Refuses(Plain):
        def submit(self, f, *args):
            future = Future()
            future.set_exception(ImportError("no dynadnn there"))
            return future

    with pytest.raises(RuntimeError, match=r"could not evaluate .*no dynadnn there"):
        search(data, executor=Refuses())


def test_no_evaluation_starts_late_on_an_executor(data):
    class Slow(Plain):
        def __init__(self):
            super().__init__()
            self.pool = ThreadPoolExecutor(1)

        def submit(self, f, *args):
            return self.pool.submit(lambda: time.sleep(0.1) or f(*args))

    executor = Slow()
    front = search(data, executor=executor, max_seconds=0.25)
    assert 0 < len(front.evaluated) < 15 and front.ended == "max_seconds: 0.25 s are over"
    executor.pool.shutdown()


def test_loky_finds_the_same_front_and_a_killed_worker_costs_a_retry(data, serial):
    loky = pytest.importorskip("loky", reason="loky is not installed")
    executor = loky.get_reusable_executor(max_workers=2)
    try:
        pids = lambda: list(loky.get_reusable_executor(max_workers=2)._processes)  # noqa: E731
        assert outcome(search(data, executor=executor, termination=partial(kill_one, pids))) == serial
    finally:
        loky.get_reusable_executor(max_workers=2).shutdown(kill_workers=True)


@pytest.mark.slow
def test_dask_finds_the_same_front_and_a_killed_worker_costs_a_retry(data, serial, tmp_path):
    distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    options = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with (
        distributed.LocalCluster(**options, local_directory=str(tmp_path)) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert all(n == 0 for _, n in client.run(loads).values())
        pids = lambda: list(client.run(os.getpid).values())  # noqa: E731
        assert outcome(search(data, executor=client, termination=partial(kill_one, pids))) == serial
        assert eventually(lambda: not client.futures)  # nothing is left on the cluster


class FakeDask(Plain):
    """What tells a Dask client from other executors."""

    status = "running"

    def scatter(self, data, **options):
        return data

    def scheduler_info(self):
        return {"workers": {}}

    def submit(self, f, *args, pure):
        future = Future()
        future.set_exception(OSError("in Client: Stream is closed"))
        future.cancel = lambda: 1 / 0
        return future


class Forgetful(FakeDask):
    """A cluster whose workers die with all that was scattered, again and again."""

    scattered = 0

    def scatter(self, data, **options):
        self.scattered += 1
        return FakeDask

    def submit(self, f, token, path, data, *args, pure):
        if data is not FakeDask:
            return Plain.submit(self, f, token, path, data, *args)
        future = Future()
        future.set_exception(CancelledError("lost dependencies"))
        return future


def test_a_cluster_that_keeps_losing_the_data_does_not_end_the_search(data, serial):
    executor = Forgetful()
    assert outcome(search(data, executor=executor)) == serial
    assert executor.scattered == 1


def test_a_scheduler_that_dies_in_a_search_is_a_lost_connection(data):
    with pytest.raises(ConnectionError, match="with a checkpoint the same call goes on"):
        search(data, executor=FakeDask())


def test_a_closed_client_is_a_lost_connection(data):
    client = FakeDask()
    client.status = "closed"
    with pytest.raises(ConnectionError, match="the client is closed"):
        search(data, executor=client)
