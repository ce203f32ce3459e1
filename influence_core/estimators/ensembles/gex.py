"""Influence from an ensemble around the trained weights: GEX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from influence_core.estimators.ensembles.geometric import GeometricEnsemble
from influence_core.estimators.ensembles.loss_changes import check_floor, reduced
from influence_core.estimators.work import Work
from influence_core.models import dataset_losses
from influence_core.study import Study


@dataclass
class GEX(GeometricEnsemble):
    r"""Influence without gradients, from an ensemble around the trained weights (Kim et al. 2023, "GEX", Algorithm 2).

    Each member :math:`\theta_m` is the trained model after some more steps on the (noisy) training loss. With
    :math:`\Delta_m(z) = \max(\ell(z, \theta_m), f) - \max(\ell(z, \theta^*), f)` and f the loss floor,

    .. math:: h(z, z') = \frac1M\sum_m \Delta_m(z')\,\Delta_m(z) \quad\text{(eq. 10)}, \qquad
              s(z) = \frac1M\sum_m \Delta_m(z)^2 .

    Positive is helpful: where fine-tuning forgets the training image, it forgets the test image as well. No gradient
    takes part, so scores need not be quadratic in one, and may have two modes.

    The paper has no floor, its code one of 0.05 on the baseline alone: ``loss_floor=0.05, floor_sides="baseline"``. An
    image that the model is certain of (loss near 0) then shows a change of -f that never happened. Where members move
    far that drowns in the others' changes. But where the model has fitted its training set, and two passes move few
    losses above f, it ranks certain images above memorised ones: digits with 10 % wrong labels, a network that learnt
    all of them by heart, AUC 5. With the floor on both sides an image below it shows no change, which leaves nearly all
    scores zero there (AUC 53); without a floor the AUC is 93, and 94 with ten passes a member
    (``tests/benchmarks/mislabels.py --memorised``, seeds 0 to 2). Hence the default of 0. Where nothing is memorised
    the floor changes little. For mislabel scores against the validation set, it is on the mean loss, as in the code.

    Args:
        loss_floor: f in nats; changes among losses below it count as none. 0 for no floor.
        floor_sides: "both", or "baseline" as in the paper's code.
    """

    name: ClassVar[str] = "gex"
    title: ClassVar[str] = "GEX"
    paper: ClassVar[str] = "Kim et al. 2023"
    good_for: ClassVar[str] = "Finds wrong labels without gradients, unless many are wrong; weak at explaining"
    cost: ClassVar[str] = "members x epochs x N backward + members x (N + M) forward"

    loss_floor: float = 0.0
    floor_sides: Literal["both", "baseline"] = "both"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_floor(self.loss_floor)

    def _fit_work(self, study: Study) -> Work:
        return self._members_work(study) + Work(forward=(self.members + 1) * self._watched(study))

    def _changes(self, study: Study, splits: list[str]) -> dict[str, Tensor]:
        bases = {split: reduced(study.losses(split), split).clamp_min(self.loss_floor) for split in splits}
        floor = self.loss_floor if self.floor_sides == "both" else 0.0

        def watch(model: nn.Module) -> dict[str, Tensor]:
            losses = {split: dataset_losses(model, study.loss, study.split(split)) for split in splits}
            return {split: reduced(found, split).clamp_min(floor) - bases[split] for split, found in losses.items()}

        return {split: changes.T.contiguous() for split, changes in self._watched_members(study, watch).items()}
