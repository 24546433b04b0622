"""How many threads: the choice from invented durations, and the crew that shares out tasks without a barrier."""

import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from conftest import compiled
from fastmlp.kernels import crew
from fastmlp.kernels.simd import add_to_counter
from fastmlp.threads import Pace, candidates


def work_for(pace, seconds, seconds_per_unit):
    """Go on until so much invented time has passed; returns each number of threads' share of the units done."""
    units = {}
    passed = 0.0
    while passed < seconds:
        n_threads, wanted = pace.n_threads, pace.units_left
        lasted = wanted * seconds_per_unit(n_threads, passed)
        pace.tell(lasted, wanted)
        units[n_threads] = units.get(n_threads, 0) + wanted
        passed += lasted
    return {n_threads: count / sum(units.values()) for n_threads, count in units.items()}


@pytest.mark.parametrize("best", [1, 2, 4])
@pytest.mark.parametrize("unit", [1e-6, 1e-3, 0.02])
def test_the_fastest_number_of_threads_does_nearly_all_the_work(best, unit):
    pace = Pace(candidates(2, 4))
    shares = work_for(pace, 60, lambda n, _: unit if n == best else 1.6 * unit)
    assert set(shares) == {1, 2, 4}
    assert shares[best] > 0.9


def test_a_machine_that_becomes_busy_is_noticed_within_a_second():
    """Two threads are twice as fast as one, until other processes come; then three times as slow; then they go."""
    pace = Pace((2, 1))
    for of_two_threads, best in ((0.5e-4, 2), (3e-4, 1), (0.5e-4, 2)):

        def unit(n_threads, _, of_two_threads=of_two_threads):
            return 1e-4 if n_threads == 1 else of_two_threads

        work_for(pace, 1.1, unit)
        assert work_for(pace, 8, unit)[best] > 0.9


def test_one_candidate_is_never_left():
    pace = Pace((1,))
    assert work_for(pace, 3, lambda n, _: 1e-3) == {1: 1.0}


def test_trials_of_long_units_are_rare():
    """Units of a second: each number is tried with one of them, and the best one is kept for minutes."""
    pace = Pace((2, 1))
    shares = work_for(pace, 1000, lambda n, _: 2.0 if n == 1 else 1.0)
    assert shares[2] > 0.95
    assert shares[1] > 0.005


def test_what_is_compiled_at_first_does_not_count():
    """The first unit with each number of threads takes ten seconds."""
    pace, seen = Pace((2, 1)), set()

    def unit(n_threads, _):
        first = n_threads not in seen
        seen.add(n_threads)
        return 10.0 if first else 1e-3 / n_threads

    work_for(pace, 21, unit)
    assert work_for(pace, 5, unit)[2] > 0.9


@pytest.mark.parametrize(
    ("first", "most", "expected"),
    [(1, 1, (1,)), (1, 2, (1, 2)), (2, 2, (2, 1)), (4, 6, (4, 1, 2, 6)), (8, 8, (8, 1, 2, 4))],
)
def test_candidates_are_one_all_and_powers_of_two(first, most, expected):
    assert candidates(first, most) == expected


# ------------------------------------------------------------------------------------------------------------------
# the crew


@compiled
def follow(counters, me, members, tasks_of_phase, done):
    """What a member does: each task notes itself, and how many tasks of earlier phases are finished."""
    while True:
        phase, task = crew.claim(counters, me, members)
        if phase >= tasks_of_phase.size:
            return
        if task == crew.NO_TASK:
            crew.wait_for_next(counters, me, phase)
        else:
            add_to_counter(done, 100 * phase + task, 1)
            for earlier in range(phase):
                for each in range(tasks_of_phase[earlier]):
                    if done[100 * earlier + each] != 1:
                        add_to_counter(done, done.size - 1, 1)
            if crew.finish(counters, tasks_of_phase[phase]):
                following = tasks_of_phase[phase + 1] if phase + 1 < tasks_of_phase.size else 0
                crew.open_phase(counters, members, phase + 1, following)


@compiled
def begin(counters, members, phase, tasks):
    """Open a phase."""
    crew.open_phase(counters, members, phase, tasks)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("absent", [0, 2])
def test_every_task_is_done_once_and_no_phase_begins_early(absent, n_threads, rng):
    """Also where some members never come: the others do what is in their queues."""

    @numba.njit(nogil=True)  # noqa: TID251 (as threads of the operating system run it)
    def member(counters, me, members, tasks_of_phase, done):
        follow(counters, me, members, tasks_of_phase, done)

    members = n_threads + absent
    tasks_of_phase = rng.integers(1, 9, 300)
    counters, done = np.full(crew.size(members), 99, np.int64), np.zeros(100 * tasks_of_phase.size + 1, np.int64)
    begin(counters, members, 0, tasks_of_phase[0])
    with ThreadPoolExecutor(n_threads) as pool:  # they arrive when they like
        for result in [pool.submit(member, counters, me, members, tasks_of_phase, done) for me in range(n_threads)]:
            result.result()
    counts = done[:-1].reshape(-1, 100)
    np.testing.assert_array_equal(counts, np.arange(100) < tasks_of_phase[:, np.newaxis])
    assert done[-1] == 0  # nothing was begun before all of an earlier phase was done


@pytest.mark.parametrize("members", [1, 2, 3, 7])
@pytest.mark.parametrize("tasks", [0, 1, 2, 5, 100])
def test_members_share_the_tasks_in_equal_parts(members, tasks):
    share = getattr(crew.share, "py_func", crew.share)
    parts = [share(me, members, tasks) for me in range(members)]
    assert [task for start, stop in parts for task in range(start, stop)] == list(range(tasks))
    assert max(stop - start for start, stop in parts) - min(stop - start for start, stop in parts) <= 1


@numba.njit(nogil=True)  # noqa: TID251 (as threads of the operating system run it)
def wait(counters, phase):
    """Wait for another phase than this one."""
    crew.wait_for_next(counters, 0, phase)


def test_who_waits_gives_way_and_sees_the_next_phase():
    counters = np.zeros(crew.size(1), np.int64)
    begin(counters, 1, 0, 1)
    wait(counters, 7)  # which is not the present one: there is nothing to wait for
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, counters, 0)
        time.sleep(0.1)  # longer than its patience
        assert not waiting.done()
        begin(counters, 1, 1, 1)
        waiting.result(timeout=60)
