"""How kernels are compiled, cached and launched. The only importer of ``numba.njit``.

The flags, each with its reason
-------------------------------
``nogil=True``
    Training and prediction release the interpreter: other Python threads go on. (Not :func:`brief_function`.)
``error_model="numpy"``
    Division by zero gives inf, in serial and in parallel code alike. (In a parallel loop Numba loses exceptions.)
``fastmath`` off
    Numba may not reassociate or contract: serial and parallel twins, and any number of threads, give the same bits,
    and NaN checks are not removed. Multiply-adds are written out where they are wanted. (Not :func:`summing_function`,
    which has no such check.)
``boundscheck`` not set
    ``NUMBA_BOUNDSCHECK=1`` gives the checked build; it always runs serially, because a parallel loop would lose the
    IndexError.

The cache
---------
Numba keys its cache by the function's own bytecode, not by the functions that it calls nor by the flags. Here the
stamp of every entry holds a digest of all sources of this package and the flags, each entry's data carries its own
digest, and whatever cannot be read or written means: compile again. ``FASTMLP_CACHE=0`` switches the cache off. Of a
kernel the machine code is kept, not what it was made from: so no kernel can be compiled into another.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cached_property, partial, update_wrapper, wraps
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba import types
from numba.core import config
from numba.core.caching import IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.typing.typeof import typeof_impl
from numba.np.ufunc import parallel as numba_threads

_FLAGS = {"nogil": True, "error_model": "numpy"}

_LEVEL_ALONE, _LEVEL_TOGETHER = 1, 3
"""How far LLVM optimizes a function that will be part of a kernel, and a kernel: with 3 for both, compiling took half
a second more, and nothing was quicker."""


def _pass_builder(codegen: Any, level: int) -> Any:
    """Numba's optimization, but that LLVM writes no loop's body several times, one after the other.

    Tiles are as high as suits their sums. To have the body of each loop eight times took two seconds more to compile,
    and steps longer: 3-4-4-2 on five samples 0.73 us instead of 0.63, in float64 0.75 instead of 0.59 (with AVX2 0.95
    instead of 0.61), 4-32-16-4 on 512 samples 38 instead of 36.6; large ones took the same.
    """
    options = llvmlite.binding.create_pipeline_tuning_options(speed_level=min(level, config.OPT))
    options.loop_vectorization, options.slp_vectorization = config.LOOP_VECTORIZE, config.SLP_VECTORIZE
    options.loop_unrolling = False
    return llvmlite.binding.create_pass_builder(codegen._tm, options)


_MOST_WITHIN = 1_500
"""Instructions, before any is optimized, up to which LLVM may compile a tile function into its only caller. Without a
limit, compiling took 1.3 s longer, and steps of 500-2 on 128 samples 5 %; with 500 or 2,500 it was much the same."""

_instructions_of: dict[str, int] = {}
"""Instructions of each function that becomes part of its callers, by its name."""


class _TileLibrary(JITCodeLibrary):
    """Code of a tile function: only to be linked into a kernel, which is optimized as a whole, and once."""

    def add_ir_module(self, module: Any) -> None:
        """Take the code, and note how large it is."""
        for function in module.functions:
            instructions = [each for block in function.blocks for each in block.instructions]
            calls = [each for each in instructions if each.opname == "call"]
            count = len(instructions) + sum(_instructions_of.get(each.callee.name, 0) for each in calls)
            if "alwaysinline" in function.attributes:
                _instructions_of[function.name] = count
            elif count > _MOST_WITHIN:
                function.attributes.add("noinline")
        super().add_ir_module(module)

    def finalize(self) -> None:
        self._finalized = True

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout
        builder = _pass_builder(self._codegen, _LEVEL_ALONE)
        passes = builder.getFunctionPassManager()
        for function in module.functions:
            passes.run(function, builder)

    def with_all_it_calls(self) -> list[Any]:
        """Itself and the libraries of what it calls, of what those call, and so on."""
        return [self, *_callers_first(self._linking_libraries)]


class _KernelLibrary(JITCodeLibrary):
    """Code of a kernel, into which that of its tile functions is linked."""

    def finalize(self) -> None:
        self._linking_libraries: list[Any] = _callers_first(self._linking_libraries)
        super().finalize()

    def _optimize_final_module(self) -> None:
        _make_private(self._final_module)
        builder = _pass_builder(self._codegen, _LEVEL_TOGETHER)
        passes = builder.getModulePassManager()
        passes.add_refprune_pass()
        passes.run(self._final_module, builder)

    def serialize_using_object_code(self) -> tuple[str, str, tuple[bytes, bytes]]:
        """For the cache: the machine code, and the names of what it defines.

        Numba keeps the whole module, for whoever links it into something else. To read it back took 50 ms and 19 MB at
        every start.
        """
        return self.name, "object", (self._get_compiled_object(), _names_in(self._final_module).as_bitcode())

    def _get_module_for_linking(self) -> Any:
        return _refuse_to_link()


def _make_private(module: Any) -> None:
    """Tell LLVM that nobody but this kernel calls its tile functions: what one never reads is then not handed over.

    With one thread, in float32, 3-4-4-2 on five samples takes 0.45 us instead of 0.50, 2-16-16-1 on 64 2.82 instead of
    2.95, 10-32-32-1 on 32 3.90 instead of 3.97, 500-2 on 128 10.3 instead of 11.0; large networks take the same.

    Their names change, too: LLVM's loader knows private functions by their names, and would have other code that has
    such a function of its own call this one, which takes other arguments.
    """
    for function in module.functions:
        is_shared = not function.is_declaration and function.linkage == llvmlite.binding.Linkage.linkonce_odr
        if is_shared and not function.name.startswith("NRT_"):  # by which Numba finds what counts references
            function.linkage = llvmlite.binding.Linkage.internal
            function.name += ".private"


def _refuse_to_link() -> Any:
    raise TypeError("a kernel cannot be part of another: what both call is a tile function")


def _names_in(module: Any) -> Any:
    """A module that defines the same names, and nothing else."""
    functions, variables = (
        [each.name for each in some if not each.is_declaration] for some in (module.functions, module.global_variables)
    )
    lines = [f'define void @"{name}"() {{ ret void }}' for name in functions]
    lines += [f'@"{name}" = global i8 0' for name in variables]
    return llvmlite.binding.parse_assembly("\n".join([f'target triple = "{module.triple}"', *lines]))


def _callers_first(libraries: list[Any]) -> list[Any]:
    """Each library once, behind all that call it.

    LLVM links a function only if one that is there already calls it. Here every library is followed by those that it
    calls, and those by theirs: so of each, the last mention counts. With the first ones, a function that two others
    called was missing where LLVM had removed the call from the first of these.
    """
    return list(dict.fromkeys(reversed(libraries)))[::-1]


_PASSES_FOR_OTHERS = {
    "WithLifting",  # with blocks
    "DeadBranchPrune",  # branches that types rule out; LLVM removes those that constants do
    "InlineClosureLikes",  # comprehensions, functions within functions
    "MakeFunctionToJitFunction",
    "InlineInlinables",  # Numba's inline="always"
    "InlineOverloads",
    "RewriteDynamicRaises",
    "FindLiterallyCalls",
    "LiteralUnroll",
    "LiteralPropagationSubPipelinePass",
    "NopythonRewrites",  # expressions of whole arrays
    "NoPythonSupportedFeatureValidation",
    "DumpParforDiagnostics",
}


class _TileCompiler(Compiler):
    """Numba's compiler, stopping before machine code: that is made once, for the kernel a function becomes part of.

    Otherwise each of two hundred small functions is optimized and translated by itself, and again in each of its
    callers: that took two thirds of the time of compiling.
    """

    def define_pipelines(self) -> list[PassManager]:
        """Numba's passes, without those that look for what no tile function has: they took a tenth of the time."""
        [complete] = super().define_pipelines()
        passes = PassManager("tile function")
        for one, description in complete.passes:
            if one.__name__ not in _PASSES_FOR_OTHERS:
                passes.add_pass(one, description)
        passes.finalize()
        return [passes]

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        self.state.flags.no_compile = True
        self.state.library = _TileLibrary(self.state.targetctx.codegen(), function.__qualname__)
        result = super().compile_extra(function)
        # Numba knows a compiled function by what Python would call, which must be a built-in: this one refuses
        name: Any = {}.__getitem__
        self.state.targetctx.insert_user_function(name, result.fndesc, result.library.with_all_it_calls())
        return result._replace(entry_point=name)


class _KernelCompiler(Compiler):
    """Numba's compiler, which links in that order."""

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        self.state.library = _KernelLibrary(self.state.targetctx.codegen(), function.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(function)


_TILE_FLAGS = {
    "error_model": "numpy",
    "forceinline": False,  # if it is not said, Numba does to a function what is done to the one that calls it
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _TileCompiler,
}


_KERNEL_FLAGS = {**_FLAGS, "pipeline_class": _KernelCompiler}


def _package_digest() -> str:
    """Digest of every source that could be compiled into a kernel."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


_PACKAGE_DIGEST = _package_digest()


class _CacheFile(IndexDataCacheFile):
    """Numba's cache file, in which everything that is damaged or unreadable is a miss."""

    def load(self, key: Any) -> Any:
        try:
            return super().load(key)
        except Exception:  # whatever the damage is: compile again
            return None

    def _load_index(self) -> Any:
        try:
            return super()._load_index()
        except Exception:
            return {}

    def _save_data(self, name: str, data: Any) -> None:
        payload = self._dump(data)
        super()._save_data(name, (hashlib.sha256(payload).digest(), payload))

    def _load_data(self, name: str) -> Any:
        digest, payload = super()._load_data(name)
        if hashlib.sha256(payload).digest() != digest:
            raise ValueError(f"the cache entry {name} is damaged")
        return _loads(payload)


def _loads(payload: bytes) -> Any:
    import pickle  # noqa: PLC0415 (only once a digest has been verified)

    return pickle.loads(payload)  # noqa: S301


def _if_possible(save: Callable[..., None]) -> Callable[..., None]:
    """Save, or go on without: the disk may be full, or the folder gone since it was looked at."""

    def save_if_possible(*arguments: Any) -> None:
        with contextlib.suppress(OSError):
            save(*arguments)

    return save_if_possible


def _with_safe_cache(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Compile with a cache that no damage and no missing right can break."""
    if os.environ.get("FASTMLP_CACHE") == "0" or config.DISABLE_JIT:
        if config.DISABLE_JIT:
            return _quiet(function)
        return _announcing(numba.njit(**options)(function), kept=False)
    try:
        dispatcher = _announcing(numba.njit(cache=True, **options)(function), kept=True)
    except RuntimeError:  # "no locator available": no folder can be written to
        return _announcing(numba.njit(**options)(function), kept=False)
    cache_file = dispatcher._cache._cache_file
    stamp = (cache_file._source_stamp, _PACKAGE_DIGEST, repr(sorted(options.items())), bool(config.BOUNDSCHECK))
    base = dispatcher._cache._impl.filename_base
    dispatcher._cache._cache_file = _CacheFile(cache_file._cache_path, base, stamp)
    dispatcher._cache.save_overload = _if_possible(dispatcher._cache.save_overload)
    dispatcher._cache.load_overload = partial(_load_alone, dispatcher._cache)
    return dispatcher


def _load_alone(cache: Any, signature: Any, context: Any) -> Any:
    """Load what is cached, without all that Numba needs to compile: with it, the first step took twice as long.

    Where nothing is cached, Numba's compiler fetches it.
    """
    rtsys.initialize(context)  # the compiled code takes and returns arrays
    with cache._guard_against_spurious_io_errors():
        compiled = cache._load_overload(signature, context)
        if compiled is not None:
            compiled.library._get_module_for_linking = _refuse_to_link
        return compiled


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Interpret a kernel without warnings: registers do not warn."""

    @wraps(function)
    def run(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*arguments)

    return run


_announced: set[str] = set()


def _announcing(dispatcher: Any, kept: bool) -> Any:
    """Say, before the first compilation in a process, what takes so long."""
    compile_now = dispatcher._compiler.compile

    def announce_and_compile(*arguments: Any) -> Any:
        if not _announced:
            _announced.add("compiling")
            later = "Later starts find it in Numba's cache." if kept else "There is no cache to keep it in."
            print(f"fastmlp: compiling for this machine, some 15 seconds. {later}", file=sys.stderr, flush=True)
        with _collecting_less(), _remembering_signatures():
            return compile_now(*arguments)

    dispatcher._compiler.compile = announce_and_compile
    return dispatcher


_OBJECTS_BETWEEN_COLLECTIONS = 100_000


@contextlib.contextmanager
def _collecting_less() -> Iterator[None]:
    """Look for garbage less often: with 700 objects between two searches, they took a fifteenth of compiling.

    Numba's lock keeps other threads, which might compile too, from what is set back.
    """
    with global_compiler_lock:
        before = gc.get_threshold()
        if 0 < before[0] < _OBJECTS_BETWEEN_COLLECTIONS:
            gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
        try:
            yield
        finally:
            gc.set_threshold(*before)


@contextlib.contextmanager
def _remembering_signatures() -> Iterator[None]:
    """Ask Numba once what a built-in function returns for the same types of arguments.

    Of 6,600 calls, 6,200 are like an earlier one; to try again all that it knows of ``+`` took two of fifteen seconds.
    Other threads are kept out by the lock that :func:`_collecting_less` holds.
    """
    context = cpu_target.typing_context
    ask, known = context.resolve_function_type, dict[Any, Any]()

    def remembered(function: Any, arguments: Any, named: Any) -> Any:
        if named or not isinstance(function, types.Function):
            return ask(function, arguments, named)
        found = known.get((function, arguments))
        if found is None:
            found = known[function, arguments] = ask(function, arguments, named)
        return found

    context.resolve_function_type = remembered
    try:
        yield
    finally:
        context.resolve_function_type = ask


class _TileFunction:
    """A tile function, of which Numba hears when a kernel that calls it is compiled.

    Making Numba's dispatchers of all of them took half of the time of ``import fastmlp``.
    """

    def __init__(self, function: Callable[..., Any], is_specialized: bool = False, **options: Any) -> None:
        update_wrapper(self, function)
        self.py_func = function
        self._is_specialized = is_specialized
        self._options = options

    def __call__(self, *arguments: Any) -> Any:
        raise TypeError(f"{self.py_func.__name__} is part of kernels: compiled code calls it, Python cannot")

    @cached_property
    def dispatcher(self) -> Any:
        dispatcher = numba.njit(**{**_TILE_FLAGS, **self._options})(self.py_func)
        if not self._is_specialized:
            _compile_once(dispatcher)
        return dispatcher


def _compile_once(dispatcher: Any) -> None:
    """Let Numba not compile a function once more for each plain number that stands in a call of it."""
    types_of_arguments = dispatcher._compiler.fold_argument_types

    def without_literals(arguments: Any, named: Any) -> Any:
        signature, kinds = types_of_arguments(arguments, named)
        return signature, tuple(types.unliteral(kind) for kind in kinds)

    dispatcher._compiler.fold_argument_types = without_literals


@typeof_impl.register(_TileFunction)
def _type_of_tile_function(function: _TileFunction, _: Any) -> Any:
    return types.Dispatcher(function.dispatcher)


def tile_function(function: Callable[..., Any]) -> Any:
    """Compile a function that only kernels call, for a tile or less: it becomes part of them, and of their cache.

    Once, whatever plain numbers stand in its calls.
    """
    return function if config.DISABLE_JIT else _TileFunction(function)


def inlined_function(function: Callable[..., Any]) -> Any:
    """Compile a tile function into its caller: a call hands over seven numbers for each array, through memory."""
    return function if config.DISABLE_JIT else _TileFunction(function, forceinline=True)


def specialized_function(function: Callable[..., Any]) -> Any:
    """Compile a tile function once more for each plain number that stands in a call of it, which it then knows."""
    return function if config.DISABLE_JIT else _TileFunction(function, is_specialized=True)


def summing_function(function: Callable[..., Any]) -> Any:
    """Compile a tile function whose sums LLVM may form in another order, the same each time: by vectors.

    The squares of a million parameters take 60 us; one after the other 1,000, and 270 if eight sums take turns.
    """
    return function if config.DISABLE_JIT else _TileFunction(function, fastmath={"reassoc", "contract"})


def plain_function(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, without threads of its own."""
    return _with_safe_cache(function, _KERNEL_FLAGS)


def brief_function(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and that keeps the interpreter: unless it lets go of it by itself."""
    return _with_safe_cache(function, {**_KERNEL_FLAGS, "nogil": False})


def embedded_function(function: Callable[..., Any]) -> Any:
    """Compile a function that user code calls, compiled itself: it holds addresses of this process, so no cache."""
    return numba.njit(**_FLAGS)(function)


def parallel_function(function: Callable[..., Any]) -> Any:
    """Compile a function with parallel loops, for :func:`launch`."""
    return _with_safe_cache(function, {**_KERNEL_FLAGS, "parallel": True})


class Kernel:
    """One body, and two twins, compiled at their first call: ``serial``; ``parallel`` over its ``prange`` loops."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.python = function
        self.serial = _with_safe_cache(_renamed(function, "serial"), _KERNEL_FLAGS)
        self.parallel = _with_safe_cache(_renamed(function, "parallel"), {**_KERNEL_FLAGS, "parallel": True})

    def __call__(self, *arguments: Any, n_threads: int = 1) -> Any:
        """Run with at most ``n_threads`` threads."""
        if n_threads <= 1 or config.DISABLE_JIT or not may_launch():
            return self.serial(*arguments)
        return launch(self.parallel, n_threads, *arguments)


def kernel(function: Callable[..., Any]) -> Kernel:
    """Make a kernel, which has a serial and a parallel twin, from one body."""
    return Kernel(function)


def _renamed(function: Any, suffix: str) -> Any:
    """Copy a function under another name: the cache's file name is made from it, and the twins must not share one."""
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__qualname__ = f"{function.__qualname__}_{suffix}"
    copy.__module__ = function.__module__
    copy.__doc__ = function.__doc__
    return copy


# ------------------------------------------------------------------------------------------------------------------
# launching


class _Launching:
    """What this process knows about parallel launches."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.layer: str | None = None  # known after the first launch
        self.forked_after_launch = False


_launching = _Launching()


def _after_fork_in_child() -> None:
    _launching.lock = threading.Lock()
    _launching.forked_after_launch = _launching.layer is not None or _launching.forked_after_launch


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def may_launch() -> bool:
    """Whether threads may be used: not in the checked build, nor in a child whose parent had started GNU OpenMP.

    GNU OpenMP kills a forked child at its first parallel region; Numba's own layers survive a fork, but one rule for
    all is easier to trust, and a forked worker is one of several anyway.
    """
    return not (config.BOUNDSCHECK or _launching.forked_after_launch)


def launch(parallel: Any, n_threads: int, *arguments: Any) -> Any:
    """Run a parallel twin with this many threads; the thread count that the caller had set is put back."""
    if _launching.layer is None:
        # loads the threading layer, and with it the functions below, which numba.get_num_threads and its like call
        # under a lock; Ctrl-C at the wrong moment left it held, and every later launch of another thread waited
        numba.get_num_threads()
    before, wanted = numba_threads._get_num_threads(), min(n_threads, config.NUMBA_NUM_THREADS)
    if before != wanted:
        numba_threads._set_num_threads(wanted)
    try:
        # the workqueue layer aborts the process when two threads launch at once; before the first launch, which
        # layer it is is not known
        if _launching.layer is None or _launching.layer == "workqueue":
            with _launching.lock:
                result = parallel(*arguments)
                _launching.layer = numba.threading_layer()
                return result
        return parallel(*arguments)
    finally:
        if before != wanted:
            numba_threads._set_num_threads(before)


def max_threads() -> int:
    """Threads that this process may use: ``NUMBA_NUM_THREADS``, or the processors that it may run on."""
    return int(config.NUMBA_NUM_THREADS)


# ------------------------------------------------------------------------------------------------------------------
# for bug reports


def processor() -> str:
    """Name of the processor that kernels are compiled for."""
    return str(config.CPU_NAME or llvmlite.binding.get_host_cpu_name())


def threads_in_words() -> dict[str, Any]:
    """How many threads there may be, and who makes them."""
    priority = ", ".join(config.THREADING_LAYER_PRIORITY)
    return {
        "at most": max_threads(),
        "NUMBA_NUM_THREADS": os.environ.get("NUMBA_NUM_THREADS", "not set"),
        "threading layer": _launching.layer
        or f"not started; {config.THREADING_LAYER}, tried in this order: {priority}",
        "forked after a launch": _launching.forked_after_launch,
    }


def cache_in_words(dispatcher: Any) -> dict[str, Any]:
    """How kernels run, and where the cache of compiled code is."""
    mode = (
        "interpreted" if config.DISABLE_JIT else "compiled, every index checked" if config.BOUNDSCHECK else "compiled"
    )
    cache = getattr(getattr(dispatcher, "_cache", None), "cache_path", None)
    return {
        "mode": mode,
        "cache": cache or "none: switched off, or no folder can be written to",
        "FASTMLP_CACHE": os.environ.get("FASTMLP_CACHE", "not set"),
        "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", "not set"),
    }
