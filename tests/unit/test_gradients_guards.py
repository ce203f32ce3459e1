"""What cannot be right is refused, by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from influence_core.gradients import GradientError, MixedSamplesError, squared_norms
from tests.cases import cross_entropy, squares

DATA = (torch.randn(6, 4), torch.randint(0, 3, (6,)))
IMAGES = (torch.randn(6, 3, 4, 4), torch.randint(0, 3, (6,)))


def test_batch_norm_in_training_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(MixedSamplesError, match=r"1 \(BatchNorm1d\).*model\.eval\(\)"):
        squared_norms(model.train(), cross_entropy, DATA)
    assert (squared_norms(model.eval(), cross_entropy, DATA) > 0).all()


def test_batch_norm_without_running_statistics() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(MixedSamplesError, match=r"1 \(BatchNorm1d\) keeps no running statistics"):
        squared_norms(model, cross_entropy, DATA)


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.1), nn.MultiheadAttention(4, 1, dropout=0.1), nn.RReLU(), nn.LSTM(4, 4, 2, dropout=0.5)]
)
def test_active_dropout(layer: nn.Module) -> None:
    model = nn.ModuleDict({"noisy": layer})
    with pytest.raises(GradientError, match=rf"noisy \({type(layer).__name__}\) is an active dropout"):
        squared_norms(model.train(), cross_entropy, DATA)


def test_dropout_of_zero_is_fine_in_training_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0)).train()
    assert (squared_norms(model, cross_entropy, DATA) > 0).all()


def test_instance_norm_that_would_change_its_statistics() -> None:
    model = nn.Sequential(nn.InstanceNorm2d(3, affine=True, track_running_stats=True), nn.Flatten(), nn.Linear(48, 3))
    with pytest.raises(GradientError, match=r"0 \(InstanceNorm2d\)"):
        squared_norms(model.train(), cross_entropy, IMAGES)


def test_embeddings_that_look_at_the_batch_or_rewrite_themselves() -> None:
    words = (torch.randint(0, 5, (6, 2)), DATA[1])
    for options, message in (({"scale_grad_by_freq": True}, "frequencies"), ({"max_norm": 1.0}, "max_norm")):
        model = nn.Sequential(nn.Embedding(5, 4, **options), nn.Flatten(), nn.Linear(8, 3)).eval()
        with pytest.raises(GradientError, match=message):
            squared_norms(model, cross_entropy, words)


def test_parameters_that_are_not_finite() -> None:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.bias[1] = float("nan")
    with pytest.raises(GradientError, match="'bias' holds values that are not finite"):
        squared_norms(model, cross_entropy, DATA)


def centred(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - outputs.mean(0)).square().sum(1)


def normalised(outputs: Tensor, labels: Tensor) -> Tensor:
    losses = F.cross_entropy(outputs, labels, reduction="none")
    return losses / losses.detach().sum()


@pytest.mark.parametrize("loss", [centred, normalised])
def test_a_loss_that_mixes_samples(loss: object) -> None:
    with pytest.raises(MixedSamplesError, match="the loss mixes samples"):
        squared_norms(nn.Linear(4, 3), loss, DATA)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [F.cross_entropy, lambda o, y: o.square(), lambda o, y: 1.0])
def test_a_loss_that_is_not_one_value_per_sample(loss: object) -> None:
    with pytest.raises(GradientError, match='reduction="none"'):
        squared_norms(nn.Linear(4, 3), loss, DATA)  # type: ignore[arg-type]


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


class Noisy(Mixing):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.dropout(x))


@pytest.mark.parametrize("model", [Mixing(), Noisy()])
def test_a_model_that_mixes_samples_or_is_random(model: nn.Module) -> None:
    torch.manual_seed(0)
    with pytest.raises(MixedSamplesError, match="the model's output"):
        squared_norms(model.eval(), squares, DATA)


class Overwriting(nn.Module):
    """Changes a layer's input after the layer has seen it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        out = self.second(hidden)
        hidden += 1.0
        return out + hidden


def test_an_input_changed_in_place() -> None:
    with pytest.raises(GradientError, match=r"input of 'second' was changed in place.*x = x \+ y"):
        squared_norms(Overwriting(), squares, DATA, batch_size=3)
