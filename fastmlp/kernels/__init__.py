"""The speed: the oracle's mathematics, compiled.

The same file names and the same function names as :mod:`fastmlp.oracle`, on preallocated buffers, allocating nothing.
A kernel computes; it never validates and never raises: names, shapes and dtypes are settled before it is called, and
what only it can see (values that are not finite) comes back as a status.

The rule of the threads
-----------------------
**Threads run only over letters of the left side, or over blocks of samples of a fixed size whose results are combined
in block order.** No two threads write one cell and no sum is split by the number of threads: the same bits at any
thread count.

In reading order: ``layer.py`` (the tile functions, each under its formula), ``samples.py`` and ``weights.py`` (the two
phases of a training step over tiles), ``network.py`` (the step, its tasks and who takes them), ``activations.py``,
``losses.py``, ``optimizers.py`` (elementwise, on vector registers), ``elementary.py`` (exp and log on vector
registers), ``layout.py`` (how memory turns), ``simd.py`` (registers as Numba values), ``jit.py`` (how everything is
compiled, cached and launched).
"""
