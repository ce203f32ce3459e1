"""One table of cases, in float64, that every test of the engine reuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models_for_tests import LoRATransformer, Mixer, ViT, resnet18, settled, vgg11

SAMPLES = 6


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """One loss per sample, summed over whatever else there is."""
    if outputs.dim() > 2:
        return F.cross_entropy(outputs.flatten(0, -2), labels.flatten(), reduction="none").view(len(labels), -1).sum(1)
    return F.cross_entropy(outputs, labels, reduction="none")


def squares(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half squared distance from the label, for outputs of any shape."""
    return 0.5 * (outputs - labels.to(outputs.dtype).view(-1, *[1] * (outputs.dim() - 1))).flatten(1).square().sum(1)


@dataclass(frozen=True)
class Case:
    """A model with data.

    Attributes:
        name: Shown by pytest.
        build: Gives the model; called after seeding.
        inputs: Gives inputs ``[n, ...]`` for n samples.
        loss: One loss per sample.
        fallback: Whether some parameter takes the fallback.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor] = squares
    fallback: bool = False

    def make(
        self, samples: int = SAMPLES
    ) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]:
        """The model in float64 and eval mode, the loss, and data."""
        torch.manual_seed(0)
        model = settled(self.build()).double().eval()
        inputs = self.inputs(samples)
        return model, self.loss, (inputs, torch.randint(0, 5, (samples,)))


def normal(*shape: int) -> Callable[[int], Tensor]:
    """Standard normal inputs of a shape."""
    return lambda samples: torch.randn(samples, *shape, dtype=torch.float64)


def words(length: int, count: int = 11) -> Callable[[int], Tensor]:
    """Random word numbers."""
    return lambda samples: torch.randint(0, count, (samples, length))


def channels_last(*shape: int) -> Callable[[int], Tensor]:
    """Normal images with channels last in memory."""
    return lambda samples: normal(*shape)(samples).contiguous(memory_format=torch.channels_last)


class Twice(nn.Module):
    """One layer used twice, around an activation."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class TiedByModule(nn.Module):
    """A word model whose output layer shares the embedding's table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.decode = nn.Linear(6, 11, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.decode(torch.tanh(self.mix(self.embed(ids))))


class TiedByFunction(TiedByModule):
    """The same, the table used through a function: no hook sees that."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.mix(self.embed(ids))), self.embed.weight)


class TiedLinears(nn.Module):
    """Two linear layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Scaled(nn.Module):
    """A bare parameter around a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * self.scale)


class ScaledInside(nn.Module):
    """The same deep inside a model, where only that module need be differentiated again."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.scaled, self.after = nn.Linear(4, 4), Scaled(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.relu_(self.scaled(self.before(x))))


class Functional(nn.Module):
    """Layers that are never called, only their parameters are used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 3, 3), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.conv2d(x, self.conv.weight, self.conv.bias))
        return F.linear(x.flatten(1), self.linear.weight, self.linear.bias)


class Attention(nn.Module):
    """Multi-head attention with any of its options."""

    def __init__(self, cross: bool = False, masks: bool = False, weights: bool = False, **options: object) -> None:
        super().__init__()
        self.cross, self.masks, self.weights = cross, masks, weights
        self.first = nn.Linear(6, 6)
        self.attention = nn.MultiheadAttention(6, 2, **options)  # type: ignore[arg-type]
        self.wide_key = nn.Linear(6, self.attention.kdim)
        self.wide_value = nn.Linear(6, self.attention.vdim)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        first = x if self.attention.batch_first else x.transpose(0, 1)
        key, value = (self.wide_key(first), self.wide_value(first)) if self.cross else (first, first)
        masks = {}
        if self.masks:
            length = x.shape[1]
            masks["attn_mask"] = torch.ones(length, length, dtype=torch.bool).triu(1)
            padding = torch.zeros(x.shape[:2], dtype=torch.bool)
            padding[:, -1] = True
            masks["key_padding_mask"] = padding
        out, weights = self.attention(first, key, value, need_weights=self.weights, **masks)
        out = out if self.attention.batch_first else out.transpose(0, 1)
        return out if weights is None else torch.cat([out.flatten(1), weights.flatten(1) ** 2], dim=1)


class InPlace(nn.Module):
    """In-place changes of layers' outputs, also of the very first one's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x.relu_()
        x = self.bn(x)
        x += 1.0
        x = F.leaky_relu_(x, 0.1)
        return self.linear(x.flatten(1))


class Folded(nn.Module):
    """Samples and positions folded into one axis before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.last = nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.norm(torch.tanh(self.linear(x.reshape(-1, 4))))
        return self.last(flat).view(len(x), -1)


class OffThePath(nn.Module):
    """A layer whose output the loss does not use, and one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.uncalled = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        return self.used(x)


class Recurrent(nn.Module):
    """A recurrent layer, for which there is neither a rule nor a vectorised fallback."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def frozen_below() -> nn.Module:
    """A model with a frozen first layer and a frozen bias."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


def parametrised() -> nn.Module:
    """A weight that is computed from other parameters."""
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2))


def _conv(dimensions: int, **options: object) -> Callable[[], nn.Module]:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    defaults: dict[str, object] = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    return lambda: nn.Sequential(kind(**(defaults | options)), nn.Tanh())  # type: ignore[arg-type]


CONVOLUTIONS = [
    Case("conv1d", _conv(1), normal(4, 7)),
    Case("conv1d stride dilation", _conv(1, stride=2, dilation=2, padding=3), normal(4, 9)),
    Case("conv2d", _conv(2), normal(4, 5, 6)),
    Case("conv2d no bias", _conv(2, bias=False, padding=1), normal(4, 5, 5)),
    Case("conv2d stride", _conv(2, stride=(2, 1), padding=(1, 2)), normal(4, 6, 5)),
    Case("conv2d dilation", _conv(2, dilation=(1, 2), padding=1), normal(4, 6, 6)),
    Case("conv2d groups", _conv(2, groups=2, padding=1), normal(4, 5, 5)),
    Case("conv2d depthwise", _conv(2, groups=4, out_channels=8), normal(4, 5, 5)),
    Case("conv2d 1x1", _conv(2, kernel_size=1, stride=2), normal(4, 5, 5)),
    Case("conv2d first layer", _conv(2, in_channels=1, padding=1), normal(1, 5, 5)),
    Case("conv2d same, even kernel", _conv(2, kernel_size=(2, 4), padding="same"), normal(4, 5, 5)),
    Case("conv2d valid", _conv(2, padding="valid"), normal(4, 5, 5)),
    *(
        Case(f"conv2d {mode}", _conv(2, padding=2, padding_mode=mode, stride=2), normal(4, 6, 5))
        for mode in ("reflect", "replicate", "circular")
    ),
    Case("conv1d circular same", _conv(1, padding="same", padding_mode="circular", dilation=2), normal(4, 7)),
    Case("conv2d channels last", _conv(2, padding=1), channels_last(4, 6, 5)),
    Case("conv2d channels last groups", _conv(2, padding=1, groups=2), channels_last(4, 6, 5)),
    Case("conv3d", _conv(3, stride=(1, 2, 1), padding=(0, 1, 1), kernel_size=(2, 3, 1)), normal(4, 3, 4, 3)),
    Case("conv3d groups replicate", _conv(3, groups=2, padding=1, padding_mode="replicate"), normal(4, 3, 3, 3)),
    Case("conv2d few positions", _conv(2, padding=1, in_channels=12, out_channels=20), normal(12, 2, 2)),
    Case(
        "conv2d few positions stride", _conv(2, padding=1, stride=2, in_channels=12, out_channels=20), normal(12, 4, 4)
    ),
]

LAYERS = [
    Case("linear", lambda: nn.Linear(5, 3), normal(5)),
    Case("linear middle axes", lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 4)), normal(2, 3, 5)),
    Case("linear no bias", lambda: nn.Linear(5, 3, bias=False), normal(4, 5)),
    Case("linear wide", lambda: nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20)), normal(40)),
    Case("linear wide, two positions", lambda: nn.Linear(40, 30), normal(2, 40)),
    Case("batch norm 1d", lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh()), normal(5)),
    Case("batch norm 1d positions", lambda: nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4)), normal(3, 6)),
    Case("batch norm 2d", lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU()), normal(3, 5, 5)),
    Case("batch norm 3d first", lambda: nn.BatchNorm3d(3), normal(3, 2, 3, 2)),
    Case("layer norm", lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh()), normal(3, 5)),
    Case("layer norm two axes", lambda: nn.LayerNorm((3, 4)), normal(2, 3, 4)),
    Case("layer norm no bias", lambda: nn.LayerNorm(4, bias=False), normal(3, 4)),
    Case("group norm", lambda: nn.Sequential(nn.Conv2d(3, 6, 2), nn.GroupNorm(2, 6)), normal(3, 4, 5)),
    Case("instance norm", lambda: nn.InstanceNorm2d(3, affine=True), normal(3, 4, 5)),
    Case("instance norm running", lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True), normal(3, 5)),
    Case("rms norm", lambda: nn.Sequential(nn.Linear(5, 4), nn.RMSNorm(4)), normal(3, 5)),
    Case("embedding", lambda: nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 2)), words(5)),
    Case("embedding padding", lambda: nn.Sequential(nn.Embedding(11, 4, padding_idx=3), nn.Tanh()), words(9)),
    Case("attention", lambda: Attention(batch_first=True), normal(4, 6)),
    Case("attention sequence first", lambda: Attention(), normal(4, 6)),
    Case("attention masks weights", lambda: Attention(masks=True, weights=True, batch_first=True), normal(4, 6)),
    Case(
        "attention cross extras",
        lambda: Attention(
            cross=True, masks=True, kdim=5, vdim=7, add_bias_kv=True, add_zero_attn=True, batch_first=True
        ),
        normal(4, 6),
    ),
    Case("attention cross no bias", lambda: Attention(cross=True, bias=False, batch_first=True), normal(3, 6)),
]

STRUCTURES = [
    Case("in place", InPlace, normal(2, 4, 4)),
    Case("used twice", lambda: Twice(nn.Linear(4, 4)), normal(3, 4)),
    Case("convolution used twice", lambda: Twice(nn.Conv2d(3, 3, 3, padding=1)), normal(3, 4, 4)),
    Case("norm used twice", lambda: Twice(nn.GroupNorm(1, 3)), normal(3, 4)),
    Case("tied embedding and linear", TiedByModule, words(5), lambda o, y: cross_entropy(o, y[:, None].expand(-1, 5))),
    Case(
        "tied through a function",
        TiedByFunction,
        words(5),
        lambda o, y: cross_entropy(o, y[:, None].expand(-1, 5)),
        fallback=True,
    ),
    Case("tied linears", TiedLinears, normal(4)),
    Case("frozen", frozen_below, normal(4)),
    Case("bare parameter", Scaled, normal(3, 4), fallback=True),
    Case("bare parameter inside", ScaledInside, normal(4), fallback=True),
    Case("functional use", Functional, normal(2, 4, 4), fallback=True),
    Case("parametrised", parametrised, normal(4), fallback=True),
    Case("prelu", lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(4), nn.Linear(4, 2)), normal(4), fallback=True),
    Case("transposed convolution", lambda: nn.ConvTranspose2d(3, 2, 2, 2), normal(3, 3, 3), fallback=True),
    Case("recurrent", Recurrent, normal(5, 4), fallback=True),
    Case("folded axes", Folded, normal(3, 4)),
    Case("off the path", OffThePath, normal(4)),
]

NETWORKS = [
    Case("resnet18", lambda: resnet18(width=4), normal(3, 16, 16), cross_entropy),
    Case("vgg11", lambda: vgg11(width=2), normal(3, 32, 32), cross_entropy),
    Case("mixer", Mixer, normal(3, 8, 8), cross_entropy),
    Case("vit", ViT, normal(3, 8, 8), cross_entropy, fallback=True),
    Case("vit sequence first", lambda: ViT(batch_first=False), normal(3, 8, 8), cross_entropy, fallback=True),
    Case("lora transformer", LoRATransformer, words(6), cross_entropy),
]

CASES = [*CONVOLUTIONS, *LAYERS, *STRUCTURES, *NETWORKS]
