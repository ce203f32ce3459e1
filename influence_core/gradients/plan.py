"""The plan of a sweep: which layer rule gives which parameter's gradients, and which must fall back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import nn

from influence_core.gradients.rules import entry_for, functional
from influence_core.gradients.selection import Selection
from influence_core.gradients.tape import Station


@dataclass
class Plan:
    """Where every chosen parameter's gradient comes from.

    Attributes:
        stations: modules to record.
        fallback: name -> reason, of the parameters whose gradients ``torch.func`` gives, module by module or whole.
        whole_model: those among them that need the whole model to be differentiated.
        blocks: names that arrive together.
        vectorised: whether the whole-model fallback can be vectorised over samples.
        channels_last: whether images travel with channels last.
        bytes_per_sample: activations, gradients and the largest parameter's rows of one sample.
    """

    stations: list[Station]
    fallback: dict[str, str]
    whole_model: set[str]
    blocks: list[tuple[str, ...]] = field(default_factory=list)
    vectorised: bool = True
    channels_last: bool = False
    bytes_per_sample: float = 1.0

    def drop(self, names: Iterable[str], reason: str) -> None:
        """Send parameters to the whole-model fallback, and their stations home if nothing else is wanted there."""
        names = set(names)
        for station in self.stations:
            station.wanted = {local: name for local, name in station.wanted.items() if name not in names}
        self.stations = [station for station in self.stations if station.wanted]
        for name in names:
            self.fallback[name] = reason
        self.whole_model |= names
        self.arrange_blocks()

    def arrange_blocks(self) -> None:
        """Parameters of one module arrive together, and with those of any module that shares one of them."""
        groups: list[set[str]] = []
        for station in self.stations:
            group = set(station.wanted.values())
            touching = [other for other in groups if other & group]
            groups = [other for other in groups if not other & group] + [group.union(*touching)]
        self.blocks = [tuple(sorted(group)) for group in groups]


def make_plan(model: nn.Module, selection: Selection) -> Plan:
    """Assign every chosen parameter to the layers that own it; ``probe`` checks the outcome on data.

    Args:
        model: whose parameters they are.
        selection: the chosen parameters.

    Returns:
        The plan.
    """
    names = {id(parameter): name for name, parameter in selection.parameters.items()}
    stations: list[Station] = []
    fallback: dict[str, str] = {}
    claimed: set[str] = set()
    unclaimed: list[tuple[str, nn.Module, dict[str, str]]] = []
    for path, module in model.named_modules():
        entry = entry_for(module)
        wanted = _wanted(module, entry.parameters, names) if entry else {}
        if entry and wanted:
            stations.append(Station(path, module, entry.rule, wanted, entry.features_last))
            claimed |= set(wanted.values())
        own = {local: names[id(p)] for local, p in module._parameters.items() if id(p) in names and local not in wanted}
        if own:
            unclaimed.append((path, module, own))
    whole: set[str] = set()
    for path, module, own in unclaimed:
        reason = f"no rule for {', '.join(sorted(own))} of {type(module).__name__}"
        fallback.update(dict.fromkeys(own.values(), reason))
        if module is model or type(module).forward is nn.Module.forward:
            whole |= set(own.values())  # no call of the module whose inputs and outputs could be recorded
        else:
            stations.append(Station(path, module, functional, own))
            claimed |= set(own.values())
    for name in selection.parameters:
        if name not in claimed and name not in whole:
            whole.add(name)
            fallback.setdefault(name, "it belongs to no module of the model")
    plan = Plan(stations, fallback, whole)
    plan.arrange_blocks()
    return plan


def _wanted(module: nn.Module, parameters: Sequence[str], names: dict[int, str]) -> dict[str, str]:
    wanted = {}
    for local in parameters:
        owner: nn.Module | None = module
        *path, last = local.split(".")
        for step in path:
            owner = owner._modules.get(step) if owner is not None else None
        parameter = owner._parameters.get(last) if owner is not None else None
        if parameter is not None and id(parameter) in names:
            wanted[local] = names[id(parameter)]
    return wanted
