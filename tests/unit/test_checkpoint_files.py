"""Checkpoint files of somebody's training, read as a trajectory."""

from __future__ import annotations

import os
import re

import pytest
import safetensors.torch
import torch
from torch import nn

import influence_core as ic
from influence_core.errors import InvalidInput
from influence_core.training import Recipe, read_checkpoints
from tests.helpers import images


def weights(value: float = 0.0) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = ic.models.mlp(16, 3, hidden=2).double().state_dict()
    return {name: tensor + value for name, tensor in state.items()}


def write(folder, names, **facts):
    """One file for each name, whose weights are apart by its place in the list."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(weights(i), path)
        else:
            torch.save({"state_dict": weights(i), **facts} if facts else weights(i), path)


def told(trajectory):
    return [(c.step, c.epoch, c.learning_rate, c.learning_rate_sum) for c in trajectory]


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (["c_9.pt", "c_10.pt", "c_100.pt"], {}, [(9, 0, 0.1, 0.9), (10, 0, 0.1, 0.1), (100, 0, 0.1, 9.0)]),
        (
            ["epoch=0-step=40.ckpt", "epoch=1-step=80.ckpt"],
            {},
            [(40, 0, 0.1, 4.0), (80, 1, 0.1, 4.0)],
        ),
        (["model_epoch_2.pth", "model_epoch_10.pth"], {}, [(2, 2, 0.1, 0.0), (10, 10, 0.1, 0.0)]),
        (
            ["model_epoch_2.pth", "model_epoch_10.pth"],
            {"steps_per_epoch": 5},
            [(10, 2, 0.1, 1.0), (50, 10, 0.1, 4.0)],
        ),
        (["iter-2.bin", "iter-4.bin"], {"steps_per_epoch": 4}, [(2, 0.5, 0.1, 0.2), (4, 1, 0.1, 0.2)]),
        (["resnet18_v2_003.safetensors"], {}, [(3, 0, 0.1, 0.3)]),
        (
            ["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"],
            {},
            [(500, 0, 0.1, 50.0), (1000, 0, 0.1, 50.0)],
        ),
        (
            ["a-e1.pt", "b-e2.pt", "best.pt"],
            {"pattern": r"-e(?P<epoch>\d+)", "steps_per_epoch": 2},
            [(2, 1, 0.1, 0.2), (4, 2, 0.1, 0.2)],
        ),
    ],
)
def test_steps_and_epochs_are_read_from_names(names, settings, expected, tmp_path):
    write(tmp_path, names)
    (tmp_path / "notes.txt").write_text("of mine")
    found = read_checkpoints(tmp_path, learning_rates=0.1, **settings)
    assert told(found) == [pytest.approx(line) for line in expected]
    for i, checkpoint in enumerate(found):
        assert all(torch.equal(tensor, weights(i)[name]) for name, tensor in checkpoint.state.items())


NAMES = ["c_1_lr0.5.pt", "c_2_lr0.25.pt"]


@pytest.mark.parametrize(
    ("settings"),
    [
        {"learning_rates": [0.5, 0.25]},
        {"learning_rates": (0.5, 0.25)},
        {"learning_rates": {"c_1_lr0.5.pt": 0.5, "c_2_lr0.25": 0.25}},
        {"learning_rates": {1: 0.5, 2: 0.25}},
        {"learning_rates": r"lr([\d.]+)\.pt"},
        {"pattern": r"c_(?P<step>\d)_lr(?P<learning_rate>[\d.]+)\.pt"},
        {"learning_rates": "file,learning_rate\nc_1_lr0.5.pt,0.5\nc_2_lr0.25,0.25\n"},
        {"learning_rates": "step,learning_rate\n2,0.25\n1,0.5\n"},
    ],
)
def test_learning_rates_come_in_many_ways(settings, tmp_path):
    write(tmp_path, NAMES)
    if "\n" in str(settings.get("learning_rates", "")):
        table = tmp_path / "rates.csv"
        table.write_text(settings["learning_rates"])
        settings = {"learning_rates": table}
        assert told(read_checkpoints(tmp_path, r"c_(?P<step>\d)", learning_rates=str(table))) == told(
            read_checkpoints(tmp_path, r"c_(?P<step>\d)", **settings)
        )
    pattern = {"pattern": r"c_(?P<step>\d)"} | settings
    assert told(read_checkpoints(tmp_path, **pattern)) == [(1, 0, 0.5, 0.5), (2, 0, 0.25, 0.25)]


def test_a_table_may_say_all(tmp_path):
    write(tmp_path, ["a.pt", "b.pt"])
    table = tmp_path / "t.csv"
    table.write_text("file,step,epoch,learning_rate,learning_rate_sum,rho\nb,30,3,0.1,2.5,0.05\na,10,1,0.2,4,\n")
    recipe = Recipe("sam", rho=0.05)
    found = read_checkpoints([tmp_path / "b.pt", str(tmp_path / "a.pt")], learning_rates=table, rho=0.01, recipe=recipe)
    assert told(found) == [(10, 1, 0.2, 4), (30, 3, 0.1, 2.5)]
    assert [c.rho for c in found] == [0.01, 0.05]
    assert found.recipe == recipe


@pytest.mark.parametrize(
    "facts",
    [
        {"epoch": 2, "global_step": 20, "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.5}]}]},
        {"epoch": 2, "step": 20, "optimizer": {"state": {}, "param_groups": [{"lr": 0.5}]}},
        {"epoch": 2, "step": 20, "optimizer_state_dict": {"param_groups": [{"lr": 0.5}]}},
    ],
)
def test_facts_inside_a_file_are_taken(facts, tmp_path):
    write(tmp_path, ["last-v1.ckpt"], **facts)
    assert told(read_checkpoints(tmp_path)) == [(20, 2, 0.5, 10)]
    (tmp_path / "last-v1.ckpt").rename(tmp_path / "epoch=7.ckpt")
    assert told(read_checkpoints(tmp_path / "epoch=7.ckpt", learning_rates=1)) == [(20, 7, 1, 20)]


def test_the_study_of_such_a_trajectory(tmp_path):
    write(tmp_path, [f"model-{step}.pt" for step in (5, 10)])
    model = ic.models.mlp(16, 3, hidden=2).double()
    trajectory = read_checkpoints(tmp_path, learning_rates=0.1)
    model.load_state_dict(trajectory[-1].state)
    study = ic.Study(model, images(), images(n=4, seed=1), trajectory=trajectory, weight_decay=0.1)
    assert ic.estimators.TracIn().fit(study).influence([0]).values.shape == (24, 1)
    assert study.weight_decay == 0.1


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        (["a.pt"], {"learning_rates": 0.1}, r"no step or epoch can be read from the name of .*a\.pt: pass pattern="),
        (["a1.pt", "b1.pt"], {"learning_rates": 0.1}, r"a1\.pt and .*b1\.pt are both of step 1: take one"),
        (["a1.pt"], {}, r"a1\.pt does not say its learning rate: pass learning_rates="),
        (["a1.pt", "a2.pt"], {"learning_rates": [0.1]}, r"has 1 numbers for 2 checkpoints, which are a1\.pt, a2\.pt$"),
        (["a1.pt"], {"learning_rates": {2: 0.1}}, r"has none for .*a1\.pt; looked for 'a1\.pt', 'a1', 1$"),
        (["a1.pt"], {"learning_rates": {1: "x"}}, r"the learning rate of .*a1\.pt is 'x', expected a number"),
        (["a1.pt"], {"learning_rates": r"lr(.)"}, r"learning_rates='lr\(\.\)' is not in the name of .*a1\.pt"),
        (["a1.pt"], {"learning_rates": r"a"}, "needs one group"),
        (["a1.pt"], {"learning_rates": r"("}, r"learning_rates='\(' is no regular expression"),
        (["a1.pt"], {"learning_rates": -0.1}, r"a1\.pt: learning_rate of the checkpoint at step 1 is -0\.1, expected"),
        (["a1.pt"], {"learning_rates": float("nan")}, "learning_rates is nan, expected a number"),
        (["a1.pt"], {"learning_rates": "none.csv"}, r"the table none\.csv cannot be read"),
        (
            ["a1.pt"],
            {"pattern": "b", "learning_rates": 0.1},
            r"pattern='b' is in no file name; the first one is 'a1\.pt'",
        ),
        (["a1.pt"], {"pattern": "a(?P<setp>1)", "learning_rates": 0.1}, "pattern has a group 'setp'; it may have step"),
        (
            ["a1.pt"],
            {"pattern": "(?P<step>a)", "learning_rates": 0.1},
            r"step in the name a1\.pt is 'a', expected a num",
        ),
        (["a1.txt"], {"learning_rates": 0.1}, r"has no checkpoint: no file in it ends in \.safetensors"),
        (["a1.pt"], {"learning_rates": 0.1, "steps_per_epoch": 0}, "steps_per_epoch=0: expected"),
    ],
)
def test_what_is_missing_is_said_with_the_file(names, settings, said, tmp_path):
    write(tmp_path, names)
    with pytest.raises(InvalidInput, match=said):
        read_checkpoints(tmp_path, **settings)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"there is no folder .*none"):
        read_checkpoints(tmp_path / "none", learning_rates=0.1)
    with pytest.raises(InvalidInput, match="files is empty"):
        read_checkpoints([], learning_rates=0.1)
    torch.save({"state_dict": weights(), "bomb": Bomb(tmp_path / "proof")}, tmp_path / "c2.pt")
    with pytest.raises(InvalidInput, match=r"c2\.pt is a pickle that holds more than tensors"):
        read_checkpoints(tmp_path, learning_rates=0.1)
    assert not (tmp_path / "proof").exists()
    torch.save({"w": torch.tensor([float("nan")])}, tmp_path / "c2.pt")
    with pytest.raises(
        InvalidInput, match=rf"w in {re.escape(str(tmp_path / 'c2.pt'))} has 1 of 1 values that are NaN"
    ):
        read_checkpoints(tmp_path, learning_rates=0.1)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "c2.pt")
    for text, said in (
        ("a,b\n1,2\n", r"t\.csv needs the columns learning_rate, and file, step or epoch; it has a, b"),
        ("", "it has none"),
        ("step,learning_rate\n3,0.1\n", r"t\.csv has no row for .*c2\.pt"),
        ("step,learning_rate\n2,\n", r"learning_rate of c2\.pt in .*t\.csv is '', expected a number"),
        ("step,learning_rate\nx,1\n", r"step in .*t\.csv is 'x', expected a number"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(InvalidInput, match=said):
            read_checkpoints(tmp_path, learning_rates=tmp_path / "t.csv")
