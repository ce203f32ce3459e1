"""What all methods at a minimum of the validation loss share: tuning the trained model on the validation set."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.work import Work, passes_of, trained
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import Sharpness, Solver, Stream, check_sgd, cosine, shuffled_batches, step


@dataclass
class ValidationTuned(Estimator):
    """Works at a model that was tuned on the clean validation set from the trained weights on, by SGD."""

    needs: ClassVar[frozenset[str]] = frozenset({"validation"})

    steps: int = 1000
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    batch_statistics: bool = True
    seed: int = 0

    def _check_parameters(self) -> None:
        if self.steps < 0 or self.batch_size < 2:
            raise InvalidInput(
                f"steps={self.steps}, batch_size={self.batch_size}: steps from 0 and two samples a batch are needed"
            )
        check_sgd(self.learning_rate, self.momentum, self.weight_decay)
        self._sharpness()

    def _sharpness(self) -> Sharpness:
        return Sharpness("sam", rho=0.0)

    def _tuned_work(self, study: Study) -> Work:
        """The work of ``_tuned``."""
        size = len(study.split("validation"))
        epochs = self.steps / math.ceil(size / self.batch_size)
        return trained(size, epochs, self.batch_size, passes_of(self._sharpness()))

    def _tuned(self, study: Study) -> nn.Module:
        """The model after tuning on the validation set, in eval mode; its weights are a piece of the work."""
        model = copy.deepcopy(study.model)
        tuned = piece("tuned", lambda: _weights(self._tune(copy.deepcopy(study.model), study)))
        with torch.no_grad():
            for name, tensor in _weights(model).items():
                tensor.copy_(tuned[name])
        return model.eval()

    def _tune(self, model: nn.Module, study: Study) -> nn.Module:
        """Take the steps with a model, which is given back."""
        generator = torch.Generator().manual_seed(self.seed)
        batches = shuffled_batches(study.split("validation"), self.batch_size, generator, study.device)
        base = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        optimizer = self._sharpness().around(base, model, self.seed)
        stream = Stream(self.seed, study.device)
        model.train(self.batch_statistics)
        for i in track(range(self.steps), f"{self.title}: tuning on the validation set"):
            for group in base.param_groups:
                group["lr"] = self.learning_rate * cosine(i / self.steps)
            with stream.current():
                step(model, optimizer, study.loss, *next(batches))
        return model


@dataclass
class FlatValidationTuned(ValidationTuned):
    """The same with a sharpness-aware optimiser around SGD, at a *flat* minimum of the validation loss.

    Args:
        sharpness: "sam", "asam", "fsam" or "lpf", or ``ic.training.Sharpness`` with the optimiser's options.
        rho: radius of the ascent, where ``sharpness`` is a name; ``None`` for the optimiser's own default: SAM 0.05,
            ASAM 0.5, F-SAM 0.2. 0 leaves the ascent out.
    """

    former: ClassVar[dict[str, str]] = {"solver": "it is called sharpness"} | {
        option: f"give sharpness=ic.training.Sharpness(..., {option}=...)"
        for option in ("eta", "sigma", "decay", "gamma", "parts")
    }

    sharpness: Solver | Sharpness = "sam"
    rho: float | None = None

    def _sharpness(self) -> Sharpness:
        if self.sharpness == "lpf" and self.rho is not None:
            raise InvalidInput(f"rho is {self.rho}, but LPF-SGD has no ascent: give gamma, Sharpness('lpf', gamma=...)")
        if not isinstance(self.sharpness, Sharpness):
            return Sharpness(self.sharpness, rho=self.rho)
        if self.rho is not None:
            raise InvalidInput(
                f"rho={self.rho} and sharpness={self.sharpness!r}: give the radius once, as Sharpness(..., rho=...)"
            )
        return self.sharpness


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters and buffers, those that no state dict holds included."""
    return dict(model.named_parameters()) | dict(model.named_buffers())
