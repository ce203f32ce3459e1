"""What GEX and its linearisation share: the members of a geometric ensemble."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.estimators.ensembles.loss_changes import LossChanges
from influence_core.estimators.work import Work, trained
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import Stream, check_sgd, cosine, norm_layers, refresh_statistics, shuffled_batches, step


@dataclass
class GeometricEnsemble(LossChanges):
    r"""The members :math:`\theta_m` of a geometric ensemble: the trained model after some more steps of SGD each.

    Batch normalisation uses batch statistics while a member is tuned; its running statistics are made anew once the
    member is ready. Members are tuned on the images as they are: augmentation is a function, which no hyper-parameter
    in a file can hold, and nothing here knows that inputs are images. The paper's code crops and flips.

    Args:
        members: M. The paper uses 32, and finds that 8 lose little.
        epochs: passes over the set per member. The paper says 800 steps of 1024 images, which is 16 passes over its
            50,000; its code runs 8 chains of 4 members with 128 images a step, which is about 2.
        learning_rate: at the start of a member. The code's pruning experiments take 0.01, constant, with clip=1.
        momentum: of SGD.
        weight_decay: lambda of the penalty lambda/2 ||w||^2.
        batch_size: samples per step: 1024 in the paper, 128 in its code.
        chain: members that follow each other; 1 makes every member start from the trained weights, 4 is the code's.
        refresh_batches: forward passes that make the running statistics anew.
        seed: of the order of the batches.
        schedule: "cosine" takes the learning rate to 0 by half a cosine; "constant" keeps it.
        clip: largest norm of a step's gradient, before weight decay; ``None`` for any.
        batch_statistics: whether batch normalisation uses batch statistics, and dropout drops, while a member is tuned;
            else both are as in scoring, and the running statistics stay those of the trained model.
        keep_momentum: whether a member goes on with the momentum of the one before it in its chain.
        tune_on: "train", or "validation" for the variant that the paper on flat validation minima compares with: what
            tuning on clean labels changes.
    """

    cost: ClassVar[str] = "members x epochs x N backward"
    reasons: ClassVar[dict[str, str]] = {"label_influence": "its ensemble is tuned on the given labels"}
    exempt: ClassVar[dict[str, str]] = {"order_of_training_images": "its members draw batches by place in the dataset"}

    members: int = 32
    epochs: float = 2.0
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    chain: int = 1
    refresh_batches: int = 50
    seed: int = 0
    schedule: Literal["cosine", "constant"] = field(default="cosine", kw_only=True)
    clip: float | None = field(default=None, kw_only=True)
    batch_statistics: bool = field(default=True, kw_only=True)
    keep_momentum: bool = field(default=False, kw_only=True)
    tune_on: Literal["train", "validation"] = field(default="train", kw_only=True)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.members < 1 or self.chain < 1 or self.batch_size < 2 or not 0 < self.epochs < math.inf:
            raise InvalidInput(
                f"members={self.members}, chain={self.chain}, batch_size={self.batch_size}, epochs={self.epochs}: at "
                "least one member, a chain of one, two samples a batch, and some training are needed"
            )
        check_sgd(self.learning_rate, self.momentum, self.weight_decay)
        if self.refresh_batches < 1:
            raise InvalidInput(
                f"refresh_batches is {self.refresh_batches}; at least one batch for the running statistics is needed"
            )
        if self.clip is not None and not self.clip > 0:
            raise InvalidInput(f"clip is {self.clip}; it is the largest norm of a gradient, above 0, or None")

    def _watched_members(self, study: Study, watch: Callable[[nn.Module], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What is to be seen of each member, in eval mode; a chain is a piece, as its members follow each other.

        Args:
            study: whose model they start from.
            watch: looks at a member, which changes afterwards.

        Returns:
            Name -> what was seen, [M, ...].
        """
        chains = torch.arange(self.members).split(self.chain)
        seen = []
        for number, chain in enumerate(track(chains, f"{self.title}: ensemble members")):
            seen.append(piece(f"chain-{number}", partial(self._watched_chain, study, chain.tolist(), watch)))
        return {name: torch.cat([one[name] for one in seen]) for name in seen[0]}

    def _watched_chain(
        self, study: Study, members: list[int], watch: Callable[[nn.Module], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        model, seen = copy.deepcopy(study.model), []
        optimiser = self._optimiser(model)
        for place, member in enumerate(track(members, f"{self.title}: ensemble members")):
            if place and not self.keep_momentum:
                optimiser = self._optimiser(model)
            self._tune(model, optimiser, study, self.seed + member)
            seen.append(watch(model))
        return {name: torch.stack([one[name] for one in seen]) for name in seen[0]}

    def _members_work(self, study: Study) -> Work:
        """The work of ``_watched_members``."""
        tuned = trained(len(study.split(self.tune_on)), self.epochs, self.batch_size)
        refreshed = self.batch_statistics and bool(norm_layers(study.model))
        return self.members * (tuned + Work(forward=self.refresh_batches * self.batch_size if refreshed else 0))

    def _needed(self, what: str | None) -> frozenset[str]:
        return super()._needed(what) | ({"validation"} if self.tune_on == "validation" else set())

    def _optimiser(self, model: nn.Module) -> torch.optim.SGD:
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        if self.clip is not None:
            optimiser.register_step_pre_hook(_clipping(parameters, self.clip))
        return optimiser

    def _tune(self, model: nn.Module, optimiser: torch.optim.SGD, study: Study, seed: int) -> None:
        data = study.split(self.tune_on)
        generator = torch.Generator().manual_seed(seed)
        batches = shuffled_batches(data, self.batch_size, generator, study.device)
        steps = max(1, round(self.epochs * len(data) / self.batch_size))
        stream = Stream(seed, study.device)
        model.train(self.batch_statistics)
        for i in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * (cosine(i / steps) if self.schedule == "cosine" else 1.0)
            with stream.current():
                step(model, optimiser, study.loss, *next(batches))
        model.eval()
        if self.batch_statistics:
            refresh_statistics(model, (next(batches)[0] for _ in range(self.refresh_batches)))


def _clipping(parameters: list[nn.Parameter], largest: float) -> Callable[..., None]:
    """A hook that shortens the gradient before a step."""

    def hook(*_: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, largest)

    return hook
