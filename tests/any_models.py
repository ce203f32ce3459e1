"""Models and data that are no images with classes, in float64, and literal gradients of single samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import SampleSet
from influence_core.training import Checkpoint, Recipe, Trajectory

WORDS, LONGEST, CLASSES = 13, 64, 3
LENGTHS = (1, 7, 64, 2, 33, 5, 12, 3, 20, 9)


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half squared error, of outputs and labels of one shape."""
    return 0.5 * (outputs - labels).reshape(len(outputs), -1).square().sum(1)


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy that the package does not know by name."""
    return F.cross_entropy(outputs, labels, reduction="none")


def token_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every token that has a label, summed over the tokens of each sample."""
    losses = F.cross_entropy(outputs.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    return losses.sum(1)


class Squeezed(nn.Module):
    """A regression model with one number per sample, shape [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[:, 0]


class TwoInputs(nn.Module):
    """Positional inputs of two kinds; a bare parameter takes the fallback for the whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        return self.head(torch.tanh(x * self.scale + self.words(word)))


class Encoder(nn.Module):
    """Token ids and a mask, attention, and the mean of what is no padding."""

    def __init__(self, norm_first: bool = False, heeds_mask: bool = True, layers: int = 1) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 8), nn.Embedding(LONGEST, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)
        self.heeds_mask = heeds_mask

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.words(input_ids) + self.places(places)
        return self.encoder(x, src_key_padding_mask=attention_mask == 0 if self.heeds_mask else None)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        mask = attention_mask[:, :, None].to(self.head.weight.dtype)
        return self.head((self.hidden(input_ids, attention_mask) * mask).sum(1) / mask.sum(1))


@dataclass
class Answer:
    """What models of libraries answer with."""

    logits: Tensor
    hidden: Tensor


class Answering(Encoder):
    """An encoder that answers with an object."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return Answer(super().forward(input_ids, attention_mask), self.words(input_ids))


class Tagger(Encoder):
    """One row of outputs for every token, in a mapping."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return {"logits": self.head(self.hidden(input_ids, attention_mask)), "other": None}


class Convolved(nn.Module):
    """Convolutions over tokens, with padding set to zero before each."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first = nn.Embedding(WORDS, 6), nn.Conv1d(6, 5, 3, padding=1)
        self.second, self.head = nn.Conv1d(5, 5, 3, padding=1), nn.Linear(5, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[:, None].to(self.head.weight.dtype)
        x = torch.tanh(self.first(self.words(input_ids).transpose(1, 2) * mask))
        x = torch.tanh(self.second(x * mask)) * mask
        return self.head(x.sum(2) / mask.sum(2))


def pad(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What a tokenizer's collator does: ids, mask and labels, as long as the longest."""
    length = max(len(sample["input_ids"]) for sample in samples)

    def padded(name: str, filler: int) -> Tensor:
        return torch.stack([F.pad(s[name], (0, length - len(s[name])), value=filler) for s in samples])

    labels = [torch.as_tensor(sample["labels"]) for sample in samples]
    return {
        "input_ids": padded("input_ids", 0),
        "attention_mask": torch.stack([(torch.arange(length) < len(s["input_ids"])).long() for s in samples]),
        "labels": padded("labels", -100) if labels[0].dim() else torch.stack(labels),
    }


def sentences(count: int, seed: int, tagged: bool = False) -> SampleSet:
    """Sentences of unequal length with one class each, or one for each token."""
    torch.manual_seed(seed)
    lengths = [LENGTHS[(i + 3 * seed) % len(LENGTHS)] for i in range(count)]
    made = [
        {
            "input_ids": torch.randint(1, WORDS, (length,)),
            "labels": torch.randint(CLASSES, (length,) if tagged else ()),
        }
        for length in lengths
    ]
    return SampleSet(made, collate=pad)


def numbers(count: int, seed: int, shape: tuple[int, ...] = (1,)) -> TensorDataset:
    """Regression data."""
    torch.manual_seed(seed)
    return TensorDataset(torch.randn(count, 4).double(), torch.randn(count, *shape).double())


def pairs(count: int, seed: int) -> TensorDataset:
    """Two inputs and a row of numbers."""
    torch.manual_seed(seed)
    return TensorDataset(torch.randn(count, 4).double(), torch.randint(5, (count,)), torch.randn(count, 2).double())


def mlp(outputs: int = 1) -> nn.Module:
    """A regression model with outputs [B, K]."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs))


@dataclass(frozen=True)
class General:
    """A model with data and a loss.

    Attributes:
        name: shown by pytest.
        build: gives the model; called after seeding.
        data: number of samples and seed -> data.
        loss: one loss per sample.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[int, int], Any]
    loss: Callable[[Tensor, Tensor], Tensor]

    def model(self, seed: int = 0) -> nn.Module:
        """In float64 and eval mode."""
        torch.manual_seed(seed)
        return self.build().double().eval()

    def study(self, train: int = 10, test: int = 4, **parts: Any) -> ic.Study:
        """With two checkpoints and a little weight decay."""
        rates = {1: 0.3, 2: 0.5}
        states = [
            Checkpoint(step, float(step), rate, rate, 0.0, self.model(2 - step).state_dict())
            for step, rate in rates.items()
        ]
        trajectory = Trajectory(states, Recipe("sgd", 0.1, 0.0, 1e-2, 0.0, 4, 2))
        own = {"validation": self.data(6, 3), "trajectory": trajectory, "loss": self.loss, "weight_decay": 1e-2}
        return ic.Study(self.model(), self.data(train, 1), self.data(test, 2), **(own | parts))


GENERAL = [
    General("regression rows", mlp, numbers, squared),
    General("regression one number", Squeezed, lambda n, seed: numbers(n, seed, ()), squared),
    General("two inputs", TwoInputs, pairs, squared),
    General("encoder", Encoder, sentences, cross_entropy),
    General("encoder norm first", lambda: Encoder(norm_first=True, layers=2), sentences, cross_entropy),
    General("output is an object", Answering, sentences, cross_entropy),
    General("convolutions over tokens", Convolved, sentences, cross_entropy),
    General("a class for each token", Tagger, lambda n, seed: sentences(n, seed, tagged=True), token_loss),
]


def alone(model: nn.Module, data: SampleSet, index: int) -> tuple[Tensor, Tensor]:
    """Outputs and label of one sample that nothing pads, from the user's own model, by plain calls."""
    inputs, labels = data.batch([index])
    with ic.gradients.plain_attention():
        answer = model(inputs) if isinstance(inputs, Tensor) else model(*inputs.args, **inputs.kwargs)
    return tensor_of(answer), labels


def tensor_of(answer: Any) -> Tensor:
    """The outputs in an answer of any of the models above."""
    found: Tensor = answer["logits"] if isinstance(answer, dict) else getattr(answer, "logits", answer)
    return found


def rows(model: nn.Module, loss: Callable[..., Tensor], data: SampleSet) -> Tensor:
    """Gradients of single samples by plain autograd, [N, P]."""
    found = []
    for index in range(len(data)):
        outputs, labels = alone(model, data, index)
        gradients = torch.autograd.grad(loss(outputs, labels).sum(), list(model.parameters()), allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, model.parameters(), strict=True)]
        found.append(torch.cat([g.flatten() for g in filled]))
    return torch.stack(found)


def gauss_newton(model: nn.Module, loss: Callable[..., Tensor], data: SampleSet) -> Tensor:
    """Mean of J' C J by plain autograd, one output at a time, [P, P]."""
    parameters = list(model.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters), sum(p.numel() for p in parameters)).double()
    for index in range(len(data)):
        outputs, labels = alone(model, data, index)
        jacobian = torch.stack(
            [
                torch.cat(
                    [
                        (torch.zeros_like(p) if g is None else g).flatten()
                        for g, p in zip(
                            torch.autograd.grad(o, parameters, retain_graph=True, allow_unused=True),
                            parameters,
                            strict=True,
                        )
                    ]
                )
                for o in outputs.flatten()
            ]
        )
        count = outputs.numel()
        curvature: Any = torch.autograd.functional.hessian(lambda o, y=labels: loss(o, y).sum(), outputs.detach())
        total += jacobian.T @ curvature.reshape(count, count) @ jacobian
    return total / len(data)
