"""Trainings as a job: what they are named by, that each is made once, and that applications need no others."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import influence_core as ic
from influence_core.applications import mend, mending_trainings, what_if
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.jobs.processes import pid_of
from influence_core.store import Store, Training, Trainings, task_from_spec, training
from influence_core.store.training_set import TrainingSet
from influence_core.testing import problems
from tests.slow_training import NOTES

NOTED = "tests.slow_training:noted"


@pytest.fixture(scope="module")
def study() -> ic.Study:
    return problems.network_study()


@pytest.fixture(scope="module")
def small(demo: ic.Study, tmp_path_factory: pytest.TempPathFactory) -> ic.Study:
    """In a file of its own, so that another process can open it."""
    parts = {"train": demo.train.subset(range(3, 83)), "test": demo.test.subset(range(40)), "validation": None}
    made = demo.replaced(**parts, trajectory=None, name="small")  # whose recipe is a short one
    return ic.Study.load(made.save(tmp_path_factory.mktemp("studies") / "small"))


def relabelled(study: ic.Study, ids: list[int]) -> torch.Tensor:
    labels = study.train.labels.clone()
    labels[ids] = (labels[ids] + 1) % study.num_classes
    return labels


def asked(study: ic.Study, retrain: str = "recipe") -> Trainings:
    """As it is, with other labels, without some images, both, and with the model kept."""
    train = study.train
    stays = [i for i in range(len(train)) if i not in (0, 7, 8)]
    labels = relabelled(study, [0, 2, 9])
    sets = [train, train.with_labels(labels), train.subset(stays), train.with_labels(labels).subset(stays)]
    members = [Training.of(study, data, seed, retrain) for seed in (0, 5) for data in sets]
    return Trainings(study, [*members, Training.of(study, sets[1], 1, retrain, keep=True)], "Trying")


# --- names


def test_a_set_is_what_differs_and_is_made_again_to_the_bit(small: ic.Study) -> None:
    task = asked(small)
    described = [one.training_set for one in task.members[:4]]
    given = small.train.labels
    new = {i: int((given[i] + 1) % 10) for i in (0, 2, 9)}
    assert described == [
        TrainingSet(),
        TrainingSet(labels=tuple(new.items())),
        TrainingSet(removed=(0, 7, 8)),
        TrainingSet(removed=(0, 7, 8), labels=((2, new[2]), (9, new[9]))),  # of those that stay
    ]
    again = ic.Study.load(small.file)
    for one, member in zip(described, task.members, strict=False):
        made = TrainingSet.from_facts(json.loads(json.dumps(one.facts()))).data(again.train)
        ids = list(range(len(made)))
        for mine, theirs in zip(made.batch(ids), member.data.batch(ids), strict=True):
            assert torch.equal(mine, theirs)
        assert made.fingerprint == member.data.fingerprint
    assert described[0].data(again.train) is again.train


def test_the_keys_are_the_same_in_another_process(small: ic.Study) -> None:
    weights = torch.ones(len(small.train)).double()
    weights[[1, 4]] = torch.tensor([0.0, 1 / 3]).double()
    weighted = Training.of(small, small.train, 3, weights=weights)
    again = ic.Study.load(small.file)
    for task in (*asked(small).members, asked(small), weighted):
        made = task_from_spec(again, json.loads(json.dumps(task.spec())))
        assert (made.key, made.title, made.module) == (task.key, task.title, task.module)
        assert [one.key for one in made.members] == [one.key for one in task.members]
    assert torch.equal(task_from_spec(again, weighted.spec()).weights, weights)  # type: ignore[attr-defined]
    keys = [one.key for one in (*asked(small).members, weighted)]
    assert len(set(keys)) == len(keys)
    assert asked(small).title == "Trying: 9 trainings of up to 80 images"


def test_what_is_no_change_of_the_study_is_trained_here_alone(small: ic.Study, tmp_path: Path) -> None:
    train = small.train
    copied = ic.data.LabelledDataset(torch.utils.data.TensorDataset(train.batch(range(80))[0], train.labels))
    for other in (copied, train.subset([3, 1, 2]), train.subset([1, 1, 2])):
        task = Training.of(small, other, 0)
        for asks in (task, Trainings(small, [task])):
            with pytest.raises(NotSupported, match="no other process has this training set"):
                asks.spec()
            with pytest.raises(NotSupported, match=r"train in this process|make the set with"):
                ic.jobs.submit_task(asks, store=Store(tmp_path))
    assert Training.of(small, copied, 0).key == Training.of(small, train, 0).key  # whatever it is made of
    (losses,) = Store(tmp_path).compute(Trainings(small, [Training.of(small, copied, 0)]))
    assert torch.equal(losses.losses, Store(tmp_path).find(Training.of(small, train, 0)).losses)


def test_samples_of_any_kind_are_chosen_too() -> None:
    inputs = [{"x": torch.tensor([float(i)]), "label": torch.tensor(i % 2)} for i in range(6)]
    data = ic.data.SampleSet(inputs)
    assert TrainingSet.of(data, data.subset([0, 2, 5])) == TrainingSet(removed=(1, 3, 4))
    assert TrainingSet.of(data, data.with_labels([1, 1, 0, 1, 0, 1])) == TrainingSet(labels=((0, 1),))
    assert TrainingSet.of(data, data.subset([2, 1])).other == data.subset([2, 1]).fingerprint
    assert TrainingSet.of(data, ic.data.SampleSet(inputs, target=lambda x: x["label"])).other is not None


def test_another_study_or_other_code_is_refused(small: ic.Study) -> None:
    other = small.replaced(weight_decay=0.5)
    for task in (asked(small), asked(small).members[1]):
        with pytest.raises(StaleResult, match="asked of another study"):
            task_from_spec(other, task.spec())
        with pytest.raises(StaleResult, match="the code that trains is another one"):
            task_from_spec(small, {**task.spec(), "code": "0" * 64})
        with pytest.raises(InvalidInput, match=r"describes no trainings? of this version"):
            task_from_spec(small, {"study": small.fingerprint, "what": task.what})
    with pytest.raises(InvalidInput, match="there are no trainings"):
        Trainings(small, [])
    with pytest.raises(InvalidInput, match="one study, and one function"):
        Trainings(other, asked(small).members)


# --- in a store


def test_each_is_an_answer_of_its_own_and_all_of_them_are_done(study: ic.Study, tmp_path: Path) -> None:
    store, task = Store(tmp_path), asked(study)
    store.compute(task.members[2])
    assert store.progress(task) == ic.store.Progress(1, 9, "shards")
    assert store.find(task) is None
    said: list[str] = []
    with ic.progress.listen(lambda step, done, total: said.append(step)):
        made = store.compute(task)
    assert list(dict.fromkeys(said)) == [f"{n} of 9 trainings" for n in range(10)]
    assert store.progress(task).state == "finished"
    for one, member in zip(made, task.members, strict=True):
        assert torch.equal(one.losses, training.train(study, member.data, member.seed, *function(member)).losses)
        assert torch.equal(one.losses, store.find(member).losses)
    assert [bool(one.weights) for one in made] == [False] * 8 + [True]
    assert store.verify() == []
    store.remove(task.members[4].key)
    assert store.find(task) is None
    assert not store.whole(task)
    assert store.progress(task).done == 8
    assert len(store.compute(task)) == 9


def function(member: Training) -> tuple[object, None, bool]:
    return training.function_of(member.retrain), None, member.keep


class Trained(Exception):
    pass


def refused(*_: object) -> None:
    raise Trained


def test_mend_and_verify_need_what_they_say_and_no_more(
    study: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, ekfac = ic.estimators.Loss().fit(study), ic.estimators.EKFAC().fit(study)
    how: Any = {"budget": 6, "seeds": (0, 1), "controls": ("random",)}
    quiet = mend(study, loss, **how)
    predictions = [
        what_if(study, ekfac, [0, 5]),
        what_if(study, ekfac, [1], "relabel", labels=[(int(study.train.labels[1]) + 1) % 3]),
        what_if(study, ekfac, [2, 3], "reweight", weights=[0.25, 2.0]),
    ]
    receipts = [one.verify(seeds=(0,)) for one in predictions]
    store = Store(tmp_path)
    wanted = [mending_trainings(study, loss, **how), *(one.trainings((0,)) for one in predictions)]
    for task in wanted:
        store.compute(task_from_spec(study, json.loads(json.dumps(task.spec()))))
    monkeypatch.setattr(training, "train", refused)
    found = mend(study, loss, **how, store=store)
    assert found.table.equals(quiet.table)
    assert found.study.fingerprint == quiet.study.fingerprint
    for one, receipt in zip(predictions, receipts, strict=True):
        assert one.verify(seeds=(0,), store=store).actual == receipt.actual
    with pytest.raises(Trained):
        mend(study, loss, **(how | {"budget": 7}), store=store)
    assert [task.title for task in wanted[:2]] == [
        "Apply and measure: 6 trainings of 24 images",
        "Verify: 2 trainings of up to 24 images",
    ]
    with pytest.raises(InvalidInput, match="seeds is empty"):
        predictions[0].trainings(())
    with pytest.raises(InvalidInput, match="seeds is empty"):
        mending_trainings(study, loss, **(how | {"seeds": ()}))


# --- in another process


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "trainings.txt"
    path.touch()
    monkeypatch.setenv(NOTES, str(path))
    monkeypatch.setenv("INFLUENCE_WORKERS", "1")
    yield path
    for job in ic.jobs.jobs(Store(tmp_path / "store")):
        job.cancel()


def until(true: Callable[[], object], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_a_worker_that_is_killed_goes_on_and_makes_none_twice(small: ic.Study, notes: Path, tmp_path: Path) -> None:
    store, task = Store(tmp_path / "store"), replace(asked(small, NOTED), origin={"page": "somewhere"})
    gate = notes.with_suffix(".gate")
    gate.write_text("3")
    job = ic.jobs.submit_task(task, store=store, threads=1)
    until(lambda: store.progress(task).done == 3)
    until(lambda: job.row.step == "3 of 9 trainings")
    assert (job.title, len(ic.jobs.rows(store))) == ("Trying: 9 trainings of up to 80 images", 1)
    os.kill(pid_of(str(job.row.process)), signal.SIGKILL)
    until(lambda: job.state == "lost")
    gate.unlink()
    found = ic.jobs.get(job.id, store).resume().wait()
    made = notes.read_text().split()
    assert len(made) == 9
    assert len({line.rpartition(":")[0] for line in made}) == 9  # seed and set
    assert len({line.rpartition(":")[2] for line in made}) == 2  # two workers
    assert str(os.getpid()) not in {line.rpartition(":")[2] for line in made}
    assert (job.state, job.row.attempt) == ("done", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = Store(tmp_path / "other").compute(task)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(found, whole, strict=True):
        assert torch.equal(one.losses, other.losses)
        assert torch.equal(one.right, other.right)
    assert sorted(found[-1].weights) == sorted(whole[-1].weights)
    again = ic.jobs.submit_task(task, store=store)
    assert (again.id, again.state) == (job.id, "done")
    assert len(notes.read_text().split()) == 18  # nine of them here
