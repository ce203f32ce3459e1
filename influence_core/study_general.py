"""What a study checks of data that are no images with classes: outputs, labels, and that padding changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from influence_core.data import LabelledDataset, SampleSet, check_labels
from influence_core.data.reading import spread_ids
from influence_core.data.samples import described
from influence_core.errors import InvalidInput
from influence_core.gradients import plain_attention
from influence_core.inputs import Inputs, moved, shapes_of
from influence_core.losses import Loss, as_rows, cross_entropy

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_TRIED = 6
_TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-3}


def check_alike(data: LabelledDataset, train: LabelledDataset, first: Inputs, label: Inputs) -> None:
    """Refuse a dataset whose samples are of another kind than those of the training set.

    Args:
        data: to check.
        train: the training set.
        first: inputs of its first sample, as a batch of one.
        label: its label, likewise.

    Raises:
        InvalidInput: naming the part that differs.
    """
    padded = isinstance(train, SampleSet) and train.pads
    inputs, own = data.batch([0])
    for what, one, other in (("inputs", inputs, first), ("label", own, label)):
        found, expected = shapes_of(one), shapes_of(other)
        if found.keys() != expected.keys():
            raise InvalidInput(
                f"{data.name} samples have the {what} {', '.join(found)}, train samples {', '.join(expected)}: they "
                "must agree"
            )
        for part, (shape, dtype) in found.items():
            size, kind = expected[part]
            if dtype != kind or len(shape) != len(size) or (shape != size and not padded):
                raise InvalidInput(
                    f"{data.name} samples have {what} {part!r} of shape {shape} and {dtype}, train samples {size} and "
                    f"{kind}: they must agree"
                )


def classes_of(splits: dict[str, LabelledDataset], outputs: Tensor, label: Inputs, loss: Loss) -> int | None:
    """Number of classes, where the labels are classes.

    Args:
        splits: all datasets.
        outputs: of one sample, [1, ...].
        label: of the first training sample, as a batch of one.
        loss: of the study.

    Returns:
        K; ``None`` where labels are anything else.

    Raises:
        InvalidInput: if the loss is cross-entropy and the labels are no classes, or have another type than the outputs.
    """
    whole = isinstance(label, Tensor) and label.dim() == 1 and label.dtype in _WHOLE
    if not whole or outputs.dim() != 2:
        if loss is cross_entropy:
            raise InvalidInput(
                f"cross-entropy, the default loss, takes class numbers and outputs (samples, classes), but the labels "
                f"are {described(label[0])} and the outputs of one sample have shape {tuple(outputs.shape)}: pass "
                "loss=function(outputs, labels) with one value per sample"
            )
        if isinstance(label, Tensor) and label.is_floating_point() and label.dtype != outputs.dtype:
            raise InvalidInput(
                f"the labels are {label.dtype} and the model's outputs {outputs.dtype}: give the labels in the type of "
                "the outputs"
            )
        return None
    count = int(outputs.shape[1])
    fits = count > 1 and all(bool(((d.labels >= 0) & (d.labels < count)).all()) for d in splits.values())
    if loss is cross_entropy:
        for split, data in splits.items():
            check_labels(data.labels, count, split, "the model has {} outputs")
    return count if fits else None


def check_names(data: LabelledDataset, classes: int | None, label: Inputs) -> None:
    """Refuse names of classes where there are none.

    Args:
        data: with or without names.
        classes: K, or ``None``.
        label: of a sample, as a batch of one.

    Raises:
        InvalidInput: if labels are no classes.
    """
    if data.class_names is not None and classes is None:
        raise InvalidInput(
            f"the {data.name} set names {len(data.class_names)} classes, but its labels are {described(label[0])}: "
            "leave class_names out"
        )


def check_padding(model: nn.Module, loss: Loss, data: LabelledDataset) -> None:
    """Refuse a model, loss or ``collate`` for which a sample's loss depends on how far its batch is padded.

    Args:
        model: in eval mode, on its device; a private copy.
        loss: one loss per sample.
        data: a few samples of it, spread evenly, are tried alone and in one batch.

    Raises:
        InvalidInput: naming the sample, with both losses.
    """
    if not (isinstance(data, SampleSet) and data.pads) or len(data) < 2:
        return
    parameter = next(model.parameters())
    ids = spread_ids(len(data), _TRIED)[:_TRIED]

    def losses(some: Tensor) -> Tensor:
        inputs, labels = data.batch(some)
        outputs = model(moved(inputs, parameter.device, parameter.dtype))
        return loss(outputs, moved(labels, parameter.device)).detach().double().cpu()

    with plain_attention(), torch.no_grad():
        together, alone = losses(ids), torch.cat([losses(one) for one in ids.split(1)])
    tolerance = _TOLERANCES.get(parameter.dtype, 0.1)
    wrong = ((together - alone).abs() > tolerance * alone.abs().clamp_min(1.0)).nonzero().flatten()
    if wrong.numel():
        first = int(wrong[0])
        raise InvalidInput(
            f"the loss of {data.name} sample {int(ids[first])} is {float(alone[first]):.6g} alone and "
            f"{float(together[first]):.6g} in a batch that pads it: give the model the mask that collate makes, and "
            "leave padded positions out of means and of the loss"
        )


def check_general(
    splits: dict[str, LabelledDataset], loss: Loss, inputs: Inputs, label: Inputs, outputs: Tensor
) -> tuple[int, int | None]:
    """Check datasets that are no images with classes.

    Args:
        splits: all datasets, "train" among them.
        loss: of the study.
        inputs: of the first training sample, as a batch of one.
        label: its label, likewise.
        outputs: what the model gives for it.

    Returns:
        Numbers that the model gives for a sample; and classes K, or ``None`` where labels are no classes.

    Raises:
        InvalidInput: if something does not fit.
    """
    if outputs.shape[:1] != (1,):
        raise InvalidInput(
            f"the model gives shape {tuple(outputs.shape)} for one sample, expected samples on the first axis: (1, ...)"
        )
    for split, data in splits.items():
        if len(data) == 0:
            raise InvalidInput(f"the {split} set is empty")
        check_alike(data, splits["train"], inputs, label)
    classes = classes_of(splits, outputs, label, loss)
    for data in splits.values():
        check_names(data, classes, label)
    return int(as_rows(outputs).shape[1]), classes
