"""Who is timed: plain training steps, this library, ``torch.func`` and the peers that are installed.

A contender is a function from a work to a result; results of one task have to agree. Peers are imported inside their
functions, so that a missing one is a skipped line and not an error.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from influence_core.gradients import (
    FactoredProjection,
    InnerProducts,
    Projections,
    Queries,
    SketchProjection,
    SquaredNorms,
    inner_products,
    mean_squares,
    project,
    squared_norms,
    sweep,
)
from influence_core.models import model_outputs
from tests.benchmarks.works import Data, Work, batches, losses

Contender = Callable[[Work], Tensor | None]
DAMPING = 1e-3
NAIVE = "naive loop"
"""One sample at a time: too slow for a whole work, so that it is timed on cuts of it."""


def plain(work: Work) -> None:
    """Forward and backward over all N + M samples, as in training."""
    for data in (work.queries, work.train):
        for x, y in batches(data, work.batch):
            for parameter in work.model.parameters():
                parameter.grad = None
            F.cross_entropy(work.model(x), y).backward()


def _one_by_one(work: Work, data: Data) -> Iterator[Tensor]:
    """The gradient ``[P]`` of each sample by a backward pass of its own."""
    parameters = list(work.model.parameters())
    for i in range(len(data[0])):
        loss = F.cross_entropy(work.model(data[0][i : i + 1]), data[1][i : i + 1])
        yield torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


# T1: inner products


def ours_products(work: Work) -> Tensor:
    return inner_products(work.model, losses, work.train, work.queries, batch_size=work.batch)


def ours_three_at_once(work: Work) -> Tensor:
    """Inner products, squared norms and a sketch of 512 in one sweep."""
    queries = Queries.record(work.model, losses, work.queries, batch_size=work.batch)
    consumers = [InnerProducts(queries), SquaredNorms(), Projections(SketchProjection(512))]
    sweep(work.model, losses, work.train, consumers, batch_size=work.batch)
    return consumers[0].result()


def ours_products_without_norms(work: Work) -> Tensor:
    """Convolutions and linear layers only."""
    layers = [name for name, module in work.model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return inner_products(work.model, losses, work.train, work.queries, batch_size=work.batch, parameters=layers)


def ours_last(work: Work) -> Tensor:
    """The last layer's weight only: captum leaves the bias out."""
    name = f"{work.last}.weight"
    return inner_products(work.model, losses, work.train, work.queries, batch_size=work.batch, parameters=name)


def _vmap_gradients(work: Work, data: Data):  # type: ignore[no-untyped-def]
    """Batches of ``[B, P]`` by torch.func."""
    parameters = {name: p.detach() for name, p in work.model.named_parameters()}
    buffers = dict(work.model.named_buffers())

    def loss(values, x, y):  # type: ignore[no-untyped-def]
        outputs = torch.func.functional_call(work.model, (values, buffers), (x[None],))
        return F.cross_entropy(outputs, y[None])

    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    for x, y in batches(data, work.batch):
        gradients = mapped(parameters, x, y)
        yield torch.cat([g.flatten(1) for g in gradients.values()], dim=1)


def naive_products(work: Work) -> Tensor:
    queries = torch.stack(list(_one_by_one(work, work.queries)))
    return torch.stack([queries @ gradient for gradient in _one_by_one(work, work.train)])


def vmap_products(work: Work) -> Tensor:
    queries = torch.cat(list(_vmap_gradients(work, work.queries)))
    return torch.cat([rows @ queries.T for rows in _vmap_gradients(work, work.train)])


def captum_products(work: Work) -> Tensor:
    from captum.influence import TracInCP

    return _captum(
        work, TracInCP, {"sample_wise_grads_per_batch": True, "loss_fn": nn.CrossEntropyLoss(reduction="sum")}
    )


def captum_last(work: Work) -> Tensor:
    from captum.influence import TracInCPFast

    layer = work.model.get_submodule(work.last)
    return _captum(work, TracInCPFast, {"final_fc_layer": layer, "loss_fn": nn.CrossEntropyLoss(reduction="sum")})


def _captum(work: Work, kind, options) -> Tensor:  # type: ignore[no-untyped-def]
    dataset = torch.utils.data.TensorDataset(*work.train)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/checkpoint"
        torch.save(work.model.state_dict(), path)

        def load(model: nn.Module, where: str) -> float:
            model.load_state_dict(torch.load(where))
            return 1.0

        peer = kind(
            model=work.model,
            train_dataset=dataset,
            checkpoints=[path],
            checkpoints_load_func=load,
            batch_size=work.batch,
            **options,
        )
        work.model.eval()
        return peer.influence(work.queries).T.detach()


def dattri_products(work: Work) -> Tensor:
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    task = AttributionTask(
        loss_func=_functional_loss(work), model=work.model, checkpoints=[dict(work.model.state_dict())]
    )
    peer = TracInAttributor(task=task, weight_list=torch.ones(1), normalized_grad=False, device="cpu")
    peer.projector_kwargs = None  # None in the constructor means a default projection to 512
    with contextlib.redirect_stderr(io.StringIO()):
        return peer.attribute(_loader(work.train, work.batch), _loader(work.queries, work.batch))


def _functional_loss(work: Work):  # type: ignore[no-untyped-def]
    def loss(params, data):  # type: ignore[no-untyped-def]
        x, y = data
        outputs = torch.func.functional_call(work.model, params, x.unsqueeze(0))
        return F.cross_entropy(outputs, y.unsqueeze(0))

    return loss


def _loader(data: Data, batch: int) -> torch.utils.data.DataLoader:  # type: ignore[type-arg]
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=batch, shuffle=False)


def _kronfluence(work: Work, strategy: str):  # type: ignore[no-untyped-def]
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task

    class Classification(Task):
        def compute_train_loss(self, batch, model, sample=False):  # type: ignore[no-untyped-def]
            outputs, labels = model(batch[0]), batch[1]
            if sample:
                labels = torch.multinomial(outputs.detach().softmax(1), 1).flatten()
            return F.cross_entropy(outputs, labels, reduction="sum")

        def compute_measurement(self, batch, model):  # type: ignore[no-untyped-def]
            return self.compute_train_loss(batch, model)

    task = Classification()
    folder = tempfile.mkdtemp()
    peer = Analyzer(
        "benchmark",
        prepare_model(copy.deepcopy(work.model), task),
        task,
        cpu=next(work.model.parameters()).device.type == "cpu",
        output_dir=folder,
        disable_tqdm=True,
        disable_model_save=True,
    )
    train, queries = (torch.utils.data.TensorDataset(*(t.cpu() for t in data)) for data in (work.train, work.queries))
    return peer, train, queries


def kronfluence_products(work: Work) -> Tensor:
    from kronfluence.arguments import FactorArguments

    peer, train, queries = _kronfluence(work, "identity")
    peer.fit_all_factors("f", train, factor_args=FactorArguments(strategy="identity"), overwrite_output_dir=True)
    peer.compute_pairwise_scores(
        "s",
        "f",
        queries,
        train,
        per_device_query_batch_size=len(queries),
        per_device_train_batch_size=work.batch,
        overwrite_output_dir=True,
    )
    return peer.load_pairwise_scores("s")["all_modules"].T


def kronfluence_ekfac(work: Work) -> Tensor:
    """Factors from sampled labels and scores of every query, with the package's own damping."""
    from kronfluence.arguments import FactorArguments

    peer, train, queries = _kronfluence(work, "ekfac")
    options = {"per_device_batch_size": work.batch, "overwrite_output_dir": True}
    peer.fit_all_factors("f", train, factor_args=FactorArguments(strategy="ekfac"), **options)
    peer.compute_pairwise_scores(
        "s",
        "f",
        queries,
        train,
        per_device_query_batch_size=len(queries),
        per_device_train_batch_size=work.batch,
        overwrite_output_dir=True,
    )
    return peer.load_pairwise_scores("s")["all_modules"].T


# T2: projections


def ours_sketch(k: int) -> Contender:
    def run(work: Work) -> Tensor:
        left = project(work.model, losses, work.train, SketchProjection(k), batch_size=work.batch)
        return left @ project(work.model, losses, work.queries, SketchProjection(k), batch_size=work.batch).T

    return run


def ours_factored(k: int) -> Contender:
    def run(work: Work) -> Tensor:
        left = project(work.model, losses, work.train, FactoredProjection(k), batch_size=work.batch)
        return left @ project(work.model, losses, work.queries, FactoredProjection(k), batch_size=work.batch).T

    return run


def vmap_dense(k: int) -> Contender:
    def run(work: Work) -> Tensor:
        size = sum(p.numel() for p in work.model.parameters())
        matrix = torch.randint(0, 2, (size, k), dtype=torch.int8).float().mul_(2).sub_(1).mul_(k**-0.5)
        left = torch.cat([rows @ matrix for rows in _vmap_gradients(work, work.train)])
        return left @ torch.cat([rows @ matrix for rows in _vmap_gradients(work, work.queries)]).T

    return run


def trak_features(k: int) -> Contender:
    def run(work: Work) -> Tensor:
        from trak.gradient_computers import FunctionalGradientComputer
        from trak.modelout_functions import AbstractModelOutput
        from trak.projectors import BasicProjector, ProjectionType

        class Loss(AbstractModelOutput):
            def __init__(self) -> None:
                super().__init__()

            @staticmethod
            def get_output(model, weights, buffers, x, y):  # type: ignore[no-untyped-def]
                return F.cross_entropy(torch.func.functional_call(model, (weights, buffers), x[None]), y[None])

            def get_out_to_loss_grad(self, model, weights, buffers, batch):  # type: ignore[no-untyped-def]
                return torch.ones(len(batch[0]))

        size = sum(p.numel() for p in work.model.parameters())
        projector = BasicProjector(
            size, k, 0, ProjectionType.rademacher, torch.device("cpu"), block_size=100, dtype=torch.float32
        )
        computer = FunctionalGradientComputer(work.model, Loss(), size, torch.float32, torch.device("cpu"))
        computer.load_model_params(work.model)

        def features(data: Data) -> Tensor:
            return torch.cat(
                [
                    projector.project(computer.compute_per_sample_grad(batch), model_id=0) * k**-0.5
                    for batch in batches(data, work.batch)
                ]
            )

        return features(work.train) @ features(work.queries).T

    return run


# T4: self-influence


def ours_norms(work: Work) -> Tensor:
    return squared_norms(work.model, losses, work.train, batch_size=work.batch)


def naive_norms(work: Work) -> Tensor:
    return torch.stack([gradient.square().sum() for gradient in _one_by_one(work, work.train)])


def vmap_norms(work: Work) -> Tensor:
    return torch.cat([rows.square().sum(1) for rows in _vmap_gradients(work, work.train)])


def captum_norms(work: Work) -> Tensor:
    from captum.influence import TracInCP

    class SelfInfluence(TracInCP):
        def influence(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            return self.self_influence()[None]

    options = {"sample_wise_grads_per_batch": True, "loss_fn": nn.CrossEntropyLoss(reduction="sum")}
    return _captum(work, SelfInfluence, options)[:, 0]


def ours_diagonal(work: Work) -> Tensor:
    """Two sweeps: little memory."""
    fisher = mean_squares(work.model, losses, work.train, batch_size=work.batch)
    weights = {name: 1 / (squares + DAMPING) for name, squares in fisher.items()}
    return squared_norms(work.model, losses, work.train, weights, batch_size=work.batch)


def vmap_diagonal(work: Work) -> Tensor:
    fisher = sum(rows.square().sum(0) for rows in _vmap_gradients(work, work.train)) / len(work.train[0])
    return torch.cat([rows.square() @ (1 / (fisher + DAMPING)) for rows in _vmap_gradients(work, work.train)])


def kronfluence_diagonal(work: Work) -> Tensor:
    from kronfluence.arguments import FactorArguments, ScoreArguments

    peer, train, _ = _kronfluence(work, "diagonal")
    arguments = FactorArguments(strategy="diagonal", use_empirical_fisher=True)
    peer.fit_all_factors("f", train, factor_args=arguments, per_device_batch_size=work.batch, overwrite_output_dir=True)
    peer.compute_self_scores(
        "s",
        "f",
        train,
        per_device_train_batch_size=work.batch,
        overwrite_output_dir=True,
        score_args=ScoreArguments(damping_factor=DAMPING),
    )
    return peer.load_self_scores("s")["all_modules"]


# T5: evaluating an ensemble


MEMBERS = 8


class _Images:
    """A pair of tensors as the package's datasets look."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data[0])

    def batch(self, ids: Tensor) -> Data:
        return self.data[0][ids], self.data[1][ids]


def ours_evaluation(work: Work) -> Tensor:
    """Outputs of the model and its members on all samples, as GEX takes them; every member has the same weights."""
    for _ in range(MEMBERS + 1):
        outputs = torch.cat([model_outputs(work.model, _Images(data)) for data in (work.train, work.queries)])
    return outputs


def inference_mode(work: Work) -> Tensor:
    """The same passes as one would write them."""
    with torch.inference_mode():
        for _ in range(MEMBERS + 1):
            outputs = torch.cat(
                [work.model(x) for data in (work.train, work.queries) for x, _ in batches(data, work.batch)]
            )
    return outputs.clone()


TASKS: dict[str, dict[str, Contender]] = {
    "T1 inner products": {
        "influence_core": ours_products,
        "  + norms + sketch": ours_three_at_once,
        NAIVE: naive_products,
        "torch.func vmap": vmap_products,
        "captum TracInCP": captum_products,
        "kronfluence identity": kronfluence_products,
        "dattri TracIn": dattri_products,
    },
    "last layer": {"influence_core": ours_last, "captum TracInCPFast": captum_last},
    "T2 projection, k = 512": {
        "influence_core sketch": ours_sketch(512),
        "influence_core factored": ours_factored(512),
        "torch.func vmap, dense": vmap_dense(512),
        "trak": trak_features(512),
    },
    "T2 projection, k = 2048": {
        "influence_core sketch": ours_sketch(2048),
        "torch.func vmap, dense": vmap_dense(2048),
    },
    "T4 squared norms": {
        "influence_core": ours_norms,
        NAIVE: naive_norms,
        "torch.func vmap": vmap_norms,
        "captum TracInCP": captum_norms,
    },
    "T4 diagonal metric": {
        "influence_core, two sweeps": ours_diagonal,
        "torch.func vmap": vmap_diagonal,
        "kronfluence diagonal": kronfluence_diagonal,
    },
    "T5 GEX evaluation": {"influence_core": ours_evaluation, "inference mode": inference_mode},
}
"""Task -> contender's name -> function. The first of each task is ours, and what the others are compared with."""
