from __future__ import annotations

import re

from typer.testing import CliRunner

import influence_core as ic
from influence_core.cli import app


def test_a_study_made_again_is_the_same_to_the_last_byte(tmp_path):
    for folder in ("one", "two"):
        result = CliRunner().invoke(
            app, ["demo-study", "--out", str(tmp_path / folder), "--noise", "0.3", "--seed", "1"]
        )
        assert result.exit_code == 0, result.output
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert [re.sub("-[0-9a-f]{12}", "", name) for name in files] == [
        "model.safetensors",
        "study.toml",
        "test.safetensors",
        "train.safetensors",
        "trajectory.safetensors",
        "validation.safetensors",
    ]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    study = ic.Study.load(tmp_path / "one")
    assert study.name == "Handwritten digits, 30% wrong labels, seed 1"
    assert int(study.train.corrupted.sum()) == 300
    assert study.accuracy() > 0.85
