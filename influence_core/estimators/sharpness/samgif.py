"""Influence along the trajectory of a training with sharpness-aware minimisation: SAMGIF."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from influence_core.curvature import check_radius, climbed
from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.changes import DataChange, term_gradient
from influence_core.estimators.gradient_products.checkpoints import used
from influence_core.estimators.sharpness.radius import check_ascent
from influence_core.estimators.work import Work, parameters_of, swept
from influence_core.gradients import Queries, inner_products, mean_gradient
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import Checkpoint

BATCH_SIZE = 128
"""Of the batches that climb in the form of SGD, where the trajectory does not say."""


@dataclass
class SAMGIF(Estimator):
    r"""Influence along the trajectory of SAM ("Attributing data for SAM", section 4.2 and theorem 4.6).

    Without the training image k, each step of SAM would have lacked its gradient at the perturbed weights. Summed over
    training, and with the Hessian term that the paper omits as well,

    .. math:: \mathrm{IF}(k) = -\sum_c W_c \nabla\ell_k(w_c + \hat\epsilon(w_c)), \qquad
              h(k, v) = -\nabla\ell_v(w^*)\cdot\mathrm{IF}(k),

    over checkpoints c. Positive is helpful. Theorem 4.6 and algorithm 2 lack the minus of IF, which the formula for
    gradient descent above them has; with their sign an edit walks *towards* what was to be removed. Removing images
    moves the weights by :math:`+\sum_k\sum_c W_c\nabla\ell_k`.

    :math:`W_c = \frac1N\sum_t\eta_t` over the steps since the checkpoint before: an image is in a batch of b with
    probability b/N, and has a share 1/b there, so that the sum over :math:`\eta_t B_{k,t}/b` is this on average, in
    both forms. (The theorem's :math:`L^k` has a further 1/N, which a step on a batch has not.) Two factors come on
    top: :math:`1/(1-\mu)` for momentum, and :math:`\exp(-\lambda\sum_{t'}\eta_{t'}/(1-\mu))` over the checkpoints
    that follow, which is :math:`\prod_{t'}(1 - \eta_{t'}\lambda)` for small steps: weight decay forgets old steps.

    The perturbation is that of all training images ("gd"), or that of a random batch which the image belongs to
    ("sgd"), as in training on batches; each costs two backward passes per image and checkpoint. The buffers of batch
    normalisation are the checkpoint's.

    The scale is that of a loss only roughly, as nothing contracts a step once it was taken: along directions of high
    curvature, edits overshoot, and scores rank only. After 100 steps on a logistic regression the predicted changes of
    the loss are 3.6 times too large, and an edit with all checkpoints destroys the bundled digits network. Put the
    model without any edit beside an edited one; the paper's tables lack that control. There is no self-influence, since
    products of an image's gradients at different weights are no squares.

    Args:
        form: "gd" or "sgd".
        queries: "final" for test gradients at the trained weights (the paper's), "checkpoint" for those at each
            checkpoint, as TracIn takes them; ``parameter_change`` knows no test image and is the same for both.
        last: how many of the last checkpoints to use; all by default.
        rho: radius of the ascent; by default that of each checkpoint, which is 0 for a plain optimiser. A study trained
            with ASAM or F-SAM, whose ascents are others, is refused without it.
        p: norm of the ascent's ball, above 1 and up to 2, or infinity.
        momentum: :math:`\mu`, by default the recipe's; 0 leaves the factor out.
        decay: whether weight decay forgets old steps.
        batch_size: of the batches of "sgd"; by default the recipe's.
        seed: of these batches.

    Example:
        >>> import influence_core as ic
        >>> scores = ic.estimators.SAMGIF(last=2).fit(ic.demo.digits()).influence(test=[0])
        >>> tuple(scores.values.shape)
        (1000, 1)
    """

    name: ClassVar[str] = "samgif"
    title: ClassVar[str] = "SAM influence (trajectory)"
    paper: ClassVar[str] = "Ren et al. 2025 (theorem 4.6)"
    good_for: ClassVar[str] = "Explains along a training with SAM in little time, about as well as TracIn"
    needs: ClassVar[frozenset[str]] = frozenset({"trajectory"})
    cost: ClassVar[str] = "2 C N backward + M backward"
    reasons: ClassVar[dict[str, str]] = {
        "label_influence": "it explains the labels that were trained on",
        "self_influence": "products of an image's gradients at different weights are no squares and can be negative",
    }
    learned: ClassVar[tuple[str, ...]] = ("batch_size_", "checkpoints_", "momentum_", "radii_", "weights_")

    form: Literal["gd", "sgd"] = "gd"
    queries: Literal["final", "checkpoint"] = "final"
    last: int | None = None
    rho: float | None = None
    p: float = 2.0
    momentum: float | None = None
    decay: bool = True
    batch_size: int | None = None
    seed: int = 0

    def _check_parameters(self) -> None:
        check_radius(self.rho, self.p)
        for name in ("last", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(f"{name} is {value}; at least 1 is needed, or None for the default")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise InvalidInput(f"momentum is {self.momentum}; it lies from 0 to below 1, or is None for the recipe's")

    def _fit(self, study: Study) -> None:
        trajectory = study.trajectory
        assert trajectory is not None
        self.checkpoints_: list[Checkpoint] = used(study, self.last)
        if self.rho is None:
            check_ascent(trajectory.recipe)
        self.momentum_ = trajectory.recipe.momentum if self.momentum is None else self.momentum
        sums = [c.learning_rate_sum / (1 - self.momentum_) for c in self.checkpoints_]
        if not any(s > 0 for s in sums):
            raise InvalidInput(
                "no checkpoint has a learning_rate_sum above 0, so that the steps between them have no size: record "
                "the sum of the learning rates since the checkpoint before"
            )
        rate = study.weight_decay if self.decay else 0.0
        kept = [math.exp(-rate * sum(sums[c + 1 :])) for c in range(len(sums))]
        self.weights_ = [k * s / len(study.train) for k, s in zip(kept, sums, strict=True)]
        self.radii_ = [c.rho if self.rho is None else self.rho for c in self.checkpoints_]
        self.batch_size_ = self.batch_size or trajectory.recipe.batch_size or BATCH_SIZE

    def _needed(self, what: str | None) -> frozenset[str]:
        return super()._needed(what) | ({"validation"} if what == "mislabel_scores" else set())

    def _fit_work(self, study: Study) -> Work:
        return Work()

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        train, checkpoints = len(study.train), used(study, self.last)
        climbs = sum(1 for c in checkpoints if (c.rho if self.rho is None else self.rho) > 0)
        if self.form == "sgd":  # every batch climbs for itself: the same passes in more sweeps
            batch = self.batch_size or (study.trajectory.recipe.batch_size if study.trajectory else 0) or BATCH_SIZE
            parts = math.ceil(train / batch)
        else:
            parts = 1
        if what == "parameter_change":
            return len(checkpoints) * swept(tests) + climbs * (swept(train) + Work(sweeps=2 * (parts - 1)))
        queries = len(study.split("validation")) if what == "mislabel_scores" else tests
        asked = (len(checkpoints) if self.queries == "checkpoint" else 1) * swept(queries)
        columns = 1 if what == "mislabel_scores" else tests
        along = len(checkpoints) * swept(train, columns, parameters_of(study))
        return asked + along + climbs * (swept(train) + Work(sweeps=2 * (parts - 1)))

    def _influence(self, test_ids: Tensor) -> Tensor:
        chosen = self.study_.test.subset(test_ids)
        return self._along(lambda model: Queries.record(model, self.study_.loss, chosen))

    def _mislabel_scores(self) -> Tensor:
        clean = self.study_.split("validation")

        def gradient(model: nn.Module) -> Queries:
            mean = mean_gradient(model, self.study_.loss, clean)
            return Queries.from_vectors({name: g[None] for name, g in mean.items()})

        return -self._along(gradient)[:, 0]

    def _along(self, gradients: Callable[[nn.Module], Queries]) -> Tensor:
        """Products of the training gradients with those of test data at a model, summed over checkpoints, [N, M]."""
        study = self.study_
        queries = gradients(study.model) if self.queries == "final" else None
        total: Tensor | None = None
        for number, (weight, checkpoint, rho) in enumerate(self._weighted()):
            asked = partial(self._at_checkpoint, checkpoint, rho, gradients if queries is None else queries)
            part = piece(f"checkpoint-{number}", asked)["part"].to(study.device)
            total = part.mul_(weight) if total is None else total.add_(part, alpha=weight)
            del part  # or it would be there beside the next
        assert total is not None
        return total

    def _at_checkpoint(
        self, checkpoint: Checkpoint, rho: float, queries: Queries | Callable[[nn.Module], Queries]
    ) -> dict[str, Tensor]:
        """The products at one checkpoint, of the training images whose scores are asked for."""
        study, wanted = self.study_, self._scored_ids
        model = study.at(checkpoint)
        found = queries if isinstance(queries, Queries) else queries(model)
        part: Tensor | None = None
        for ids, at in self._perturbed(model, rho, wanted):
            products = inner_products(at, study.loss, study.train.subset(ids), found)
            if ids is wanted:
                return {"part": products}
            part = products.new_zeros(len(wanted), products.shape[1]) if part is None else part
            part[(ids - wanted[0]).to(part.device)] = products
        assert part is not None
        return {"part": part}

    def _parameter_change(self, change: DataChange) -> dict[str, Tensor]:
        study = self.study_
        total: dict[str, Tensor] = {}
        named = change.terms()[0].unique()
        for weight, checkpoint, rho in self._weighted():
            model = study.at(checkpoint)
            for ids, at in self._perturbed(model, rho, named):
                part = change.of(ids)
                gradient = term_gradient(at, study.loss, study.train.subset(part.terms()[0]), part)
                for name, g in gradient.items():
                    total[name] = total.get(name, 0) + weight * change.size * g
        return total

    def _weighted(self) -> Iterator[tuple[float, Checkpoint, float]]:
        """Each checkpoint with its weight and radius."""
        every = list(zip(self.weights_, self.checkpoints_, self.radii_, strict=True))
        return track(every, f"{self.title}: checkpoints")

    def _perturbed(self, model: nn.Module, rho: float, wanted: Tensor) -> Iterator[tuple[Tensor, nn.Module]]:
        """Ids of training images, and the model at the perturbed weights where their gradients are taken."""
        study, count = self.study_, len(self.study_.train)
        if rho == 0:
            yield wanted, model
        elif self.form == "gd":
            yield wanted, climbed(model, study.loss, study.train, rho, self.p)[0]
        else:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
            for batch in order.split(self.batch_size_):
                ids = batch[torch.isin(batch, wanted)]
                if len(ids):
                    yield ids, climbed(model, study.loss, study.train.subset(batch), rho, self.p)[0]

    def _facts(self) -> dict[str, Any]:
        return {"momentum": self.momentum_, "rho": max(self.radii_), "checkpoints": len(self.checkpoints_)}
