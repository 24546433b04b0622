"""Files: what is written comes back to the bit, and nothing else is ever read."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp import files

FIXTURE = Path(__file__).parent / "model_v1.safetensors"

WAYS = {
    "plain": {},
    "objects": {
        "loss": fastmlp.Huber(0.25), "penalty": fastmlp.Penalty(l1=1e-3, l2=1e-2, biases=True),
        "hidden_activation": ["gelu", "elu"], "output_activation": "softplus", "weight_scale": 0.3, "n_threads": 1,
    },
    "float32": {"dtype": "float32", "weight_scale": "he"},
    "generator": {"rng": np.random.Generator(np.random.MT19937(3))},
}  # fmt: skip


def trained(data_rng, **settings):
    """Return a model that has been trained, and its data."""
    mlp = fastmlp.MLP([3, 5, 4, 2], **{"rng": 1, **settings})
    X, Y = data_rng.standard_normal((20, 3)), data_rng.standard_normal((20, 2))
    mlp.fit(X, Y, epochs=2, batch_size=7, progress=False)
    return mlp, X, Y


@pytest.mark.parametrize("way", WAYS)
def test_a_model_comes_back_and_goes_on_as_it_would_have(way, rng, tmp_path):
    mlp, X, Y = trained(rng, **WAYS[way])
    mlp.save(tmp_path / "model")
    again = fastmlp.load(tmp_path / "model")
    assert repr(again) == repr(mlp)
    assert files.as_json(again.config) == files.as_json(mlp.config)
    np.testing.assert_array_equal(again.predict(X), mlp.predict(X))
    for each in (mlp, again):
        each.fit(X, Y, epochs=2, batch_size=7, progress=False)
    np.testing.assert_array_equal(again.parameter_vector, mlp.parameter_vector)


def test_other_programs_can_read_the_arrays(rng, tmp_path):
    mlp, _, _ = trained(rng)
    mlp.save(tmp_path / "model.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    for layer, (weights, biases) in enumerate(mlp.parameters):
        np.testing.assert_array_equal(tensors[f"layer.{layer}.weights"], weights)
        np.testing.assert_array_equal(tensors[f"layer.{layer}.biases"], biases)


def test_every_truncation_and_every_flipped_byte_is_refused(tmp_path):
    mlp = fastmlp.MLP([1, 2, 1], rng=1)
    mlp.save(tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    step = 7 if INTERPRETED or CHECKED else 1
    for length in range(0, len(content), step):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(fastmlp.CorruptFileError, match="cut"):
            fastmlp.load(tmp_path / "cut")
    for place in range(0, len(content), step):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(content)
            changed[place] ^= flip
            (tmp_path / "changed").write_bytes(changed)
            with pytest.raises(fastmlp.CorruptFileError, match="changed"):
                fastmlp.load(tmp_path / "changed")
    (tmp_path / "longer").write_bytes(content + b"\0")
    with pytest.raises(fastmlp.CorruptFileError):
        fastmlp.load(tmp_path / "longer")


def rehashed(tmp_path, monkeypatch, spoil):
    """A file whose hash is right and whose content is not: somebody made it so."""
    mlp = fastmlp.MLP([1, 2, 1], rng=1)
    right = json.dumps

    def dumps(about, **settings):
        return right(spoil(about) if isinstance(about, dict) and "sha256" in about else about, **settings)

    monkeypatch.setattr(files.json, "dumps", dumps)
    mlp.save(tmp_path / "model")
    monkeypatch.undo()


def with_config(**changes):
    """Return a change of the configuration."""
    return lambda about: {**about, "config": {**about["config"], **changes}}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (with_config(layer_sizes=[1, 3, 1]), "other arrays"),
        (with_config(layer_sizes=[10**9, 10**9, 1]), "other arrays"),
        (with_config(layer_sizes=[1]), "layer sizes"),
        (with_config(layer_sizes=[1, -2, 1]), "layer sizes"),
        (with_config(dtype="float16"), "float16"),
        (with_config(dtype="float32"), "other arrays"),
        (with_config(loss="none"), "loss"),
        (with_config(hidden_activation="none"), "hidden_activation"),
        (with_config(loss={"object": "os.system", "command": "false"}), "os.system"),
        (with_config(penalty={"object": "Penalty", "l2": -1}), "l2"),
        (with_config(surprise=1), "surprise"),
        (lambda about: {**about, "version": 2}, "version 2"),
        (lambda about: {**about, "rng": {"bit_generator": "system"}}, "generator"),
        (lambda about: {**about, "rng": {"bit_generator": "PCG64"}}, "not a file of fastmlp"),
        (lambda about: {**about, "optimizer_code": 99}, "optimizer_code"),
        (lambda about: {**about, "steps": -1}, "steps"),
        (lambda about: {k: v for k, v in about.items() if k != "steps"}, "steps"),
    ],
    ids=[
        "other sizes", "huge sizes", "one size", "negative size", "unknown dtype", "other dtype", "unknown loss",
        "unknown activation", "unknown object", "impossible object", "unknown entry", "newer version",
        "unknown generator", "no state", "unknown optimizer", "negative steps", "no steps",
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(spoil, reason, tmp_path, monkeypatch):
    rehashed(tmp_path, monkeypatch, spoil)
    with pytest.raises(fastmlp.CorruptFileError, match=reason):
        fastmlp.load(tmp_path / "model")


def test_parameters_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    mlp, tensors = fastmlp.MLP([1, 2, 1], rng=1), files._tensors
    with monkeypatch.context() as patch:
        patch.setattr(files, "_tensors", lambda vector, sizes: tensors(np.full_like(vector, np.nan), sizes))
        mlp.save(tmp_path / "model")
    with pytest.raises(fastmlp.CorruptFileError, match="holds parameters that are not finite"):
        fastmlp.load(tmp_path / "model")
    mlp._vector[0] = np.inf
    with pytest.raises(ValueError, match=r"the parameters must be finite to be written to .*other"):
        mlp.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_the_optimizer_remembers_may_be_infinite(tmp_path):
    """The square of a gradient of 2e19 in float32; Adam's step is then 0."""
    mlp = fastmlp.MLP([1, 1], loss="poisson", dtype="float32", rng=0)
    mlp.parameters = [([[0.0]], [50.0])]
    settings = {"progress": False, "checkpoint": tmp_path / "run"}
    mlp.fit([[0.0], [1.0]], [[0.0], [1.0]], epochs=2, **settings)
    assert np.isinf(mlp._memory).any()
    mlp.save(tmp_path / "model")
    np.testing.assert_array_equal(fastmlp.load(tmp_path / "model").parameter_vector, mlp.parameter_vector)
    again = fastmlp.MLP([1, 1], loss="poisson", dtype="float32", rng=0)
    assert again.fit([[0.0], [1.0]], [[0.0], [1.0]], epochs=3, **settings).n_epochs == 3


def test_a_rate_reduced_again_and_again_can_be_gone_on_with(tmp_path):
    mlp = fastmlp.MLP([1, 1], rng=0)
    mlp.parameters = [([[0.0]], [0.0])]
    optimizer = fastmlp.SGD(fastmlp.ReduceOnPlateau(0.1, factor=1e-200, patience=1))
    history = mlp.fit(
        [[0.0], [1.0]], [[0.0], [0.0]], epochs=9, optimizer=optimizer, progress=False, checkpoint=tmp_path / "run"
    )
    assert history.n_epochs == 9
    assert fastmlp.load(tmp_path / "run")._rate_factor > 0


def test_no_checkpoint_is_written_of_parameters_that_are_not_finite(tmp_path):
    mlp = fastmlp.MLP([1, 1], loss="absolute_error", rng=0)
    mlp.parameters = [([[1.0]], [0.0])]
    settings = {"optimizer": "sgd", "learning_rate": 1e308, "checkpoint": tmp_path / "run", "progress": False}
    assert mlp.fit([[100.0]], [[0.0]], epochs=1, **settings).loss == [100.0]
    assert not np.isfinite(mlp.parameter_vector).all()
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastmlp.load(tmp_path / "nothing")


def test_a_loss_of_ones_own_cannot_be_saved_and_nothing_is_left_behind(tmp_path):
    mlp = fastmlp.MLP([1, 1], loss=lambda A, Y: (0.0, A - Y), rng=1)
    with pytest.raises(TypeError, match="functions of your own"):
        mlp.save(tmp_path / "model")
    with pytest.raises(FileNotFoundError):
        fastmlp.MLP([1, 1], rng=1).save(tmp_path / "no folder" / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    mlp = fastmlp.MLP([1, 1], rng=1)
    mlp.save(tmp_path / "model")
    before = (tmp_path / "model").read_bytes()

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        fastmlp.MLP([1, 2, 1], rng=1).save(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(os.name == "nt", reason="permissions are another matter there")
@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="there are no links")
def test_a_link_stays_one(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    fastmlp.MLP([1, 2, 1], rng=1).save(link)
    assert link.is_symlink()
    assert fastmlp.load(target).config["layer_sizes"] == (1, 2, 1)


def test_permissions_are_those_of_any_file(tmp_path):
    (tmp_path / "usual").touch()
    fastmlp.MLP([1, 1], rng=1).save(tmp_path / "model")
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    (tmp_path / "model").chmod(0o600)
    fastmlp.MLP([1, 1], rng=1).save(tmp_path / "model")
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o600


def test_the_fixture_of_version_1_is_read():
    """Written by the first fastmlp that wrote files; see :func:`write_fixture`."""
    mlp = fastmlp.load(FIXTURE)
    assert repr(mlp) == "<MLP 2-3-1, tanh, identity, huber, float64>"
    assert mlp.config["penalty"] == fastmlp.Penalty(l2=0.001)
    X = np.array([[0.5, -1.0], [2.0, 0.25]])
    np.testing.assert_allclose(
        mlp.predict(X), np.array(json.loads(FIXTURE.with_suffix(".json").read_text())), rtol=1e-13
    )
    mlp.train_step(X, np.ones((2, 1)), optimizer="adam")


def write_fixture():
    """Make the fixture: once for each version of the format."""
    mlp = fastmlp.MLP(
        [2, 3, 1], hidden_activation="tanh", loss=fastmlp.Huber(0.5), penalty=fastmlp.Penalty(l2=1e-3), rng=7
    )
    X = np.random.default_rng(0).standard_normal((10, 2))
    mlp.fit(X, X[:, :1], epochs=3, progress=False)
    mlp.save(FIXTURE)
    predictions = mlp.predict(np.array([[0.5, -1.0], [2.0, 0.25]])).tolist()
    FIXTURE.with_suffix(".json").write_text(json.dumps(predictions) + "\n")


# ------------------------------------------------------------------------------------------------------------------
# checkpoints

RUN = """
import sys, time
import numpy as np
import fastmlp
rng = np.random.default_rng(5)
X = rng.standard_normal((300, 4))
Y = np.sin(X[:, :2]) * X[:, 2:]
mlp = fastmlp.MLP([4, 9, 2], hidden_activation="tanh", rng=3)
pause = float(sys.argv[2])
def slowly(mlp, history):
    time.sleep(pause)
history = mlp.fit(
    X, Y, epochs=30, batch_size=32, validation=0.2, early_stopping=fastmlp.EarlyStopping(patience=25),
    optimizer=fastmlp.Adam(fastmlp.ReduceOnPlateau(0.02, patience=2, factor=0.5), weight_decay=0.01),
    checkpoint=sys.argv[1], callbacks=slowly if pause else (), progress=False,
)
print(history.n_epochs, mlp.parameter_vector.tobytes().hex(), history.loss, history.learning_rate)
"""


def run(path, pause=0.0):
    """A process that trains with a checkpoint."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(path), str(pause)], stdout=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="the bits are those of compiled code; it takes its time")
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(tmp_path, rng):
    whole, _ = run(tmp_path / "whole").communicate(timeout=120)
    path = tmp_path / "run.ckpt"
    kills = 0
    for moment in rng.uniform(0.05, 0.5, 4):
        process = run(path, pause=0.03)
        wait_for(path, process)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        assert fastmlp.load(path).config["layer_sizes"] == (4, 9, 2)  # there is always a whole file
    ended, _ = run(path).communicate(timeout=120)
    assert kills > 0
    assert ended == whole


def wait_for(path, process):
    """Until there is a checkpoint, or the process has ended."""
    import time  # noqa: PLC0415

    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


def fit(mlp, rng, path, **settings):
    """Train a little."""
    X = rng.standard_normal((30, 2))
    return mlp.fit(X, X, **{"epochs": 3, "batch_size": 8, "checkpoint": path, "progress": False, **settings})


def test_a_finished_run_is_not_done_again_and_a_longer_one_goes_on(tmp_path):
    path = tmp_path / "run"
    once = fastmlp.MLP([2, 3, 2], rng=1)
    fit(once, np.random.default_rng(0), path)
    for epochs in (3, 5):
        again, straight = fastmlp.MLP([2, 3, 2], rng=1), fastmlp.MLP([2, 3, 2], rng=1)
        history = fit(again, np.random.default_rng(0), path, epochs=epochs)
        expected = fit(straight, np.random.default_rng(0), None, epochs=epochs)
        assert history.n_epochs == epochs
        assert history.loss == expected.loss
        np.testing.assert_array_equal(again.parameter_vector, straight.parameter_vector)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"batch_size": 9}, "batch_size"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"shuffle": False}, "shuffle"),
        ({}, "data"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changed, named, tmp_path, rng):
    fit(fastmlp.MLP([2, 3, 2], rng=1), rng, tmp_path / "run")
    mlp = fastmlp.MLP([2, 3, 2], rng=1)
    before = mlp.parameter_vector.copy()
    with pytest.raises(ValueError, match=f"of another run: {named}"):
        fit(mlp, rng, tmp_path / "run", **changed)
    with pytest.raises(ValueError, match="of another run: layer_sizes"):
        fit(fastmlp.MLP([2, 4, 2], rng=1), rng, tmp_path / "run")
    np.testing.assert_array_equal(mlp.parameter_vector, before)
    replacing = fastmlp.Checkpoint(tmp_path / "run", resume=False)
    assert fit(mlp, rng, replacing, **changed).n_epochs == 3


def test_a_run_that_has_stopped_early_stays_so(tmp_path):
    stopping = fastmlp.EarlyStopping(patience=2, minimum_gain=1e9)
    histories = [
        fit(fastmlp.MLP([2, 2], rng=1), np.random.default_rng(0), tmp_path / "run", early_stopping=stopping, epochs=9)
        for _ in range(2)
    ]
    assert [history.n_epochs for history in histories] == [3, 3]
    assert histories[0].stopped == histories[1].stopped != "all epochs done"


def test_checkpoints_are_written_when_they_are_due(tmp_path, rng, monkeypatch):
    written = []
    monkeypatch.setattr(files, "write", lambda *arguments: written.append(len(arguments[3]["history"]["loss"])))
    fit(fastmlp.MLP([2, 2], rng=1), rng, fastmlp.Checkpoint(tmp_path / "run", every_epochs=3), epochs=7)
    assert written == [3, 6, 7]
    written.clear()
    by_clock = fastmlp.Checkpoint(tmp_path / "run", every_epochs=None, every_minutes=0)
    fit(fastmlp.MLP([2, 2], rng=1), rng, by_clock, epochs=2)
    assert written == [1, 2]
    written.clear()
    fit(fastmlp.MLP([2, 2], rng=1), rng, fastmlp.Checkpoint(tmp_path / "run", every_epochs=None), epochs=2)
    assert written == [2]


if __name__ == "__main__":
    write_fixture()


def test_what_is_elsewhere_is_named_as_it_was_given(tmp_path):
    """And not by the file beside it, which is written first."""
    path = tmp_path / "missing" / "model.safetensors"
    with pytest.raises(FileNotFoundError) as refusal:
        fastmlp.MLP([1, 1], rng=0).save(path)
    assert refusal.value.filename == str(path)


def test_a_file_of_another_program_is_no_damaged_one(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"a": np.ones(3)}, path)
    with pytest.raises(fastmlp.CorruptFileError, match="is not a file of fastmlp: it was written by another program"):
        fastmlp.load(path)
