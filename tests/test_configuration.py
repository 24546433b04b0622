"""What a bug report tells."""

import numpy as np
import pytest

import fastmlp
from conftest import CHECKED, INTERPRETED
from fastmlp.kernels import jit, network


def test_it_tells_versions_processor_threads_and_cache(capsys):
    assert fastmlp.show_config() is None
    printed = capsys.readouterr().out
    found = fastmlp.show_config(as_dict=True)
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["fastmlp"] == fastmlp.__version__
    assert found["threads"]["at most"] >= 1
    mode = "interpreted" if INTERPRETED else "compiled, every index checked" if CHECKED else "compiled"
    assert found["compiled code"]["mode"] == mode
    for part in found.values():
        for name, value in part.items():
            assert name in printed
            assert str(value) in printed


@pytest.mark.skipif(INTERPRETED or CHECKED, reason="only the ordinary compiled code is cached")
def test_a_cache_that_is_switched_off_is_told(monkeypatch):
    assert jit.cache_in_words(network.train.serial)["cache"]
    monkeypatch.setattr(network.train.serial._cache, "_cache_path", None)
    assert "none" in jit.cache_in_words(network.train.serial)["cache"]
