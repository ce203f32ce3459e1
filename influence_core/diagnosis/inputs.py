"""What is wrong with inputs: values that are no numbers, and another scale than the model was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.diagnosis.finding import Finding
from influence_core.diagnosis.labels import FEW
from influence_core.diagnosis.sample import Part, passed
from influence_core.models import private
from influence_core.study import Study

GAIN = 0.2
"""Another scaling has to raise the accuracy on training images by so much."""

TRIED = 128
"""Samples that every other scaling is tried on."""

APART = 3.0
"""Deviations between the means that a first batch normalisation has seen and sees, in most channels."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which most published weights were trained with."""


def check_finite(parts: Mapping[str, Part]) -> Iterator[Finding]:
    """NaN and infinity in inputs, and in what the model makes of them.

    Args:
        parts: samples of the splits.

    Yields:
        One finding at most.
    """
    for name, part in parts.items():
        if part.inputs is None or part.outputs is None:
            continue
        if part.inputs.is_floating_point():
            bad = (~torch.isfinite(part.inputs).flatten(1).all(1)).nonzero().flatten()
            if bad.numel():
                yield Finding(
                    "inputs-not-finite",
                    "error",
                    f"{bad.numel()} of {len(part)} {name} samples looked at have values that are NaN or infinite, the "
                    f"first is {int(part.ids[bad[0]])}",
                    "one such sample makes every sum over the set NaN; estimators refuse the study",
                    f"{name} = {name}.subset(ids) without them, or mend the transform",
                )
                return
        wrong = (~torch.isfinite(part.outputs).flatten(1).all(1)).nonzero().flatten()
        if wrong.numel():
            yield Finding(
                "outputs-not-finite",
                "error",
                f"the model's outputs for {wrong.numel()} of {len(part)} {name} samples are NaN or infinite, the first "
                f"is {int(part.ids[wrong[0]])}",
                "no loss and no gradient of such a sample exists",
                "scale the inputs as in training, or load an earlier checkpoint: ic.models.load_weights(model, file)",
            )
            return


def check_scale(study: Study, parts: Mapping[str, Part]) -> Iterator[Finding]:
    """Inputs of another scale than the model was trained with, or than those of the other split.

    Args:
        study: only read.
        parts: samples of the splits.

    Yields:
        One finding at most.
    """
    train = parts["train"]
    now = train.accuracy()
    if train.inputs is None or now is None or len(train) < FEW or not train.inputs.is_floating_point():
        return
    found = _better(study, train, now)
    if found is None:
        found = _unseen(study, train)
    if found is not None:
        yield found
        return
    other = parts.get("test")
    if other is not None and other.inputs is not None and len(other) >= FEW:
        yield from _apart(train.inputs, other.inputs)
    classes = study.num_classes
    chance = max(float(torch.bincount(train.data.labels, minlength=classes).max()) / len(train.data), 1 / classes)
    if now <= chance + 2 * math.sqrt(chance * (1 - chance) / len(train)):
        yield Finding(
            "model-guesses",
            "warning",
            f"on {len(train)} training images the model is right in {now:.0%}, no better than guessing ({chance:.0%})",
            "scores explain what these weights do; weights that learned nothing have nothing to explain",
            "load the trained weights, ic.models.load_weights(model, file), and give the transform of the training",
        )


def _better(study: Study, train: Part, now: float) -> Finding | None:
    """The scaling under which the model is right far more often, if there is one."""
    inputs, labels = train.inputs, train.labels
    if inputs is None or labels is None or now >= 1 - GAIN:
        return None
    few = torch.arange(0, len(train), max(1, len(train) // TRIED))[:TRIED]
    some, wanted = inputs[few], labels[few]
    base = float((passed(study, some).argmax(1) == wanted).double().mean())
    results = {
        name: float((passed(study, change(some)).argmax(1) == wanted).double().mean())
        for name, change in _scalings(inputs).items()
    }
    best = max(results, key=lambda name: results[name])
    if results[best] < base + GAIN:
        return None
    return Finding(
        "normalisation",
        "error",
        f"with the inputs {best}, the model is right on {results[best]:.0%} of {len(few)} training images; as they are "
        f"on {base:.0%} (mean {float(inputs.mean()):.3g}, deviation {float(inputs.std()):.3g})",
        "the model sees other inputs than it was trained with, so its mistakes are not those that are to be explained",
        f"give the dataset the transform of the training, transform=... or mean=..., std=...; here: inputs {best}",
    )


def _scalings(inputs: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ways in which inputs are often scaled wrongly, undone."""
    channels = inputs.shape[1] if inputs.ndim == 4 else 1
    axes = [0, 2, 3] if inputs.ndim == 4 else list(range(inputs.ndim))
    mean, std = inputs.mean(axes, keepdim=True), inputs.std(axes, keepdim=True).clamp_min(1e-12)
    low, high = float(inputs.min()), float(inputs.max())
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "divided by 255": lambda x: x / 255,
        "times 255": lambda x: x * 255,
        "shifted to mean 0 and scaled to deviation 1": lambda x: (x - mean) / std,
        "scaled from -1..1 to 0..1": lambda x: (x + 1) / 2,
        "scaled from 0..1 to -1..1": lambda x: 2 * x - 1,
        "with black and white exchanged": lambda x: high + low - x,
        "divided by 16": lambda x: x / 16,
    }
    if channels == 3 and inputs.ndim == 4:
        centre, width = (torch.tensor(v, dtype=inputs.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
        found |= {
            "normalised by ImageNet's mean and deviation": lambda x: (x - centre) / width,
            "without ImageNet's normalisation": lambda x: x * width + centre,
            "divided by 255 and normalised by ImageNet's mean and deviation": lambda x: (x / 255 - centre) / width,
            "with red and blue exchanged": lambda x: x.flip(1),
        }
    return found


def _unseen(study: Study, train: Part) -> Finding | None:
    """Inputs that reach the first batch normalisation far from the means that it has seen."""
    model = private(study.model)
    first = next((m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)), None)
    if first is None or first.running_mean is None or first.running_var is None or train.inputs is None:
        return None
    tracked = first.num_batches_tracked
    if tracked is not None and int(tracked) == 0:
        return None  # which has a finding of its own
    seen: list[Tensor] = []

    def keep(_: nn.Module, arguments: Any) -> None:
        seen.append(arguments[0].detach())

    first.register_forward_pre_hook(keep)
    with torch.no_grad():
        kind = next(model.parameters())
        model(train.inputs[:TRIED].to(kind.device, kind.dtype))
    if not seen:
        return None
    values = seen[0].transpose(0, 1).flatten(1)
    deviations = (values.mean(1) - first.running_mean).abs() / first.running_var.sqrt().clamp_min(1e-12)
    ratios = (values.var(1) / first.running_var.clamp_min(1e-24)).clamp_min(1e-12).log10().abs()
    if float(deviations.median()) < APART and float(ratios.median()) < 1:
        return None
    return Finding(
        "normalisation",
        "warning",
        f"the first batch normalisation sees means {float(deviations.median()):.1f} deviations away from those of its "
        f"training, and variances {10 ** float(ratios.median()):.1f} times as large or small, in the median channel",
        "the model sees other inputs than it was trained with, so its mistakes are not those that are to be explained",
        "give the dataset the transform of the training: transform=... or mean=..., std=...",
    )


def _apart(train: Tensor, test: Tensor) -> Iterator[Finding]:
    one, other = (float(t.mean()) for t in (train, test))
    wide, narrow = (max(float(t.std()), 1e-12) for t in (train, test))
    if abs(one - other) > 0.75 * max(wide, narrow) or not 1 / 3 < wide / narrow < 3:
        yield Finding(
            "splits-scaled-apart",
            "warning",
            f"train inputs have mean {one:.3g} and deviation {wide:.3g}, test inputs {other:.3g} and {narrow:.3g}",
            "influence compares gradients of both; two scales make it compare transforms instead of pictures",
            "give train and test the same transform, that of the evaluation",
        )


def facts_of(parts: Mapping[str, Part]) -> dict[str, Any]:
    """What the samples say of themselves: accuracy, entropy, mean and deviation."""
    found: dict[str, Any] = {}
    for name, part in parts.items():
        found[f"{name}_samples"] = f"{len(part):,} of {len(part.data):,}"
        accuracy = part.accuracy()
        if accuracy is None or part.outputs is None or part.inputs is None:
            continue
        found[f"{name}_accuracy"] = round(accuracy, 4)
        logs = part.outputs.double().log_softmax(1)
        entropy = float(-(logs.exp() * logs).sum(1).mean()) / math.log(max(2, part.outputs.shape[1]))
        found[f"{name}_entropy"] = round(entropy, 4)
        values = part.inputs.double()
        found[f"{name}_input_mean"], found[f"{name}_input_deviation"] = (
            round(float(values.mean()), 4),
            round(float(values.std()), 4),
        )
    return found
