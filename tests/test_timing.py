import gc

import numpy as np
import pytest

from dynadnn._timing import nondominated, samples, summarise, time_calls


class Clock:
    """A clock that only the calls below move on, and a log of who was called."""

    def __init__(self):
        self.now, self.log, self.pace = 0.0, [], 1.0

    def __call__(self):
        return self.now

    def call(self, name, seconds):
        def run():
            self.log.append(name)
            self.now += seconds * self.pace

        return run


def test_durations_are_those_of_one_call():
    clock = Clock()
    durations, repeats = samples([clock.call("a", 0.001), clock.call("b", 0.004)], rounds=4, block_ms=8, clock=clock)
    np.testing.assert_allclose(durations, [[1.0] * 4, [4.0] * 4])
    assert repeats.tolist() == [8, 2]


def test_blocks_of_all_calls_take_turns_there_and_back():
    clock = Clock()
    calls = [clock.call(name, 0.01) for name in "abc"]
    samples(calls, rounds=2, block_ms=1, warmup_ms=0.1, clock=clock)
    assert "".join(clock.log[-12:]) == "aabbccccbbaa"


def test_drift_of_the_clock_hits_all_calls_alike():
    clock = Clock()

    def drifting(name, seconds):
        run = clock.call(name, seconds)

        def slower_every_time():
            run()
            clock.pace *= 1.001

        return slower_every_time

    durations, _ = samples([drifting("a", 0.001), drifting("b", 0.002)], rounds=40, block_ms=4, clock=clock)
    assert np.median(durations[1]) / np.median(durations[0]) == pytest.approx(2.0, rel=0.02)


def test_calls_run_for_the_warm_up_before_anything_is_timed():
    clock = Clock()
    samples([clock.call("a", 0.001)], rounds=1, block_ms=1, warmup_ms=20, clock=clock)
    assert len(clock.log) == 20 + 1 + 1


def test_a_call_below_the_clocks_resolution_is_still_timed():
    clock = Clock()
    durations, repeats = samples([clock.call("a", 0.0)], rounds=2, block_ms=1, clock=clock)
    assert durations.tolist() == [[0.0, 0.0]] and repeats[0] >= 1


def test_garbage_collection_is_off_meanwhile_and_on_again_after_an_error():
    seen = []

    def fail():
        seen.append(gc.isenabled())
        raise RuntimeError("no")

    assert gc.isenabled()
    with pytest.raises(RuntimeError):
        samples([fail])
    assert seen == [False] and gc.isenabled()


def test_the_number_of_runs_is_recorded():
    timing = summarise(np.arange(1.0, 12.0), 7)
    assert (timing.median_ms, timing.p10_ms, timing.p90_ms, timing.runs, timing.blocks) == (6.0, 2.0, 10.0, 77, 11)


def test_no_calls_take_no_time():
    assert time_calls([]) == []


def test_zero_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds is 0"):
        samples([dict], rounds=0)


def test_rows_that_no_other_row_beats_are_found():
    costs = np.array([[1, 4], [2, 2], [2, 3], [4, 1], [2, 2], [np.nan, 0]])
    assert nondominated(costs).tolist() == [True, True, False, True, True, False]
    assert nondominated(np.empty((0, 2))).tolist() == []
