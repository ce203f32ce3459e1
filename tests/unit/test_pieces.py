"""Work that is broken off at any piece and taken up again gives the bytes of work that was not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import influence_core as ic
from influence_core.batches import batches_of
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import Estimator
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.models import load_tensors, save_tensors
from influence_core.pieces import keeping, packed, parts, piece, unpacked
from influence_core.testing.problems import network_study
from influence_core.training import train_fresh
from tests.estimator_settings import QUICK
from tests.helpers import study


class Folder:
    """A keeper as a store has one, whose process may be killed while a piece is being put."""

    def __init__(self, path: Path, after: int | None = None, lost: bool = True) -> None:
        self.path, self.after, self.lost = path, after, lost
        self.taken: list[str] = []
        self.made: list[str] = []

    def _file(self, name: str) -> Path:
        return self.path / f"{name.replace('/', '.')}.safetensors"

    def get(self, name: str) -> dict[str, Tensor] | None:
        if not self._file(name).exists():
            return None
        self.taken.append(name)
        return load_tensors(self._file(name), sealed=True)

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        assert all(t.device.type == "cpu" and t.is_contiguous() for t in tensors.values())
        last = self.after is not None and len(self.made) == self.after
        if not (last and self.lost):
            save_tensors(self._file(name), tensors)
        self.made.append(name)
        if last:
            raise KeyboardInterrupt


Work = Callable[[ic.Study], dict[str, Any]]


def asked(name: str, *methods: str, **options: Any) -> Work:
    """Fit and ask; the numbers, and all facts that are no measurement."""

    def work(study: ic.Study) -> dict[str, Any]:
        estimator = ic.estimators.get(name, **(QUICK.get(name, {}) | options)).fit(study)
        if hasattr(estimator, "solve_bytes"):
            estimator.__dict__["solve_bytes"] = 3 * 8 * sum(p.numel() for p in study.model.parameters())
        found: dict[str, Any] = {}
        for method in methods:
            scores = getattr(estimator, method)()
            facts = {key: fact for key, fact in scores.meta.items() if "second" not in key and "memory" not in key}
            found |= {method: scores.values, f"facts of {method}": facts}
        return found

    return work


def retrain(study: ic.Study, kept: Tensor, seed: int) -> torch.nn.Module:
    return train_fresh(study.model, study.train.subset(kept), recipe_of(study), seed=seed, epochs=1, loss=study.loss)


def subsets(study: ic.Study) -> dict[str, Any]:
    kept = ic.evaluation.draw_subsets(len(study.train), 2)
    return {"losses": ic.evaluation.retrain_subsets(study, retrain, kept, seeds=(0, 1)).losses}


def without_one(study: ic.Study) -> dict[str, Any]:
    return {"values": ic.evaluation.leave_one_out(study, [3, 5], None, retrain).values}


WORKS: dict[str, tuple[Work, int]] = {
    "gex": (asked("gex", "influence", members=3, chain=1), 3),
    "gex in chains": (asked("gex", "influence", members=5, chain=2, keep_momentum=True), 3),
    "gexlinear": (asked("gexlinear", "influence", members=3), 3),
    "laplace": (asked("laplace", "influence", samples=10), 3),
    "laplace, linearised": (asked("laplace", "influence", samples=4, linearised=True), 1),
    "tracin": (asked("tracin", "influence", "self_influence"), 8),
    "tracinrp": (asked("tracinrp", "influence"), 8),
    "trak": (asked("trak", "influence", "self_influence"), 8),
    "confidentlearning": (asked("confidentlearning", "label_influence", folds=3), 3),
    "el2n": (asked("el2n", "mislabel_scores"), 2),
    "deepknn": (asked("deepknn", "label_influence"), 4),
    "forgetting": (asked("forgetting", "mislabel_scores"), 1),
    "forgetting, checkpoints": (asked("forgetting", "mislabel_scores", source="checkpoints"), 4),
    "conjugategradient": (asked("conjugategradient", "influence"), 3),
    "conjugategradient of its own": (asked("conjugategradient", "self_influence", tolerance=None), 8),
    "conjugategradient, validated": (asked("conjugategradient", "influence", damping="validation", tolerance=None), 15),
    "samhif": (asked("samhif", "influence"), 3),
    "samgif": (asked("samgif", "influence", form="sgd", queries="checkpoint"), 4),
    "vm by ekfac": (asked("vm", "label_influence", metric="ekfac"), 1 + 3),
    "vm by probes": (asked("vm", "label_influence", metric="ekfac", probes=2), 1 + 3),
    "tunedloss": (asked("tunedloss", "mislabel_scores"), 1),
    "subsets": (subsets, 2 * 2),
    "leave one out": (without_one, 3),
}


def same(one: Any, two: Any) -> bool:
    """To the byte."""
    if isinstance(one, Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and one.numpy().tobytes() == two.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return bool(one == two)


@pytest.mark.filterwarnings("ignore:.*stopped after")
@pytest.mark.parametrize("name", WORKS)
def test_what_was_broken_off_goes_on(name: str, tmp_path: Path) -> None:
    work, count = WORKS[name]
    expected = work(network_study())
    whole = Folder(tmp_path / "whole")
    whole.path.mkdir()
    with keeping(whole):
        assert same(work(network_study()), expected)
    assert len(whole.made) == len(set(whole.made)) == count
    assert not whole.taken
    for after, lost in {(0, True), (count // 2, False), (count - 1, True)}:
        path = tmp_path / f"{after}{lost}"
        path.mkdir()
        with keeping(Folder(path, after, lost)), pytest.raises(KeyboardInterrupt):
            work(network_study())
        again = Folder(path)
        with keeping(again):
            assert same(work(network_study()), expected), f"broken off at piece {after}"
        kept = after if lost else after + 1
        assert again.taken == whole.made[:kept]
        assert again.made == whole.made[kept:]


def test_a_finished_piece_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even begun: with all members kept no step is taken."""
    work, _ = WORKS["gex"]
    with keeping(Folder(tmp_path)):
        expected = work(network_study())
    monkeypatch.setattr("influence_core.estimators.ensembles.geometric.step", lambda *_: pytest.fail("a step"))
    with keeping(Folder(tmp_path)):
        assert same(work(network_study()), expected)


def test_a_kept_training_still_says_its_recipe(tmp_path: Path) -> None:
    fitted = []
    for _ in range(2):
        with keeping(Folder(tmp_path)):
            fitted.append(ic.estimators.EL2N(runs=1).fit(network_study()))
    assert fitted[0].mislabel_scores().meta["recipe"] == fitted[1].mislabel_scores().meta["recipe"] is not None


def test_names_are_of_one_work_and_of_one_part(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Tensor]:
        made.append(len(made))
        return {"number": torch.tensor([made[-1]])}

    assert [int(piece("a", make)["number"]) for _ in range(2)] == [0, 1]  # without a keeper nothing is kept
    keeper = Folder(tmp_path)
    with keeping(keeper):
        piece("a", make)
        with parts("fit"), parts("deep"):
            piece("a", make)
        with pytest.raises(InvalidInput, match="the piece 'a' is asked for twice"):
            piece("a", make)
        with pytest.raises(ZeroDivisionError):
            piece("b", lambda: {"x": torch.ones(1 // 0)})
        piece("b", make)  # what failed may be tried again
        with keeping(Folder(tmp_path / "other")), pytest.raises(InvalidInput):
            piece("a", make)  # a folder that is not there: the failure of a keeper ends the work
    assert keeper.made == ["a", "fit/deep/a", "b"]
    with keeping(Folder(tmp_path)):
        assert int(piece("a", make)["number"]) == 2
    assert len(made) == 6


def test_a_piece_is_contiguous_and_its_owners(tmp_path: Path) -> None:
    wide = torch.arange(6.0).view(2, 3)
    for _ in range(3):
        with keeping(Folder(tmp_path)):
            found = piece("a", lambda: {"x": wide.T})["x"]
        assert found.is_contiguous()
        assert torch.equal(found, wide.T)
        found.zero_()


def test_facts_travel_as_a_tensor() -> None:
    facts = {"residual": 1e-3 / 3, "warnings": ["zu früh"], "converged": False, "steps": 7, "most": float("inf")}
    assert unpacked(packed(facts)) == facts
    assert unpacked(packed({})) == {}


# --- rows


@pytest.mark.parametrize("name", ["tracin", "ekfac"])
def test_parts_in_batches_of_half_the_size(name: str) -> None:
    estimator = ic.estimators.get(name).fit(study(dtype=torch.float32))
    for method in sorted(estimator.by_rows):
        with batches_of(8):
            whole = getattr(estimator, method)().values
        with batches_of(4):
            found = torch.cat([estimator.part(method, rows).values for rows in (range(9), range(9, 24))])
        assert whole.dtype == torch.float32
        assert float((found - whole).abs().max()) <= 1e-5 * float(whole.abs().max())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("samgif", {"form": "sgd", "batch_size": 7}),
        ("samgif", {"queries": "checkpoint"}),
        ("samhif", {"variant": "paper"}),
        ("forgetting", {"break_ties": True, "source": "checkpoints"}),
        ("gex", {"members": 2, "detect_by": "validation"}),
        ("vm", {"pairwise": "eq20"}),
        ("vm", {"metric": "ekfac"}),
        ("vm", {"metric": "ekfac", "probes": 2}),
        ("labelcontrast", {"statistic": "norms"}),
    ],
)
def test_parts_are_the_whole_with_other_settings(name: str, options: dict[str, Any]) -> None:
    def make() -> Estimator:
        return ic.estimators.get(name, **(QUICK.get(name, {}) | options))

    assert ic.testing.check_estimator(make, only="parts_are_the_whole") == {"parts_are_the_whole": "passed"}


def test_cosines_in_parts() -> None:
    for name in ("tracin", "tracinrp", "trak", "randproj"):
        estimator = ic.estimators.get(name, similarity="cosine").fit(network_study())
        found = torch.cat([estimator.part("influence", rows).values for rows in (range(9), range(9, 24))])
        assert torch.allclose(found, estimator.influence().values, rtol=1e-10, atol=1e-12), name


def test_rows_that_make_no_sense() -> None:
    fitted = ic.estimators.Loss().fit(network_study())
    before = copy.deepcopy({name: value for name, value in vars(fitted).items() if name != "study_"})
    for rows in (range(25), range(-1, 3), range(3, 3), range(0, 24, 2), range(5, 2), [0, 1]):
        with pytest.raises(InvalidInput, match="one after the other, of range\\(0, 24\\)"):
            fitted.part("mislabel_scores", rows)
    with pytest.raises(InvalidInput, match="about no test image: leave it out"):
        fitted.part("mislabel_scores", range(3), test=[0])
    with pytest.raises(InvalidInput, match="no method 'scores'"):
        fitted.part("scores", range(3))
    with pytest.raises(NotSupported, match="gives no influence"):
        fitted.part("influence", range(3))
    with pytest.raises(NotSupported, match="the whole training set alone; by rows it gives influence, mislabel_scores"):
        ic.estimators.DataInf().fit(network_study()).part("self_influence", range(3))
    assert fitted.part("mislabel_scores", range(3)).train_ids.tolist() == [0, 1, 2]
    after = {name: value for name, value in vars(fitted).items() if name != "study_"}
    assert before.keys() == after.keys()
    assert len(fitted.mislabel_scores().values) == 24


def test_solves_are_made_for_the_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator: Estimator = ic.estimators.get("conjugategradient", damping=1.0).fit(network_study())
    solved: list[int] = []
    inverse = type(estimator.inverse_)
    apply = inverse.apply
    monkeypatch.setattr(inverse, "apply", lambda s, v: (solved.append(len(next(iter(v.values())))), apply(s, v))[1])
    estimator.part("self_influence", range(4, 9))
    assert solved == [5]
