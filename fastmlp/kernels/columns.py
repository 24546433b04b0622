"""What kernels and their callers both know: the columns of the plan and of the report, and the statuses.

The *plan* says what the network is and where in the arena everything stands: see :mod:`fastmlp.buffers`. In the
*report* kernels write what they found.
"""

from __future__ import annotations

INPUTS, OUTPUTS, ACTIVATION, WEIGHTS, BIASES, X_BY_FEATURES, X, Z, A, DZ, DROPPED, X_LEFT, IS_NARROW = range(13)
"""The columns of the plan, which has one row per layer:

- ``INPUTS``, ``OUTPUTS``: how many there are;
- ``ACTIVATION``: its code;
- ``WEIGHTS``, ``BIASES``: where they begin in the parameters;
- ``X_BY_FEATURES``, ``X``: where in the arena what enters the layer begins, by blocks of features and of samples;
- ``Z``, ``A``, ``DZ``: where these begin in the arena. ``Z`` and ``A`` of a hidden layer are one place, unless the
  slope is a function of ``Z`` (:data:`~fastmlp.kernels.activations.SLOPE_NEEDS_Z`): ``A`` is written over ``Z``;
- ``DROPPED``: the threshold below which a random word drops a unit, 0 without dropout;
- ``X_LEFT``: where what is then left of ``X`` begins; where nothing is dropped, ``X`` itself;
- ``IS_NARROW``: whether so few inputs enter the layer, none of them ever dropped, that the gradient of its weights is
  summed from ``X`` by blocks of samples. Training then keeps nothing of it by features.
"""

LOSS, ROOM, TARGETS, TARGETS_BY_FEATURES, SHARES, SAMPLE_LOSSES, THREADS, PARTIALS, PENALIZES = range(9)
"""The columns of its last row, which is for the whole batch:

- ``LOSS``: its code;
- ``ROOM``: for how many there is room, whole blocks of them;
- ``TARGETS``, ``TARGETS_BY_FEATURES``: where in the arena they begin, by blocks of samples and of features;
- ``SHARES``, ``SAMPLE_LOSSES``: where each sample's share in the mean, and its loss, begin;
- ``THREADS``: how many there are;
- ``PARTIALS``: where in the arena the first group's gradient begins;
- ``PENALIZES``: what is penalized;
- ``DROPS``, ``KEY0``, ``KEY1``: whether any layer drops units, and the key of its random words;
- ``LEAST_SAMPLES``: the least samples that are worth a group; the first such are worth two;
- ``LEAST_GROUP``: the least samples of one of several groups;
- ``DIVIDES_PENALTY``: whether the penalty is divided by the samples' weight;
- ``PLACES``: where the samples' places in the minibatch of all ranks begin, -1 if they are not needed;
- ``APART``: by how many blocks of samples two groups lie apart, beyond their own;
- ``PARTIAL_SIZE``: how far it is from the beginning of one group's gradient to that of the next;
- ``PARTIALS_IN_CACHE``: of how many groups the gradients stay in the cache.
"""

DROPS, KEY0, KEY1, LEAST_SAMPLES, LEAST_GROUP, DIVIDES_PENALTY = range(9, 15)
PLACES, APART, PARTIAL_SIZE, PARTIALS_IN_CACHE = range(15, 19)

PLAN_COLUMNS = 24
"""Of both kinds of rows: a whole number of cache lines."""

NOTHING, WEIGHTS_ALONE, EVERYTHING = range(3)
"""What is penalized."""

FINITE, X_NOT_FINITE, Y_NOT_FINITE, LOSS_NOT_FINITE = range(4)
"""The statuses that come back."""

BLOCK_LOSS, X_CHECK, Y_CHECK = range(3)
"""Columns of the report, which has a row for each block of samples:

- ``BLOCK_LOSS``: its loss;
- ``X_CHECK``, ``Y_CHECK``: NaN in the rows of all blocks of a tile in which a value of ``X``, or ``Y``, is not finite,
  else 0. With stages, the rows of the first ranges of parameters have ``X_CHECK`` of parts of the features. In
  predictions, a row is a member's.
"""

RUN, BATCH, SETTINGS, PENALTY = -1, -2, -3, -4
"""Behind those of the blocks, the report has :data:`PARAMETER_RANGES` rows for sums over ranges of parameters, then:

- ``PENALTY``: the penalty of the batch;
- ``SETTINGS``: those of the loss and of the penalty, in float64 whatever the arena is: of 0.99 in float32, too little
  would be left in 1 - 0.99;
- ``BATCH``: the batch;
- ``RUN``: the training run.
"""

STATUS, SUM_OF_LOSSES, TAKEN = range(3)
"""Of the run: its status, the sum of its steps' losses times their samples' weights, and how many steps were taken."""

TOTAL_WEIGHT, FACTOR = range(2)
"""Of the batch: the sum of its samples' weights, and by what its gradient is multiplied."""

LOSS_SETTING, L1, L2 = range(3)
"""Of the settings; ``L1`` and ``L2`` are of the batch's penalty too."""

PENALTIES = 0
"""Of the penalty: the run's sum of each step's, times its samples' weights."""

STEPS, VERSION, MEMORY = range(3)
"""What compiled code knows of a model: how many steps its optimizer has taken, how often its parameters have changed,
and the address of what the optimizer remembers."""

PARAMETER_RANGES = 16
"""Ranges into which the parameters are divided where they are updated, or summed, by themselves."""

REPORT_ROWS = PARAMETER_RANGES + 4
"""Rows of the report beside those of the blocks."""
