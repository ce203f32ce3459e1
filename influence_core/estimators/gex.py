"""Geometric ensembles: GEX and its linearisation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.estimators.loss_changes import LossChanges, check_floor, reduced
from influence_core.gradients import inner_products
from influence_core.progress import track
from influence_core.study import Study, model_outputs
from influence_core.training import Stream, check_sgd, cosine, refresh_statistics, shuffled_batches, step


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
        if self.schedule not in ("cosine", "constant"):
            raise InvalidInput(f"schedule is {self.schedule!r}; choose 'cosine' or 'constant'")
        if self.clip is not None and not self.clip > 0:
            raise InvalidInput(f"clip is {self.clip}; it is the largest norm of a gradient, above 0, or None")
        if self.tune_on not in ("train", "validation"):
            raise InvalidInput(f"tune_on is {self.tune_on!r}; choose 'train' or 'validation'")

    def _ensemble(self, study: Study) -> Iterator[nn.Module]:
        """The members one after the other, in eval mode; each may be changed in place once the next is asked for."""
        for member in track(range(self.members), f"{self.title}: ensemble members"):
            if member % self.chain == 0:
                model = copy.deepcopy(study.model)
            if member % self.chain == 0 or not self.keep_momentum:
                optimiser = self._optimiser(model)
            self._tune(model, optimiser, study, self.seed + member)
            yield model

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
    cost: ClassVar[str] = "members x epochs x N backward + members x (N + M) forward"

    loss_floor: float = 0.0
    floor_sides: Literal["both", "baseline"] = "both"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_floor(self.loss_floor)
        if self.floor_sides not in ("both", "baseline"):
            raise InvalidInput(f"floor_sides is {self.floor_sides!r}; choose 'both' or 'baseline'")

    def _changes(self, study: Study, splits: list[str]) -> dict[str, Tensor]:
        bases = {split: reduced(study.losses(split), split).clamp_min(self.loss_floor) for split in splits}
        changes: dict[str, list[Tensor]] = {split: [] for split in splits}
        floor = self.loss_floor if self.floor_sides == "both" else 0.0
        for model in self._ensemble(study):
            for split, base in bases.items():
                data = study.split(split)
                losses = reduced(study.loss(model_outputs(model, data), data.labels), split)
                changes[split].append(losses.clamp_min(floor) - base)
        return {split: torch.stack(columns, dim=1) for split, columns in changes.items()}


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
    cost: ClassVar[str] = "members x epochs x N backward + (N + M) backward"

    def _changes(self, study: Study, splits: list[str]) -> dict[str, Tensor]:
        start = {name: p.detach() for name, p in study.model.named_parameters() if p.requires_grad}
        moved: dict[str, list[Tensor]] = {name: [] for name in start}
        for model in self._ensemble(study):
            for name, parameter in model.named_parameters():
                if name in moved:
                    moved[name].append(parameter.detach() - start[name])
        vectors = {name: torch.stack(differences) for name, differences in moved.items()}
        return {
            split: reduced(inner_products(study.model, study.loss, study.split(split), vectors), split).cpu()
            for split in splits
        }


def _clipping(parameters: list[nn.Parameter], largest: float) -> Callable[..., None]:
    """A hook that shortens the gradient before a step."""

    def hook(*_: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, largest)

    return hook
