"""After ``warm_up`` nothing is left to compile, and the first compilation says what takes so long."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp.kernels import again, calls, door, network, prediction, weights

pytestmark = pytest.mark.skipif(INTERPRETED or CHECKED, reason="only ordinary code is compiled before the first user")


def compiled_forms():
    """What each kernel of the network has been compiled for."""
    rooms = network, prediction, weights
    kernels = {k.__name__: k.serial for r in rooms for k in vars(r).values() if isinstance(k, calls.CrewKernel)}
    kernels |= {name: f for room in (again, calls, door) for name, f in vars(room).items() if hasattr(f, "signatures")}
    assert len(kernels) == 19
    return {name: set(kernel.signatures) for name, kernel in kernels.items()}


def test_after_warm_up_nothing_is_left_to_compile(dtype, rng, tmp_path):
    fastmlp.warm_up(dtype)
    before = compiled_forms()
    step = fastmlp.SGD(0.1)
    X, Y = rng.standard_normal((70, 5)).astype(dtype), rng.uniform(0, 1, (70, 3)).astype(dtype)
    np.save(tmp_path / "X.npy", X)
    frozen = X.copy()
    frozen.flags.writeable = False
    for data in (X, frozen, np.load(tmp_path / "X.npy", mmap_mode="r"), X.astype(np.float16), np.asfortranarray(X)):
        labels = rng.integers(0, 3, 70)
        classes = ("softmax_cross_entropy", labels), ("softmax_cross_entropy", np.eye(3, dtype=dtype)[labels])
        for loss, targets in (("squared_error", Y), *classes):
            for n_threads in (1, 2):
                mlp = fastmlp.MLP([5, 4, 3], loss=loss, dtype=dtype, rng=0, n_threads=n_threads)
                mlp.fit(data, targets, epochs=2, batch_size=33, validation=(data, targets), progress=False)
                mlp.fit(data, targets, epochs=1, optimizer="sgd", shuffle=False, progress=False)
                for sample_weight in (None, np.ones(70)):
                    for _ in range(3):
                        mlp.train_step(data, targets, optimizer=step, sample_weight=sample_weight)
                mlp.predict(data[:1])
                for _ in range(2):  # the second one is packed
                    mlp.predict(data)
                mlp.forward(data)
                mlp.update(mlp.backward(targets), fastmlp.SGD(momentum=0.5))
                mlp.loss_and_gradients(data, targets)
        for column in (Y[:, :1].copy(), Y[:, 0].copy()):
            mlp = fastmlp.MLP([5, 4, 1], dtype=dtype, rng=0)
            for _ in range(3):
                mlp.train_step(data, column, optimizer=step)
        for loss, targets in (("squared_error", Y), *classes):
            ensemble = fastmlp.Ensemble(3, [5, 4, 3], loss=loss, dtype=dtype, rng=0)
            ensemble.fit(data, targets, epochs=2, batch_size=33)
    late = {name: forms - before[name] for name, forms in compiled_forms().items() if forms != before[name]}
    assert late == {}


def test_warm_up_refuses_other_dtypes():
    with pytest.raises(ValueError, match="dtype must be float64 or float32; got float16"):
        fastmlp.warm_up(np.float16)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "without a cache"])
def test_first_compilation_says_what_takes_so_long(kept, tmp_path):
    program = "import numpy as np, fastmlp; m = fastmlp.MLP([1, 1], rng=0); [m.predict(np.ones((1, 1))) for _ in '12']"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "FASTMLP_CACHE": "1" if kept else "0"}
    run = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
        for _ in range(2)
    ]
    later = "Later starts find it in Numba's cache." if kept else "There is no cache to keep it in."
    message = f"fastmlp: compiling for this machine, some 15 seconds. {later}\n"
    assert run[0].stderr == message
    assert run[1].stderr == ("" if kept else message)
    assert run[0].stdout == ""
