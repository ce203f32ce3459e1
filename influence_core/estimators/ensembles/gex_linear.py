"""GEX with linearised losses: GEXLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from influence_core.estimators.ensembles.geometric import GeometricEnsemble
from influence_core.estimators.ensembles.loss_changes import reduced
from influence_core.estimators.work import Work, parameters_of, swept
from influence_core.gradients import inner_products
from influence_core.study import Study


@dataclass
class GEXLinear(GeometricEnsemble):
    r"""GEX with linearised losses: the paper's ablation "GEX-lin" (Kim et al. 2023, section 5.1, eq. 9 in eq. 11).

    The same members as ``GEX`` with the same settings, but the losses move along their gradients at the trained
    weights, in eval mode:

    .. math:: \Delta_m(z) = g_z^\top(\theta_m - \theta^*), \qquad
              h(z, z') = g_{z'}^\top\Big[\tfrac1M\sum_m (\theta_m - \theta^*)(\theta_m - \theta^*)^\top\Big] g_z .

    Positive is helpful. This is bilinear in the gradients, so Proposition 3.1 applies: self-influence is a quadratic
    form of rank at most M, and has one mode as far as gradients look Gaussian. (The proposition says less than it seems
    to: a quadratic form of a Gaussian that is not centred at zero can have two modes, and gradients of right and
    wrong labels need not be one Gaussian.) What is lost: an image that the model is certain of has no gradient, so no
    change, however far the members go and although they may forget it. In the paper it is far below ``GEX`` on large
    networks that memorised their wrong labels. On small ones that did not show: on the bundled digits, and on two
    circles (``tests/benchmarks/two_circles.py``), the two are close.

    Running statistics of batch normalisation have no gradient: they stay those of the trained model, as in
    the gradients. There is no loss floor, since a linearised loss has no zero.

    All training images take one sweep, for all members together.
    """

    name: ClassVar[str] = "gexlinear"
    title: ClassVar[str] = "GEX, linearised"
    paper: ClassVar[str] = "Kim et al. 2023 (GEX-lin)"
    good_for: ClassVar[str] = "Shows what is lost when GEX's losses are made linear"
    cost: ClassVar[str] = "members x epochs x N backward + (N + M) backward"

    def _fit_work(self, study: Study) -> Work:
        return self._members_work(study) + swept(self._watched(study), self.members, parameters_of(study))

    def _changes(self, study: Study, splits: list[str]) -> dict[str, Tensor]:
        start = {name: p.detach() for name, p in study.model.named_parameters() if p.requires_grad}

        def watch(model: nn.Module) -> dict[str, Tensor]:
            return {name: p.detach() - start[name] for name, p in model.named_parameters() if name in start}

        moved = self._watched_members(study, watch)
        vectors = {name: differences.to(start[name]) for name, differences in moved.items()}
        return {
            split: reduced(inner_products(study.model, study.loss, study.split(split), vectors), split).cpu()
            for split in splits
        }
