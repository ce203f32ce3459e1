"""Geometric ensembles: GEX."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.progress import track
from influence_core.study import Study, model_outputs
from influence_core.training import cosine, refresh_statistics, shuffled_batches, step


@dataclass
class GEX(Estimator):
    r"""Influence without gradients, from an ensemble around the trained weights (Kim et al. 2023, "GEX", Algorithm 2).

    Each member :math:`\theta_m` is the trained model after some more steps on the (noisy) training loss. With
    :math:`\Delta_m(z) = \max(\ell(z, \theta_m), f) - \max(\ell(z, \theta^*), f)` and f the loss floor,

    .. math:: h(z, z') = \frac1M\sum_m \Delta_m(z')\,\Delta_m(z), \qquad s(z) = \frac1M\sum_m \Delta_m(z)^2 .

    Positive is helpful: where fine-tuning forgets the training image, it forgets the test image as well. Batch
    normalisation uses batch statistics while a member is tuned; its running statistics are made anew once the member
    is ready.

    The paper's code floors the baseline alone. Then every image that the model is certain of (loss near 0) shows a
    change of -f that never happened, which ranks certain images above memorised ones once the model fits its training
    set; with the floor on both sides such an image shows no change. ``floor_sides="baseline"`` gives the code's
    version.

    Args:
        members: M. The paper uses 32; 8 lose little.
        epochs: passes over the training set per member. The paper's code takes about 2 (800 steps in all of 4 stages).
        learning_rate: at the start of a member; half a cosine takes it to 0.
        momentum: of SGD, which starts anew with each member.
        weight_decay: lambda of the penalty lambda/2 ||w||^2.
        batch_size: samples per step.
        chain: members that follow each other; 1 makes every member start from the trained weights.
        loss_floor: f in nats; changes among losses below it count as none. 0 turns it off.
        floor_sides: "both", or "baseline" as in the paper's code.
        refresh_batches: forward passes that make the running statistics anew.
        seed: of the order of the batches.
    """

    name: ClassVar[str] = "gex"
    title: ClassVar[str] = "GEX"
    paper: ClassVar[str] = "Kim et al. 2023"
    cost: ClassVar[str] = "members x epochs x N backward + members x (N + M) forward"
    reasons: ClassVar[dict[str, str]] = {"label_influence": "its ensemble is tuned on the given labels"}
    exempt: ClassVar[dict[str, str]] = {"order_of_training_images": "its members draw batches by place in the dataset"}

    members: int = 32
    epochs: float = 2.0
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    chain: int = 1
    loss_floor: float = 0.05
    floor_sides: Literal["both", "baseline"] = "both"
    refresh_batches: int = 50
    seed: int = 0

    def _check_parameters(self) -> None:
        if self.members < 1 or self.chain < 1 or self.batch_size < 2 or self.epochs <= 0:
            raise InvalidInput(
                f"members={self.members}, chain={self.chain}, batch_size={self.batch_size}, epochs={self.epochs}: at "
                "least one member, a chain of one, two samples a batch, and some training are needed"
            )
        if self.learning_rate <= 0 or self.refresh_batches < 1:
            raise InvalidInput(
                f"learning_rate={self.learning_rate}, refresh_batches={self.refresh_batches}: a positive learning rate "
                "and at least one batch for the running statistics are needed"
            )
        if self.loss_floor < 0:
            raise InvalidInput(f"loss_floor is {self.loss_floor}; it is a loss in nats, 0 or more")
        if self.floor_sides not in ("both", "baseline"):
            raise InvalidInput(f"floor_sides is {self.floor_sides!r}; choose 'both' or 'baseline'")

    def _fit(self, study: Study) -> None:
        bases = {split: study.losses(split).clamp_min(self.loss_floor) for split in ("train", "test")}
        changes: dict[str, list[Tensor]] = {"train": [], "test": []}
        model = copy.deepcopy(study.model)
        for member in track(range(self.members), "GEX: ensemble members"):
            if member % self.chain == 0:
                model = copy.deepcopy(study.model)
            self._tune(model, study, self.seed + member)
            for split, base in bases.items():
                data = study.split(split)
                losses = study.loss(model_outputs(model, data), data.labels)
                floor = self.loss_floor if self.floor_sides == "both" else 0.0
                changes[split].append(losses.clamp_min(floor) - base)
        self.train_changes_ = torch.stack(changes["train"], dim=1)
        self.test_changes_ = torch.stack(changes["test"], dim=1)

    def _tune(self, model: nn.Module, study: Study, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        batches = shuffled_batches(study.train, self.batch_size, generator, study.device)
        base = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        steps = max(1, round(self.epochs * len(study.train) / self.batch_size))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.train()
            for i in range(steps):
                for group in base.param_groups:
                    group["lr"] = self.learning_rate * cosine(i / steps)
                step(model, base, study.loss, *next(batches))
            model.eval()
        refresh_statistics(model, (next(batches)[0] for _ in range(self.refresh_batches)))

    def _influence(self, test_ids: Tensor) -> Tensor:
        return self.train_changes_ @ self.test_changes_[test_ids].T / self.members

    def _self_influence(self) -> Tensor:
        return self.train_changes_.square().mean(1)

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()
