"""The command line: every example of its help runs, and whatever goes wrong ends in a sentence."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import influence_core as ic
from influence_core import serving
from influence_core.cli import main, showing, store_texts, texts
from influence_core.cli.console import settings, shown_progress
from tests.broken_studies import NAMES, bars, encoded_bars, session, sound

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SESSION = re.search(r"## In a terminal\n.*?```console\n(.*?)```", README, re.DOTALL)


class Shell:
    """Commands run in a folder of their own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, words: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert words.startswith("influence ")
        found = main(shlex.split(words)[1:])
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.err + self.out
        assert found == code, self.err
        return self.out


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFLUENCE_STORE", str(tmp_path_factory.mktemp("results") / "store"))
    return Shell(capsys)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a folder of pictures, made once."""
    home = tmp_path_factory.mktemp("made")
    bars(home / "pictures", each=30, wrong=0.2)
    before = Path.cwd()
    try:
        os.chdir(home)
        assert main(["new", "my_study", "--data", "pictures", "--epochs", "6", "--validation-share", "0.2"]) == 0
    finally:
        os.chdir(before)
    return home


def examples() -> list[str]:
    every = [value for one in (texts, store_texts) for name, value in vars(one).items() if name.isupper()]
    return [line.strip() for text in every for line in text.splitlines() if line.startswith("  influence ")]


# --- the session of the README


def test_the_session_of_the_readme_runs_and_gains(shell: Shell) -> None:
    assert SESSION is not None
    lines = SESSION[1].strip().splitlines()
    assert len(lines) <= 15
    truth = session(Path("pictures"))
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    verbs = [words.split()[1] for words in commands if words.startswith("influence")]
    assert verbs == ["new", "doctor", "relabel", "apply", "retrain"]
    printed: list[str] = []
    for words in commands:
        if words.startswith("#"):  # the review, by somebody who knows
            table = ic.applications.read_relabels("relabel.csv")
            right = [truth[name] for name in table["filepath"]]
            wrong = table["is_label_issue"] & (table["given_label"] != right)
            table["decision"] = np.where(wrong, "relabel", np.where(table["is_label_issue"], "keep", ""))
            table["final_label"] = [name if bad else "" for name, bad in zip(right, wrong, strict=True)]
            ic.applications.write_relabels(table, "relabel.csv")
        else:
            printed += shell(words).splitlines()
    shown = [re.sub(r"[\d.,+-]+", "#", line) for line in printed]
    for line in lines:
        if not line.startswith("$ "):
            assert re.sub(r"[\d.,+-]+", "#", line).strip() in [one.strip() for one in shown], line
    gain = re.search(r"([+-][\d.]+) points", " ".join(printed))
    assert gain is not None
    assert float(gain[1]) > 5


# --- examples of the help


def test_every_example_of_the_help_runs(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path
) -> None:
    bars(tmp_path / "pictures", each=20, wrong=0.2)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "pictures").rglob("*.png"))
    pd.DataFrame({"file": names, "label": [n.split("/")[1] for n in names]}).to_csv("labels.csv", index=False)
    weights = ic.Study.load(made / "my_study").model.state_dict()
    torch.save(weights, "weights.pt")
    (tmp_path / "cifar").mkdir()
    for name, count in (("cifar10n_train", 60), ("cifar10_test", 30)):
        pictures, labels = encoded_bars(count)
        columns = {"image": pictures, "label": labels, "worse_label": [int((k + 1) % 3) for k in labels]}
        pq.write_table(pa.table(columns), f"cifar/{name}.parquet")
    opened: list[list[str]] = []

    started = subprocess.Popen

    class Ended:
        def __new__(cls, command: list[str], **given: object) -> object:
            if "influence_core.jobs.worker" in command:
                return started(command, **given)  # type: ignore[call-overload]
            opened.append(command)
            return super().__new__(cls)

        def __init__(self, *_: object, **__: object) -> None: ...

        def poll(self) -> int:
            return 0

        def wait(self, *_: object) -> int:
            return 0

    monkeypatch.setattr(showing.subprocess, "Popen", Ended)
    monkeypatch.setattr(showing, "open_link", lambda *_, **__: serving.Link("http://localhost:1", 1, False))
    found = examples()
    assert len(found) > 20
    done: set[str] = set()
    for words in sorted(
        found, key=lambda w: ["new", "relabel"].index(w.split()[1]) if w.split()[1] in ("new", "relabel") else 2
    ):
        if words in done:
            continue
        done.add(words)
        if "--seeds" not in words and " retrain " in words:
            words += " --seeds 1"
        if " doctor " in words:
            words += " --no-calibrate"
        target = re.search(r"--out (\S+)", words)
        if target is not None and " apply " in words and Path(target[1]).exists():
            continue
        if "--in-place" in words or words.endswith("relabel.csv --seeds 1"):
            assert Path("relabel.csv").is_file()
        code = main(shlex.split(words)[1:])
        assert code in ((0, 3, 4) if " doctor " in words else (0,)), words
    assert any("--port=8600" in " ".join(command).replace("--server.port", "--port") for command in opened)


COMMANDS = ("new", "doctor", "estimators", "score", "compare", "relabel", "apply", "retrain", "jobs", "app")
JOBS = ("ls", "log", "cancel", "resume", "wait", "clean")


@pytest.mark.parametrize("name", ["", *COMMANDS, *(f"jobs {verb}" for verb in JOBS)])
def test_help_reads_like_a_page(name: str, shell: Shell) -> None:
    page = shell(f"influence {name} --help")
    assert max(map(len, page.splitlines())) <= 120
    assert "influence " in page
    assert "\b" not in page
    if name:
        assert "Examples:" in page
        undocumented = [line for line in page.splitlines() if re.match(r"^  --\w[\w-]*( [A-Z]+)?$", line)]
        assert len(undocumented) <= page.count("\n      ")  # what has its help on the next line
    else:
        assert all(re.search(rf"^  {command}\b", page, re.MULTILINE) for command in COMMANDS)


# --- each command


def test_a_comparison_says_what_is_empty_and_why(shell: Shell, made: Path) -> None:
    asked = f"influence compare {made / 'my_study'} lastlayer,random --test 0,1"
    facts = json.loads(shell(f"{asked} --json"))
    assert [row["estimator"] for row in facts["table"]] == ["lastlayer", "random"]
    assert facts["table"][0]["influence_seconds"] > 0
    assert facts["table"][1]["influence_seconds"] is None
    assert facts["test_ids"] == [0, 1]
    assert "- random: Random (control) gives no influence" in shell(asked)
    assert "Not measured: linear datamodelling scores" in shell.out
    shell(f"{asked} --out c.parquet")
    assert pd.read_parquet("c.parquet")["estimator"].tolist() == ["lastlayer", "random"]
    for words, error in (
        ("--out c.txt", ".parquet or .csv"),
        ("--seeds 0", "at least one training"),
        ("--subsets 2", "3 subsets"),
    ):
        shell(f"{asked} {words}", 1)
        assert error in shell.err


def test_json_is_all_that_is_on_stdout(shell: Shell, made: Path, tmp_path: Path) -> None:
    study = made / "my_study"
    report = json.loads(shell("influence doctor demo --json --no-calibrate"))
    assert {"findings", "estimators", "exit_code"} <= report.keys()
    assert json.loads(shell("influence estimators --json"))[0]["name"]
    facts = json.loads(shell(f"influence score {study} loss --json"))
    assert len(facts["scores"]["score"]) == len(ic.Study.load(study).train)
    facts = json.loads(shell(f"influence relabel {study} -e loss --out r.csv --json"))
    assert facts["file"] == "r.csv"
    assert json.loads(shell(f"influence apply {study} r.csv --out copy --json"))["relabelled"] == 0
    assert "no label changes" in shell.err
    assert len(json.loads(shell(f"influence retrain {study} copy --seeds 1 --json"))["before"]) == 1


def test_scores_as_csv_and_parquet(shell: Shell, made: Path) -> None:
    study = ic.Study.load(made / "my_study")
    expected = ic.estimators.EKFAC(damping=0.5).fit(study).influence([0, 2])
    words = f"influence score {made / 'my_study'} ekfac --what influence --test 0,2 --set damping=0.5"
    shell(f"{words} --out deep/scores.parquet")
    table = pq.read_table("deep/scores.parquet")
    torch.testing.assert_close(torch.tensor(table.column("test_2").to_pylist()), expected.values[:, 1])
    assert json.loads(table.schema.metadata[b"influence_core"])["parameters"]["damping"] == 0.5
    lines = shell(words).splitlines()
    assert lines[0] == "train_id,sample_id,test_0,test_2"
    assert len(lines) == len(study.train) + 1
    assert shell.err.startswith("note: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("influence doctor nowhere --sample 3", None),
        ("influence relabel nowhere", "there is no study file nowhere"),
        ("influence score demo nosuch", "there is no estimator 'nosuch'"),
        ("influence score demo loss --set damping", "expected NAME=VALUE"),
        ("influence score demo loss --what wisdom", "choose one of influence"),
        ("influence score demo loss --what influence", "gives no influence"),
        ("influence score demo loss --out scores.xlsx", "ends in .parquet or .csv"),
        ("influence score demo ekfac --what influence --test a,b", "expected ids such as 3,17"),
        ("influence new mine --data nowhere", "there are no pictures at nowhere"),
        ("influence new mine", "give --data, as nobody can be asked here"),
        ("influence new mine --data . --size big", "expected pixels such as 32"),
        ("influence apply demo relabel.csv", "say where to write"),
        ("influence apply demo none.csv --out x", "was read from no folder"),
        ("influence retrain demo nothing", "there is no nothing"),
        ("influence app nowhere", "there is no study nowhere"),
        ("influence score demo loss --wait", "--wait belongs to --job"),
        ("influence score demo loss --job --out scores.csv", "--out belongs to --wait here"),
        ("influence score demo loss --job --what wisdom", "choose one of influence"),
        ("influence score demo loss --job --what influence", "gives no influence"),
        ("influence jobs log 3f", "there is no job '3f'"),
        ("influence jobs wait last --out scores.xlsx", "ends in .parquet or .csv"),
        ("influence jobs cancel last --store /dev/null", "is a file; a store is a folder"),
    ],
)
def test_refusals_are_sentences(
    words: str, said: str | None, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        shell(words, 4 if said is None else 1)
    if said is not None:
        assert said in shell.err
        assert shell.out == ""
        assert shell.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_word_that_is_no_command_is_code_2(shell: Shell) -> None:
    shell("influence doctr demo", 2)
    assert "doctr" in shell.err


def test_an_error_that_nobody_expected_is_a_sentence_too(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("influence_core.cli.scoring.listed", broken)
    shell("influence estimators", 1)
    assert "this should not have happened: ZeroDivisionError" in shell.err


def test_ctrl_c_ends_in_a_sentence(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "influence_core.cli", "score", "demo", "gex", "--out", "scores.csv"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr is not None
    first = process.stderr.readline()  # the work has begun
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, first + err
    assert "stopped by Ctrl-C" in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_progress_is_one_line_in_a_terminal_and_few_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock = iter(np.arange(0.0, 100.0, 0.5))
    monkeypatch.setattr("influence_core.cli.console.time.monotonic", lambda: next(clock))
    for out, lines in ((Terminal(), 0), (io.StringIO(), 2)):
        with shown_progress(out):
            list(ic.progress.track(range(40), "counting"))
        said = out.getvalue()
        assert said.count("\n") == lines
        assert "counting: " in said
        assert "left" in said
        if lines == 0:
            assert said.endswith("\r")


def test_a_job_from_the_command_line(shell: Shell, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("influence_core.jobs.asking.dispatch", lambda *_: None)
    monkeypatch.setattr("influence_core.jobs.job.dispatch", lambda *_: None)
    study = made / "my_study"
    assert shell("influence jobs ls") == "no jobs: influence score STUDY ESTIMATOR --job starts one\n"
    first, how = shell(f"influence score {study} loss --job").splitlines()
    id, state, title = re.split(r" {2,}", first)
    assert (state, title) == ("queued", "Loss (control): mislabel scores")
    assert how == f"influence jobs wait {id} prints the scores; influence jobs ls looks"
    assert json.loads(shell(f"influence score {study} loss --job --json"))["id"].startswith(id)
    assert json.loads(shell("influence jobs ls --json"))[0]["state"] == "queued"
    shell(f"influence jobs wait {id[:4]} --timeout 0", 1)
    assert shell.err == "Loss (control): mislabel scores is not through after 0.0 s: it goes on\n"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("influence_core.jobs.job.tick", stop)
        shell("influence jobs wait last", 130)
    assert (
        shell.err
        == f"stopped by Ctrl-C: the job goes on: ic.jobs.get('{id}').wait() comes back to it, and .cancel() ends it\n"
    )
    assert shell("influence jobs cancel last").split()[1] == "cancelled"
    shell("influence jobs wait last", 1)
    assert "it was cancelled: job.resume() goes on" in shell.err
    assert json.loads(shell("influence jobs resume last --json"))["state"] == "queued"
    assert json.loads(shell("influence jobs log last --json"))["lines"] == []
    ic.run(ic.Study.load(study), "loss", "mislabel_scores")
    assert "done" in shell(f"influence score {study} loss --job")
    table = shell("influence jobs wait last")
    assert table == shell(f"influence score {study} loss --job --wait") == shell(f"influence score {study} loss")
    assert json.loads(shell(f"influence score {study} loss --job --wait --out s.csv --json"))["job"].startswith(id)
    assert Path("s.csv").read_text() == table
    assert json.loads(shell("influence jobs clean --json")) == {"removed": 1}
    shell("influence score demo loss --job --wait --out demo.csv")  # came with the study
    shell("influence jobs wait last --out again.csv")
    assert Path("demo.csv").read_text() == Path("again.csv").read_text()


def test_settings_are_numbers_words_and_lists() -> None:
    given = ["a=0.5", "b=true", "c=word", "d=[1, 2]", "e=null", "f=1=2"]
    assert settings(given) == {"a": 0.5, "b": True, "c": "word", "d": [1, 2], "e": None, "f": "1=2"}


# --- new


def test_parts_of_a_folder_and_of_a_column(shell: Shell, tmp_path: Path) -> None:
    session(tmp_path / "pictures")
    rows = []
    for part in ("train", "test"):
        files = sorted((tmp_path / "pictures" / part).rglob("*.png"))
        rows += [(file.relative_to(tmp_path).as_posix(), file.parent.name, part) for file in files]
    pd.DataFrame(rows, columns=["file", "kind", "part"]).to_csv("labels.csv", index=False)
    shell("influence new folders --data pictures --epochs 1")
    shell("influence new tabled --data labels.csv --label kind --split part --epochs 1 --images 60")
    folders, tabled = ic.Study.load("folders"), ic.Study.load("tabled")
    assert folders.class_names == tabled.class_names == NAMES
    assert (len(folders.train), len(folders.test), len(tabled.train), len(tabled.test)) == (240, 240, 60, 240)
    assert tabled.train.filepath(1) == rows[4][0]
    shell("influence new folders --data pictures", 1)
    assert "there is a study in folders already" in shell.err


def test_weights_that_are_there(shell: Shell, made: Path, tmp_path: Path) -> None:
    known = ic.Study.load(made / "my_study")
    ic.models.save_tensors("weights.safetensors", known.model.state_dict())
    scaling = known.train.root()[0].preprocessing.facts
    mean, std = (",".join(map(str, scaling[key])) for key in ("mean", "std"))
    words = f"influence new mine --data {made / 'pictures'} --weights weights.safetensors --mean {mean} --std {std}"
    shell(words + " --validation-share 0.2")
    mine = ic.Study.load("mine")
    assert mine.trajectory is None
    torch.testing.assert_close(mine.outputs(), known.outputs())
    shell(
        f"influence new bad --data {made / 'pictures'} --weights weights.safetensors --set width=8 --mean 0 --std 1", 1
    )
    assert "do not fit" in shell.err
    assert not Path("bad").exists()


# --- apply and retrain


def decide(table: pd.DataFrame, relabel: dict[int, str], exclude: list[int]) -> pd.DataFrame:
    table = table.copy()
    table["decision"] = [
        "relabel" if i in relabel else "exclude" if i in exclude else "" for i in table["index"].tolist()
    ]
    table["final_label"] = [relabel.get(i, "") for i in table["index"].tolist()]
    return table


def listing(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_is_mended_as_a_copy_or_in_place(shell: Shell, tmp_path: Path) -> None:
    bars(tmp_path / "pictures", each=12)
    shell("influence new my_study --data pictures --epochs 1")
    shell("influence relabel my_study -e loss --out relabel.csv")
    study = ic.Study.load("my_study")
    names = [study.train.filepath(i) for i in range(3)]
    table = decide(ic.applications.read_relabels("relabel.csv"), {0: "right", 1: "middle"}, [2])
    ic.applications.write_relabels(table, "relabel.csv")
    before = listing(tmp_path / "pictures")
    (tmp_path / "pictures" / "right" / Path(names[0]).name).write_bytes(b"taken")  # the name is taken there
    taken = listing(tmp_path / "pictures")
    assert "2 pictures relabelled, 1 left out" in shell("influence apply my_study relabel.csv --out mended")
    assert listing(tmp_path / "pictures") == taken
    after = listing(tmp_path / "mended")
    assert len(after) == len(taken) - 1
    assert names[2] not in after
    stem = Path(names[0]).stem
    assert after[f"right/{stem}-2.png"] == before[names[0]]
    assert after[f"right/{stem}.png"] == b"taken"
    shell("influence apply my_study relabel.csv --out mended", 1)
    assert "mended is there already" in shell.err
    (tmp_path / "pictures" / "right" / f"{stem}.png").unlink()

    mended = ic.applications.read_mended(study.train, tmp_path / "relabel.csv")
    assert mended.labels[:2].tolist() == [2, 1]
    assert len(mended) == len(study.train) - 1
    shell("influence apply my_study relabel.csv --in-place")
    (backup,) = tmp_path.glob("pictures.backup-*")
    assert listing(backup) == before
    again = ic.applications.read_mended(study.train, tmp_path / "pictures")
    assert again.labels.tolist() == mended.labels.tolist()
    assert again.filepaths == mended.filepaths


@pytest.mark.parametrize("kind", ["csv", "parquet", "bytes"])
def test_a_table_is_mended_and_the_rest_of_it_stays(kind: str, shell: Shell, tmp_path: Path) -> None:
    pictures, labels = encoded_bars(36)
    parts = ["train" if i % 3 else "test" for i in range(36)]
    note = [f'a "note", {i}' for i in range(36)]
    if kind == "bytes":
        file, label = "labels.parquet", labels
        columns: dict[str, object] = {"image": pictures, "label": label, "part": parts, "note": note}
    else:
        (tmp_path / "images").mkdir()
        for i, content in enumerate(pictures):
            (tmp_path / "images" / f"{i}.png").write_bytes(content)
        file, label = f"labels.{kind}", [NAMES[k] for k in labels]
        columns = {"file": [f"images/{i}.png" for i in range(36)], "label": label, "part": parts, "note": note}
    frame = pd.DataFrame(columns)
    frame.to_csv(file, index=False) if kind == "csv" else pq.write_table(pa.table(columns), file)
    column = "file" if kind == "parquet" else ""
    shell(f"influence new my_study --data {file} --split part --epochs 1" + (f" --file {column}" if column else ""))
    shell("influence relabel my_study -e loss --out relabel.csv")
    study = ic.Study.load("my_study")
    names = study.class_names
    wanted = names[(int(study.train.labels[0]) + 1) % 3]
    ic.applications.write_relabels(
        decide(ic.applications.read_relabels("relabel.csv"), {0: wanted}, [3]), "relabel.csv"
    )
    before = Path(file).read_bytes()
    shell(f"influence apply my_study relabel.csv --out deeper/mended.{file.split('.')[1]}")
    mended = Path(f"deeper/mended.{file.split('.')[1]}")
    found = pd.read_csv(mended) if kind == "csv" else pq.read_table(mended).to_pandas()
    rows = [i for i in range(36) if parts[i] == "train"]
    expected = frame.drop(index=rows[3]).reset_index(drop=True)
    expected.loc[rows[0], "label"] = (
        (int(wanted) if wanted.isdigit() else names.index(wanted)) if kind == "bytes" else wanted
    )
    if kind != "bytes":
        expected["file"] = [f"../{name}" for name in expected["file"]]
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert Path(file).read_bytes() == before
    again = ic.applications.read_mended(study.train, mended)
    assert again.labels.tolist() == ic.applications.apply_relabels(study.train, "relabel.csv").labels.tolist()
    shell("influence apply my_study relabel.csv --in-place")
    (backup,) = tmp_path.glob(f"{file}.backup-*")
    assert backup.read_bytes() == before


def test_retraining_compares_the_same_weights_on_both_sets_of_labels() -> None:
    study = sound()
    same = ic.applications.retrain(study, study.train, seeds=(3,))
    assert list(same.before) == list(same.after)
    assert (same.relabelled, same.excluded, same.gain, same.spread) == (0, 0, 0.0, None)
    labels = study.train.labels.clone()
    labels[:50] = 0
    worse = ic.applications.retrain(study, study.train.with_labels(labels).subset(range(110)), seeds=(3,))
    assert (worse.relabelled, worse.excluded) == (int((labels != study.train.labels)[:110].sum()), 10)
    assert worse.gain < 0
    assert worse.before == same.before
    assert worse.study.trajectory is not None
    assert worse.study.trajectory.recipe.epochs == study.trajectory.recipe.epochs
    with pytest.raises(ic.InvalidInput, match="seeds is empty"):
        ic.applications.retrain(study, study.train, seeds=())


# --- the bundled study


def test_a_study_made_again_is_the_same_to_the_last_byte(shell: Shell, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        shell(f"influence demo-study --out {folder} --noise 0.3 --seed 1")
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert [re.sub("-[0-9a-f]{12}", "", name) for name in files] == [
        "model.safetensors",
        "study.toml",
        "test.safetensors",
        "train.safetensors",
        "trajectory.safetensors",
        "validation.safetensors",
    ]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    study = ic.Study.load(tmp_path / "one")
    assert study.name == "Handwritten digits, 30% wrong labels, seed 1"
    assert int(study.train.corrupted.sum()) == 300
    assert study.accuracy() > 0.85
