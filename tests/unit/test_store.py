"""The store: what is asked again is found, what breaks off goes on, and what is damaged or foreign is named."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import influence_core as ic
from influence_core.batches import samples_at_once
from influence_core.cli import main
from influence_core.store import Request, Store, compute
from influence_core.store import place as places
from influence_core.store import request as requests
from influence_core.testing.problems import network_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study() -> ic.Study:
    return network_study()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(requests, "LEAST_ROWS", 5)
    monkeypatch.setattr(requests, "SHARDS", 8)
    return Store(tmp_path / "store")


class Broken(Exception):
    pass


@contextmanager
def broken_after(shards: int, error: type[BaseException] = Broken) -> Iterator[None]:
    """The process stops once so many shards are finished."""
    written = []
    real = places.Place.write

    def write(self: places.Place, rows: range, shard: places.Shard) -> None:
        real(self, rows, shard)
        written.append(rows)
        if len(written) == shards:
            raise error

    with mock.patch.object(places.Place, "write", write), pytest.raises(error):
        yield


@contextmanager
def counted() -> Iterator[list[range]]:
    """The shards that are computed."""
    rows: list[range] = []
    real = compute._computed

    def computed(request: Request, place: places.Place, estimator: Any, some: range, again: bool) -> places.Shard:
        rows.append(some)
        return real(request, place, estimator, some, again)

    with mock.patch.object(compute, "_computed", computed):
        yield rows


ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("tracin", "influence", {"test": [2, 5]}),
    ("ekfac", "self_influence", {}),
    ("conjugategradient", "influence", {"test": [1]}),
    ("conjugategradient", "mislabel_scores", {}),
    ("gex", "mislabel_scores", {}),
    ("fvm", "label_influence", {}),
    ("fif", "parameter_change", {"remove": [3, 1], "relabel": {4: 0}, "weight": {5: 0.5}}),
    ("samgif", "influence", {"test": [0]}),
]


@pytest.mark.parametrize(("name", "what", "arguments"), ASKED, ids=[f"{n}-{w}" for n, w, _ in ASKED])
def test_an_answer_is_that_of_the_estimator_and_is_found_again(
    study: ic.Study, store: Store, name: str, what: str, arguments: dict[str, Any]
) -> None:
    given = ic.run(study, name, what, store=store, **arguments)
    direct = getattr(ic.estimators.get(name).fit(study), what)(**arguments)
    with counted() as again:
        found = ic.run(study, name, what, store=Store(store.path), **arguments)
    assert not again
    if what == "parameter_change":
        assert given.keys() == direct.keys() == found.keys()
        for key, value in direct.items():
            torch.testing.assert_close(given[key], value, rtol=1e-9, atol=1e-12)
            assert torch.equal(found[key], given[key])
    else:
        torch.testing.assert_close(given.values, direct.values, rtol=1e-9, atol=1e-12)
        assert torch.equal(found.values, given.values)
        for fact in ("kind", "scale", "coverage"):
            assert getattr(found, fact) == getattr(direct, fact)
        assert torch.equal(found.train_ids, direct.train_ids)
        assert found.study is study
    assert found.meta["stored"]
    for fact in ("estimator", "parameters", "study"):
        assert found.meta[fact] == json.loads(json.dumps(direct.meta[fact]))


def test_what_is_known_of_the_evidence_is_said_of_answers_of_before(study: ic.Study) -> None:
    request = Request.of(study, "vm", "influence", test=[3])
    facts = {"kind": "influence", "scale": "rank only", "coverage": [1.0, 1.0], "meta": {"estimator": "vm"}}
    values = torch.zeros(len(study.train), 1)
    assert "Weak evidence" in " ".join(request.answer(values, torch.arange(len(values)), facts).caveats())


def test_what_breaks_off_goes_on_at_the_next_shard(study: ic.Study, store: Store) -> None:
    request = Request.of(study, "tracin", "self_influence")
    with broken_after(3):
        store.compute(request)
    there = store.progress(request)
    assert (there.done, there.total, there.state) == (3, len(request.shards()), "shards")
    assert there.seconds_left is not None
    partial = store.partial(request)
    assert partial is not None
    assert len(partial.train_ids) == sum(len(rows) for rows in request.shards()[:3])
    with counted() as rest:
        whole = store.compute(request)
    assert rest == request.shards()[3:]
    assert torch.equal(whole.values[: len(partial.train_ids)], partial.values)
    assert store.progress(request).state == "finished"


def test_ctrl_c_keeps_what_is_finished(study: ic.Study, store: Store) -> None:
    request = Request.of(study, "ekfac", "self_influence")
    with broken_after(2, KeyboardInterrupt):
        store.compute(request)
    with counted() as rest:
        store.compute(request)
    assert len(rest) == len(request.shards()) - 2


def test_influence_is_found_among_that_on_more_test_images(study: ic.Study, store: Store) -> None:
    many = ic.run(study, "lastlayer", test=[1, 4, 6], store=store)
    with counted() as again:
        two = ic.run(study, "lastlayer", test=[6, 1], store=store)
        one = ic.run(study, "lastlayer", test=4, store=store)
    assert not again
    assert torch.equal(two.values, many.values[:, [2, 0]])
    assert two.test_ids.tolist() == [6, 1]
    assert torch.equal(one.values, many.values[:, 1:2])
    with counted() as anew:
        ic.run(study, "lastlayer", test=[1, 2], store=store)
    assert anew


def test_each_thing_that_an_answer_depends_on_changes_its_name(study: ic.Study) -> None:
    class Other(ic.estimators.TracIn):
        version: ClassVar[int] = 2

    def of(estimator: Any = "tracin", what: str = "influence", **arguments: Any) -> str:
        return Request.of(arguments.pop("study", study), estimator, what, **arguments).key

    every = ic.estimators.GIF(selector={n: torch.ones_like(p, dtype=torch.bool) for n, p in parameters(study)})
    few = ic.estimators.GIF(selector={n: first(p) for n, p in parameters(study)})
    keys = [
        of(),
        of(test=[1]),
        of(test=[2]),
        of(test=[1, 2]),
        of(test=[2, 1]),
        of(what="self_influence"),
        of(ic.estimators.TracIn(last=1)),
        of(Other),
        of(study=study.replaced(weight_decay=0.5)),
        of("conjugategradient"),
        of("fif", "parameter_change", remove=[1]),
        of("fif", "parameter_change", remove=[2]),
        of("fif", "parameter_change", relabel={1: 0}),
        of("fif", "parameter_change", weight={1: 0.5}),
        of(every, "parameter_change", remove=[1]),
        of(few, "parameter_change", remove=[1]),
    ]
    assert len(set(keys)) == len(keys)
    assert of() == of(test=range(len(study.test)))
    assert of(ic.estimators.TracIn().fit(study)) == of(ic.estimators.TracIn)
    assert of("fif", "parameter_change", remove=[2, 1]) == of("fif", "parameter_change", remove=[1, 2])


def parameters(study: ic.Study) -> list[tuple[str, Tensor]]:
    return [(name, p.detach()) for name, p in study.model.named_parameters()]


def first(parameter: Tensor) -> Tensor:
    mask = torch.zeros_like(parameter, dtype=torch.bool)
    mask.view(-1)[0] = True
    return mask


def test_a_request_is_the_same_in_another_process(study: ic.Study, tmp_path: Path) -> None:
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in parameters(study)}
    digits = ic.demo.digits()
    made = [
        Request.of(digits, ic.estimators.EKFAC(damping=0.02), "influence", [3, 1]),
        Request.of(digits, "fif", "parameter_change", remove=[1], relabel={2: 0}, weight={5: 2.0}),
    ]
    (tmp_path / "specs.json").write_text(json.dumps([one.spec() for one in made]))
    code = (
        "import json, sys, influence_core as ic\n"
        "study = ic.demo.digits()\n"
        "print([ic.store.Request.from_spec(study, s).key for s in json.load(open(sys.argv[1]))])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "specs.json")], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout.strip() == str([one.key for one in made])
    masked = Request.of(study, ic.estimators.GIF(selector=masks), "parameter_change", remove=[1])
    again = Request.from_spec(study, json.loads(json.dumps(masked.spec())))
    assert again.key == masked.key
    assert torch.equal(next(iter(again.estimator.selector.values())), next(iter(masks.values())))
    with pytest.raises(ic.StaleResult, match="another study"):
        Request.from_spec(digits, masked.spec())
    with pytest.raises(ic.InvalidInput, match="describes no request"):
        Request.from_spec(study, {"study": study.fingerprint})
    with mock.patch.object(ic.estimators.GIF, "version", 7), pytest.raises(ic.StaleResult, match="version is another"):
        Request.from_spec(study, masked.spec())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"what": "infuence"}, ic.InvalidInput, "there is no method 'infuence'"),
        ({"estimator": "loss", "what": "influence"}, ic.NotSupported, "gives no influence"),
        ({"test": [999]}, ic.InvalidInput, "999"),
        ({"what": "self_influence", "test": [1]}, ic.InvalidInput, "test images belong to 'influence'"),
        ({"remove": [1]}, ic.InvalidInput, "remove belong to 'parameter_change'"),
        ({"estimator": 3}, ic.InvalidInput, "3 is no estimator"),
        ({"runner": "cloud"}, ic.InvalidInput, "there is no runner 'cloud'"),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_right(
    study: ic.Study, store: Store, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = {"estimator": "tracin", "what": "influence"} | arguments
    with pytest.raises(error, match=words):
        ic.run(study, given.pop("estimator"), given.pop("what"), store=store, **given)
    assert not store.path.exists()


def test_a_study_that_lacks_something_is_told_so(study: ic.Study, store: Store) -> None:
    with pytest.raises(ic.NotSupported, match="checkpoints"):
        ic.run(study.replaced(trajectory=None), "tracin", store=store)


def test_retrainings_go_on_where_they_broke_off(study: ic.Study, store: Store) -> None:
    kept = ic.evaluation.draw_subsets(len(study.train), 5, seed=1)
    whole = ic.evaluation.retrain_subsets(study, "recipe", kept, seeds=(0, 1))
    task = ic.store.Retrainings.of(study, "recipe", kept, range(len(study.test)), (0, 1))
    with broken_after(2):
        store.compute(task)
    with counted() as rest:
        again = ic.evaluation.retrain_subsets(study, "recipe", kept, seeds=(0, 1), store=store)
    assert rest == task.shards()[2:]
    assert torch.equal(again.losses, whole.losses)
    scores = ic.estimators.TracIn().fit(study).influence()
    assert ic.evaluation.lds(study, scores, again).value == ic.evaluation.lds(study, scores, whole).value
    made = ic.store.task_from_spec(study, json.loads(json.dumps(task.spec())))
    assert made.key == task.key
    named = ic.store.Retrainings.of(study, "influence_core.store.retrainings:by_recipe", kept, (0,), (0,))
    assert named.key != task.key
    with pytest.raises(ic.NotSupported, match="no name by which"):
        ic.evaluation.retrain_subsets(study, lambda s, k, n: s.model, kept, store=store)
    with pytest.raises(ic.InvalidInput, match="no function that trains"):
        ic.evaluation.retrain_subsets(study, "nowhere:train", kept, store=store)


# --- faults


def test_a_full_disk_is_a_sentence_and_loses_nothing(
    study: ic.Study, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request.of(study, "tracin", "self_influence")
    with broken_after(2):
        store.compute(request)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ic.InvalidInput, match=r"cannot be written .*No space left"):
        store.compute(request)
    monkeypatch.undo()
    monkeypatch.setattr(requests, "LEAST_ROWS", 5)
    assert not list(store.path.rglob("*.tmp"))
    with counted() as rest:
        store.compute(request)
    assert len(rest) == len(request.shards()) - 2


def test_a_disk_without_room_for_a_claim_is_a_sentence(
    study: ic.Study, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def full(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(store.path)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(ic.InvalidInput, match=r"cannot be written .*No space left"):
        ic.run(study, "loss", "mislabel_scores", store=store)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, to give up being root")
def test_a_folder_that_is_read_only_is_read_and_else_a_sentence(study: ic.Study) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = Store(Path(folder) / "store")
        known = Request.of(study, "loss", "mislabel_scores")
        expected = store.compute(known).values.clone()
        for path in [store.path, *store.path.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        receive, send = multiprocessing.Pipe(False)
        pid = os.fork()
        if pid == 0:
            if os.geteuid() == 0:
                os.setuid(65534)
            try:
                found = store.find(known)
                same = found is not None and torch.equal(found.values, expected)
                store.compute(Request.of(study, "random", "mislabel_scores"))
                send.send((same, "written"))
            except BaseException as error:
                send.send((same, f"{type(error).__name__}: {error}"))
            os._exit(0)
        os.waitpid(pid, 0)
        same, said = receive.recv()
        for path in [store.path, *store.path.rglob("*")]:
            path.chmod(0o755)
        assert same
        assert said.startswith("InvalidInput: ")
        assert "cannot be written" in said


@pytest.mark.parametrize("which", ["rows", "values.npy", "result.json", "estimator"])
def test_a_file_cut_short_is_named_and_computed_again(study: ic.Study, store: Store, which: str) -> None:
    request = Request.of(study, "ekfac", "influence", [1])
    expected = store.compute(request).values.clone()
    if which in ("rows", "estimator"):
        store.remove(request.key)
        with broken_after(2):
            store.compute(request)
    path = next(one for one in store.path.rglob(f"{which}*") if one.is_file() and one.suffix != ".claim")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    damaged = [str(one.path) for one in store.verify()]
    assert any(str(path) == one or Path(one).parent == path.parent for one in damaged)
    if which in ("values.npy", "result.json"):
        with pytest.raises(ic.InvalidInput, match=path.name):
            store.find(request)
    with pytest.warns(ic.DamageWarning, match="set aside"):
        again = store.compute(request)
    assert torch.equal(again.values, expected)


def test_the_answer_to_another_request_in_its_place_is_refused(study: ic.Study, store: Store) -> None:
    mine, other = (Request.of(study, "tracin", "influence", [i]) for i in (1, 2))
    store.compute(mine)
    theirs = store.compute(other).values.clone()
    for name in ("result.json", "values.npy", "scores.parquet"):
        source, target = store.folder(other), store.folder(mine)
        (target / name).write_bytes((source / name).read_bytes())
    with pytest.raises(ic.StaleResult, match="another request"):
        store.find(mine)
    with pytest.warns(ic.DamageWarning):
        assert not torch.equal(store.compute(mine).values, theirs)


def test_results_are_found_whatever_the_clock_says(study: ic.Study, store: Store) -> None:
    request = Request.of(study, "tracin", "self_influence")
    with broken_after(2):
        store.compute(request)
    for path in store.path.rglob("*"):
        os.utime(path, (4e9, 4e9))  # in the year 2096: the clock was set back since
    with counted() as rest:
        store.compute(request)
    assert len(rest) == len(request.shards()) - 2
    assert store.find(request) is not None
    assert store.evict() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_processes_compute_each_shard_once(study: ic.Study, store: Store, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        request = Request.of(study, "tracin", "self_influence")
        pids = []
        for number in range(2):
            pid = os.fork()
            if pid == 0:
                with counted() as mine:
                    scores = store.compute(request)
                done = [[r.start for r in mine], scores.values.tolist()]
                (tmp_path / f"{number}.json").write_text(json.dumps(done))
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        torch.set_num_threads(before)
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in range(2))
    assert sorted(one[0] + two[0]) == [rows.start for rows in request.shards()]
    assert one[1] == two[1]


def test_out_of_memory_is_tried_once_more_with_half_the_batch(study: ic.Study, store: Store) -> None:
    sizes: list[int] = []

    @dataclass
    class Greedy(ic.estimators.TracIn):
        def _self_influence(self) -> Tensor:
            sizes.append(samples_at_once())
            if self._rows is not None and self._rows.start == 5 and len(sizes) == 2:
                raise MemoryError
            return super()._self_influence()

    given = ic.run(study, Greedy(), "self_influence", store=store)
    direct = ic.estimators.TracIn().fit(study).self_influence()
    torch.testing.assert_close(given.values, direct.values, rtol=1e-5, atol=0)
    assert sizes[2] == sizes[0] // 2
    assert "half the batch" in " ".join(given.caveats())
    assert "1 of" in " ".join(given.meta["warnings"])
    assert not list(store.path.rglob("pieces*"))  # of neither try


# --- keeping house


def test_a_budget_removes_what_was_not_used_for_longest(study: ic.Study, tmp_path: Path) -> None:
    store = Store(tmp_path, budget=None)
    for number in range(4):
        ic.run(study, "tracin", test=number, store=store)
    answers = [one for one in store.entries() if one.kind == "answer"]
    for age, one in enumerate(sorted(answers, key=lambda e: e.title)):
        os.utime(one.path / "in-use", (1e9 + age, 1e9 + age))
        os.utime(one.path / "about.json", (1e9 + age, 1e9 + age))
    size = store.usage()
    removed = Store(tmp_path, budget=size - 1).evict()
    assert [one.title for one in removed] == ["TracIn: influence on test image 0"]
    with places.claimed(answers[0].path / "in-use", shared=True):  # somebody reads it
        left = Store(tmp_path, budget=1).evict()
        assert answers[0].key not in [one.key for one in left]
        with pytest.raises(ic.InvalidInput, match="in use"):
            store.remove(answers[0].key)
        assert main(["store", "rm", "--all", "--store", str(tmp_path)]) == 0
    assert [one.key for one in store.entries()] == [answers[0].key]
    assert [one.key for one in store.remove(answers[0].key[:6])] == [answers[0].key]
    with pytest.raises(ic.InvalidInput, match="no result begins with 'abc'"):
        store.remove("abc")
    assert store.to_frame().empty


def test_tables_are_read_by_pandas(study: ic.Study, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = ic.run(study, "tracin", test=[1, 3], store=store)
    table = pd.read_parquet(next(store.path.rglob("scores.parquet")))
    assert list(table) == ["train_id", "test_1", "test_3"]
    np.testing.assert_array_equal(table["test_3"], scores.values[:, 1])
    values = np.load(next(store.path.rglob("values.npy")), mmap_mode="r")
    np.testing.assert_array_equal(values, scores.values)
    monkeypatch.setattr("influence_core.store.result.WIDE", 1)
    wide = ic.run(study, "tracin", test=[1, 3, 4], store=store)
    top = pd.read_parquet(next(store.path.rglob("top.parquet")))
    for side, frame in (("harmful", wide.harmful(3, 5)), ("helpful", wide.helpful(3, 5))):
        mine = top[(top["test_id"] == 3) & (top["side"] == side)].head(5)
        assert mine["train_id"].tolist() == frame["train_id"].tolist()
        np.testing.assert_allclose(mine["score"], frame["score"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_column_of_a_large_answer_takes_no_memory(tmp_path: Path) -> None:
    from influence_core.store import result

    rows, columns = 20_000, 2_000  # 160 MB
    out = np.lib.format.open_memmap(
        tmp_path / "values.npy", mode="w+", dtype=np.float32, shape=(rows, columns), fortran_order=True
    )
    out[:, 700] = np.arange(rows)
    out.flush()
    del out
    before = anonymous_mib()
    values = result._mapped(tmp_path / "values.npy", (rows, columns), torch.float32)
    best = torch.topk(values[:, 700], 3).indices.tolist()
    assert best == [rows - 1, rows - 2, rows - 3]
    assert anonymous_mib() - before < 16


def anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def test_results_that_came_with_a_study_are_found_and_not_touched(study: ic.Study, tmp_path: Path) -> None:
    bundled = Store(tmp_path / "bundled")
    ic.run(study, "tracin", test=[1, 2], store=bundled)
    before = {path: path.stat().st_mtime_ns for path in bundled.path.rglob("*")}
    mine = Store(tmp_path / "mine", also=(bundled.path,))
    with counted() as rows:
        ic.run(study, "tracin", test=2, store=mine)
    assert not rows
    assert before == {path: path.stat().st_mtime_ns for path in bundled.path.rglob("*")}
    assert mine.entries() == []


@pytest.mark.parametrize("budget", [0, -1.0])
def test_a_budget_is_a_number_of_bytes(tmp_path: Path, budget: float) -> None:
    with pytest.raises(ic.InvalidInput, match="number of bytes above 0"):
        Store(tmp_path, budget=budget)
    (tmp_path / "file").write_text("")
    with pytest.raises(ic.InvalidInput, match="is a file"):
        Store(tmp_path / "file")
