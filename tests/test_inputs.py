"""The door: bad input is refused in one sentence and changes nothing; good input of any kind just works."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastmlp
from conftest import INTERPRETED

X, Y = np.random.default_rng(0).standard_normal((5, 3)), np.random.default_rng(1).standard_normal((5, 2))
LABELS = np.array([0, 1, 1, 0, 1])


def make(**arguments):
    """Make the network that the tests ask."""
    return fastmlp.MLP([3, 4, 2], **{"rng": 0, **arguments})


ENTRIES = {
    "predict": lambda mlp, x, y: mlp.predict(x),
    "forward": lambda mlp, x, y: mlp.forward(x),
    "loss": lambda mlp, x, y: mlp.loss(x, y),
    "loss_and_gradients": lambda mlp, x, y: mlp.loss_and_gradients(x, y),
    "train_step": lambda mlp, x, y: mlp.train_step(x, y, learning_rate=0.1),
    "fit": lambda mlp, x, y: mlp.fit(x, y, epochs=1, progress=False),
    "verify": lambda mlp, x, y: mlp.verify(x, y),
}
NO_TARGETS = {"predict", "forward"}


def replaced(array, index, value):
    """A copy with one other value."""
    copy = array.astype(np.result_type(array, type(value)))
    copy[index] = value
    return copy


BAD_X = {
    "one axis": (X[0], r"X must have shape \(n_samples, 3\).*got \(3,\).*reshape"),
    "three axes": (X[np.newaxis], r"X must have shape \(n_samples, 3\).*got \(1, 5, 3\)"),
    "a number": (1.0, r"X must have shape \(n_samples, 3\)"),
    "swapped axes": (X.T, r"got \(3, 5\).*axes look swapped.*X.T"),
    "too many features": (np.ones((5, 4)), r"X must have shape \(n_samples, 3\).*got \(5, 4\)"),
    "no samples": (np.ones((0, 3)), r"no sample"),
    "NaN": (replaced(X, (2, 1), np.nan), r"X must be finite; got nan at X\[2, 1\]"),
    "infinity": (replaced(X, (4, 0), -np.inf), r"X must be finite; got -inf at X\[4, 0\]"),
    "objects": (X.astype(object), r"X must hold real numbers.*object"),
    "complex numbers": (X + 0j, r"X must hold real numbers.*complex128"),
    "strings": (X.astype(str), r"X must hold real numbers.*<U"),
    "dates": (np.full((5, 3), "2020-01-01", "M8[D]"), r"X must hold real numbers.*datetime64"),
    "ragged lists": ([[1, 2, 3], [4, 5]], r"X must be an array of numbers; got list"),
    "a masked array": (np.ma.masked_greater(X, 0), r"X must have a value everywhere"),
    "nothing": (None, r"X must hold real numbers"),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("what", BAD_X)
def test_bad_samples_are_refused_and_change_nothing(entry, what):
    mlp = make()
    before = pickle.dumps(mlp)
    bad, words = BAD_X[what]
    with pytest.raises((ValueError, TypeError), match=words):
        ENTRIES[entry](mlp, bad, Y)
    assert pickle.dumps(mlp) == before


BAD_Y = {
    "another number of samples": (Y[:4], r"Y must have as many samples as X, which has 5; got 4"),
    "too few outputs": (Y[:, :1], r"Y must have shape \(n_samples, 2\); got \(5, 1\)"),
    "one axis": (Y[:, 0], r"Y must have shape \(n_samples, 2\); got \(5,\)"),
    "swapped axes": (Y.T, r"Y must have shape.*got \(2, 5\).*Y.T"),
    "NaN": (replaced(Y, (3, 1), np.nan), r"Y must be finite; got nan at Y\[3, 1\]"),
    "strings": (Y.astype(str), r"Y must hold real numbers"),
}


@pytest.mark.parametrize("entry", sorted(set(ENTRIES) - NO_TARGETS))
@pytest.mark.parametrize("what", BAD_Y)
def test_bad_targets_are_refused_and_change_nothing(entry, what):
    mlp = make()
    before = pickle.dumps(mlp)
    bad, words = BAD_Y[what]
    with pytest.raises((ValueError, TypeError), match=words):
        ENTRIES[entry](mlp, X, bad)
    assert pickle.dumps(mlp) == before


@pytest.mark.parametrize(
    ("loss", "bad", "words"),
    [
        ("softmax_cross_entropy", np.array([0, 1, 2, 0, 1]), r"class indices from 0 to 1; got 2"),
        ("softmax_cross_entropy", np.array([0, 1, -1, 0, 1]), r"class indices from 0 to 1; got -1"),
        ("softmax_cross_entropy", LABELS.astype(float), r"class indices.*float64"),
        ("softmax_cross_entropy", np.array(list("abcde")), r"class indices"),
        ("softmax_cross_entropy", LABELS[:3], r"as many samples as X"),
        ("softmax_cross_entropy", np.full((5, 2), 0.4), r"sum to 1.*row 0 sums to 0.8"),
        ("softmax_cross_entropy", np.tile([1.5, -0.5], (5, 1)), r"between 0 and 1"),
        ("binary_cross_entropy", Y, r"Y must be between 0 and 1 for binary_cross_entropy"),
        ("binary_cross_entropy", np.full((5, 2), np.nan), r"Y must be finite; got nan"),
    ],
)
def test_targets_that_do_not_fit_the_loss(loss, bad, words):
    mlp = make(loss=loss)
    with pytest.raises((ValueError, TypeError), match=words):
        mlp.loss(X, bad)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layer_sizes": [3]}, r"layer_sizes must be .*at least two"),
        ({"layer_sizes": 3}, r"layer_sizes must be a sequence"),
        ({"layer_sizes": "34"}, r"layer_sizes must be a sequence"),
        ({"layer_sizes": [3, 0, 2]}, r"layer_sizes\[1\] must be a whole number of at least 1; got 0"),
        ({"layer_sizes": [3, -4, 2]}, r"layer_sizes\[1\].*got -4"),
        ({"layer_sizes": [3, 4.0, 2]}, r"layer_sizes\[1\].*got 4.0"),
        (
            {"loss": "mse"},
            r"loss must be one of squared_error, .*softmax_cross_entropy, an object .*; got 'mse'",
        ),
        ({"hidden_activation": "swish"}, r"one of identity, sigmoid, tanh, relu, .*gelu; got 'swish'"),
        ({"hidden_activation": ["tanh", "relu"]}, r"one for each of the 1 hidden layers; got 2"),
        ({"hidden_activation": ["nope"]}, r"hidden_activation\[0\] must be one of"),
        ({"hidden_activation": None}, r"hidden_activation must be one of"),
        ({"output_activation": "softmax"}, r"output_activation must be one of"),
        (
            {"output_activation": "tanh", "loss": "binary_cross_entropy"},
            r"output_activation must be 'sigmoid' or None",
        ),
        ({"weight_scale": "xavier"}, r"weight_scale must be a number, 'glorot' or 'he'; got 'xavier'"),
        ({"weight_scale": -1.0}, r"weight_scale must be a finite number at least 0; got -1.0"),
        ({"weight_scale": np.nan}, r"weight_scale must be a finite number"),
        ({"dtype": np.int32}, r"dtype must be float64 or float32; got int32"),
        ({"dtype": "nothing"}, r"dtype must be float64 or float32"),
        ({"rng": -1}, r"rng must be None, a seed"),
        ({"rng": "seed"}, r"rng must be None, a seed"),
        ({"n_threads": 0}, r"n_threads must be a whole number of at least 1; got 0"),
        ({"verify": "yes"}, r"verify must be True or False; got 'yes'"),
    ],
)
def test_a_network_that_cannot_be(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        fastmlp.MLP(**{"layer_sizes": [3, 4, 2], **arguments})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 0}, r"epochs must be a whole number of at least 1; got 0"),
        ({"epochs": 1.5}, r"epochs must be a whole number"),
        ({"batch_size": 0}, r"batch_size must be a whole number of at least 1; got 0"),
        ({"optimizer": "lion"}, r"optimizer must be one of adam, adamw, rmsprop, sgd; got 'lion'"),
        ({"optimizer": 3}, r"optimizer must be one of adam, adamw, rmsprop, sgd, or an object"),
        ({"learning_rate": -0.1}, r"learning_rate must be a finite number above 0; got -0.1"),
        ({"learning_rate": 0}, r"learning_rate must be a finite number above 0; got 0"),
        ({"learning_rate": np.nan}, r"learning_rate must be a finite number above 0; got nan"),
        ({"learning_rate": "fast"}, r"learning_rate must be a finite number"),
        ({"learning_rate": 0.1, "optimizer": fastmlp.Adam()}, r"learning_rate must stand in the optimizer"),
        ({"shuffle": 1}, r"shuffle must be True or False; got 1"),
        ({"validation": X}, r"validation must be a pair"),
        ({"validation": (X.T, Y)}, r"validation X must have shape"),
        ({"validation": (X, replaced(Y, (0, 0), np.inf))}, r"validation Y must be finite"),
    ],
)
def test_training_that_cannot_be(arguments, words):
    mlp = make()
    before = pickle.dumps(mlp)
    with pytest.raises((ValueError, TypeError), match=words):
        mlp.fit(X, Y, progress=False, **{"epochs": 1, **arguments})
    assert pickle.dumps(mlp) == before


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="momentum must be a finite number at least 0 and below 1; got 1"):
        fastmlp.SGD(momentum=1)
    with pytest.raises(ValueError, match=r"beta1 must be a finite number at least 0 and below 1; got -0\.1"):
        fastmlp.Adam(beta1=-0.1)


def test_a_step_needs_a_rate():
    with pytest.raises(TypeError, match="learning_rate or an optimizer"):
        make().train_step(X, Y)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(3), r"parameter_vector must have shape \(26,\); got \(3,\)"),
        (np.full(26, np.nan), r"parameter_vector must be finite; got nan at parameter_vector\[0\]"),
        (np.zeros(26, complex), r"parameter_vector must hold real numbers"),
    ],
)
def test_parameters_that_do_not_fit(value, words):
    mlp = make()
    before = pickle.dumps(mlp)
    with pytest.raises((ValueError, TypeError), match=words):
        mlp.parameter_vector = value
    assert pickle.dumps(mlp) == before


def test_pairs_that_do_not_fit():
    mlp = make()
    before = pickle.dumps(mlp)
    with pytest.raises(ValueError, match=r"parameters must be 2 \(weights, biases\) pairs; got 1"):
        mlp.parameters = mlp.parameters[:1]
    swapped = [(W.T, b) for W, b in mlp.parameters]
    with pytest.raises(ValueError, match=r"parameters\[0\].weights must have shape \(4, 3\); got \(3, 4\)"):
        mlp.parameters = swapped
    with pytest.raises(TypeError, match="pairs; got int"):
        mlp.parameters = 3
    with pytest.raises(ValueError, match=r"gradients\[0\].weights must have shape"):
        mlp.update(swapped, "sgd")
    assert pickle.dumps(mlp) == before


def with_gaps(array):
    """Every second row of an array twice as long."""
    return np.repeat(array, 2, axis=0)[::2]


def read_only(array):
    """A copy that may not be written."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


GOOD = {
    "lists": lambda a: a.tolist(),
    "Fortran order": np.asfortranarray,
    "every second row": with_gaps,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "every second column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "swapped bytes": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": read_only,
    "longdouble": lambda a: a.astype(np.longdouble),
    "a matrix subclass": lambda a: a.view(type("Sub", (np.ndarray,), {})),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_input_of_any_kind_gives_the_same(kind, dtype):
    turn, x, y = GOOD[kind], X.astype(dtype), Y.astype(dtype)
    results = []
    for a, b in ((x, y), (turn(x), turn(y))):
        before = (np.array(a), np.array(b))
        mlp = make(dtype=dtype)
        losses = mlp.loss(a, b), mlp.train_step(a, b, learning_rate=0.1)
        mlp.fit(a, b, epochs=2, batch_size=2, validation=(a, b), progress=False)
        results.append((losses, mlp.predict(a), mlp.forward(a), mlp.parameter_vector.copy()))
        np.testing.assert_array_equal(a, before[0])
        np.testing.assert_array_equal(b, before[1])
    for plain, other in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize("whole", [np.int8, np.uint8, np.int32, np.uint64, bool, np.float16])
def test_other_number_types_are_converted(whole, dtype):
    x = (np.abs(X) * 3).astype(whole)
    np.testing.assert_array_equal(make(dtype=dtype).predict(x), make(dtype=dtype).predict(x.astype(dtype)))


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u4", "i8", "u8", ">i4", list])
def test_labels_of_every_integer_type(kind):
    mlp = make(loss="softmax_cross_entropy")
    labels = LABELS.tolist() if kind is list else LABELS.astype(kind)
    assert mlp.loss(X, labels) == mlp.loss(X, LABELS)


def test_frames_and_series():
    pandas = pytest.importorskip("pandas")
    mlp = make()
    frame, targets = pandas.DataFrame(X, columns=list("abc")), pandas.DataFrame(Y)
    assert mlp.loss(frame, targets) == mlp.loss(X, Y)
    one = fastmlp.MLP([3, 2, 1], rng=0)
    assert one.loss(frame, pandas.Series(Y[:, 0])) == one.loss(X, Y[:, 0])
    with pytest.raises(TypeError, match="X must hold real numbers; got column 'b' of dtype"):
        mlp.predict(pandas.DataFrame({"a": [1.0], "b": ["x"], "c": [2.0]}))


def test_frames_whose_columns_are_numbers_of_several_kinds(dtype):
    pandas = pytest.importorskip("pandas")
    mlp = make(dtype=dtype)
    of_one_kind = np.array([[1.5, 1, 7], [-2, 0, 8]], dtype)
    columns = {"a": [1.5, -2.0], "b": [True, False], "c": [7, 8]}
    frame = pandas.DataFrame(columns)
    for mixed in (frame, frame.convert_dtypes(), frame.astype({"a": "Float32", "b": "boolean", "c": "int8"})):
        np.testing.assert_array_equal(mlp.predict(mixed), mlp.predict(of_one_kind))
    series = pandas.Series([1, 2], dtype="Int64")
    one = fastmlp.MLP([3, 1], dtype=dtype, rng=0)
    assert one.loss(of_one_kind, series) == one.loss(of_one_kind, [1, 2])
    with pytest.raises(ValueError, match=r"X must be finite; got nan .*at X\[1, 2\]"):
        mlp.predict(frame.astype({"c": "Int64"}).replace({"c": {8: pandas.NA}}))
    with pytest.raises(TypeError, match="X must hold real numbers; got column 'when' of dtype datetime64"):
        mlp.predict(frame.assign(when=pandas.Timestamp(0)))


def test_frames_of_others_are_refused_in_words():
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"X must hold real numbers .*; got dtype object"):
        make().predict(polars.DataFrame({"a": [1.0], "b": ["x"], "c": [2.0]}))
    assert make().predict(polars.DataFrame({"a": [1.0], "b": [True], "c": [2]})).shape == (1, 2)


def test_sparse_rows_are_refused_in_words():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"X must be dense, as X\.toarray\(\) is; got csr_matrix"):
        make().predict(sparse.csr_matrix(X))


class OnlyDLPack:
    """An array of some other library, which NumPy knows by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


ARRAYS_OF_OTHERS = {
    "torch": lambda module: module.tensor,
    "jax.numpy": lambda module: module.asarray,
    "pandas": lambda module: module.DataFrame,
    "polars": lambda module: module.DataFrame,
}


@pytest.mark.parametrize("library", ["DLPack", *ARRAYS_OF_OTHERS])
def test_arrays_of_other_libraries(library):
    convert = OnlyDLPack if library == "DLPack" else ARRAYS_OF_OTHERS[library](pytest.importorskip(library))
    single, targets = X.astype(np.float32), Y.astype(np.float32)
    mlp, same = make(dtype="float32"), make(dtype="float32")
    np.testing.assert_array_equal(mlp.predict(convert(single)), mlp.predict(single))
    mlp.fit(convert(single), convert(targets), epochs=2, progress=False)
    same.fit(single, targets, epochs=2, progress=False)
    np.testing.assert_array_equal(mlp.parameter_vector, same.parameter_vector)


def test_a_tensor_with_a_gradient_is_refused_in_words():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"X must be an array of numbers; got Tensor: .*detach"):
        make().predict(torch.tensor(X, requires_grad=True))


def test_memory_mapped_files(tmp_path):
    X.tofile(tmp_path / "X")
    mapped = np.memmap(tmp_path / "X", np.float64, mode="r", shape=X.shape)
    mlp = make()
    np.testing.assert_array_equal(mlp.predict(mapped), mlp.predict(X))
    mlp.fit(mapped, Y, epochs=1, progress=False)


def test_float32_overflow_is_told():
    with pytest.raises(ValueError, match="X must be finite; got inf as float32 at X\\[0, 0\\]"):
        make(dtype=np.float32).predict(replaced(X, (0, 0), 1e300))


@settings(
    max_examples=15 if INTERPRETED else 60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_any_shape_layout_and_dtype(data):
    """Shapes, strides and number types are drawn; the result is that of the plain copy."""
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=4))
    samples = data.draw(st.integers(1, 40))
    kind = data.draw(st.sampled_from([np.float64, np.float32, np.float16, np.int16, np.uint8]))
    values = st.integers(0, 9)
    given_X = data.draw(hnp.arrays(kind, (2 * samples, sizes[0]), elements=values))
    given_Y = data.draw(hnp.arrays(kind, (sizes[-1], samples), elements=values))
    mlp = fastmlp.MLP(sizes, rng=0, dtype=data.draw(st.sampled_from([np.float64, np.float32])))
    x, y = given_X[::2], given_Y.T
    plain = np.ascontiguousarray(x, mlp.config["dtype"]), np.ascontiguousarray(y, mlp.config["dtype"])
    loss, gradients = mlp.loss_and_gradients(x, y)
    plain_loss, plain_gradients = mlp.loss_and_gradients(*plain)
    assert loss == plain_loss
    np.testing.assert_array_equal(gradients.vector, plain_gradients.vector)
    assert mlp.predict(x).shape == (samples, sizes[-1])


def test_masked_targets_of_every_kind_are_refused(rng):
    X, mask = rng.standard_normal((5, 3)), [0, 0, 1, 0, 0]
    labels = np.ma.masked_array([0, 1, 1, 0, 1], mask)
    mlp = fastmlp.MLP([3, 4, 2], loss="softmax_cross_entropy", rng=0)
    own = fastmlp.MLP([3, 4, 1], loss=lambda predictions, Y: (0.0, predictions), rng=0)
    for model in (mlp, own):
        with pytest.raises(ValueError, match="Y must have a value everywhere; got a masked array"):
            model.train_step(X, labels, learning_rate=0.1)
    with pytest.raises(ValueError, match="Y must be an array with a row for each sample"):
        own.train_step(X, [[1], [1, 2], [1], [1], [1]], learning_rate=0.1)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("wrong", [-1, 2, 10**9])
def test_labels_that_change_while_they_are_used_are_found(wrong, n_threads, dtype, rng):
    """A callback may do so: they were looked at before, and are places in memory."""
    X, labels = rng.standard_normal((40, 3)).astype(dtype), rng.integers(0, 2, 40)
    mlp = fastmlp.MLP([3, 4, 2], loss="softmax_cross_entropy", dtype=dtype, rng=0, n_threads=n_threads)

    def spoil(model, history):
        labels[7] = wrong

    with pytest.raises(ValueError, match="Y must not change while it is used; a class index in it is none any more"):
        mlp.fit(X, labels, epochs=3, callbacks=spoil, progress=False)
    assert np.isfinite(mlp.parameter_vector).all()


@pytest.mark.parametrize("rng", [{}, {"bit_generator": "seed"}, {"bit_generator": "PCG64"}, {"bit_generator": 3}])
def test_a_dict_that_is_no_random_state_is_refused(rng):
    with pytest.raises(TypeError, match="rng must be None, a seed"):
        fastmlp.MLP([3, 2], rng=rng)


def test_numbers_that_float64_does_not_hold_are_refused_and_others_taken(rng):
    for make in (fastmlp.SGD, fastmlp.Huber, lambda value: fastmlp.Penalty(l2=value)):
        with pytest.raises(ValueError, match=r"must be a finite number .*; got 1000000"):
            make(10**400)
    with pytest.raises(ValueError, match="weight_scale must be"):
        fastmlp.MLP([3, 2], weight_scale=10**400)
    one, other = (fastmlp.MLP([3, 2], rng=0) for _ in range(2))
    X, Y = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    one.train_step(X, Y, optimizer=fastmlp.Adam(np.longdouble(0.5), epsilon=np.longdouble(0.25)))
    other.train_step(X, Y, optimizer=fastmlp.Adam(0.5, epsilon=0.25))
    np.testing.assert_array_equal(one.parameter_vector, other.parameter_vector)


def test_class_weight_names_one_class_at_a_time(rng):
    mlp = fastmlp.MLP([3, 2], loss="softmax_cross_entropy", rng=0)
    with pytest.raises(ValueError, match=r"class_weight must name classes that are there, \[0, 1\]; got \(0, 1\)"):
        mlp.fit(rng.standard_normal((4, 3)), [0, 1, 0, 1], class_weight={(0, 1): 2.0}, progress=False)
