"""Architectures for small images, and a register of names that study files may use."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from torch import nn

from influence_core._torchvision import torchvision
from influence_core.errors import InvalidInput
from influence_core.identity import Identity, identify
from influence_core.models.recording import recorded

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_BUILDERS: dict[str, Callable[..., nn.Module]] = {}
"""By name. Those of a plugin are called NAME@ and the start of its SHA-256, so that two plugins may use one name."""

_STAMP = "_built_by_influence_core"


class Architecture(NamedTuple):
    """How a model was built, so that a study file can say it."""

    name: str
    arguments: dict[str, Any]


class _Built(NamedTuple):
    """What a model carries from the moment it was built; ``copy.deepcopy`` keeps it."""

    architecture: Architecture
    structure: str


collecting: ContextVar[tuple[str, dict[str, Callable[..., nn.Module]]] | None] = ContextVar("collecting", default=None)
"""While a plugin runs: what follows its names, and the builders that it has registered so far."""


def register(name: str) -> Callable[[Builder], Builder]:
    """Decorator: make an architecture known to study files under ``name``.

    Models that are built by name, or by calling what was decorated, can be saved and open again by themselves.

    Args:
        name: the value of ``architecture`` in ``study.toml``.

    Returns:
        A decorator. A class stays the same object (with an ``__init__`` that notes its arguments), a function comes
        back inside one that notes them.
    """

    def keep(builder: Builder) -> Builder:
        plugin = collecting.get()
        full = name if plugin is None else f"{name}@{plugin[0]}"
        noting: Builder = recorded(builder, lambda model, arguments: _stamp(model, Architecture(full, arguments)))
        if plugin is None:
            _BUILDERS[name] = builder
        else:
            plugin[1][name] = noting
        return noting

    return keep


def names() -> list[str]:
    """Names of the registered architectures, sorted; ``torchvision:NAME`` and ``timm:NAME`` work besides."""
    return sorted(name for name in _BUILDERS if "@" not in name)


def add_builders(builders: Mapping[str, Callable[..., nn.Module]]) -> None:
    """Make builders known that are registered already, under other names too.

    Args:
        builders: by name.
    """
    _BUILDERS.update(builders)


def build(name: str, **arguments: Any) -> nn.Module:
    """Build an architecture with fresh weights.

    Args:
        name: a registered name; ``torchvision:resnet18`` for a classifier of torchvision, ``timm:NAME`` for a model of
            timm, where that is installed.
        **arguments: passed to the builder.

    Returns:
        The module.

    Raises:
        InvalidInput: if there is no such architecture, or its arguments do not fit.
    """
    model = made(Architecture(name, arguments))
    _stamp(model, Architecture(name, arguments))
    return model


def made(architecture: Architecture) -> nn.Module:
    """Build an architecture without noting on the model how; see ``build``.

    Args:
        architecture: name and arguments.

    Returns:
        The module.

    Raises:
        InvalidInput: if there is no such architecture, or its arguments do not fit.
    """
    name, arguments = architecture
    builder = builder_of(name)
    try:
        return builder(**arguments)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        shown = name.partition("@")[0]
        raise InvalidInput(f"architecture {shown!r} does not take the arguments {arguments}: {error}") from error


def builder_of(name: str) -> Callable[..., nn.Module]:
    """What makes the models of a name.

    Args:
        name: as for ``build``.

    Returns:
        A function or class.

    Raises:
        InvalidInput: if there is no such architecture.
    """
    source, _, wanted = name.partition(":")
    if source == "torchvision":
        return _of_torchvision(wanted)
    if source == "timm":
        return _of_timm(wanted)
    if name in _BUILDERS:
        return _BUILDERS[name]
    raise InvalidInput(
        f"there is no architecture {name!r}. Known: {', '.join(names())}, torchvision:NAME and timm:NAME. Register "
        "your own with @ic.models.register(name) in a module that is imported first (the app's --plugin), or pass the "
        "model itself: ic.Study.load(path, model=my_model)."
    )


def _of_torchvision(name: str) -> Callable[..., nn.Module]:
    models = torchvision().models
    if name not in models.list_models(module=models):
        raise InvalidInput(f"torchvision has no classifier {name!r}; torchvision.models.list_models() names them")
    return lambda **arguments: models.get_model(name, weights=None, **arguments)


def _of_timm(name: str) -> Callable[..., nn.Module]:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise InvalidInput(
            f"the architecture 'timm:{name}' needs the package timm, which cannot be imported here ({error}): install "
            "it (pip install timm), or pass the model itself: ic.Study.load(path, model=my_model)"
        ) from error
    if name not in timm.list_models():
        raise InvalidInput(f"this version of timm has no model {name!r}; timm.list_models() names them")
    return lambda **arguments: timm.create_model(name, pretrained=False, **arguments)


def _stamp(model: nn.Module, architecture: Architecture) -> None:
    setattr(model, _STAMP, _Built(architecture, ""))  # in place of that of a builder inside this one
    setattr(model, _STAMP, _Built(architecture, structure_of(model).sha256))


def _built(model: nn.Module) -> _Built | None:
    found = getattr(model, _STAMP, None)
    return found if isinstance(found, _Built) else None


def architecture_of(model: nn.Module) -> Architecture | None:
    """How ``model`` was built: by ``build``, or by calling something that is registered."""
    found = _built(model)
    return None if found is None else found.architecture


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
    named = identify([found.sha256, built.name.partition("@")[0], built.arguments], "the model")
    return Identity(named.sha256, named.unknown)


def as_built(model: nn.Module) -> bool:
    """Whether it is known how a model was built, and nobody has exchanged a part of it since."""
    built = _built(model)
    return built is not None and built.structure == structure_of(model).sha256


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
