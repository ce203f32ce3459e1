"""Architectures for small images, and a register of names that study files may use."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import nn

from influence_core._torchvision import torchvision
from influence_core.errors import InvalidInput
from influence_core.identity import Identity, identify

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_BUILDERS: dict[str, Callable[..., nn.Module]] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Decorator: make an architecture known to study files under ``name``.

    Args:
        name: the value of ``architecture`` in ``study.toml``.

    Returns:
        A decorator that leaves the function or class as it is.
    """

    def keep(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        return builder

    return keep


def names() -> list[str]:
    """Names of the registered architectures, sorted; ``torchvision:NAME`` works besides."""
    return sorted(_BUILDERS)


def build(name: str, **arguments: Any) -> nn.Module:
    """Build an architecture with fresh weights.

    Args:
        name: a registered name, or ``torchvision:resnet18`` for a classifier of torchvision.
        **arguments: passed to the builder.

    Returns:
        The module.

    Raises:
        InvalidInput: if there is no such architecture, or its arguments do not fit.
    """
    if name.startswith("torchvision:"):
        models = torchvision().models
        wanted = name.partition(":")[2]
        if wanted not in models.list_models(module=models):
            raise InvalidInput(f"torchvision has no classifier {wanted!r}; torchvision.models.list_models() names them")
        builder: Callable[..., nn.Module] = lambda **kw: models.get_model(wanted, weights=None, **kw)  # noqa: E731
    elif name in _BUILDERS:
        builder = _BUILDERS[name]
    else:
        raise InvalidInput(
            f"there is no architecture {name!r}. Known: {', '.join(names())}, and torchvision:NAME. Register your own "
            "with @ic.models.register(name) in a module that is imported first (the app's --plugin), or pass the "
            "model itself: ic.Study.load(path, model=my_model)."
        )
    try:
        model = builder(**arguments)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise InvalidInput(f"architecture {name!r} does not take the arguments {arguments}: {error}") from error
    model.architecture = Architecture(name, arguments)  # type: ignore[assignment]  # a plain attribute, kept by deepcopy
    model.built_as = structure_of(model).sha256  # type: ignore[assignment]
    return model


class Architecture(NamedTuple):
    """How a model was built, so that a study file can say it."""

    name: str
    arguments: dict[str, Any]


def architecture_of(model: nn.Module) -> Architecture | None:
    """How ``model`` was built, if ``build`` made it."""
    found = getattr(model, "architecture", None)
    return found if isinstance(found, Architecture) else None


def structure_of(model: nn.Module, passing: Mapping[int, Collection[str]] | None = None) -> Identity:
    """What a model computes beside its weights: classes and their code, arguments, hooks, buffers that are not saved.

    Args:
        model: any module.
        passing: as in ``identify``.

    Returns:
        Its identity. What cannot be compared in an architecture made by ``build`` is what its name says.
    """
    found = identify(model, "the model", tensors=False, passing=passing)
    built = architecture_of(model)
    if built is None or not found.unknown:
        return found
    named = identify([found.sha256, built.name, built.arguments], "the model")
    return Identity(named.sha256, named.unknown)


def as_built(model: nn.Module) -> bool:
    """Whether ``build`` made a model, and nobody has exchanged a part of it since."""
    return architecture_of(model) is not None and getattr(model, "built_as", None) == structure_of(model).sha256


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


@register("small_cnn")
def small_cnn(channels: int = 1, classes: int = 10, width: int = 16) -> nn.Sequential:
    """Three 3x3 convolutions with batch normalisation, global average pooling and a linear layer.

    Args:
        channels: of the input image.
        classes: K.
        width: channels after the first convolution; the next two have twice as many.

    Returns:
        A module from [B, channels, H, W] to logits [B, classes]; 14,458 parameters with the defaults.
    """
    return nn.Sequential(
        *_block(channels, width, 1),
        *_block(width, 2 * width, 2),
        *_block(2 * width, 2 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


@register("mlp")
def mlp(inputs: int, classes: int, hidden: int = 64, depth: int = 1) -> nn.Sequential:
    """Flatten, then ``depth`` hidden layers with tanh, then a linear layer.

    Args:
        inputs: number of input values per sample.
        classes: K.
        hidden: units of a hidden layer.
        depth: number of hidden layers; 0 is multinomial logistic regression.

    Returns:
        A module from [B, ...] to logits [B, classes].
    """
    sizes = [inputs] + [hidden] * depth
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


_RESNET_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


@register("cifar_resnet")
def cifar_resnet(depth: int = 18, width: int = 64, channels: int = 3, classes: int = 10) -> nn.Sequential:
    """A residual network for images of about 32 x 32 pixels (He et al. 2016, arXiv:1512.03385, with the small stem).

    Four stages of basic blocks as in the paper's ResNet for ImageNet, but the first layer is a 3x3 convolution of
    stride 1 and there is no pooling after it, as is usual on CIFAR-10.

    Args:
        depth: 10, 18 or 34 layers.
        width: channels of the first stage; each further stage has twice as many. 64 is the paper's.
        channels: of the input image.
        classes: K.

    Returns:
        A module from [B, channels, H, W] to logits [B, classes]; 11.2 million parameters at depth 18, 21.3 at 34.

    Raises:
        ValueError: if there is no such depth.
    """
    if depth not in _RESNET_BLOCKS:
        raise ValueError(f"depth is {depth}; choose one of {', '.join(map(str, _RESNET_BLOCKS))}")
    basic_block = torchvision().models.resnet.BasicBlock
    layers: list[nn.Module] = _block(channels, width, 1)
    before = width
    for stage, blocks in enumerate(_RESNET_BLOCKS[depth]):
        after = width * 2**stage
        for number in range(blocks):
            stride = 2 if stage > 0 and number == 0 else 1
            shortcut = None
            if stride != 1 or before != after:
                shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            layers.append(basic_block(before, after, stride, shortcut))
            before = after
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
