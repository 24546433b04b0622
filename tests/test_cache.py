"""The cache of compiled code: never stale, never a crash.

A toy package with fastmlp's own ``jit.py`` and a caller and a callee in two files stands in for the real one, whose
compilation takes seconds.
"""

import contextlib
import operator
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import errors, types
from numba.core.registry import cpu_target

from conftest import CHECKED, INTERPRETED
from fastmlp.kernels import jit

pytestmark = pytest.mark.skipif(INTERPRETED or CHECKED, reason="only the ordinary compiled code is cached")

CALLEE = "from toy.jit import tile_function\n\n\n@tile_function\ndef factor():\n    return {factor}\n"
CALLER = """
from numba import prange
from toy.callee import factor
from toy.jit import kernel


@kernel
def scale(A, i):
    for k in prange(A.size):
        A[k] = A[k] * factor()
    return A[i]
"""
PROGRAM = """
import sys
import numpy as np
from toy.caller import scale
A = np.arange(5.0)
value = scale(A, {index}, n_threads={threads})
stats = scale.serial.stats
print(value, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


@pytest.fixture
def toy(tmp_path):
    """Make the toy package, in a folder beside its cache."""
    package = tmp_path / "code" / "toy"
    package.mkdir(parents=True)
    shutil.copy(jit.__file__, package / "jit.py")
    (package / "__init__.py").touch()
    (package / "callee.py").write_text(CALLEE.format(factor=10))
    (package / "caller.py").write_text(CALLER)
    return package


def run(toy, cache="cache", index=2, threads=1, **environment):
    """Run the program in a new process: the value, and how often the cache was hit and missed."""
    result = start(toy, cache, index, threads, **environment)
    output, errors = result.communicate(timeout=120)
    assert result.returncode == 0, errors
    value, hits, misses = output.split()
    return float(value), int(hits), int(misses)


def start(toy, cache="cache", index=2, threads=1, **environment):
    """Start the program in a new process."""
    program = PROGRAM.format(index=index, threads=threads)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program], env=environment_of(toy, cache, **environment), **pipes)


def environment_of(toy, cache="cache", **changes):
    """In which a process finds the toy package and its cache."""
    folder = toy.parent.parent / cache
    found = {**os.environ, "PYTHONPATH": str(toy.parent), "NUMBA_CACHE_DIR": str(folder), **changes}
    found["PYTHONDONTWRITEBYTECODE"] = "1"  # Python does not see that a source has changed within a second
    return found


def output_of(toy, program, *arguments):
    """What another program prints, in a new process."""
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], env=environment_of(toy), check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def entries(toy, ending):
    """Files of the cache."""
    return sorted((toy.parent.parent / "cache").rglob(f"*.{ending}"))


def test_what_was_compiled_is_found_again(toy):
    assert run(toy) == (20, 0, 1)
    assert run(toy) == (20, 1, 0)


def test_an_edited_callee_in_another_file_is_seen(toy):
    assert run(toy)[0] == 20
    (toy / "callee.py").write_text(CALLEE.format(factor=15))
    assert run(toy) == (30, 0, 1)


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "replaced"])
def test_a_damaged_entry_is_compiled_again(toy, ending, damage):
    run(toy)
    files = entries(toy, ending)
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        if damage == "flipped":
            for place in range(0, len(content), max(1, len(content) // 50)):
                content[place] ^= 0x10
        file.write_bytes(
            {"empty": b"", "truncated": content[: len(content) // 2], "replaced": b"x" * 500}.get(damage, content)
        )
    assert run(toy)[0] == 20
    assert run(toy) == (20, 1, 0)  # and it has been mended


def test_no_folder_that_can_be_written_to_means_no_cache(toy):
    """The cache's folder cannot be made: a file is in its place, here and at home. The package itself is read-only."""
    (toy.parent.parent / "cache").write_text("a file")
    shutil.rmtree(toy / "__pycache__", ignore_errors=True)
    (toy / "__pycache__").write_text("a file")
    assert run(toy, HOME=str(toy / "__pycache__"), XDG_CACHE_HOME=str(toy / "__pycache__" / "x"))[0] == 20


def test_a_folder_that_is_lost_later_means_no_cache(toy):
    program = """
import shutil, sys
import numpy as np
from toy.caller import scale
folder = sys.argv[1]
shutil.rmtree(folder)
open(folder, "w").close()
print(scale(np.arange(5.0), 2))
"""
    assert float(output_of(toy, program, toy.parent.parent / "cache")) == 20


def test_the_cache_can_be_switched_off(toy):
    assert run(toy, FASTMLP_CACHE="0")[0] == 20
    assert entries(toy, "nbi") == []


def test_the_checked_build_does_not_take_unchecked_code(toy):
    run(toy)
    result = start(toy, index=7, NUMBA_BOUNDSCHECK="1")
    errors = result.communicate(timeout=120)[1]
    assert result.returncode != 0
    assert "IndexError" in errors


def test_serial_and_parallel_code_do_not_share_an_entry(toy):
    run(toy)
    assert run(toy, threads=2)[0] == 20
    assert len({file.stem.split("-")[0] for file in entries(toy, "nbi")}) == 2
    assert run(toy) == (20, 1, 0)


def test_processes_that_start_at_once_on_a_cold_cache(toy):
    processes = [start(toy) for _ in range(3)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert float(output.split()[0]) == 20
    assert run(toy)[1] == 1


def test_numba_still_has_what_the_defences_hold_on_to():
    """If Numba moves these, the cache goes on without defences: better to hear of it here."""
    serial = jit.kernel(lambda A: A).serial
    assert isinstance(serial._cache._cache_file, jit._CacheFile)
    stamp = serial._cache._cache_file._source_stamp
    assert jit._PACKAGE_DIGEST in stamp
    assert Path(serial._cache._cache_file._cache_path).exists()


def test_numba_is_asked_once_while_a_kernel_is_compiled_and_as_ever_afterwards(monkeypatch):
    """Kernels may be compiled while others are; and what fails is not remembered."""
    context, questions = cpu_target.typing_context, []
    cpu_target.target_context.refresh()
    add, ask = context.resolve_value_type(operator.add), context.resolve_function_type

    def answer(*question):
        questions.append(question)
        return ask(*question)

    def n_asked(*kinds):
        before = len(questions)
        for _ in range(2):
            with contextlib.suppress(errors.TypingError):
                assert context.resolve_function_type(add, kinds, {}) == ask(add, kinds, {})
        return len(questions) - before

    monkeypatch.setattr(context, "resolve_function_type", answer)
    assert n_asked(types.int32, types.float32) == 2
    with jit._remembering_signatures():
        assert n_asked(types.int32, types.float32) == 1
        with jit._remembering_signatures():
            assert n_asked(types.int32, types.float32) == 0
            assert n_asked(types.int64, types.float32) == 1
        assert n_asked(types.none, types.none) == 2
    assert n_asked(types.int32, types.float32) == 2


@jit.tile_function
def called(n):
    return 3 * n + 1


@jit.tile_function
def never_calls(n):
    return called(n) if n != n else n  # noqa: PLR0124 (LLVM sees that it is never so, and removes the call)


@jit.tile_function
def calls(n):
    return called(n)


@jit.plain_function
def both(n):
    return never_calls(n) + calls(n)


def test_what_two_call_is_there_for_the_second_if_the_first_does_not_need_it():
    """Linked too early, it was left out, and a call of it was one of nothing: a segmentation fault."""
    assert both(5) == 5 + 16


NESTED = """
from toy.jit import plain_function


@plain_function
def inner(x):
    return x + 1


@plain_function
def outer(x):
    return 2 * inner(x)
"""
CALL_OUTER = """
import sys
from toy.nested import inner, outer
print(inner(1.0), sum(inner.stats.cache_hits.values()))
try:
    outer(1.0)
except TypeError as error:
    print(error)
"""


def test_a_kernel_is_refused_as_part_of_another(toy):
    """Its machine code alone is kept: what was linked to it, and kept too, would call nothing at the next start."""
    (toy / "nested.py").write_text(NESTED)
    for hits in (0, 1):
        output = output_of(toy, CALL_OUTER)
        assert output.splitlines()[0] == f"2.0 {hits}"
        assert "a kernel cannot be part of another" in output


WHAT_IS_KEPT = """
import pickle, sys
import llvmlite.binding
import toy.caller
from pathlib import Path
_, payload = pickle.loads(Path(sys.argv[1]).read_bytes())
_, _, (code, module) = pickle.loads(payload)[0]
functions = [each for each in llvmlite.binding.parse_bitcode(module).functions if not each.is_declaration]
instructions = [each for function in functions for block in function.blocks for each in block.instructions]
print(len(code), len(functions), len(instructions))
"""


def test_the_cache_keeps_machine_code_but_not_what_it_was_made_from(toy):
    """Read back, that took 50 ms and 19 MB at every start."""
    run(toy)
    files = entries(toy, "nbc")
    assert files
    for file in files:
        code, functions, instructions = map(int, output_of(toy, WHAT_IS_KEPT, file).split())
        assert code > 0
        assert functions == instructions > 0  # each returns, and does nothing else
