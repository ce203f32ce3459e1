"""Influence from draws of the Laplace approximation: Laplace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from influence_core.curvature import CurvatureName, GaussNewton, Vectors, flatten
from influence_core.curvature.inverses import InverseCurvature, InverseSpec, check_damping, dense
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators.ensembles.loss_changes import LossChanges, check_floor, reduced
from influence_core.estimators.work import Work, kronecker_work, swept
from influence_core.models import model_outputs
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study

_DRAW_BYTES = 64 * 2**20
_PASSES = 4
"""Draws of a piece of the work, where each takes a forward pass."""


@dataclass
class Laplace(LossChanges):
    r"""GEX with draws of the Laplace approximation for members (Kim et al. 2023, section 4.1, eq. 12, Algorithm 1).

    .. math:: \psi \sim \mathcal N(\theta^*, \tau^2\Sigma), \qquad \Sigma = \tfrac1N (H + (\lambda + \delta) I)^{-1},
              \qquad h(z, z') = E_\psi[\Delta(z)\,\Delta(z')], \quad \Delta(z) = \ell(z, \psi) - \ell(z, \theta^*) .

    Positive is helpful. H is the curvature of the *mean* loss, :math:`\lambda` the study's weight decay and
    :math:`\delta` a relative damping. The precision is thus N H plus a prior's, :math:`N (\lambda + \delta)`:
    the posterior for the training that was done, since minimising the mean loss with
    :math:`\frac\lambda2\lVert\theta\rVert^2` is the most probable point under a Gaussian prior of precision
    :math:`N\lambda`. Three corrections of the paper change results. Its log-posterior has the mean loss for the sum,
    so that its :math:`\Sigma = H^{-1}` is N times too wide; the Newton step before it (eq. 4) lacks the same 1/N.
    With it, Theorem 4.1 for :math:`\Delta(z) = g_z^\top(\psi - \theta^*)` gives the influence function in nats,
    :math:`\frac1N g_z^\top (H + (\lambda + \delta) I)^{-1} g_{z'}`. Algorithm 1 multiplies by the root of the
    eigenvalues, which draws from N(0, H) instead of its inverse; here they divide, damped:

    .. math:: W \leftarrow W + Q_S\,[(Q_S^\top V Q_A) \oslash \sqrt{N(\Lambda + \lambda + \delta)}]\,Q_A^\top,
              \qquad V_{ij} \sim \mathcal N(0, 1) .

    **What to expect: little**, which is the paper's point. Most directions have no curvature from the training images,
    so that weight decay and damping alone decide how far a draw goes in them, and it goes far: the losses of typical
    images, which do not feel these directions to first order, change as much as those of memorised ones. On the
    bundled digits mislabel scores are no better than chance, and ``linearised``, where losses are taken at
    outputs that move to first order, :math:`f + J(\psi - \theta^*)`, helps a little. What does help is a smaller
    ``scale``: as it goes to 0, the scores over :math:`\tau^2` become the influence function again, estimated from
    ``samples`` draws, and as good as that. The paper's code takes linearised outputs and :math:`\tau = 10^{-4}`
    (with N times the Fisher matrix plus the identity), so it is in that limit and tests neither eq. 11 nor eq. 12.

    Batch normalisation uses the running statistics of the trained model. Its scales and shifts, and all other
    parameters outside linear layers and convolutions, have a diagonal covariance under "kfac": every parameter is
    drawn.

    Args:
        structure: of H: "kfac", "diagonal" or "full". The first two are the Fisher matrix with labels that are drawn
            from the model; "full" decomposes the matrix itself, for models of up to 4,000 parameters.
        linearised: whether losses are at linearised outputs.
        samples: draws of :math:`\psi`.
        damping: :math:`\delta` as a multiple of the mean eigenvalue: of each layer ("kfac"), of each parameter tensor
            ("diagonal"), or of the matrix ("full").
        scale: :math:`\tau`.
        curvature: for "full": "ggn" (positive semi-definite) or "hessian".
        loss_floor: changes among losses below it count as none, in nats; 0 turns it off.
        corrected: for "kfac": EK-FAC's eigenvalues; K-FAC's, as in the paper, otherwise.
        seed: of the labels and the draws.
    """

    name: ClassVar[str] = "laplace"
    title: ClassVar[str] = "Laplace"
    paper: ClassVar[str] = "Kim et al. 2023 (LA); Ritter et al. 2018"
    good_for: ClassVar[str] = "The paper's contrast to GEX; at its scale no better than chance at finding wrong labels"
    cost: ClassVar[str] = "2 N backward + eigendecompositions; samples x (N + M) forward"
    exempt: ClassVar[dict[str, str]] = {"rotated_inputs": "weights are drawn coordinate by coordinate"}
    learned: ClassVar[tuple[str, ...]] = ("settled_",)

    structure: Literal["kfac", "diagonal", "full"] = "kfac"
    linearised: bool = False
    samples: int = 32
    damping: float = 0.1
    scale: float = 1.0
    curvature: CurvatureName = "ggn"
    loss_floor: float = 0.0
    corrected: bool = False
    seed: int = 0

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_damping(self.damping)
        check_floor(self.loss_floor)
        if self.curvature == "hessian" and self.structure != "full":
            raise InvalidInput(f"structure={self.structure!r} is of the Fisher matrix; the Hessian takes 'full'")
        if self.samples < 1 or not self.scale > 0:
            raise InvalidInput(
                f"samples={self.samples}, scale={self.scale}: at least one draw and a scale above 0 are needed"
            )

    def _fit_work(self, study: Study) -> Work | None:
        if self.structure == "full" or self.linearised:
            return None
        train = len(study.train)
        inverse = kronecker_work(study) if self.structure == "kfac" else Work(forward=train) + swept(train)
        return inverse + Work(forward=(self.samples + 1) * self._watched(study))

    def _changes(self, study: Study, splits: list[str]) -> dict[str, Tensor]:
        inverse = self._inverse(study)
        self.settled_ = inverse.facts()
        root = inverse.root()
        bases = {split: reduced(study.losses(split), split).clamp_min(self.loss_floor) for split in splits}

        def changes(draw: Callable[[], Vectors]) -> dict[str, Tensor]:
            draws = draw()
            return {split: torch.stack(self._changed(study, split, draws, base)) for split, base in bases.items()}

        numbered = enumerate(self._draws(study, root))
        seen = [piece(f"draws-{number}", partial(changes, draw)) for number, draw in numbered]
        return {split: torch.cat([one[split] for one in seen]).T.contiguous() for split in splits}

    def _changed(self, study: Study, split: str, draws: Vectors, base: Tensor) -> list[Tensor]:
        """Changes of the losses of a dataset, for each draw."""
        every = self._outputs(study, split, draws)
        losses = (reduced(study.loss(outputs, study.split(split).labels), split) for outputs in every)
        return [found.clamp_min(self.loss_floor) - base for found in losses]

    def _draws(self, study: Study, root: InverseCurvature) -> Iterator[Callable[[], Vectors]]:
        r""":math:`\psi - \theta^*`, a few at a time; a draw does not depend on how many, or whether others are made."""
        parameters = {name: p for name, p in study.model.named_parameters() if p.requires_grad}
        size = sum(p.numel() * p.element_size() for p in parameters.values())
        at_once = max(1, min(_DRAW_BYTES // size, self.samples if self.linearised else _PASSES))  # they share sweeps
        generator = torch.Generator().manual_seed(self.seed)
        for some in track(torch.arange(self.samples).split(at_once), f"{self.title}: draws"):
            normal = [
                {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in parameters.items()}
                for _ in some
            ]
            stacked = {name: torch.stack([one[name] for one in normal]).to(p) for name, p in parameters.items()}
            yield partial(self._moved, study, root, stacked)

    def _moved(self, study: Study, root: InverseCurvature, normal: Vectors) -> Vectors:
        factor = self.scale / len(study.train) ** 0.5
        return {name: factor * moved for name, moved in root.apply(normal).vectors.items()}

    def _outputs(self, study: Study, split: str, draws: Vectors) -> Iterator[Tensor]:
        """The outputs of a dataset for each draw, [n, K] on the CPU."""
        data = study.split(split)
        if self.linearised:
            product = GaussNewton(study.model, study.loss, data)
            for change in product.output_changes(flatten(draws, product.shapes)):
                outputs = study.outputs(split)
                yield outputs + change.cpu().reshape(outputs.shape)
            return
        model = copy.deepcopy(study.model)
        start = {name: p.detach().clone() for name, p in model.named_parameters() if name in draws}
        parameters = dict(model.named_parameters())
        for m in range(len(next(iter(draws.values())))):
            with torch.no_grad():
                for name, value in start.items():
                    parameters[name].copy_(value + draws[name][m])
            yield model_outputs(model, data)

    def _inverse(self, study: Study) -> InverseCurvature:
        r""":math:`(H + (\lambda + \delta) I)^{-1}`."""
        ways: dict[str, tuple[str, dict[str, Any]]] = {
            "kfac": ("ekfac", {"corrected": self.corrected, "seed": self.seed}),
            "diagonal": ("diagonal", {"labels": "sampled", "relative_to": "tensor", "seed": self.seed}),
            "full": ("dense", {"curvature": self.curvature}),
        }
        name, options = ways[self.structure]
        decay = study.weight_decay
        size = sum(p.numel() for p in study.model.parameters() if p.requires_grad)
        if self.structure == "full" and size > dense.LARGEST:
            raise NotSupported(
                f"structure='full' decomposes a matrix of {size:,} x {size:,}, for models of up to {dense.LARGEST:,} "
                "parameters: use structure='kfac' or 'diagonal', or ConjugateGradient for influence with the whole "
                "matrix"
            )
        chosen = InverseSpec(name, options)
        return chosen.fit(study.model, study.loss, study.train, damping=self.damping, weight_decay=decay)

    def _facts(self) -> dict[str, Any]:
        return dict(self.settled_)
