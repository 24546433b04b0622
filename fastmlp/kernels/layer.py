"""One layer, over tiles held in registers: the twins of :mod:`fastmlp.oracle.layer`.

A *strip* is up to :data:`~fastmlp.kernels.simd.ROWS` consecutive rows of a formula's left side. It is computed one
block of columns at a time: that piece is the register tile. The loop under the formula runs over the letter that is
summed, and each step adds one rank-1 product to the tile: a column of the first operand times a row of the second
(which is ``Xᵀ`` in ``dW``). The layouts of :mod:`fastmlp.kernels.layout` make that row contiguous. A function
``…_strip`` computes one such tile, unless it says that it takes all columns; its places are those of the tile.

The functions of :mod:`fastmlp.kernels.simd`, where ``A`` may be any array, and a tile has ``rows`` rows:

================================  ====================================================================================
``lanes(A)``, ``block(A)``        how many numbers a vector has, and a row of a tile: here, ``A`` says only the dtype
``fill(A, x)``                    a vector of ``x``
``load(A, a)``                    the vector ``A[a : a + lanes]``; ``store(A, a, v)`` writes one
``load_first(A, a, count)``       only its first ``count`` lanes, 0 in the others, in all if ``count`` is below 1
``store_first(A, a, v, count)``   writes only these
``fma(v, u, s)``                  ``v * u + s``
``sum_lanes(v)``                  the sum of a vector's numbers; ``sum_lanes_of_four``: of four vectors, four numbers
``scatter(A, a, stride, v, k)``   ``A[a + r * stride] = v[r]`` for the first ``k`` lanes ``r``
``zeros(A, rows)``                a tile of 0
``column(A, a, rows)``            a tile with ``A[a + r]`` all along row ``r``
``store_tile(t, A, a, stride)``   ``A[a + r * stride : … + block] = t[r,:]`` for each row ``r`` of a tile
``load_tile``, ``store_columns``  the same to and fro, of the first so many columns
``rank1(t, P, p, stride, Q, q)``  ``t[r,:] += P[p + r * stride] * Q[q : q + block]`` for each row ``r`` of the tile
================================  ====================================================================================

Arrays have one axis. Behind each stands where in it the operand begins: ``X, x`` means from ``X[x]`` on. ``weights``
and ``biases`` are ``W`` and ``b``, ``gradient`` is ``dW`` or ``db``; a place has the letter of what begins there:
``weights, w``; ``gradient, w``; ``dX, x``; but ``dZ, d``. With ``B = block(X)``, the elements of matrices stand at

================  ==========================================  ======================================================
``W[j,i]``        ``j * inputs + i``                          a row after the other, as in NumPy
sample-blocked    ``(n // B * features + i) * B + n % B``     so the block from sample ``n`` on begins at
                                                              ``n * features``, and its rows are ``B`` apart
feature-blocked   ``(i // B * room + n) * B + i % B``         so the block from feature ``i`` on begins at
                                                              ``i * room``, and its rows are ``B`` apart
the user's rows   ``row * inputs + i``                        sample ``n`` is row ``order[first + n]``
panels of ``W``   ``(j // L * inputs + i) * L + j % L``       with ``L = lanes(W)``: so the vectors of outputs from
                                                              ``j`` on begin at ``j * inputs``, ``L`` apart
================  ==========================================  ======================================================

``room`` is the number of samples that there is memory for, in whole blocks; it may be more than there are.

Where there is little of one letter, a tile would be nearly empty, or what it reads would have to be transposed
(*turned*) first. So the same formula stands here several times. Which one runs is decided in
:mod:`fastmlp.kernels.samples`, :mod:`fastmlp.kernels.weights`, :mod:`fastmlp.kernels.prediction` and
:mod:`fastmlp.kernels.network`, by the layer sizes and the number of samples:

======  =======================  ==========================  =======================  ========================
..      usually                  half a block of samples,    up to four inputs        first layer, of up to
                                 or less                     (*narrow*)               four outputs, long rows
======  =======================  ==========================  =======================  ========================
``Z``   `affine_strip`           `affine_by_sample`          `affine_strip`           `affine_rows`
``dX``  `input_gradient_strip`   `input_gradient_by_sample`  `input_gradient_strip`   (nobody asks for it)
``dW``  `weight_gradient_strip`  `weight_gradient_strip`     `narrow_gradient_strip`  `weight_gradient_rows`
``db``  `bias_gradient_strip`    `bias_gradient_strip`       `bias_gradient_strip`    `bias_gradient_strip`
======  =======================  ==========================  =======================  ========================

Those ``…_by_sample`` run only where they take fewer products than a block would: for ``dX`` also in a narrow layer,
for ``Z`` not in one. The last column is for predictions, for the loss alone, and for training steps whose gradients
are summed by groups of samples (:mod:`fastmlp.kernels.network`). A layer some of whose inputs are dropped is not
narrow.

Predictions of up to three samples have `affine_sample`, and `affine_row` where many would have `affine_rows`: the same
bits.

A multiply-add is ready four cycles after it began, so a sum that waits for itself is slow: several are formed side by
side. Four keep a core busy that begins one in each cycle (AVX-512 on Zen 4), eight one that begins two. Where fewer
rows are left than there are sums, the last row is computed again in the place of those that are missing.

The kernels at the end run the strip functions over whole arrays, one layer and one formula at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from fastmlp.kernels.activations import activate_vectors, slope_vectors
from fastmlp.kernels.jit import inlined_function, kernel
from fastmlp.kernels.layout import row_of
from fastmlp.kernels.simd import (
    ROWS,
    VECTORS,
    block,
    choice_of,
    column,
    fill,
    fma,
    lanes,
    load,
    load_first,
    load_tile,
    prefetch,
    rank1,
    scatter,
    store,
    store_columns,
    store_first,
    store_tile,
    sum_lanes,
    sum_lanes_of_four,
    zeros,
)

_WAYS, _ALIASED_BYTES = 8, 4096
"""Lines that one set of the first-level cache holds; and how far apart addresses lie that fall into one set."""

NARROW_INPUTS = 4
"""Inputs up to which the gradient of the weights is summed in another way: see :func:`narrow_gradient_strip`. That has
a sum for each of four inputs; the smallest block holds as many, so such a layer has one block of them."""


def for_every_height(make: Callable[[int], Any]) -> Any:
    """Compile ``make(rows)`` for each number of rows that a tile may have.

    So ``affine_strip(rows)`` below returns the function of one height; who calls it writes
    ``affine_strip(rows, weights, w, …)``, which goes to that one.
    """
    return choice_of([make(rows) for rows in range(1, ROWS + 1)])


@inlined_function
def n_strips(total, most=ROWS):
    """Strips into which so many rows of a left side are cut: as few as can be, with ``most`` rows at most."""
    return (total + most - 1) // most


@inlined_function
def strip_of(total, strip, most=ROWS):
    """The first row of a strip, and how many it has: equally many, or one more.

    A low strip takes hardly less time than a high one, so none is left over.
    """
    strips = n_strips(total, most)
    height, higher = total // strips, total % strips
    return strip * height + min(strip, higher), height + (1 if strip < higher else 0)


@inlined_function
def most_rows(weights, inputs):
    """Rows of a strip of ``Z``, at most: each reads a row of ``W`` of its own.

    With 16 rows in one set of the first-level cache, the layers of 1024-1024-1024-1024 went forward at half the speed.
    """
    return min(ROWS, _WAYS) if inputs * weights.itemsize % _ALIASED_BYTES == 0 else ROWS


@for_every_height
def affine_strip(rows):
    """Matmul plus bias, for ``rows`` outputs ``j`` and one block of samples ``n``.

    ``w`` is where the strip's first row of ``W`` stands in ``weights``, ``b`` where its first bias stands in
    ``biases``; ``x`` is where the block stands in ``X``, ``z`` where the strip stands in ``Z``, both sample-blocked.
    """

    @inlined_function
    def strip(weights, w, biases, b, inputs, X, x, Z, z):
        # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
        t = column(biases, b, rows)
        for i in range(inputs):
            # column i of W, from the strip's first row on, one row every ``inputs``; and row i of X
            t = rank1(t, weights, w + i, inputs, X, x + i * block(X))
        store_tile(t, Z, z, block(Z))

    return strip


@inlined_function
def affine_by_sample(weights, w, biases, b, inputs, outputs, X, x, room, samples, Z, z):
    """Matmul plus bias, for ``outputs`` outputs ``j`` and a few samples ``n``, which leave most of their block empty.

    :func:`affine_strip` would compute the whole block. Here inputs lie side by side: ``X`` is feature-blocked, with
    ``room`` for so many samples, and the lanes are summed in the end. What fills up the block in ``Z``, which is
    sample-blocked, is 0.
    """
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    size, step, nothing = block(Z), lanes(Z), fill(Z, 0.0)
    whole = inputs // step * step
    for k in range(0, outputs * size, step):
        store(Z, z + k, nothing)
    for j in range(0, outputs, 4):  # four sums side by side; a missing row repeats the last
        j1, j2, j3 = min(j + 1, outputs - 1), min(j + 2, outputs - 1), min(j + 3, outputs - 1)
        w0, w1, w2, w3 = w + j * inputs, w + j1 * inputs, w + j2 * inputs, w + j3 * inputs
        for n in range(samples):
            s0, s1, s2, s3 = nothing, nothing, nothing, nothing
            for i in range(0, whole, step):
                x_i = load(X, x + (i // size * room + n) * size + i % size)
                s0, s1 = fma(load(weights, w0 + i), x_i, s0), fma(load(weights, w1 + i), x_i, s1)
                s2, s3 = fma(load(weights, w2 + i), x_i, s2), fma(load(weights, w3 + i), x_i, s3)
            if whole < inputs:  # what is beyond the last input, of W and of X, belongs to something else
                i, left = whole, inputs - whole
                x_i = load_first(X, x + (i // size * room + n) * size + i % size, left)
                s0 = fma(load_first(weights, w0 + i, left), x_i, s0)
                s1 = fma(load_first(weights, w1 + i, left), x_i, s1)
                s2 = fma(load_first(weights, w2 + i, left), x_i, s2)
                s3 = fma(load_first(weights, w3 + i, left), x_i, s3)
            z0, z1, z2, z3 = sum_lanes_of_four(s0, s1, s2, s3)
            Z[z + j * size + n], Z[z + j1 * size + n] = z0 + biases[b + j], z1 + biases[b + j1]
            Z[z + j2 * size + n], Z[z + j3 * size + n] = z2 + biases[b + j2], z3 + biases[b + j3]


@inlined_function
def affine_rows(weights, w, biases, b, inputs, outputs, X, order, first, samples, Z, z):
    """Matmul plus bias, for ``outputs`` outputs ``j`` and one block of samples ``n``: rows of the user's data.

    Inputs lie side by side, and the lanes are summed in the end, as in :func:`affine_by_sample`. Sample ``n`` is the
    row that ``order`` names in its entry ``first + n``, see :func:`fastmlp.kernels.layout.row_of`. From sample 0 of
    this block on, the batch has ``samples``; if these are fewer than a block, the last one is repeated. ``z`` is where
    the block stands in ``Z``, which is sample-blocked.
    """
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    step, nothing = lanes(Z), fill(Z, 0.0)
    for n in range(0, block(Z), 4):
        # where the rows of four samples begin, and those of the next four, which are asked for ahead
        r0, r1, r2, r3 = _places_of_four(order, first, n, samples, inputs)
        a0, a1, a2, a3 = _places_of_four(order, first, n + 4, samples, inputs)
        for j in range(0, outputs, 2):  # eight sums side by side; a missing row repeats the last
            j1 = min(j + 1, outputs - 1)
            s0, s1, s2, s3, t0, t1, t2, t3 = nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing
            for i in range(0, inputs, step):
                if order.size > 0:  # the processor itself fetches rows that stand one after the other
                    _prefetch_four(X, a0 + i, a1 + i, a2 + i, a3 + i)
                left = inputs - i
                w_j = load_first(weights, w + j * inputs + i, left)
                w_j1 = load_first(weights, w + j1 * inputs + i, left)
                x0, x1 = load_first(X, r0 + i, left), load_first(X, r1 + i, left)
                x2, x3 = load_first(X, r2 + i, left), load_first(X, r3 + i, left)
                s0, s1, s2, s3 = fma(w_j, x0, s0), fma(w_j, x1, s1), fma(w_j, x2, s2), fma(w_j, x3, s3)
                t0, t1, t2, t3 = fma(w_j1, x0, t0), fma(w_j1, x1, t1), fma(w_j1, x2, t2), fma(w_j1, x3, t3)
            _store_sums(biases[b + j], s0, s1, s2, s3, Z, z + j * block(Z) + n)
            _store_sums(biases[b + j1], t0, t1, t2, t3, Z, z + j1 * block(Z) + n)


@inlined_function
def affine_row(weights, w, biases, b, inputs, outputs, X, x, Z, z):
    """Matmul plus bias, for ``outputs`` outputs ``j`` and a single row, at ``x``: the bits of :func:`affine_rows`.

    Outputs lie side by side in ``Z``.
    """
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    for j in range(outputs):
        s = fill(Z, 0.0)
        for i in range(0, inputs, lanes(Z)):
            s = fma(load_first(weights, w + j * inputs + i, inputs - i), load_first(X, x + i, inputs - i), s)
        Z[z + j] = sum_lanes(s) + biases[b + j]


@inlined_function
def _places_of_four(order, first, n, samples, inputs):
    """Where the rows of samples ``n`` to ``n + 3`` begin; or of the last one."""
    n1, n2, n3, last = n + 1, n + 2, n + 3, samples - 1
    r0, r1 = row_of(order, first + min(n, last)), row_of(order, first + min(n1, last))
    r2, r3 = row_of(order, first + min(n2, last)), row_of(order, first + min(n3, last))
    return r0 * inputs, r1 * inputs, r2 * inputs, r3 * inputs


@inlined_function
def _prefetch_four(X, x0, x1, x2, x3):
    """Ask for what is read next. Of rows in 60 MB, training steps of 100-1 on 32 take 3.1 us instead of 3.6."""
    prefetch(X, x0)
    prefetch(X, x1)
    prefetch(X, x2)
    prefetch(X, x3)


@inlined_function
def _store_sums(bias, s0, s1, s2, s3, Z, z):
    """Store the sums of the lanes of four vectors, plus the bias, side by side."""
    z0, z1, z2, z3 = sum_lanes_of_four(s0, s1, s2, s3)
    Z[z], Z[z + 1], Z[z + 2], Z[z + 3] = z0 + bias, z1 + bias, z2 + bias, z3 + bias


@inlined_function
def affine_sample(panels, p, biases, b, inputs, outputs, X, x, Z, z):
    """Matmul plus bias, for all outputs ``j`` and a single sample, whose features and outputs lie side by side.

    ``p`` is where the panels of ``W`` begin: see :func:`fastmlp.kernels.layout.panels_of`. The sum is formed in the
    order of :func:`affine_strip`, so the bits are the same. What follows the last output in ``Z``, up to a whole
    vector, is overwritten.
    """
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    step = lanes(Z)
    last = (outputs - 1) // step * step
    for j in range(0, outputs, 4 * step):  # four sums side by side; a missing vector repeats the last
        j1, j2, j3 = min(j + step, last), min(j + 2 * step, last), min(j + 3 * step, last)
        s0, s1 = load_first(biases, b + j, outputs - j), load_first(biases, b + j1, outputs - j1)
        s2, s3 = load_first(biases, b + j2, outputs - j2), load_first(biases, b + j3, outputs - j3)
        for i in range(inputs):
            x_i, row = fill(X, X[x + i]), p + i * step
            s0 = fma(load(panels, row + j * inputs), x_i, s0)
            s1 = fma(load(panels, row + j1 * inputs), x_i, s1)
            s2 = fma(load(panels, row + j2 * inputs), x_i, s2)
            s3 = fma(load(panels, row + j3 * inputs), x_i, s3)
        store(Z, z + j, s0)
        store(Z, z + j1, s1)
        store(Z, z + j2, s2)
        store(Z, z + j3, s3)


@for_every_height
def input_gradient_strip(rows):
    """Gradient of the layer's input, for ``rows`` inputs ``i`` and one block of samples ``n``.

    ``w`` is where column ``i`` of ``W`` begins in ``weights``; ``d`` is where the block stands in ``dZ``, and ``x``
    where the strip stands in ``dX``, both sample-blocked. The sum runs over outputs from ``j0`` to before ``j1`` and,
    unless ``j0`` is 0, goes on from what stands in ``dX``.
    """

    @inlined_function
    def strip(weights, w, inputs, j0, j1, dZ, d, dX, x):
        # dX[i,n] = Σ_j W[j,i] dZ[j,n]
        # a sum that begins, as j0 is 0, starts at 0: the tile of no columns
        t = load_tile(dX, x, block(dX), block(dX) if j0 > 0 else 0, rows)
        for j in range(j0, j1):
            # row j of W, from the strip's first input on, which is a column of the turned W; and row j of dZ
            t = rank1(t, weights, w + j * inputs, 1, dZ, d + j * block(dZ))
        store_tile(t, dX, x, block(dX))

    return strip


@inlined_function
def input_gradient_by_sample(weights, w, inputs, count, outputs, dZ, d, samples, dX, x):
    """Gradient of the layer's input, for ``count`` inputs ``i`` and a few samples ``n``: see :func:`affine_by_sample`.

    The first one's column of ``W`` begins at ``w``, and its row of block 0 of ``dX`` at ``x``; block 0 of ``dZ``
    begins at ``d``. What fills up the block of ``dX`` is 0.
    """
    # dX[i,n] = Σ_j W[j,i] dZ[j,n]
    size, step, nothing = block(dX), lanes(dX), fill(dX, 0.0)
    for k in range(0, count * size, step):
        store(dX, x + k, nothing)
    for i in range(0, count, 4 * step):  # four sums side by side; beyond the last input nothing is loaded, or stored
        i1, i2, i3 = i + step, i + 2 * step, i + 3 * step
        for n in range(samples):
            s0, s1, s2, s3 = nothing, nothing, nothing, nothing
            for j in range(outputs):
                row, d_j = w + j * inputs, fill(dZ, dZ[d + j * size + n])
                s0 = fma(load_first(weights, row + i, count - i), d_j, s0)
                s1 = fma(load_first(weights, row + i1, count - i1), d_j, s1)
                s2 = fma(load_first(weights, row + i2, count - i2), d_j, s2)
                s3 = fma(load_first(weights, row + i3, count - i3), d_j, s3)
            scatter(dX, x + i * size + n, size, s0, count - i)
            scatter(dX, x + i1 * size + n, size, s1, count - i1)
            scatter(dX, x + i2 * size + n, size, s2, count - i2)
            scatter(dX, x + i3 * size + n, size, s3, count - i3)


@for_every_height
def weight_gradient_strip(rows):
    """Gradient of the weights, for ``rows`` outputs ``j`` and one block of inputs ``i``, ``columns`` of them.

    ``d`` is where row ``j`` of block 0 stands in ``dZ`` (sample-blocked), ``x`` where the block of inputs
    stands in ``X`` (feature-blocked), ``w`` where the tile stands in ``gradient``, whose rows are ``inputs`` apart. If
    ``columns`` are more than a block has, all are meant. The sum runs over samples from ``n0``, with which a block
    begins, to before ``n1``; with ``add`` it goes on from what stands in ``gradient``.
    """

    @inlined_function
    def strip(dZ, d, outputs, n0, n1, add, X, x, columns, inputs, gradient, w):
        # dW[j,i] = Σ_n dZ[j,n] X[i,n]
        size = block(X)
        t = load_tile(gradient, w, inputs, columns if add else 0, rows)
        for start in range(n0, n1, size):  # block by block
            for n in range(start, min(start + size, n1)):
                # column n of dZ, from the strip's first row on, whose rows are a block apart; and column n of X, that
                # is row n of the turned X
                t = rank1(t, dZ, d + start * outputs + n - start, size, X, x + n * size)
        store_columns(t, gradient, w, inputs, columns)

    @inlined_function
    def low_strip(dZ, d, outputs, n0, n1, add, X, x, columns, inputs, gradient, w):
        # equivalent to strip, rounded differently: samples n, n + 1, n + 2, n + 3 have a tile each, as in a low one
        # every product would wait for the one before
        size = block(X)
        t = load_tile(gradient, w, inputs, columns if add else 0, rows)
        t1, t2, t3 = zeros(X, rows), zeros(X, rows), zeros(X, rows)
        for start in range(n0, n1, size):
            stop = min(start + size, n1)
            for n in range(start, stop - 3, 4):
                d_n, x_n = d + start * outputs + n - start, x + n * size
                t, t1 = rank1(t, dZ, d_n, size, X, x_n), rank1(t1, dZ, d_n + 1, size, X, x_n + size)
                t2 = rank1(t2, dZ, d_n + 2, size, X, x_n + 2 * size)
                t3 = rank1(t3, dZ, d_n + 3, size, X, x_n + 3 * size)
            for n in range(start + (stop - start) // 4 * 4, stop):
                t = rank1(t, dZ, d + start * outputs + n - start, size, X, x + n * size)
        store_columns((t + t1) + (t2 + t3), gradient, w, inputs, columns)

    return low_strip if rows * VECTORS < 4 else strip  # with so few sums, waiting takes longer than adding up


@inlined_function
def weight_gradient_rows(dZ, d, outputs, n0, n1, add, X, order, first, inputs, gradient, w):
    """Gradient of the weights, for all outputs ``j`` and all inputs ``i``, from rows of the user's data.

    Block 0 of ``dZ`` begins at ``d``, the gradient at ``w``; sample ``n`` is the row that ``order`` names in its entry
    ``first + n``. Everything else is as in :func:`weight_gradient_strip`.
    """
    # dW[j,i] = Σ_n dZ[j,n] X[i,n]
    size, step, nothing = block(dZ), lanes(dZ), fill(dZ, 0.0)
    for i in range(0, inputs, 4 * step):  # beyond the last input nothing is loaded, or stored
        i1, i2, i3 = i + step, i + 2 * step, i + 3 * step
        for j in range(0, outputs, 2):  # eight sums side by side; a missing row repeats the last
            j1 = min(j + 1, outputs - 1)
            s0, s1, s2, s3, t0, t1, t2, t3 = nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing
            for start in range(n0, n1, size):
                for n in range(start, min(start + size, n1)):
                    d_n, x = d + start * outputs + n - start, row_of(order, first + n) * inputs
                    d_j, d_j1 = fill(dZ, dZ[d_n + j * size]), fill(dZ, dZ[d_n + j1 * size])
                    x0, x1 = load_first(X, x + i, inputs - i), load_first(X, x + i1, inputs - i1)
                    x2, x3 = load_first(X, x + i2, inputs - i2), load_first(X, x + i3, inputs - i3)
                    s0, s1, s2, s3 = fma(d_j, x0, s0), fma(d_j, x1, s1), fma(d_j, x2, s2), fma(d_j, x3, s3)
                    t0, t1, t2, t3 = fma(d_j1, x0, t0), fma(d_j1, x1, t1), fma(d_j1, x2, t2), fma(d_j1, x3, t3)
            _store_or_add_vectors(s0, s1, s2, s3, add, inputs - i, gradient, w + j * inputs + i)
            if j1 > j:
                _store_or_add_vectors(t0, t1, t2, t3, add, inputs - i, gradient, w + j1 * inputs + i)


@inlined_function
def _store_or_add_vectors(s0, s1, s2, s3, add, count, gradient, place):
    """Store four vectors side by side, of whose elements ``count`` are meant; ``add`` them to what stands there."""
    step = lanes(gradient)
    _store_or_add_vector(s0, add, count, gradient, place)
    _store_or_add_vector(s1, add, count - step, gradient, place + step)
    _store_or_add_vector(s2, add, count - 2 * step, gradient, place + 2 * step)
    _store_or_add_vector(s3, add, count - 3 * step, gradient, place + 3 * step)


@inlined_function
def _store_or_add_vector(v, add, count, gradient, place):
    if add:
        store_first(gradient, place, load_first(gradient, place, count) + v, count)
    else:
        store_first(gradient, place, v, count)


@inlined_function
def narrow_gradient_strip(rows, dZ, d, outputs, n0, n1, add, X, x, inputs, gradient, w):
    """Gradient of the weights, for ``rows`` outputs ``j`` and all inputs ``i`` of a layer that has four at most.

    :func:`weight_gradient_strip` would compute a whole block of inputs, most of them for nothing. Here samples lie
    side by side: ``X`` is sample-blocked too, and ``x`` is where its block 0 stands. Everything else is as there.
    All gradients of 4-32-16-4 over 512 samples take 11 us instead of 15 (one thread, AVX2).
    """
    # dW[j,i] = Σ_n dZ[j,n] X[i,n]
    size = block(X)
    i1, i2, i3 = min(1, inputs - 1), min(2, inputs - 1), min(3, inputs - 1)
    for r in range(0, rows, 2):  # eight sums side by side; a missing row repeats the last
        r1, nothing = min(r + 1, rows - 1), fill(X, 0.0)
        s0, s1, s2, s3, t0, t1, t2, t3 = nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing
        for start in range(n0, n1, size):
            for n in range(start, start + size, lanes(X)):  # some samples
                d_n, here = d + start * outputs + n - start, x + start * inputs + n - start
                d_r, d_r1 = load(dZ, d_n + r * size), load(dZ, d_n + r1 * size)
                x0, x1 = load(X, here), load(X, here + i1 * size)
                x2, x3 = load(X, here + i2 * size), load(X, here + i3 * size)
                s0, s1, s2, s3 = fma(d_r, x0, s0), fma(d_r, x1, s1), fma(d_r, x2, s2), fma(d_r, x3, s3)
                t0, t1, t2, t3 = fma(d_r1, x0, t0), fma(d_r1, x1, t1), fma(d_r1, x2, t2), fma(d_r1, x3, t3)
        _store_or_add_sums(s0, s1, s2, s3, add, inputs, gradient, w + r * inputs)
        if r1 > r:
            _store_or_add_sums(t0, t1, t2, t3, add, inputs, gradient, w + r1 * inputs)


@inlined_function
def _store_or_add_sums(s0, s1, s2, s3, add, count, gradient, place):
    """Store the sums of the lanes of the first ``count`` vectors, side by side; ``add`` them to what stands there."""
    t0, t1, t2, t3 = sum_lanes_of_four(s0, s1, s2, s3)
    _store_or_add_sum(t0, add, gradient, place)
    if count > 1:
        _store_or_add_sum(t1, add, gradient, place + 1)
    if count > 2:
        _store_or_add_sum(t2, add, gradient, place + 2)
    if count > 3:
        _store_or_add_sum(t3, add, gradient, place + 3)


@inlined_function
def _store_or_add_sum(total, add, gradient, place):
    if add:
        gradient[place] += total
    else:
        gradient[place] = total


@inlined_function
def bias_gradient_strip(rows, dZ, d, outputs, n0, n1, add, gradient, b):
    """Gradient of the biases, for ``rows`` outputs ``j``, over samples as in :func:`weight_gradient_strip`.

    ``b`` is where the strip's first bias stands in ``gradient``. Here and in :func:`narrow_gradient_strip` the last
    block is summed as a whole: where it is only filled up, ``dZ`` is zero, and ``X`` finite.
    """
    # db[j] = Σ_n dZ[j,n]
    size, nothing = block(dZ), fill(dZ, 0.0)
    for r in range(0, rows, 4):  # four sums side by side; a missing row repeats the last
        r1, r2, r3 = min(r + 1, rows - 1), min(r + 2, rows - 1), min(r + 3, rows - 1)
        s0, s1, s2, s3 = nothing, nothing, nothing, nothing
        for start in range(n0, n1, size):
            for n in range(start, start + size, lanes(dZ)):  # some samples
                d_n = d + start * outputs + n - start
                s0, s1 = s0 + load(dZ, d_n + r * size), s1 + load(dZ, d_n + r1 * size)
                s2, s3 = s2 + load(dZ, d_n + r2 * size), s3 + load(dZ, d_n + r3 * size)
        _store_or_add_sums(s0, s1, s2, s3, add, rows - r, gradient, b + r)


# ------------------------------------------------------------------------------------------------------------------
# the kernels, over whole arrays: W, X and Z have the axes that are told, flat_W, flat_X and flat_Z are the same of one


@kernel
def affine(W, b, X, Z):
    """Matmul plus bias. ``X`` and ``Z`` are sample-blocked.

    Parameters
    ----------
    W : ndarray of shape (outputs, inputs)
    b : ndarray of shape (outputs,)
    X : ndarray of shape (blocks, inputs, block)
    Z : ndarray of shape (blocks, outputs, block)
        The result.
    """
    # Z[j,n] = Σ_i W[j,i] X[i,n] + b[j]
    blocks, inputs, size = X.shape
    outputs = W.shape[0]
    flat_W, flat_X, flat_Z = W.reshape(W.size), X.reshape(X.size), Z.reshape(Z.size)
    for p in prange(blocks):
        for strip in range(n_strips(outputs)):
            j, rows = strip_of(outputs, strip)
            x, z = p * inputs * size, (p * outputs + j) * size
            affine_strip(rows, flat_W, j * inputs, b, j, inputs, flat_X, x, flat_Z, z)


@kernel
def affine_backward(W, X, dZ, dX, dW, db):
    """Gradients of :func:`affine`. ``dZ`` and ``dX`` are sample-blocked, ``X`` is feature-blocked.

    Parameters
    ----------
    W : ndarray of shape (outputs, inputs)
    X : ndarray of shape (blocks of inputs, samples in whole blocks, block)
    dZ : ndarray of shape (blocks, outputs, block)
        Zero in the samples that only fill up the last block.
    dX : ndarray of shape (blocks, inputs, block)
        The result, with its two companions:
    dW : ndarray of shape (outputs, inputs)
    db : ndarray of shape (outputs,)
    """
    # dX[i,n] = Σ_j W[j,i] dZ[j,n]
    # dW[j,i] = Σ_n dZ[j,n] X[i,n]
    # db[j] = Σ_n dZ[j,n]
    outputs, inputs = W.shape
    blocks, _, size = dZ.shape
    flat_W, flat_X, flat_dZ = W.reshape(W.size), X.reshape(X.size), dZ.reshape(dZ.size)
    flat_dX, flat_dW, room = dX.reshape(dX.size), dW.reshape(dW.size), X.shape[1]
    for p in prange(blocks):
        for strip in range(n_strips(inputs)):
            i, rows = strip_of(inputs, strip)
            d, x = p * outputs * size, (p * inputs + i) * size
            input_gradient_strip(rows, flat_W, i, inputs, 0, outputs, flat_dZ, d, flat_dX, x)
    for task in prange(n_strips(outputs)):
        # Numba counts a parallel loop in unsigned numbers; the smaller of these and signed ones would be a float
        strip = np.int64(task)
        j, rows = strip_of(outputs, strip)
        for i in range(0, inputs, size):
            weight_gradient_strip(
                rows, flat_dZ, j * size, outputs, 0, blocks * size, False, flat_X, i * room, inputs - i, inputs,
                flat_dW, j * inputs + i,
            )  # fmt: skip
        bias_gradient_strip(rows, flat_dZ, j * size, outputs, 0, blocks * size, False, db, j)


@kernel
def activate(activation, Z, A):
    """Apply an activation (its code) to every element: ``A = f(Z)``, which may be ``Z``."""
    # A[j,n] = f(Z[j,n])
    flat_Z, flat_A = Z.reshape(Z.size), A.reshape(A.size)
    size = block(Z)
    for p in prange(Z.size // size):
        activate_vectors(activation, flat_Z, p * size, flat_A, p * size, size)


@kernel
def activate_backward(activation, Z, A, dA, dZ):
    """Gradient of :func:`activate`: multiply by the slope. ``dZ`` may be ``dA``."""
    # dZ[j,n] = dA[j,n] f'(Z[j,n])
    flat_Z, flat_A, flat_dA, flat_dZ = Z.reshape(Z.size), A.reshape(A.size), dA.reshape(dA.size), dZ.reshape(dZ.size)
    size = block(Z)
    for p in prange(Z.size // size):
        slope_vectors(activation, flat_Z, p * size, flat_A, p * size, flat_dA, flat_dZ, p * size, size)
