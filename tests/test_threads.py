"""How many threads: each one's share, the choice from invented durations, and the crew that has no barrier."""

import copy
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import fastmlp
from conftest import INTERPRETED, compiled
from fastmlp import ensemble, threads
from fastmlp.buffers import Workspace
from fastmlp.kernels import calls, crew, jit
from fastmlp.kernels.simd import add_to_counter
from fastmlp.threads import Pace, candidates


def work_for(pace, seconds, seconds_per_unit):
    """Go on until so much invented time has passed; returns each number of threads' share of the units done."""
    units = {}
    passed = 0.0
    while passed < seconds:
        n_threads, wanted = pace.n_threads, pace.units_left
        lasted = wanted * seconds_per_unit(n_threads, passed)
        pace.tell(lasted, wanted, n_threads)
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


def test_what_has_become_much_slower_is_given_up_at_once():
    """Two threads were twice as fast as one, and suddenly take three times as long: other processes have come."""
    pace, passed, by_two = Pace((2, 1)), 0.0, 0
    work_for(pace, 1, lambda n, _: 1e-4 / n)
    while len(pace.seconds_per_unit) < 2:  # another trial
        pace.tell(1e-4 / pace.n_threads, 1, pace.n_threads)
    assert pace.n_threads == 2
    while passed < 0.1:
        lasted = 3e-4 if pace.n_threads == 2 else 1e-4
        passed, by_two = passed + lasted, by_two + (pace.n_threads == 2)
        pace.tell(lasted, 1, pace.n_threads)
    assert pace.n_threads == 1
    assert by_two * 3e-4 == pytest.approx(0.03 + 0.004, rel=0.1)  # and a trial more
    work_for(pace, 0.3, lambda n, _: 1e-4 if n == 1 else 3e-4)
    assert pace.n_threads == 1


def test_a_moments_disturbance_changes_nothing():
    """Two threads take three times as long for 33 ms, a trial of one, and all is as before."""
    pace, passed, by_two = Pace((2, 1)), 0.0, 0.0
    work_for(pace, 1, lambda n, _: 1e-4 / n)
    while len(pace.seconds_per_unit) < 2:
        pace.tell(1e-4 / pace.n_threads, 1, pace.n_threads)
    while passed < 0.4:
        n_threads = pace.n_threads
        lasted = 3e-4 if n_threads == 2 and passed < 0.033 else 1e-4 / n_threads
        passed, by_two = passed + lasted, by_two + lasted * (n_threads == 2)
        pace.tell(lasted, 1, n_threads)
    assert pace.n_threads == 2
    assert by_two > 0.38


def test_a_trial_that_was_disturbed_is_soon_made_again():
    """Two threads are twice as fast as one, but for their first 20 ms, when another program's threads wait busily."""
    pace, passed = Pace((2, 1)), 0.0
    while passed < 0.15:
        lasted = 3e-4 if pace.n_threads == 2 and passed < 0.02 else 1e-4 / pace.n_threads
        passed += lasted
        pace.tell(lasted, 1, pace.n_threads)
    assert pace.n_threads == 2


def test_fewer_threads_are_kept_longer_each_time_they_are_found_best():
    pace, passed, began = Pace((2, 1)), 0.0, []
    while passed < 5:
        pace.tell(1e-4 * pace.n_threads, 1, before := pace.n_threads)
        passed += 1e-4 * before
        if before == 1 and pace.n_threads == 2:
            began.append(passed)
    between = np.diff(began)
    assert 0.05 < between[0] < 0.15
    assert (between[1:3] > 1.7 * between[:2]).all()
    assert (between[3:] > 0.45).all()


def test_what_others_have_gone_on_from_does_not_count():
    """Another network's thread has changed the number of threads while this one's work was running."""
    pace = Pace((2, 1))
    for _ in range(5):
        pace.tell(1.0, 1, 1)
    assert pace == Pace((2, 1))


def test_a_noisy_machine_is_not_measured_all_the_time(rng):
    """One unit in a hundred takes a hundred times as long."""
    pace = Pace((2, 1))
    shares = work_for(pace, 60, lambda n, _: (1e-4 if rng.random() > 0.01 else 1e-2) * (1 if n == 2 else 1.6))
    assert shares[2] > 0.6


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


def test_what_is_told_while_somebody_else_tells_does_not_count():
    """Nor does what a signal's handler tells meanwhile."""
    pace, told = Pace((2, 1)), []

    class Interrupting(float):
        def __truediv__(self, units):
            told.extend(pace.tell(10.0, 1, 2) for _ in range(5))
            return float(self) / units

    pace.tell(Interrupting(1e-3), 1, 2)
    expected = Pace((2, 1))
    expected.tell(1e-3, 1, 2)
    assert len(told) == 5
    assert pace == expected


def test_an_interrupt_while_telling_keeps_no_slow_number():
    """One thread takes ten times as long; Ctrl-C comes in each of the calls that end a period of two."""

    def told(pace):
        lasted = 0.02 if (n_threads := pace.n_threads) == 2 else 0.2
        pace.tell(lasted, 1, n_threads)
        return n_threads, lasted

    def about_to_choose():
        pace, kept = Pace((2, 1)), 0
        while kept < 3:
            before = copy.deepcopy(pace)
            kept += told(pace)[0] == 2 and pace.n_threads == 1
        return before

    interrupted, at = 0, 0
    while True:
        pace, count = about_to_choose(), 0

        def interrupt(frame, event, _, at=at):
            nonlocal count
            if event in ("call", "c_return") and frame.f_code.co_filename == threads.__file__:
                count += 1
                if count > at:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        before = sys.getprofile()
        sys.setprofile(interrupt)
        try:
            told(pace)
        except KeyboardInterrupt:
            interrupted += 1
        else:
            break
        finally:
            sys.setprofile(before)
        seconds = {1: 0.0, 2: 0.0}
        for _ in range(400):
            n_threads, lasted = told(pace)
            seconds[n_threads] += lasted
        assert seconds[1] < 0.2 * seconds[2]
        assert seconds[1] > 0
        at += 1
    assert interrupted > 5


def test_networks_of_one_shape_know_the_same_speed(rng, monkeypatch):
    monkeypatch.setattr(jit, "max_threads", lambda: 2)
    X, Y = rng.standard_normal((2, 1000, 20))
    networks = {
        name: fastmlp.MLP([20, 300, 20], rng=0, **settings)
        for name, settings in {
            "one": {}, "alike": {"loss": "huber"}, "other": {"hidden_activation": "tanh"}, "fixed": {"n_threads": 2},
        }.items()
    }  # fmt: skip
    for mlp in networks.values():
        mlp.train_step(X, Y, optimizer="sgd")
    of_steps = {name: mlp._pace(1000) for name, mlp in networks.items()}
    assert of_steps["one"] is of_steps["alike"]
    assert len({id(pace) for pace in of_steps.values()}) == 3
    assert of_steps["one"] is not networks["one"]._pace(500)


@pytest.mark.parametrize(
    ("first", "most", "expected"),
    [(1, 1, (1,)), (1, 2, (1, 2)), (2, 2, (2, 1)), (4, 6, (4, 1, 2, 6)), (8, 8, (8, 1, 2, 4))],
)
def test_candidates_are_one_all_and_powers_of_two(first, most, expected):
    assert candidates(first, most) == expected


# ------------------------------------------------------------------------------------------------------------------
# shares


@contextmanager
def others_at_work(count):
    """So many other threads are at work."""
    arrived, end = threading.Barrier(count + 1), threading.Event()

    def work():
        with threads.at_work:
            arrived.wait(60)
            end.wait(60)

    with ThreadPoolExecutor(max(1, count)) as pool:
        for _ in range(count):
            pool.submit(work)
        arrived.wait(60)
        try:
            yield
        finally:
            end.set()


@pytest.fixture
def eight_threads(monkeypatch):
    """Let there be eight."""
    monkeypatch.setattr(jit, "max_threads", lambda: 8)


@pytest.mark.usefixtures("eight_threads")
def test_threads_at_work_share_all_threads():
    for others, expected in ((0, 8), (1, 4), (2, 2), (7, 1), (9, 1)):
        with others_at_work(others):
            assert threads.share() == expected
            with threads.at_work, threads.at_work:  # whoever is there counts once, noted or not
                assert threads.share() == expected
            assert threads.share() == expected
    assert threads.share() == 8


@pytest.mark.usefixtures("eight_threads")
def test_a_task_of_dask_has_the_threads_of_its_worker(monkeypatch):
    def by_itself():
        raise ValueError("No worker found")

    worker = SimpleNamespace(state=SimpleNamespace(nthreads=2))
    monkeypatch.setitem(sys.modules, "distributed.worker", SimpleNamespace(get_worker=lambda: worker))
    assert threads.share() == 2
    with others_at_work(1):
        assert threads.share() == 1
    monkeypatch.setitem(sys.modules, "distributed.worker", SimpleNamespace(get_worker=by_itself))
    assert threads.share() == 8
    monkeypatch.setitem(sys.modules, "distributed.worker", SimpleNamespace())  # it is just being imported
    assert threads.share() == 8


@pytest.mark.usefixtures("eight_threads")
def test_work_takes_its_share_or_what_is_asked_for():
    large, small = 200, 1
    free, asked = (fastmlp.MLP([64, 64, 10], rng=0, n_threads=n) for n in (None, 3))
    with others_at_work(2):
        assert set(free._pace(large).candidates) == {1, 2}
        assert free._pace(small).candidates == (1,)
        assert asked._pace(large).candidates == (3,)
    assert set(free._pace(large).candidates) == {1, 2, 4, 8}
    assert asked._pace(large).candidates == (3,)


def test_a_step_that_is_prepared_takes_more_threads_when_others_end(monkeypatch, rng):
    """It is prepared for any number."""
    monkeypatch.setattr(jit, "max_threads", lambda: 2)
    monkeypatch.setattr("fastmlp.pacing._PARALLEL_FROM", 1000)  # operations
    monkeypatch.setattr("fastmlp.pacing._MEASURE_FROM", 1000)
    mlp, optimizer = fastmlp.MLP([2, 9, 2], rng=0), fastmlp.SGD(0.1)
    X, Y = rng.standard_normal((2, 10, 2))
    with others_at_work(1):
        for _ in range(3):
            mlp.train_step(X, Y, optimizer=optimizer)
    taken, start = watch_threads(monkeypatch), time.perf_counter()
    while time.perf_counter() < start + 20 and taken != {1, 2}:
        mlp.train_step(X, Y, optimizer=optimizer)
    assert taken == {1, 2}
    assert (mlp._prepared is not None) == calls.are_packed()


def test_a_prediction_has_room_for_its_threads_when_others_end(monkeypatch, rng):
    """Its first part is by one thread, and the next one by two."""
    mlp = fastmlp.MLP([2, 2], rng=0)
    X = rng.standard_normal((100, 2))
    expected = mlp.predict(X)
    shares = iter([1])
    monkeypatch.setattr("fastmlp.pacing._PARALLEL_FROM", 1)
    monkeypatch.setattr("fastmlp.predicting._AT_ONCE", 50)
    monkeypatch.setattr(threads, "share", lambda: next(shares, 2))
    monkeypatch.setattr(jit, "max_threads", lambda: 2)
    mlp = fastmlp.MLP([2, 2], rng=0)
    seen = watch_threads(monkeypatch)
    np.testing.assert_array_equal(mlp.predict(X), expected)
    assert seen == {1, 2}


@pytest.mark.parametrize(("asked", "expected"), [(None, [1, 1, 1, 2]), (3, [1, 2, 2]), (7, [1] * 5)])
@pytest.mark.usefixtures("eight_threads")
def test_an_ensemble_takes_its_share_or_what_is_asked_for(asked, expected, monkeypatch, rng):
    train, seen = ensemble._train, []

    def note(members, *others):
        seen.append(len(members))
        train(members, *others)

    monkeypatch.setattr(ensemble, "_train", note)
    X, Y = rng.standard_normal((2, 20, 2))
    with others_at_work(1):
        fastmlp.Ensemble(5, [2, 2], rng=0, n_threads=asked).fit(X, Y, epochs=2)
    assert sorted(seen) == expected


def watch_threads(monkeypatch):
    """Note for how many threads workspaces are divided."""
    divide, seen = Workspace.divide, set()

    def note(workspace, n_threads):
        seen.add(n_threads)
        divide(workspace, n_threads)

    monkeypatch.setattr(Workspace, "divide", note)
    return seen


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
    counters, done = np.full(crew.n_counters(members), 99, np.int64), np.zeros(100 * tasks_of_phase.size + 1, np.int64)
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
    tasks_of = getattr(crew.tasks_of, "py_func", crew.tasks_of)
    parts = [tasks_of(me, members, tasks) for me in range(members)]
    assert [task for start, stop in parts for task in range(start, stop)] == list(range(tasks))
    assert max(stop - start for start, stop in parts) - min(stop - start for start, stop in parts) <= 1


@numba.njit(nogil=True)  # noqa: TID251 (as threads of the operating system run it)
def wait(counters, phase):
    """Wait for another phase than this one."""
    crew.wait_for_next(counters, 0, phase)


def test_who_waits_gives_way_and_sees_the_next_phase():
    counters = np.zeros(crew.n_counters(1), np.int64)
    begin(counters, 1, 0, 1)
    wait(counters, 7)  # which is not the present one: there is nothing to wait for
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, counters, 0)
        time.sleep(0.1)  # longer than its patience
        assert not waiting.done()
        begin(counters, 1, 1, 1)
        waiting.result(timeout=60)


@pytest.mark.skipif(not INTERPRETED, reason="compiled code cannot be interfered with; threads meet it by chance")
def test_a_task_that_another_takes_meanwhile_is_not_claimed(monkeypatch):
    counters = np.zeros(crew.n_counters(1), np.int64)
    crew.open_phase(counters, 1, 0, 1)

    def take_a_moment_later(array, place, by):
        add_to_counter(array, place, by)  # somebody else
        return add_to_counter(array, place, by)

    monkeypatch.setattr(crew, "add_to_counter", take_a_moment_later)
    assert crew.claim(counters, 0, 1) == (0, crew.NO_TASK)
