"""Influence functions of the last layer alone: LastLayer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from influence_core.batches import id_batches
from influence_core.curvature import output_hessian
from influence_core.curvature.inverses import CholeskyInverse, ConjugateGradients, InverseCurvature, check_damping
from influence_core.errors import NotSupported
from influence_core.estimators.answers import Answer, Changed
from influence_core.estimators.changes import DataChange
from influence_core.estimators.influence_functions.base import InfluenceFunction
from influence_core.estimators.influence_functions.solving import TYPICAL_STEPS
from influence_core.estimators.work import NUMBER, Work, swept
from influence_core.gradients import squared_norms
from influence_core.models import final_linear, layer_inputs
from influence_core.scores import Coverage
from influence_core.study import Study

CHOLESKY_SIZE = 5200
"""Up to so many parameters the matrix is kept and factorised (5,130 are a ResNet-18's for ten classes); beyond,
conjugate gradients solve."""

TOLERANCE = 1e-5
"""Of conjugate gradients."""

MOST_PRODUCTS = 1000

COVERAGE_SAMPLES = 256


@dataclass
class LastLayer(InfluenceFunction):
    r"""Influence functions of the last linear layer, all below it frozen (Koh and Liang 2017, section 5.1).

    With the layer's inputs :math:`\tilde a = [a; 1]` and the residual r = p - e_y, a gradient is
    :math:`r\otimes\tilde a`, and the Hessian of the layer is its Gauss-Newton matrix

    .. math:: H = E[(\mathrm{diag}\,p - p p^\top)\otimes\tilde a\tilde a^\top] + (\lambda + \delta) I, \qquad
              h(k, v) = \tfrac1N \nabla\ell_v^\top H^{-1}\nabla\ell_k .

    Positive is helpful. Adding one number to all logits changes nothing, so that without weight decay H is singular
    and damping is needed. The inputs of the layer are computed once; everything else is work on one layer, by
    Cholesky's factorisation where K (d + 1) is small. The scores say which share of the gradient norm this layer
    carries: what the layers below it learned from an image is not seen. Self-influence is the mislabel score.

    Args:
        damping: :math:`\delta` as a multiple of the mean diagonal of H.
    """

    name: ClassVar[str] = "lastlayer"
    title: ClassVar[str] = "Last layer"
    paper: ClassVar[str] = "Koh and Liang 2017 (last layer)"
    good_for: ClassVar[str] = "Predicts retraining nearly as well as TRAK, in a moment, from the last layer alone"
    cost: ClassVar[str] = "N forward + one factorisation; a test image 1 forward"
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("features_", "path_", "norm_share_")

    damping: float = 0.1

    def _check_parameters(self) -> None:
        check_damping(self.damping)

    def _fit(self, study: Study) -> None:
        self.path_ = self._layer(study)
        self.features_ = layer_inputs(study.model, self.path_, study.train)
        self.inverse_ = self._fit_inverse(study)
        self.norm_share_ = self._norm_share(study)

    def _norm_share(self, study: Study) -> float:
        """Share of the gradients' squared norm that is the layer's, on some training images, spread evenly."""
        size = len(study.train)
        count = min(size, COVERAGE_SAMPLES)
        ids = torch.arange(count) * size // count
        rows = (self.features_[ids], study.train.labels[ids])
        own = squared_norms(study.model.get_submodule(self.path_), study.loss, rows).sum(dtype=torch.float64)
        every = squared_norms(study.model, study.loss, study.train.subset(ids)).sum(dtype=torch.float64)
        return float(own / every) if float(every) else 1.0

    def _fit_inverse(self, study: Study) -> InverseCurvature:
        layer = study.model.get_submodule(self.path_)
        shapes = {name: tuple(p.shape) for name, p in layer.named_parameters() if p.requires_grad}
        decay = study.weight_decay
        if sum(p.numel() for p in layer.parameters() if p.requires_grad) > CHOLESKY_SIZE:
            samples = (self.features_, study.train.labels)
            return ConjugateGradients.fit(
                layer,
                study.loss,
                samples,
                damping=self.damping,
                weight_decay=decay,
                tolerance=TOLERANCE,
                max_iterations=MOST_PRODUCTS,
            )
        dense = self._dense(study, layer)
        damping = self.damping * float(dense.diagonal().mean())
        dense.diagonal().add_(decay + damping)
        factor, failed = torch.linalg.cholesky_ex(dense)
        if int(failed):
            raise NotSupported(
                "the last layer's Hessian is singular: adding one number to all logits changes no loss. Use a damping "
                "above 0, or a study with weight decay"
            )
        return CholeskyInverse(factor, shapes, damping, decay)

    def _layer(self, study: Study) -> str:
        path = final_linear(study.model, study.train.batch([0])[0])
        if path is None:
            raise NotSupported(
                f"the model {type(study.model).__name__} does not end in a linear layer of its own whose output is the "
                "logits; ConjugateGradient, EKFAC and Arnoldi take any model"
            )
        if not study.model.get_parameter(f"{path}.weight".lstrip(".")).requires_grad:
            raise NotSupported(f"the last layer {path!r} is frozen: call requires_grad_(True) on its weight")
        return path

    def _dense(self, study: Study, layer: nn.Module) -> Tensor:
        """H without shifts, float64, in the order of the layer's parameters: weight row by row, then bias."""
        classes, features = study.num_outputs, self.features_.shape[1]
        width = features + (layer.bias is not None and bool(layer.bias.requires_grad))
        dense = torch.zeros(classes, width, classes, width, dtype=torch.float64, device=self.features_.device)
        for ids in id_batches(len(self.features_)):
            with torch.no_grad():
                outputs = layer(self.features_[ids])
            curvature = output_hessian(study.loss, outputs, study.train.labels[ids].to(outputs.device)).double()
            inputs = self.features_[ids].double()
            if width > features:
                inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
            for i in range(classes):
                for j in range(i, classes):
                    dense[i, :, j] += inputs.T @ (inputs * curvature[:, i, j, None])
        for i in range(classes):
            for j in range(i):
                dense[i, :, j] = dense[j, :, i]
        places = torch.arange(classes * width, device=dense.device).reshape(classes, width)
        order = torch.cat([places[:, :features].flatten(), places[:, features:].flatten()])
        return dense.reshape(classes * width, -1)[order][:, order] / len(self.features_)

    def _query_model(self) -> nn.Module:
        return self.study_.model.get_submodule(self.path_)

    def _samples(self, split: str, ids: Tensor | None = None) -> Any:
        data = self.study_.split(split)
        chosen = data if ids is None else data.subset(ids)
        if split == "train":
            return (self.features_ if ids is None else self.features_[ids], chosen.labels)
        return layer_inputs(self.study_.model, self.path_, chosen), chosen.labels

    def _self_influence(self) -> Answer:
        return self._self_by_solving()

    def _mislabel_scores(self) -> Answer:
        return self._self_influence()

    def _parameter_change(self, change: DataChange) -> Changed:
        solved = self.inverse_.apply(self._taken_away(self._train_model(), change))
        prefix = f"{self.path_}." if self.path_ else ""
        return Changed({prefix + name: moved[0] for name, moved in solved.vectors.items()}, solved.facts)

    def _coverage(self) -> Coverage:
        """Exact for parameters; the share of the norm is that of some training images."""
        study = self.study_
        sizes = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (self._train_model(), study.model)]
        return Coverage(sizes[0] / sizes[1], self.norm_share_)

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"layer": self.path_}

    def _unsuited(self, study: Study) -> list[str]:
        path = final_linear(study.model, study.train.batch([0])[0])
        fits = path is not None and study.model.get_parameter(f"{path}.weight".lstrip(".")).requires_grad
        return [] if fits else ["a last layer that is linear and trained"]

    def _disk(self, study: Study) -> float:
        size = study.num_outputs * self._width(study)
        return float(NUMBER * (len(study.train) * (self._width(study) + 2 * study.num_outputs) + size**2))

    def _fit_work(self, study: Study) -> Work:
        train, classes = len(study.train), study.num_outputs
        width = self._width(study)
        size, rows = classes * width, 8.0 * train * (width + 2 * classes)
        products = Work(held=rows)
        if size <= CHOLESKY_SIZE:
            algebra = train * classes * (classes + 1) / 2 * width**2 + size**3 / 3
            products = Work(algebra=algebra, held=rows + 16.0 * size**2)
        return Work(forward=train) + products + swept(min(train, COVERAGE_SAMPLES))

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        """All but the forward pass of the test images is of one layer."""
        train, size = len(study.train), study.num_outputs * self._width(study)
        queries = train if what in ("self_influence", "mislabel_scores") else tests
        solve = 2 * size**2 if size <= CHOLESKY_SIZE else TYPICAL_STEPS * train * 4 * size
        answer = Work(algebra=queries * (solve + train * size))
        return answer + Work(forward=tests if what == "influence" else 0)

    def _width(self, study: Study) -> int:
        """Numbers that go into an output of the layer, the bias included."""
        layer = study.model.get_submodule(self._layer(study))
        return sum(p.numel() for p in layer.parameters()) // study.num_outputs
