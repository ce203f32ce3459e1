"""The digits by softmax regression: convex, so that training without some images is exact, and takes a moment."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic

DECAY = 0.01
CLASSES = 10


def made(noise: float = 0.1, seed: int = 0) -> ic.Study:
    """Softmax regression on the digits at its minimum, float64, with checkpoints of a descent towards it.

    Args:
        noise: share of wrong labels.
        seed: of split and noise.

    Returns:
        The study: 1000 training, 300 validation and 497 test images.
    """
    splits = ic.data.digits(noise, seed)
    sets = [double(part) for part in (splits.train, splits.test, splits.validation)]
    model = regression()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    trajectory = ic.training.fit(
        model, sets[0], epochs=10, learning_rate=0.1, batch_size=64, weight_decay=DECAY, checkpoints=6
    )
    name = f"Softmax regression on digits, {noise:.0%} wrong labels, seed {seed}"
    study = ic.Study(model, *sets, trajectory, weight_decay=DECAY, name=name)
    for _ in range(50):
        moved = _newton(study)
        if moved < 1e-12:
            return study.replaced(model=study.model)
    raise AssertionError(f"no minimum: the last step was {moved:.1g}")


def regression() -> nn.Module:
    """The model, in float64 and eval mode."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).double().eval()


def double(data: ic.data.LabelledDataset) -> ic.data.LabelledDataset:
    """The same images in float64.

    Args:
        data: images in float32.

    Returns:
        The dataset, with labels and true labels.
    """
    inputs, labels = data.batch(range(len(data)))
    return ic.data.LabelledDataset(
        TensorDataset(inputs.double(), labels), true_labels=data.true_labels, class_names=data.class_names
    )


class Exact:
    """Trains without some images, from the minimum with all of them, by Newton steps.

    Args:
        study: from ``made``.
        fixed: whether the loss keeps its divisor N, as influence assumes; else it is the mean over the images kept,
            whose weight decay then weighs less beside each of them.
    """

    def __init__(self, study: ic.Study, fixed: bool = True) -> None:
        inputs, self.labels = study.train.batch(range(len(study.train)))
        self.x = _with_one(inputs)
        self.start = _weights(study.model)
        self.fixed = fixed
        self.factor = torch.linalg.cholesky(_hessian(self.x, self.start, len(self.x)))

    def __call__(self, study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
        """As ``ic.evaluation.Retrain``; the seed changes nothing.

        Args:
            study: of the same training images.
            kept: ids of those to train on.
            seed: not used.

        Returns:
            The model at the minimum.
        """
        x, labels, weights = self.x[kept], self.labels[kept], self.start.clone()
        divisor = len(self.x) if self.fixed else len(kept)
        factor, before = self.factor, float("inf")
        for _ in range(200):
            gradient = _gradient(x, labels, weights, divisor)
            norm = float(gradient.norm())
            if norm < 1e-9:
                break
            if norm > before / 2:  # too far from where the Hessian was taken
                factor = torch.linalg.cholesky(_hessian(x, weights, divisor))
            before = norm
            weights -= torch.cholesky_solve(gradient.reshape(-1, 1), factor).view_as(weights)
        else:
            raise AssertionError(f"no minimum without {len(self.x) - len(kept)} images")
        model = regression()
        _set(model, weights)
        return model


def _newton(study: ic.Study) -> float:
    """One step of the study's model towards its minimum; the length of the step."""
    inputs, labels = study.train.batch(range(len(study.train)))
    x, weights = _with_one(inputs), _weights(study.model)
    step = torch.linalg.solve(_hessian(x, weights, len(x)), _gradient(x, labels, weights, len(x)).flatten())
    _set(study.model, weights - step.view_as(weights))
    return float(step.norm())


def _gradient(x: Tensor, labels: Tensor, weights: Tensor, divisor: int) -> Tensor:
    p = (x @ weights.T).softmax(1)
    p[torch.arange(len(x)), labels] -= 1
    return p.T @ x / divisor + DECAY * weights


def _hessian(x: Tensor, weights: Tensor, divisor: int) -> Tensor:
    p = (x @ weights.T).softmax(1)
    width = x.shape[1]
    dense = torch.zeros(CLASSES, width, CLASSES, width, dtype=torch.float64)
    for a in range(CLASSES):
        for b in range(CLASSES):
            spread = p[:, a] * (float(a == b) - p[:, b])
            dense[a, :, b] = x.T @ (x * spread[:, None]) / divisor
    dense = dense.reshape(CLASSES * width, -1)
    dense.diagonal().add_(DECAY)
    return dense


def _with_one(inputs: Tensor) -> Tensor:
    return torch.cat([inputs.flatten(1), inputs.new_ones(len(inputs), 1)], 1)


def _weights(model: nn.Module) -> Tensor:
    weight, bias = (parameter.detach() for parameter in model.parameters())
    return torch.cat([weight, bias[:, None]], 1).clone()


def _set(model: nn.Module, weights: Tensor) -> None:
    model.load_state_dict({"1.weight": weights[:, :-1], "1.bias": weights[:, -1]})
