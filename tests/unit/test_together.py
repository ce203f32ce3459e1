"""Several estimators at once: the passes that they share are made once, and nothing else differs."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from torch import nn

import influence_core as ic
from influence_core.applications.removal import values
from influence_core.errors import InvalidInput, StaleResult
from influence_core.estimators.together import fitted_on
from influence_core.gradients import Meeting, SquaredNorms, inner_products, squared_norms, sweep
from influence_core.progress import listen
from tests.helpers import study as small_study

E, A = ic.estimators, ic.applications


@pytest.fixture(scope="module")
def small() -> ic.Study:
    made = small_study(epochs=4)
    _ = made.fingerprint
    return made


class Passes:
    """How many samples go forward through copies of a model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen = 0
        forward = nn.Linear.forward
        lock = threading.Lock()

        def counted(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
            with lock:
                self.seen += len(x)
            return forward(module, x)

        monkeypatch.setattr(nn.Linear, "forward", counted)


def some() -> list[E.Estimator]:
    return [E.TracIn(last=1), E.RandProj(dim=16), E.TRAK(dim=8), E.EKFAC(), E.DataInf(), E.LastLayer()]


def test_scores_are_those_of_each_alone(small: ic.Study) -> None:
    alone = [one.fit(small) for one in some()]
    together = E.fit_all(small, some())
    assert [one.name for one in together] == [one.name for one in alone]
    for what, arguments in (("influence", ([0, 2, 5],)), ("mislabel_scores", ())):
        for one, two in zip(alone, E.ask_all(together, what, *arguments), strict=True):
            expected = getattr(one, what)(*arguments)
            assert torch.allclose(two.values, expected.values, rtol=1e-9, atol=1e-12), one.name
            assert two.name == expected.name


def test_shared_passes_are_made_once(small: ic.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = Passes(monkeypatch)
    E.RandProj(dim=16).fit(small)
    one, passes.seen = passes.seen, 0
    fitted = E.fit_all(small, [E.RandProj(dim=16, seed=seed) for seed in range(4)])
    assert passes.seen == one  # four fits, one pass
    passes.seen = 0
    fitted[0].influence([1])
    asked, passes.seen = passes.seen, 0
    E.ask_all(fitted, "influence", [1])
    assert passes.seen == asked


def test_what_differs_is_not_shared(small: ic.Study) -> None:
    other = small_study(epochs=6)
    data, labels = small.train, (small.train.labels + 1) % 3
    wanted: list[tuple[Any, Any, dict[str, Any]]] = [
        (small.model, data, {}),
        (other.model, data, {}),
        (small.model, data.subset(range(5)), {}),
        (small.model, data, {"labels": labels}),
        (small.model, data, {"parameters": list(dict(small.model.named_parameters()))[:1]}),
        (small.model, data, {}),
    ]
    expected = [squared_norms(model, small.loss, some, **options) for model, some, options in wanted]
    meeting, found = Meeting(len(wanted)), {}

    def work(number: int) -> None:
        model, chosen, options = wanted[number]
        with meeting.joined():
            found[number] = squared_norms(model, small.loss, chosen, **options)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(wanted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, norms in enumerate(expected):
        assert torch.equal(found[number], norms), number
    assert not torch.allclose(expected[0], expected[1])


class Broken(SquaredNorms):
    def consume(self, block: Any) -> None:
        raise ValueError("this consumer is broken")


def test_an_error_of_one_is_not_that_of_the_others(small: ic.Study) -> None:
    meeting, errors, found = Meeting(2), [], []

    def bad() -> None:
        with meeting.joined():
            try:
                sweep(small.model, small.loss, small.train, [Broken()])
            except ValueError as error:
                errors.append(str(error))

    def good() -> None:
        with meeting.joined():
            found.append(squared_norms(small.model, small.loss, small.train))

    threads = [threading.Thread(target=bad), threading.Thread(target=good)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["this consumer is broken"]
    assert torch.equal(found[0], squared_norms(small.model, small.loss, small.train))


def test_who_is_stopped_leaves_the_others(small: ic.Study) -> None:
    meeting, stop, left, found = Meeting(3), threading.Event(), threading.Event(), []

    def told(what: str, done: int, total: int) -> None:
        if stop.is_set():
            left.set()
            raise KeyboardInterrupt

    def stopped() -> None:
        with listen(told), meeting.joined():
            for _ in ic.progress.track([0], "outer"):
                try:
                    squared_norms(small.model, small.loss, small.train)
                except KeyboardInterrupt:
                    break

    def other() -> None:
        with meeting.joined():
            found.append(squared_norms(small.model, small.loss, small.train))

    def late() -> None:
        with meeting.joined():
            time.sleep(0.2)  # nobody sweeps while this one may still come to a sweep
            stop.set()
            assert left.wait(10)

    threads = [threading.Thread(target=f) for f in (stopped, other, late)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert torch.equal(found[0], squared_norms(small.model, small.loss, small.train))


def test_patience_ends(small: ic.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from influence_core.gradients import sharing

    monkeypatch.setattr(sharing, "PATIENCE", 0.2)
    meeting, ended = Meeting(), threading.Event()

    def elsewhere() -> None:
        with meeting.joined():
            assert ended.wait(30)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        with meeting.joined():
            norms = inner_products(small.model, small.loss, small.train, small.test)
    finally:
        ended.set()
        thread.join()
    assert torch.equal(norms, inner_products(small.model, small.loss, small.train, small.test))


def test_bad_input(small: ic.Study) -> None:
    one = E.RandProj()
    with pytest.raises(InvalidInput, match="comes twice"):
        E.fit_all(small, [one, one])
    with pytest.raises(InvalidInput, match="is no estimator"):
        E.fit_all(small, [E.RandProj, 3])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="no test image") as error:
        E.ask_all(E.fit_all(small, ["randproj", "ekfac"]), "influence", [10**6])
    assert any("of " in note for note in error.value.__notes__)
    assert E.fit_all(small, []) == []


def test_progress_counts_estimators_and_can_be_stopped(small: ic.Study) -> None:
    seen = []

    def told(what: str, done: int, total: int) -> None:
        seen.append((what, done, total))

    with listen(told):
        E.fit_all(small, ["randproj", "lastlayer"])
    assert seen[-1] == ("Fitting estimators", 2, 2)

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with listen(stop), pytest.raises(KeyboardInterrupt):
        E.fit_all(small, ["randproj", "ekfac"])
    assert threading.active_count() == before


def test_whoever_is_not_fitted_is_fitted(small: ic.Study) -> None:
    known = E.Loss().fit(small)
    assert fitted_on(small, known) is known
    fresh = E.LastLayer(damping=0.3)
    made = fitted_on(small, fresh)
    assert made.get_params() == fresh.get_params()
    assert not hasattr(fresh, "study_")
    assert fitted_on(small, "loss").study_ is fitted_on(small, E.Loss).study_ is small
    with pytest.raises(StaleResult, match="fitted on another study"):
        fitted_on(small.replaced(weight_decay=0.3), known)
    with pytest.raises(InvalidInput, match="no estimator"):
        fitted_on(small, 3)  # type: ignore[arg-type]


def test_applications_take_names(small: ic.Study) -> None:
    layer, loss = E.LastLayer().fit(small), E.Loss().fit(small)
    asked: list[tuple[torch.Tensor, torch.Tensor]] = [
        (A.what_if(small, "lastlayer", [3]).predicted, A.what_if(small, layer, [3]).predicted),
        (A.detect(small, "loss").scores.values, A.detect(small, loss.mislabel_scores()).scores.values),
        (values(small, "loss"), values(small, loss)),
    ]
    for named, given in asked:
        assert torch.equal(named, given)
    assert A.relabel(small, "loss").equals(A.relabel(small, loss))
    edits = A.compare_edits(small, "lastlayer", remove=[1])
    assert edits.table.equals(A.compare_edits(small, [layer], remove=[1]).table.assign(seconds=edits.table["seconds"]))
    assert A.mending_trainings(small, "loss", budget=5).title == A.mending_trainings(small, loss, budget=5).title
