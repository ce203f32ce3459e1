"""An influence [N, M] is held once, beside one more while it is made: counted in tensors that are alive."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import influence_core as ic
from influence_core import scores
from influence_core.batches import batches_of
from tests.estimator_settings import own_estimators, quick

N, M, BATCH, FEATURES, CLASSES, CHECKPOINTS = 97, 13, 16, 6, 3, 4


class Alive(TorchDispatchMode):
    """Counts storages of N x M numbers that are alive at once, whichever tensors look at them."""

    def __init__(self, nbytes: int) -> None:
        super().__init__()
        self.nbytes, self.most = nbytes, 0
        self._made: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        new = [t for t in tree_leaves(made) if isinstance(t, Tensor) and t.untyped_storage().nbytes() == self.nbytes]
        if new:
            self._made = [ref for ref in self._made if ref() is not None] + [weakref.ref(t) for t in new]
            held = [t for ref in self._made if (t := ref()) is not None]
            self.most = max(self.most, len({t.untyped_storage().data_ptr() for t in held}))
            del held
        return made


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (count,), generator=generator)


@pytest.fixture(scope="module")
def study() -> ic.Study:
    train, test, validation = (
        torch.utils.data.TensorDataset(*samples(count, seed)) for seed, count in enumerate((N, M, 11))
    )
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()
    settings = {"checkpoints": CHECKPOINTS, "batch_size": BATCH, "weight_decay": 0.01}
    trajectory = ic.training.fit(model, train, epochs=CHECKPOINTS, **settings)
    return ic.Study(model, train, test, validation, trajectory)


def most_alive(estimator: ic.estimators.Estimator, study: ic.Study) -> int:
    estimator.fit(study)
    with batches_of(BATCH), Alive(N * M * torch.float64.itemsize) as alive:
        estimator.influence()
    return alive.most


def explaining() -> list[type[ic.estimators.Estimator]]:
    return [cls for cls in own_estimators() if "influence" in cls.gives()]


@pytest.mark.parametrize("cls", explaining(), ids=lambda cls: cls.name)
def test_influence_is_held_once_beside_one_more(cls, study, monkeypatch):
    monkeypatch.setattr(scores, "CHECKED", BATCH * M)
    assert most_alive(quick(cls)(), study) in (1, 2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tracin", {"similarity": "cosine"}),
        ("vm", {"pairwise": "eq20"}),
        ("vm", {"pairwise": "eq20", "hessian": "outer"}),
        ("samgif", {"form": "sgd", "batch_size": BATCH}),
        ("samgif", {"form": "gd"}),
    ],
)
def test_so_it_is_with_other_settings(name, options, study, monkeypatch):
    monkeypatch.setattr(scores, "CHECKED", BATCH * M)
    cls = next(cls for cls in explaining() if cls.name == name)
    assert most_alive(quick(cls)(**options), study) in (1, 2)


def test_the_count_sees_what_is_alive_and_forgets_what_is_not():
    with Alive(N * M * torch.float64.itemsize) as alive:
        one = torch.ones(N, M, dtype=torch.float64)
        for step in range(3):
            other = one + step
        assert alive.most == 3  # the former sum is let go once there is the next
        del other
        part = one.mul(2)[1:]
        assert part.T.shape == one[:-1].T.shape  # views of two storages
        third = one * part.sum()
    assert alive.most == 3
    assert third.shape == one.shape


def test_what_a_caller_gives_stays_as_it_is():
    given = torch.randn(N, M, dtype=torch.float64)
    before = given.clone()
    found = ic.Scores(given, torch.arange(N), "influence", test_ids=torch.arange(M))
    found.helpful(0), found.harmful(0), found.group([1, 2]), found.to_frame(), found.caveats()
    assert torch.equal(given, before)


@pytest.mark.parametrize("place", [(0, 0), (40, 7), (N - 1, M - 1)])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_named_whichever_block_it_is_in(place, number, monkeypatch):
    monkeypatch.setattr(scores, "CHECKED", BATCH * M)
    values = torch.zeros(N, M)
    values[place] = number
    with pytest.raises(ic.InvalidInput, match=rf"training image {place[0]} is {number}"):
        ic.Scores(values, torch.arange(N), "influence", test_ids=torch.arange(M))
