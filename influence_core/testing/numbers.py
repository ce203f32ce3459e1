"""Checks of invariance: what must not change a score, does not."""

from __future__ import annotations

import itertools

import torch

from influence_core.batches import batches_of
from influence_core.errors import InvalidInput, NotSupported
from influence_core.testing.checks import Subject, check
from influence_core.testing.problems import convex_study, network_study, rotated
from influence_core.testing.tools import assert_same, changed, outcomes, refused, values
from influence_core.training import seeded


@check()
def fit_again(subject: Subject) -> None:
    """Fitting twice gives the same scores, and a study that was fitted before leaves no trace."""
    study, other = network_study(), network_study(seed=1)
    estimator = subject.make()
    assert estimator.fit(study) is estimator, "fit does not return the estimator itself"
    first = outcomes(estimator)
    assert_same(outcomes(estimator), first, 1e-12, "scores were asked for a second time")
    assert_same(outcomes(estimator.fit(study)), first, 1e-12, "the estimator was fitted again")
    expected = outcomes(subject.make().fit(other))
    assert_same(outcomes(estimator.fit(other)), expected, 1e-12, "another study was fitted before")
    assert_same(outcomes(estimator.fit(study)), first, 1e-12, "another study was fitted in between")


@check()
def same_seed(subject: Subject) -> None:
    """A second estimator with the same hyper-parameters gives the same scores, whatever was drawn before."""
    first = outcomes(subject.make().fit(network_study()))
    with seeded(99, torch.device("cpu")):
        torch.rand(5)
        again = outcomes(subject.make().fit(network_study()))
    assert_same(again, first, 1e-12, "only torch's global random numbers differ")


@check()
def not_constant(subject: Subject) -> None:
    """Scores differ between images: the other checks would pass on zeros as well."""
    for method, found in values(subject.make().fit(network_study())).items():
        spread = float((found - found[:1]).abs().max())
        assert spread > 0, f"{method} is the same for every training image"


@check(exemptable=True)
def depends_on_the_study(subject: Subject) -> None:
    """Another study has other scores."""
    one, two = (outcomes(subject.make().fit(s)) for s in (network_study(), network_study(seed=1)))
    for method in one:
        assert changed({"scores": one[method]}, {"scores": two[method]}), f"{method} is the same for two studies"


@check()
def batch_size(subject: Subject) -> None:
    """Scores do not depend on the size of the batches in which data are read."""
    whole = outcomes(subject.make().fit(network_study()))
    for size in (1, 5):
        with batches_of(size):
            found = outcomes(subject.make().fit(network_study()))
        assert_same(found, whole, subject.tolerance, f"images were read in batches of {size}")


@check()
def parts_are_the_whole(subject: Subject) -> None:
    """Scores by rows of the training set, put together, are the scores of all, with the same label on the jar."""
    study = network_study()
    estimator = subject.make().fit(study)
    bounds, beyond = [0, 1, 8, 19, len(study.train)], range(3, len(study.train) + 1)
    for method in sorted(estimator.by_rows):
        whole = getattr(estimator, method)()
        parts = [estimator.part(method, range(a, b)) for a, b in itertools.pairwise(bounds)]
        for one, a, b in zip(parts, bounds, bounds[1:], strict=False):
            assert one.train_ids.tolist() == list(range(a, b)), f"{method} of rows {a} to {b - 1} has other train_ids"
            assert (one.kind, one.scale, one.coverage) == (whole.kind, whole.scale, whole.coverage), (
                f"{method} of rows {a} to {b - 1} is {one.kind} in {one.scale} with {one.coverage}; all rows together "
                f"are {whole.kind} in {whole.scale} with {whole.coverage}"
            )
            assert one.meta.keys() == whole.meta.keys(), f"{method} by rows has other facts: {sorted(one.meta)}"
        found = {method: torch.cat([one.values for one in parts]).double()}
        assert_same(found, {method: whole.values.double()}, 1e-10, "training images were scored in parts")
        if method == "influence":
            some = estimator.part(method, range(8, 19), test=[7, 2])
            asked = None if some.test_ids is None else some.test_ids.tolist()
            assert asked == [7, 2], f"test_ids of rows 8 to 18 are {asked} for test images [7, 2]"
            expected = {method: whole.values[8:19, [7, 2]].double()}
            assert_same({method: some.values.double()}, expected, subject.tolerance, "two test images were asked for")
        message = refused(lambda m=method, r=beyond: estimator.part(m, r), InvalidInput, "a row too many")  # type: ignore[misc]
        assert str(len(study.train)) in message, f"it is not said how many rows there are: {message}"
    for method in sorted(set(estimator.gives()) - estimator.by_rows):
        refused(lambda m=method: estimator.part(m, range(1)), NotSupported, f"{method} by rows")  # type: ignore[misc]


@check(exemptable=True)
def order_of_training_images(subject: Subject) -> None:
    """Permuted training images have permuted scores."""
    study = network_study()
    order = torch.randperm(len(study.train), generator=torch.Generator().manual_seed(0))
    expected = {method: v[order] for method, v in values(subject.make().fit(study)).items()}
    with batches_of(5):
        found = values(subject.make().fit(study.replaced(train=study.train.subset(order))))
    assert_same(found, expected, subject.tolerance, "only the order of the training images differs")


@check("influence")
def order_of_test_images(subject: Subject) -> None:
    """Permuted test images have permuted columns, and leaving some out changes no other."""
    study = network_study()
    whole = subject.make().fit(study).influence().values.double()
    for order in (torch.randperm(len(study.test), generator=torch.Generator().manual_seed(0)), torch.arange(3)):
        found = subject.make().fit(study.replaced(test=study.test.subset(order))).influence().values.double()
        why = "only the order or number of the test images differs"
        assert_same({"influence": found}, {"influence": whole[:, order]}, subject.tolerance, why)


@check("influence", "self_influence", exemptable=True)
def self_influence_is_the_diagonal(subject: Subject) -> None:
    """Where test and training images are the same, the self-influence is the diagonal of the influence."""
    study = network_study()
    estimator = subject.make().fit(study.replaced(test=study.train))
    diagonal = estimator.influence().values.double().diagonal()
    own = estimator.self_influence().values.double()
    why = "the influence of an image on itself was computed in two ways"
    assert_same({"self_influence": own}, {"self_influence": diagonal}, subject.tolerance, why)


@check(exemptable=True)
def rotated_inputs(subject: Subject) -> None:
    """A linear model in rotated coordinates has the same scores: nothing depends on the basis of the inputs."""
    study = convex_study()
    straight, turned = (values(subject.make().fit(s)) for s in (study, rotated(study)))
    why = "inputs and weights were rotated together, so that every output is the same"
    assert_same(turned, straight, max(subject.tolerance, 1e-6), why)
