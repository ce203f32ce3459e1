"""Does ``check_estimator`` find faults? A sound estimator passes; with one fault built in, the named check fails.

The sound one takes a dense damped Fisher matrix of all gradients, in float64. Every fault has been made by somebody:
flipped signs, dropped biases, an inverse per batch, ``q @ a @ q.T`` with ``eigh``'s columns, hooks left behind.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import influence_core as ic
from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.gradients import per_sample_gradients, sweep
from influence_core.testing import CHECKS, CheckFailed, check_estimator, estimator_checks
from influence_core.testing.problems import network_study


class _Named:
    """Class attributes; kept apart so that the classes below are not listed among the estimators."""

    name: ClassVar[str] = "sound"
    title: ClassVar[str] = "Sound"
    paper: ClassVar[str] = "none"
    cost: ClassVar[str] = "P^3"
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("rows_", "inverse_", "own_")


@dataclass
class Sound(_Named, Estimator):
    """Gradient products in the metric of the damped Fisher matrix."""

    damping: float = 0.1

    def _gradients(self, study, data, labels=None) -> Tensor:
        found = per_sample_gradients(study.model, study.loss, data, labels=labels)
        return torch.cat([g.flatten(1) for g in found.values()], 1)

    def _inverse(self, rows: Tensor, damping: float | None = None) -> Tensor:
        fisher = rows.T @ rows / len(rows)
        ridge = self.damping * fisher.diagonal().mean().clamp_min(1e-9) if damping is None else damping
        return torch.linalg.inv(fisher + ridge * torch.eye(len(fisher), dtype=fisher.dtype))

    def _fit(self, study):
        self.rows_ = self._gradients(study, study.train)
        self.inverse_ = self._inverse(self.rows_)

    def _influence(self, test_ids):
        queries = self._gradients(self.study_, self.study_.test.subset(test_ids))
        return self._of_scored(self.rows_) @ self.inverse_ @ queries.T / len(self.rows_)

    def _self_influence(self):
        rows = self._of_scored(self.rows_)
        return ((rows @ self.inverse_) * rows).sum(1) / len(self.rows_)

    def _mislabel_scores(self):
        return self._self_influence()

    def _label_influence(self):
        study = self.study_
        each = [torch.full((len(study.train),), k) for k in range(study.num_classes)]
        return torch.stack([-self._gradients(study, study.train, k).square().sum(1) for k in each], 1)

    def _parameter_change(self, change):
        study, (ids, labels, factors) = self.study_, change.terms()
        parameters = dict(study.model.named_parameters())
        added = factors @ self._gradients(study, study.train.subset(ids), labels)
        step = -added @ self.inverse_ / len(self.rows_)
        parts = step.split([p.numel() for p in parameters.values()])
        return {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)}


class FlippedSign(Sound):
    def _influence(self, test_ids):
        return -super()._influence(test_ids)


class DroppedBias(Sound):
    def _gradients(self, study, data, labels=None):
        found = per_sample_gradients(study.model, study.loss, data, labels=labels)
        return torch.cat([g.flatten(1) for n, g in found.items() if not n.endswith("bias")], 1)


class HonestWithoutBias(DroppedBias):
    def _coverage(self):
        return ic.Coverage(0.9, 0.8)


class ChangeForAdding(Sound):
    def _parameter_change(self, change):
        return {name: -step for name, step in super()._parameter_change(change).items()}


class ChangeOfTheMean(Sound):
    def _parameter_change(self, change):
        return {name: step / len(change.ids) for name, step in super()._parameter_change(change).items()}


class ChangeOfNothing(Sound):
    def _parameter_change(self, change):
        return {name: torch.zeros_like(step) for name, step in super()._parameter_change(change).items()}


class ChangeOfTheFirst(Sound):
    def _parameter_change(self, change):
        return super()._parameter_change(change.of(change.ids[:1]))


class ChangeNeverQuiteRemoves(Sound):
    def parameter_change(self, remove=None, *, relabel=None, weight=None):
        weight = {i: max(w, 0.1) for i, w in (weight or {}).items()}
        return super().parameter_change(remove, relabel=relabel, weight=weight)


class ChangeIgnoresWeights(Sound):
    def _parameter_change(self, change):
        return super()._parameter_change(replace(change, weights=(change.weights != 0).double()))


class ChangeForgetsNewLabels(Sound):
    def _parameter_change(self, change):
        gone = torch.where(change.relabelled, 0.0, change.weights)
        return super()._parameter_change(replace(change, labels=change.given, weights=gone))


class ChangeWithoutTheNewWeightOfANewLabel(Sound):
    def _parameter_change(self, change):
        return super()._parameter_change(replace(change, weights=torch.where(change.relabelled, 1.0, change.weights)))


class ChangeOfOnlyRemovals(Sound):
    def _parameter_change(self, change):
        gone = change.ids[change.removed]
        return super()._parameter_change(change.of(gone) if len(gone) else change)


class ChangeTowardsOldLabels(Sound):
    def _parameter_change(self, change):
        return super()._parameter_change(replace(change, labels=change.given, given=change.labels))


class ChangeForgetsOnLoading(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.scale = 2.0

    def _parameter_change(self, change):
        return {name: getattr(self, "scale", 1.0) * c for name, c in super()._parameter_change(change).items()}


class ChangePerBatch(Sound):
    def _parameter_change(self, change):
        count = len(batches(self.study_))
        return {name: step / count for name, step in super()._parameter_change(change).items()}


class ChangeWithoutN(Sound):
    def _parameter_change(self, change):
        return {name: len(self.rows_) * c for name, c in super()._parameter_change(change).items()}


class _Batches:
    """A consumer that only notes how the sweep cut its data into batches."""

    def start(self, context):
        self.seen = []

    def consume(self, block):
        if block.samples not in self.seen:
            self.seen.append(block.samples)

    def finish(self):
        pass


def batches(study) -> list[slice]:
    noted = _Batches()
    sweep(study.model, study.loss, study.train, [noted])
    return noted.seen


class InversePerBatch(Sound):
    def _fit(self, study):
        self.rows_ = self._gradients(study, study.train)
        self.inverse_ = torch.stack([self._inverse(self.rows_[b], 0.1) for b in batches(study)]).sum(0)


class BatchDependentScale(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.rows_ /= len(batches(study))


class WrongEigenbasis(Sound):
    def _inverse(self, rows, damping=None):
        values, q = torch.linalg.eigh(torch.linalg.inv(super()._inverse(rows, damping)))
        return q.T @ torch.diag(1 / values) @ q  # the eigenvectors are the columns of q


class StaleHook(Sound):
    def _fit(self, study):
        list(study.model.modules())[-1].register_forward_hook(lambda *_: None)
        super()._fit(study)


class HookWhileScoring(Sound):
    def _influence(self, test_ids):
        next(iter(self.study_.model.modules())).register_full_backward_pre_hook(lambda *_: None)
        return super()._influence(test_ids)


class MutatedWeights(Sound):
    def _fit(self, study):
        super()._fit(study)
        with torch.no_grad():
            next(study.model.parameters()).mul_(1.01)


class MutatedLabels(Sound):
    def _fit(self, study):
        super()._fit(study)
        study.train.labels[0] = (study.train.labels[0] + 1) % 3


class TrainingMode(Sound):
    def _fit(self, study):
        super()._fit(study)
        study.model.train()


class LeftGradients(Sound):
    def _fit(self, study):
        super()._fit(study)
        study.model(study.train.batch([0, 1])[0]).sum().backward()


class GlobalRandomness(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.rows_ += 1e-3 * torch.randn_like(self.rows_)


class OverItsOwnRows(Sound):
    def _influence(self, test_ids):
        return super()._influence(test_ids) * len(self.rows_) / len(self._scored)


class SortedColumns(Sound):
    def _influence(self, test_ids):
        return super()._influence(test_ids.sort().values)


class CentredOnTheTestSet(Sound):
    def _influence(self, test_ids):
        everything = super()._influence(torch.arange(len(self.study_.test)))
        return super()._influence(test_ids) - everything.mean(1, keepdim=True)


class FisherOfTheFirstHalf(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.inverse_ = self._inverse(self.rows_[: len(self.rows_) // 2])


class OtherDampingForSelf(Sound):
    def _self_influence(self):
        inverse = torch.linalg.inv(torch.linalg.inv(self.inverse_) + torch.eye(len(self.inverse_)))
        return ((self.rows_ @ inverse) * self.rows_).sum(1) / len(self.rows_)


class NegativeSelfInfluence(Sound):
    def _self_influence(self):
        return -super()._self_influence()


class OwnMemory(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.own_ = super()._self_influence()

    def _self_influence(self):
        return self.own_


class Remembers(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.inverse_ = self.inverse_ + getattr(self, "before", torch.zeros(())).mean()
        self.before = self.inverse_


class FitsOnce(Sound):
    def _fit(self, study):
        self.first = getattr(self, "first", study)
        super()._fit(self.first)


class TunesItself(Sound):
    def _fit(self, study):
        self.damping = self.damping * 0.9
        super()._fit(study)


class Constant(Sound):
    def _mislabel_scores(self):
        return torch.ones(len(self.rows_))


class IgnoresTheStudy(Sound):
    def _mislabel_scores(self):
        return torch.arange(len(self.rows_)).double()


class Trusting(Sound):
    def _mislabel_scores(self):
        return -super()._mislabel_scores()


class WorstLabel(Sound):
    def _label_influence(self):
        return -super()._label_influence()


class HidesNaN(Sound):
    def fit(self, study):
        self.study_, self.fit_cost_ = study, ic.measure.Cost(1.0)
        self.rows_ = torch.ones(len(study.train), sum(p.numel() for p in study.model.parameters())).double()
        self.inverse_ = self._inverse(self.rows_)
        return self

    def _gradients(self, study, data, labels=None):
        return torch.ones(len(data), self.rows_.shape[1]).double()


class HoldsAFunction(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.how_ = lambda: None


class ForgetsOnLoading(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.scale = 2.0

    def _influence(self, test_ids):
        return getattr(self, "scale", 1.0) * super()._influence(test_ids)


class UndeclaredNeed(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.rate_ = study.trajectory[-1].learning_rate


class NotFittedUnnoticed(Sound):
    def _asked(self, public):
        return self


class ExemptFromTheSign(FlippedSign):
    exempt: ClassVar[dict[str, str]] = {"sign_against_retraining": "we define it so"}


class FreezesTheModel(Sound):
    """As a tape on the study's own model would: put back at the end, but in the meantime others look."""

    def _gradients(self, study, data, labels=None):
        if not all(p.requires_grad for p in study.model.parameters()):
            raise RuntimeError("no trainable parameter is chosen")
        study.model.requires_grad_(False)
        time.sleep(0.01)
        study.model.requires_grad_(True)
        return super()._gradients(study, data, labels)


class AnotherThreadsAnswer(Sound):
    """Keeps a call's own in what was learned, which all calls share, on the way."""

    def _fit(self, study):
        super()._fit(study)
        self.own_ = {}

    def _influence(self, test_ids):
        self.own_["asked by"] = threading.get_ident()
        time.sleep(0.01)
        return super()._influence(test_ids) * (1 if self.own_.pop("asked by", None) == threading.get_ident() else 2)


class ResidualInTheEstimator(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.own_ = []

    def _influence(self, test_ids):
        self.own_.append(0.1)
        return super()._influence(test_ids)


class NotesOnItself(Sound):
    """Sound all the same: a call works on a copy of the estimator, and what it notes there ends with it."""

    def _influence(self, test_ids):
        self.residual_ = 0.1
        return super()._influence(test_ids)

    def _facts(self):
        return {"residual": getattr(self, "residual_", None)}


class CountsWhatItIsAsked(Sound):
    def _fit(self, study):
        super()._fit(study)
        self.own_ = {"calls": torch.zeros(())}

    def _mislabel_scores(self):
        self.own_["calls"] += 1
        return super()._mislabel_scores()


CAUGHT = [
    (FlippedSign, "sign_against_retraining"),
    (DroppedBias, "biases_count"),
    (InversePerBatch, "batch_size"),
    (BatchDependentScale, "batch_size"),
    (WrongEigenbasis, "rotated_inputs"),
    (StaleHook, "study_untouched"),
    (HookWhileScoring, "study_untouched"),
    (MutatedWeights, "study_untouched"),
    (MutatedLabels, "study_untouched"),
    (TrainingMode, "study_untouched"),
    (LeftGradients, "study_untouched"),
    (GlobalRandomness, "same_seed"),
    (OverItsOwnRows, "parts_are_the_whole"),
    (SortedColumns, "subsets_of_test_images"),
    (CentredOnTheTestSet, "order_of_test_images"),
    (FisherOfTheFirstHalf, "order_of_training_images"),
    (OtherDampingForSelf, "self_influence_is_the_diagonal"),
    (NegativeSelfInfluence, "labels_on_the_jar"),
    (OwnMemory, "scores_are_copies"),
    (Remembers, "fit_again"),
    (FitsOnce, "fit_again"),
    (TunesItself, "parameters_untouched"),
    (Constant, "not_constant"),
    (IgnoresTheStudy, "depends_on_the_study"),
    (ChangeForAdding, "parameter_change_against_retraining"),
    (ChangeOfNothing, "parameter_change_fits_the_model"),
    (ChangeOfTheFirst, "parameter_change_of_a_group"),
    (ChangeNeverQuiteRemoves, "parameter_change_fits_the_model"),
    (ChangePerBatch, "batch_size"),
    (ChangeForgetsOnLoading, "save_and_load"),
    (ChangeOfTheMean, "parameter_change_of_a_group"),
    (ChangeIgnoresWeights, "parameter_change_of_a_mix"),
    (ChangeForgetsNewLabels, "parameter_change_of_a_mix"),
    (ChangeWithoutTheNewWeightOfANewLabel, "parameter_change_of_a_mix"),
    (ChangeOfOnlyRemovals, "parameter_change_of_a_mix"),
    (ChangeTowardsOldLabels, "parameter_change_against_retraining"),
    (ChangeWithoutN, "parameter_change_is_the_influence"),
    (Trusting, "planted_wrong_labels"),
    (WorstLabel, "suggested_labels"),
    (HidesNaN, "not_finite"),
    (HoldsAFunction, "save_and_load"),
    (ForgetsOnLoading, "save_and_load"),
    (FreezesTheModel, "two_threads"),
    (AnotherThreadsAnswer, "two_threads"),
    (ResidualInTheEstimator, "scoring_leaves_the_estimator"),
    (CountsWhatItIsAsked, "scoring_leaves_the_estimator"),
    (UndeclaredNeed, "declared_needs"),
    (NotFittedUnnoticed, "refusals"),
    (ExemptFromTheSign, "declarations"),
]


def test_the_sound_estimator_passes():
    assert set(check_estimator(Sound).values()) == {"passed"}


def test_what_a_call_notes_on_the_estimator_ends_with_the_call():
    check_estimator(NotesOnItself, only="scoring_leaves_the_estimator")
    check_estimator(NotesOnItself, only="two_threads")
    estimator = NotesOnItself().fit(network_study())
    assert estimator.influence().meta["residual"] == 0.1
    assert not hasattr(estimator, "residual_")


@pytest.mark.parametrize(("mutant", "name"), CAUGHT, ids=[f"{m.__name__}-{n}" for m, n in CAUGHT])
def test_a_mutant_is_caught(mutant, name):
    with pytest.raises(CheckFailed, match=f"{mutant.__name__} fails 1 of 1 checks:\n  {name}: "):
        check_estimator(mutant, only=name)


def test_every_check_catches_something():
    assert {name for _, name in CAUGHT} == set(CHECKS)


def test_all_failures_are_reported_together():
    with pytest.raises(CheckFailed) as caught:
        check_estimator(StaleHook)
    assert "StaleHook fails 2 of" in str(caught.value)
    with pytest.raises(CheckFailed) as caught:
        check_estimator(DroppedBias)
    assert "biases_count" in str(caught.value)
    assert "are the biases left out" in str(caught.value)


def test_biases_may_be_left_out_where_the_coverage_says_so():
    assert check_estimator(HonestWithoutBias, only="biases_count") == {"biases_count": "passed"}


def test_mutants_are_no_estimators_of_the_package():
    assert not [c for c in ic.estimators.all_estimators() if issubclass(c, Sound)]


def test_what_does_not_apply_is_said():
    report = check_estimator(ic.estimators.Loss)
    assert report["sign_against_retraining"] == "gives no influence"
    report = check_estimator(lambda: ic.estimators.VM(steps=5, batch_size=5), only="rotated_inputs")
    assert report == {"rotated_inputs": "exempt: a diagonal metric belongs to its coordinates"}
    names = [name for name, _ in estimator_checks(ic.estimators.Loss)]
    assert "refusals" in names
    assert "subsets_of_test_images" not in names
    with pytest.raises(InvalidInput, match="no check 'sign'; choose one of declarations"):
        check_estimator(Sound, only="sign")


def test_batches_of():
    study = ic.testing.problems.network_study()
    assert batches(study) == [slice(0, 24)]
    with ic.testing.batches_of(10):
        assert [b.stop - b.start for b in batches(study)] == [10, 10, 4]
    assert batches(study) == [slice(0, 24)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(ic.InvalidInput, match="no CUDA device"):
        check_estimator(ic.estimators.Loss, device="cuda")
    assert check_estimator(ic.estimators.Loss, only="batch_size", device="cpu") == {"batch_size": "passed"}
