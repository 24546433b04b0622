"""The phase over samples: a tile of them goes through all layers, forward and back, in one thread's cache.

It leaves the activations in the arena, and the gradients ``dZ`` of its samples. The formulas are in
:mod:`fastmlp.kernels.layer`.
"""

from __future__ import annotations

from fastmlp.kernels.activations import SOFTMAX, activate_vectors, slope_vectors
from fastmlp.kernels.columns import (
    ACTIVATION,
    BATCH,
    BIASES,
    BLOCK_LOSS,
    DIVIDES_PENALTY,
    DROPPED,
    DZ,
    INPUTS,
    IS_NARROW,
    KEY0,
    KEY1,
    L1,
    L2,
    LOSS,
    LOSS_SETTING,
    OUTPUTS,
    PENALTY,
    PLACES,
    ROOM,
    SAMPLE_LOSSES,
    SETTINGS,
    SHARES,
    TARGETS,
    TARGETS_BY_FEATURES,
    TOTAL_WEIGHT,
    WEIGHTS,
    X_BY_FEATURES,
    X_LEFT,
    Y_CHECK,
    A,
    X,
    Z,
)
from fastmlp.kernels.dropout import NOTHING_DROPPED, drop_block
from fastmlp.kernels.jit import inlined_function, specialized_function, tile_function
from fastmlp.kernels.layer import (
    affine_by_sample,
    affine_rows,
    affine_strip,
    input_gradient_by_sample,
    input_gradient_strip,
    most_rows,
    n_strips,
    strip_of,
)
from fastmlp.kernels.layout import (
    NARROW_FEATURES,
    feature_blocks_of,
    gather_labels,
    gather_narrow,
    gather_rows,
    n_blocks,
    row_of,
    sample_blocks_of,
)
from fastmlp.kernels.losses import GIVEN_GRADIENT, POISSON, loss_block, softmax_block
from fastmlp.kernels.simd import block, fill, lanes, load, load_first, prefetch, store, sum_lanes, where

TILE_BLOCKS = 8
"""Most blocks of samples in a tile: a tile's activations stay in the first- or second-level cache in all layers. With
8 instead of 4, steps of 4-32-16-4 take a tenth less time, others the same."""

OUTPUTS_AT_ONCE = 64
"""Rows of ``W`` from which ``dX`` is summed in one go: so many of a large ``W`` stay in the second-level cache."""

FAR_BYTES = 1 << 20
"""Bytes of a ``W`` from which its columns for the strip of ``dX`` after the next are asked for: they lie a row apart,
so that no processor fetches them beforehand. Three times 1000 to 1000 go backward at 85 % of the peak instead of 69
(AVX2)."""

LANES_BY_THEMSELVES = 6
"""Products of vectors that it costs to sum the lanes of a vector, or to write them one by one."""

KEEPS_NOTHING, KEEPS_FOR_GRADIENT, KEEPS_ALL = range(3)
"""What a forward pass keeps by features of what enters the layers: nothing; what the gradient of the weights is summed
from (:data:`~fastmlp.kernels.columns.IS_NARROW`); or all, for whoever reads it."""

OUTPUTS_IN_PLACE, VECTORS_FOR_TWO = 4, 4
"""Outputs of the first layer up to which it reads the user's rows where they stand; and vectors of inputs that it has
then, at least, for each two of them, so that it pays to sum lanes in the end. There is so little to compute with a row
that most of the time went into turning it. One thread: 2000-1 on 1,000 samples takes 330 us instead of 1,060, 128-2 on
128 takes 4.4 instead of 6.3, 500-4 on 128 takes 20.8 instead of 27.3; but 500-8 would take 39.5 instead of 37.9."""

ROWS_BYTES = 1 << 19
"""Bytes of such rows in a tile, at most: they are read again for the gradient, from the second-level cache."""

X_BYTES = 1 << 17
"""Bytes of ``X`` in a tile of a group, at most, unless it is a single block: both layouts are read for the gradient
soon. On two threads, 784-10 on 1,000 samples takes 238 us instead of 245, 3072-10 on 500 takes 567 instead of 679, in
float64 784-16 on 2,000 takes 2,004 instead of 2,161."""


# ------------------------------------------------------------------------------------------------------------------
# the batch


@tile_function
def penalize_batch(total, plan, report):
    """Note ``l1`` and ``l2`` as the loss of this batch needs them, whose samples' weights add up to ``total``.

    The loss is ``Σ_n s[n] L[n] + factor (l1 Σ |w| + l2/2 Σ w²)``: ``factor`` is 1, or if the penalty is divided as the
    sum of the losses is, ``1 / total``.
    """
    factor = 1.0
    if plan[-1, DIVIDES_PENALTY]:
        factor = 1.0 / total if total > 0 else 0.0
    report[PENALTY, L1], report[PENALTY, L2] = report[SETTINGS, L1] * factor, report[SETTINGS, L2] * factor


@tile_function
def weigh(plan, report, sample_weights, order, first, samples):
    """Note the sum of the samples' weights of a batch, and its penalty.

    If they have none, the sum is their number; if the gradient itself is given, which is taken as it is, it is 1.
    """
    total = float(samples)
    if plan[-1, LOSS] == GIVEN_GRADIENT:
        total = 1.0
    elif sample_weights.size > 0:
        total = 0.0
        for n in range(samples):
            total += sample_weights[row_of(order, first + n)]
    report[BATCH, TOTAL_WEIGHT] = total
    penalize_batch(total, plan, report)


@tile_function
def note(report, column, p0, p1, value):
    """Write what was found in a tile into the rows of its blocks."""
    for p in range(p0, p1):
        report[p, column] = value


# ------------------------------------------------------------------------------------------------------------------
# one tile, that is blocks p0 to p1


@inlined_function
def whole(plan):
    """The *scope* of a tile that goes through the whole network.

    A scope is the first layer and the one after the last, and of their features, which part of how many. What goes
    forward or backward in several parts is a single block of samples, through a single layer.
    """
    # what is specialized for these numbers knows that all features are meant: 3-4-4-2 took 0.75 us then, and 0.85
    return 0, plan.shape[0] - 1, 0, 1


@inlined_function
def _part_of(scope, features, arena):
    """Features of a layer in the scope: from which to before which. Parts are whole blocks of them."""
    _, _, part, parts = scope
    if parts == 1:
        return 0, features
    size, blocks = block(arena), n_blocks(arena, features)
    return part * blocks // parts * size, min((part + 1) * blocks // parts * size, features)


@tile_function
def _is_kept(layer, keeps, plan):
    """Whether what enters a layer is kept by features."""
    return keeps == KEEPS_ALL or (keeps == KEEPS_FOR_GRADIENT and not plan[layer, IS_NARROW])


@specialized_function
def read_samples(scope, keeps, plan, arena, data, order, first, samples, p0, p1):
    """Gather a tile of the batch: ``X`` of the first layer, in both layouts. Returns 0 if all is finite, else NaN.

    Of the features, those in the scope; where they are few, in one layout alone unless the other is kept.
    """
    inputs, by_features = plan[0, INPUTS], plan[0, X_BY_FEATURES]
    size, room = block(arena), plan[-1, ROOM]
    if inputs <= NARROW_FEATURES:
        check = gather_narrow(data, inputs, order, first, samples, p0, p1, arena, plan[0, X])
        if _is_kept(0, keeps, plan):
            feature_blocks_of(arena, plan[0, X], inputs, 0, inputs, room, p0, p1, arena, by_features)
        return check
    i0, i1 = _part_of(scope, inputs, arena)
    check = gather_rows(data, inputs, i0, i1, order, first, samples, p0 * size, p1 * size, arena, by_features, room)
    sample_blocks_of(arena, by_features, inputs, i0, i1, room, p0, p1, arena, plan[0, X])
    return check


@tile_function
def can_read_in_place(plan, arena):
    """Whether the first layer may read the user's rows where they stand."""
    outputs = plan[0, OUTPUTS]
    least = (outputs + 1) // 2 * VECTORS_FOR_TWO * lanes(arena)
    return outputs <= OUTPUTS_IN_PLACE and plan[0, INPUTS] >= least


@tile_function
def blocks_of_bytes(most, plan, arena):
    """Blocks of samples in a tile, whose rows have so many bytes at most."""
    return max(1, min(TILE_BLOCKS, most // (plan[0, INPUTS] * block(arena) * arena.itemsize)))


@tile_function
def affine_rows_tile(plan, parameters, arena, data, order, first, samples, p0, p1):
    """``Z`` of the first layer for a tile of samples, from their rows. Returns 0 if these are all finite, else NaN."""
    inputs, outputs, size, step = plan[0, INPUTS], plan[0, OUTPUTS], block(arena), lanes(arena)
    check = fill(arena, 0.0)
    for p in range(p0, p1):
        n, z = p * size, plan[0, Z] + p * outputs * size
        # Z = affine(W, b, X)
        affine_rows(
            parameters, plan[0, WEIGHTS], parameters, plan[0, BIASES], inputs, outputs, data, order, first + n,
            samples - n, arena, z,
        )  # fmt: skip
        for k in range(0, outputs * size, step):
            check = check + (load(arena, z + k) - load(arena, z + k))
    # what is not finite in a row leaves no sum finite
    return 0.0 if sum_lanes(check) == 0 else _check_rows(inputs, arena, data, order, first, samples, p0, p1)


@tile_function
def _check_rows(inputs, arena, data, order, first, samples, p0, p1):
    """Return 0 if every value of a tile's rows is finite, else NaN."""
    check = fill(arena, 0.0)
    for n in range(p0 * block(arena), min(p1 * block(arena), samples)):
        row = row_of(order, first + n) * inputs
        for i in range(0, inputs, lanes(arena)):
            x = load_first(data, row + i, inputs - i)
            check = check + (x - x)
    return sum_lanes(check)


@inlined_function
def _read_targets(plan, arena, targets, labels, order, first, samples, p0, p1):
    """Gather a tile's targets; labels, if there are any, as one-hot columns. Returns 0 if all is well, else NaN."""
    outputs, to = plan[-2, OUTPUTS], plan[-1, TARGETS]
    size, room = block(arena), plan[-1, ROOM]
    if labels.size > 0:
        return gather_labels(labels, outputs, order, first, samples, p0, p1, arena, to)
    if outputs <= NARROW_FEATURES:
        return float(gather_narrow(targets, outputs, order, first, samples, p0, p1, arena, to))
    by_features = plan[-1, TARGETS_BY_FEATURES]
    check = gather_rows(
        targets, outputs, 0, outputs, order, first, samples, p0 * size, p1 * size, arena, by_features, room
    )
    sample_blocks_of(arena, by_features, outputs, 0, outputs, room, p0, p1, arena, to)
    return float(check)


@tile_function
def _share_out(plan, arena, report, sample_weights, order, first, samples, p0, p1):
    """Write each sample's share ``s[n]`` in the mean: its weight by their sum; 0 where it only fills up its block."""
    size, total = block(arena), report[BATCH, TOTAL_WEIGHT]
    to, share = plan[-1, SHARES], 1.0 / total if total > 0 else 0.0
    if sample_weights.size == 0:
        for n in range(p0 * size, p1 * size):
            arena[to + n] = share if n < samples else 0.0
    else:
        for n in range(p0 * size, p1 * size):
            arena[to + n] = sample_weights[row_of(order, first + n)] * share if n < samples else 0.0


@tile_function
def _drop_tile(layer, j0, j1, place, to, dropout_step, plan, arena, p0, p1, apart):
    """What is left of a hidden layer's activations, or of their gradient, where some are dropped of ``j0`` to ``j1``.

    Block ``p`` of the arena holds block ``p - apart`` of the batch.
    """
    outputs, size, threshold = plan[layer, OUTPUTS], block(arena), plan[layer, DROPPED]
    for p in range(p0, p1):
        here, n = p * outputs * size, (p - apart) * size
        drop_block(
            threshold, plan[-1, KEY0], plan[-1, KEY1], dropout_step, layer, j0, j1, n,
            plan[-1, PLACES] + n if plan[-1, PLACES] >= 0 else -1, arena, place + here, arena, to + here,
        )  # fmt: skip


@tile_function
def few_of(samples, arena):
    """The samples of a batch that leaves half a block empty, or more; else 0."""
    return samples if 2 * samples <= block(arena) else 0


@tile_function
def _are_one_by_one(few, summed, arena):
    """Whether a few samples are cheaper computed one by one than as a block, in sums of so many products.

    For as many sums of each sample as a vector has lanes, a block takes ``block × summed`` products of vectors. One by
    one, each of the few takes ``summed``, and what it costs to sum lanes, or to write them one by one: for each sum,
    some more.
    """
    return few > 0 and few * (summed + LANES_BY_THEMSELVES * lanes(arena)) < block(arena) * summed


@inlined_function
def _affine_tile(layer, j0, j1, entering, plan, parameters, arena, p0, p1, few):
    """``Z`` of a layer, outputs ``j0`` to ``j1``, for a tile of samples; what enters it begins at ``entering``."""
    inputs, outputs, size = plan[layer, INPUTS], plan[layer, OUTPUTS], block(arena)
    w0, b0, z0 = plan[layer, WEIGHTS] + j0 * inputs, plan[layer, BIASES] + j0, plan[layer, Z] + j0 * size
    if not plan[layer, IS_NARROW] and _are_one_by_one(few, inputs, arena):  # they are block 0, so p0 is 0 and p1 is 1
        x, room = plan[layer, X_BY_FEATURES], plan[-1, ROOM]
        # Z = affine(W, b, X)
        affine_by_sample(parameters, w0, parameters, b0, inputs, j1 - j0, arena, x, room, few, arena, z0)
        return
    most = most_rows(parameters, inputs)
    for strip in range(n_strips(j1 - j0, most)):
        j, rows = strip_of(j1 - j0, strip, most)
        w, b = w0 + j * inputs, b0 + j
        for p in range(p0, p1):
            x, z = entering + p * inputs * size, z0 + (p * outputs + j) * size
            # Z = affine(W, b, X)
            affine_strip(rows, parameters, w, parameters, b, inputs, arena, x, arena, z)


@specialized_function
def forward_tile(scope, reads_in_place, keeps, plan, parameters, arena, p0, p1, few, dropout_step, apart):
    """Forward through every layer in the scope.

    With ``reads_in_place``, ``Z`` of the first layer is there already: :func:`affine_rows_tile` has written it. With a
    part of the last layer's outputs, :func:`softmax_tile` is still to come.

    ``few`` is as in :func:`few_of`, or 0 where each sample's bits must not depend on how many there are; ``apart`` is
    as in :func:`_drop_tile`, here and below.
    """
    layer0, layer1, _, parts = scope
    size, n_layers = block(arena), plan.shape[0] - 1
    for layer in range(layer0, layer1):
        outputs, code = plan[layer, OUTPUTS], plan[layer, ACTIVATION]
        j0, j1 = _part_of(scope, outputs, arena)
        entering = plan[layer, X if dropout_step == NOTHING_DROPPED else X_LEFT]
        if layer > 0 or not reads_in_place:
            _affine_tile(layer, j0, j1, entering, plan, parameters, arena, p0, p1, few)
        here, count = (p0 * outputs + j0) * size, (p1 - p0) * (j1 - j0) * size
        # A = activate(Z), which may be one place
        activate_vectors(code, arena, plan[layer, Z] + here, arena, plan[layer, A] + here, count)
        survivors = plan[layer, A]
        if dropout_step != NOTHING_DROPPED and plan[layer, DROPPED] > 0:
            survivors = plan[layer + 1, X_LEFT]
            _drop_tile(layer, j0, j1, plan[layer, A], survivors, dropout_step, plan, arena, p0, p1, apart)
        if layer + 1 < n_layers and _is_kept(layer + 1, keeps, plan):
            feature_blocks_of(
                arena, survivors, outputs, j0, j1, plan[-1, ROOM], p0, p1, arena,
                plan[layer + 1, X_BY_FEATURES],
            )  # fmt: skip
    if layer1 == n_layers and parts == 1:
        softmax_tile(plan, arena, p0, p1)


@tile_function
def softmax_tile(plan, arena, p0, p1):
    """The activation of the last layer, if it is the softmax, which needs all outputs of a sample."""
    outputs, size = plan[-2, OUTPUTS], block(arena)
    if plan[-2, ACTIVATION] == SOFTMAX:
        for p in range(p0, p1):
            here = p * outputs * size
            softmax_block(outputs, arena, plan[-2, Z] + here, arena, plan[-2, A] + here)


@inlined_function
def _loss_tile(plan, arena, report, p0, p1, apart):
    """Loss of each block of a tile, each sample's times its share; and the gradient ``dZ`` of the last layer.

    ``dZ[j,n] = s[n] ∂L[n]/∂Z[j,n]``. In its place stand first the samples' own gradients: of the loss by ``A``, or by
    ``Z``.
    """
    # loss = Σ_n s[n] L[n]
    size, last = block(arena), plan.shape[0] - 2
    outputs, code, setting = plan[last, OUTPUTS], plan[-1, LOSS], report[SETTINGS, LOSS_SETTING]
    for p in range(p0, p1):
        here = p * outputs * size
        z, a, d = plan[last, Z] + here, plan[last, A] + here, plan[last, DZ] + here
        losses, shares = plan[-1, SAMPLE_LOSSES] + p * size, plan[-1, SHARES] + p * size
        # losses and dZ lie both in the last array, dA and dZ at one place
        loss_block(code, setting, outputs, arena, z, arena, a, arena, plan[-1, TARGETS] + here, arena, losses, d)
        if code < POISSON:  # a function of A, as all are whose codes come before: the slope is still to come
            slope_vectors(plan[last, ACTIVATION], arena, z, arena, a, arena, arena, d, outputs * size)
        total = fill(arena, 0.0)
        for k in range(0, size, lanes(arena)):
            share = load(arena, shares + k)
            for j in range(outputs):
                # in dZ, a sample without a share counts for nothing, even where its gradient is infinite
                store(arena, d + j * size + k, where(share > 0, load(arena, d + j * size + k) * share, 0.0))
            total = total + where(share > 0, load(arena, losses + k) * share, 0.0)
        report[p - apart, BLOCK_LOSS] = sum_lanes(total)


@inlined_function
def loss_of_tile(plan, arena, report, targets, labels, sample_weights, order, first, samples, p0, p1, apart):
    """Targets and shares of a tile that has been forward, and its loss."""
    check = _read_targets(plan, arena, targets, labels, order, first, samples, p0, p1)
    note(report, Y_CHECK, p0 - apart, p1 - apart, check)
    _share_out(plan, arena, report, sample_weights, order, first, samples, p0, p1)
    _loss_tile(plan, arena, report, p0, p1, apart)


@inlined_function
def input_gradient_tile(layer, i0, i1, to, plan, parameters, arena, p0, p1, few):
    """``dX`` of a layer from its ``dZ``, inputs ``i0`` to ``i1``, for a tile of samples.

    ``dX`` of all inputs and samples begins at ``to``.
    """
    inputs, outputs, size = plan[layer, INPUTS], plan[layer, OUTPUTS], block(arena)
    if _are_one_by_one(few, outputs, arena):  # they are block 0, so p0 is 0 and p1 is 1
        # dX of:  dX, dW, db = affine_backward(W, X, dZ)
        input_gradient_by_sample(
            parameters, plan[layer, WEIGHTS] + i0, inputs, i1 - i0, outputs, arena, plan[layer, DZ], few, arena,
            to + i0 * size,
        )  # fmt: skip
        return
    for j0 in range(0, outputs, OUTPUTS_AT_ONCE):
        j1 = min(j0 + OUTPUTS_AT_ONCE, outputs)
        for strip in range(n_strips(i1 - i0)):
            i, rows = strip_of(i1 - i0, strip)
            i += i0
            w = plan[layer, WEIGHTS] + i
            if inputs * outputs * arena.itemsize > FAR_BYTES:
                for j in range(j0, j1):
                    prefetch(parameters, w + j * inputs + 2 * rows)
            for p in range(p0, p1):
                d, x = plan[layer, DZ] + p * outputs * size, to + (p * inputs + i) * size
                # dX of:  dX, dW, db = affine_backward(W, X, dZ)
                input_gradient_strip(rows, parameters, w, inputs, j0, j1, arena, d, arena, x)


@tile_function
def backward_tile(scope, plan, parameters, arena, p0, p1, few, dropout_step, apart):
    """Backward through every layer in the scope, the last one first: ``dZ`` of each from that of the layer above it.

    Of a layer's inputs, those in the scope's part. Nobody asks here for ``dX`` of the first layer.
    """
    layer0, layer1, _, _ = scope
    size = block(arena)
    for layer in range(layer1 - 1, max(layer0, 1) - 1, -1):
        inputs, below = plan[layer, INPUTS], layer - 1
        i0, i1 = _part_of(scope, inputs, arena)
        # the forward line was:  Z = affine(W, b, X)
        # this dX is dA of the layer below: written where its dZ belongs, and multiplied by the slope there
        input_gradient_tile(layer, i0, i1, plan[below, DZ], plan, parameters, arena, p0, p1, few)
        here, count = (p0 * inputs + i0) * size, (p1 - p0) * (i1 - i0) * size
        z, a, d = plan[below, Z] + here, plan[below, A] + here, plan[below, DZ] + here
        # the forward line was:  A = activate(Z)  of the layer below, which enters this one as X
        slope_vectors(plan[below, ACTIVATION], arena, z, arena, a, arena, arena, d, count)
        # what was dropped came behind the activation; but both are factors of each element, in whichever order
        if dropout_step != NOTHING_DROPPED and plan[below, DROPPED] > 0:
            _drop_tile(below, i0, i1, plan[below, DZ], plan[below, DZ], dropout_step, plan, arena, p0, p1, apart)
