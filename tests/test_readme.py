"""What README shows runs, and what it points at is there."""

import re
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from conftest import INTERPRETED

README = Path(__file__).parent.parent / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="the tests run without the checkout around them")


@pytest.mark.skipif(INTERPRETED, reason="a hundred epochs take too long when interpreted")
def test_the_examples_run(monkeypatch, capsys, tmp_path):
    """As they stand, one after the other, and they learn something."""
    monkeypatch.chdir(tmp_path)
    code, *more = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names = {}
    exec(code, names)  # noqa: S102
    assert names["mlp"].loss(names["X"], names["Y"]) < 0.1 * np.var(names["Y"])
    assert "checks passed" in capsys.readouterr().out
    for each in more:
        exec(each, names)  # noqa: S102
    assert names["history"].validation_metrics["r2"][-1] > 0.9
    assert (tmp_path / "run.ckpt").exists()


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)h][^)]*)\)", README.read_text(encoding="utf-8"))
    assert len(links) > 10
    for link in links:
        assert (README.parent / link).exists(), link


def test_public_names_are_the_ones_of_the_door():
    assert set(fastmlp.__all__) <= set(dir(fastmlp))
    for name in fastmlp.__all__:
        assert getattr(fastmlp, name).__doc__, name
