"""The speed: the oracle's mathematics, compiled.

The same file names and the same function names as :mod:`fastmlp.oracle`, on preallocated buffers, allocating nothing.
A kernel computes; it never validates and never raises: names, shapes and dtypes are settled before it is called, and
what only it can see (values that are not finite) comes back as a status.

The rule of the threads
-----------------------
**Threads run only over letters of the left side, or over blocks of samples of a fixed size whose results are combined
in block order**, or over groups of them, which follow from the network and the batch alone. No two threads write one
cell and no sum is split by the number of threads: the same bits at any thread count.

In reading order: ``layer.py`` (the strips that all products are made of, each under its formula), ``columns.py`` (the
words of what follows), ``samples.py`` and ``weights.py`` (the two phases of a training step), ``stages.py`` (the first
one where samples are few), ``network.py`` (the step, its tasks and who takes them), ``prediction.py``; then
``activations.py``, ``losses.py``, ``optimizers.py`` and ``dropout.py`` (elementwise, on vector registers),
``elementary.py`` (exp and log there). What is no mathematics:
``layout.py`` (where memory turns), ``crew.py`` (how threads share out tasks), ``calls.py`` (how kernels are called),
``objects.py`` (arrays as Python's objects), ``simd.py`` (registers as Numba values), ``jit.py`` (how everything is
compiled, cached and launched). Beside them stand ``derivatives.py``, ``sparse.py``, ``embedded.py`` (predictions in
other people's compiled code), ``order.py`` (random orders of samples) and ``door.py`` (whether data are right).
"""
