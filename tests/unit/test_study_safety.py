"""Studies and estimators that are killed, damaged or written by two at once: whole, or refused by name.

``python -m tests.unit.test_study_safety`` runs the full figures: 60 kills and 600 flipped bits.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

import influence_core as ic
from influence_core import files, study_file
from influence_core.errors import InfluenceError, InvalidInput
from influence_core.estimators import Estimator, RandProj, TracIn
from tests.helpers import images, states_equal

ROOT = Path(__file__).parents[2]


def one(seed: int) -> ic.Study:
    torch.manual_seed(seed)
    model = ic.models.build("mlp", inputs=16, classes=3, hidden=8)
    names = [f"{'ab'[seed]}{k}" for k in range(3)]
    train = images(24, seed, noise=0.2, dtype=torch.float32, name="train", class_names=names)
    settings = {"epochs": 2, "checkpoints": 2, "batch_size": 8, "weight_decay": 0.01 * (seed + 1)}
    trajectory = ic.training.fit(model, train, **settings)
    test = images(9, seed + 2, dtype=torch.float32, name="test")
    return ic.Study(model, train, test, trajectory=trajectory, name=f"study {seed}")


def facts(study: ic.Study) -> list[object]:
    """All of a study that a person or a number could notice."""
    parts = [study.fingerprint, study.name, study.class_names, study.weight_decay, study.loss]
    parts += [d.true_labels.tolist() for d in (study.train, study.test)]
    return [*parts, study.trajectory.losses, repr(study.trajectory.recipe)]


def said_by(folder: Path) -> list[object] | str:
    """The facts of the study there, or the refusal."""
    try:
        return facts(ic.Study.load(folder))
    except InfluenceError as error:
        refusal = str(error)
    assert str(folder) in refusal, f"the refusal names no file: {refusal}"
    return refusal


def kills(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Kill processes that save two studies into a folder by turns, and load what is there; every 3rd time two at once.

    Args:
        folder: an empty one.
        count: how many times.
        seed: of the moments.

    Returns:
        How often what was found, and how many kills hit inside a save.
    """
    draw, studies = random.Random(seed), (one(0), one(1))
    expected = [facts(study) for study in studies]
    studies[0].save(folder)
    begun = time.perf_counter()
    studies[0].save(folder)
    took = time.perf_counter() - begun
    found = {"kills": count, "inside a save": 0, "first": 0, "second": 0, "refused": 0}
    for number in range(count):
        trace = folder.parent / f"{folder.name}-{number}.trace"
        turns = studies if number % 2 else studies[::-1]
        writers = [save_by_turns(turns, folder, trace) for _ in range(1 + (number % 3 == 0))]
        time.sleep(4 * took * draw.random())
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
        found["inside a save"] += trace.read_bytes()[-1:] == b"b" if trace.exists() else 0
        trace.unlink(missing_ok=True)
        said = said_by(folder)
        found["refused" if isinstance(said, str) else ("first", "second")[expected.index(said)]] += 1
    studies[0].save(folder)
    assert facts(ic.Study.load(folder)) == expected[0]
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 5, f"something of the killed ones is left after the next save: {names}"
    return found


def save_by_turns(studies: tuple[ic.Study, ic.Study], folder: Path, trace: Path) -> int:
    """Fork a process that saves until it is killed and leaves a b at each begin and an e at each end."""
    child = os.fork()
    if child == 0:
        with trace.open("ab", buffering=0) as file:
            while True:
                for study in studies:
                    file.write(b"b")
                    study.save(folder)
                    file.write(b"e")
    return child


def flips(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Flip single bits, spread over all files of a study and of two saved estimators, and load.

    Args:
        folder: an empty one.
        count: how many bits.
        seed: of the places.

    Returns:
        How many were refused, and how many loads gave what was saved, to the last bit.
    """
    draw, study = random.Random(seed), one(0)
    study.save(folder)
    for estimator in (RandProj(dim=4), TracIn(last=1)):
        estimator.fit(study).save(folder / f"{estimator.name}.safetensors")
    expected, scores = facts(study), {e: answers(folder / f"{e}.safetensors", study) for e in ("randproj", "tracin")}
    found = {"bits": count, "refused": 0, "equal": 0}
    paths = sorted(folder.iterdir())
    for number in range(count):
        path = paths[number % len(paths)]
        whole = path.read_bytes()
        # half of the bits in the first part, where names and facts are, which large tensors would drown
        place = draw.randrange(len(whole) if number // len(paths) % 2 else min(len(whole), 1200))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        try:
            if path.stem in scores:
                assert answers(path, study) == scores[path.stem], f"bit flipped at byte {place} of {path.name}"
            else:
                assert facts(ic.Study.load(folder)) == expected, f"bit flipped at byte {place} of {path.name}"
            refusal = None
        except InfluenceError as error:
            refusal = str(error)
        assert refusal is None or path.name in refusal, f"the refusal does not name {path.name}: {refusal}"
        found["equal" if refusal is None else "refused"] += 1
        path.write_bytes(whole)
    return found


def answers(path: Path, study: ic.Study) -> list[object]:
    fitted = Estimator.load(path, study)
    scores = fitted.influence([0, 1])
    return [fitted.get_params(), scores.values.tolist(), {k: v for k, v in scores.meta.items() if k == "fit_seconds"}]


def run(what: str, count: int, folder: Path) -> str:
    """In a process of its own, whose only thread can be forked."""
    command = [sys.executable, "-m", "tests.unit.test_study_safety", what, str(count), str(folder / "study")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_save_that_is_killed_leaves_one_of_the_two_studies(tmp_path):
    found = eval(run("kills", 20, tmp_path))
    print(found)
    assert found["inside a save"] >= 5, f"{found}: too few to mean anything"
    assert found["first"] + found["second"] + found["refused"] == found["kills"]
    assert min(found["first"], found["second"]) >= 1, f"{found}: no kill came after a save"
    assert found["refused"] == 0, "not forbidden, but files are only removed once nothing refers to them"


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    found = eval(run("flips", 150, tmp_path))
    assert found["refused"] > 0.9 * found["bits"]


@pytest.fixture(scope="module")
def pair():
    return one(0), one(1)


def test_writers_and_readers_at_once(pair, tmp_path):
    expected, seen, errors = [facts(study) for study in pair], [], []
    pair[0].save(tmp_path)
    done = threading.Event()

    def write(study):
        try:
            for _ in range(8):
                study.save(tmp_path)
        except Exception as error:
            errors.append(error)

    def read():
        while not done.is_set():
            seen.append(said_by(tmp_path))

    writers, reader = [threading.Thread(target=write, args=(s,)) for s in pair], threading.Thread(target=read)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert errors == []
    assert seen
    assert all(isinstance(said, str) or said in expected for said in seen)
    assert said_by(tmp_path) in expected
    assert len(list(tmp_path.iterdir())) == 5


def test_the_former_files_go_and_other_studies_stay(pair, tmp_path):
    pair[0].save(tmp_path / "first.toml")
    pair[1].save(tmp_path / "second.toml")
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    (tmp_path / "model-mine.safetensors").write_bytes(b"mine")
    (tmp_path / "model-0123456789ab.safetensors").write_bytes(b"left by a save that was killed")
    (tmp_path / "test.0123456789ab.tmp").write_bytes(b"the same")
    pair[1].replaced(weight_decay=0.5).save(tmp_path / "second.toml")
    pair[0].edited({"1.bias": torch.ones(8)}).save(tmp_path / "first.toml")
    assert facts(ic.Study.load(tmp_path / "second.toml"))[1] == "study 1"
    assert not states_equal(ic.Study.load(tmp_path / "first.toml").model, pair[0].model)
    kinds = sorted(p.name.partition("-")[0] for p in tmp_path.iterdir())
    assert kinds == sorted(
        [*["model", "train", "test", "trajectory"] * 2, "model", "model.safetensors", "first.toml", "second.toml"]
    )


@pytest.mark.parametrize("step", ["temporary", "write_tensors", "keep", "write_whole"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [1, 3])
def test_a_save_that_fails_leaves_the_former_study(pair, tmp_path, monkeypatch, step, error, at):
    pair[0].save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real, calls = getattr(study_file, step), []

    def failing(*arguments):
        calls.append(step)
        if len(calls) == (1 if step == "write_whole" else at):
            raise error
        return real(*arguments)

    monkeypatch.setattr(study_file, step, failing)
    with pytest.raises((InvalidInput, KeyboardInterrupt)) as caught:
        pair[1].save(tmp_path)
    if isinstance(error, OSError):
        assert "study.toml cannot be written (No space left on device): make room" in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    monkeypatch.undo()
    pair[1].save(tmp_path)
    assert facts(ic.Study.load(tmp_path)) == facts(pair[1])


def test_a_disk_that_is_full(pair, tmp_path):
    """A limit on the size of files, which is what a process has instead of a full disk."""
    code = (
        "import resource, signal, sys; from tests.unit.test_study_safety import one; study = one(1)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try: study.save(sys.argv[1])\nexcept Exception as error: print(type(error).__name__, error)"
    )
    pair[0].save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.startswith("InvalidInput"), ran.stdout + ran.stderr
    assert "make room" in ran.stdout
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("part", ["name", "class", "path"])
def test_a_name_that_no_file_can_hold(pair, tmp_path, part):
    pair[0].save(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    bad, target = "x\ud800", tmp_path
    study = pair[1]
    if part == "name":
        study = study.replaced(name=bad)
    elif part == "class":
        names = [bad, "b", "c"]
        data = {s: ic.data.LabelledDataset(study.split(s).base, class_names=names) for s in ("train", "test")}
        study = study.replaced(**data)
    else:
        target = tmp_path / bad / "study.toml"
    with pytest.raises(InvalidInput, match=r"x?\\ud800|no file can hold"):
        study.save(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert facts(ic.Study.load(tmp_path)) == facts(pair[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="permissions of POSIX")
def test_files_have_ordinary_permissions(pair, tmp_path):
    before = os.umask(0o027)
    try:
        pair[0].save(tmp_path)
        TracIn(last=1).fit(pair[0]).save(tmp_path / "e.safetensors")
        ic.estimators.Loss().fit(pair[0]).mislabel_scores().save(tmp_path / "s.safetensors")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("study 0", "study 8", r"study\.toml was changed or damaged.*take the line 'checksum' out"),
        ("weight_decay = 0.01", "weight_decay = 0.02", "was changed or damaged"),
        ('checksum = "', '# "', None),
        ("version = 3", "version = 1", "was changed or damaged"),
        ("version = 3", "version = 4", "'version' is 4"),
    ],
)
def test_a_changed_study_file(pair, tmp_path, old, new, message):
    file = pair[0].save(tmp_path)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    if message is None:  # the way that the refusal names, for those who changed it on purpose
        assert facts(ic.Study.load(tmp_path)) == facts(pair[0])
    else:
        with pytest.raises(InvalidInput, match=message):
            ic.Study.load(tmp_path)


def test_a_changed_number_without_checksums_is_caught_by_the_fingerprint(pair, tmp_path):
    file = pair[0].save(tmp_path)
    lines = file.read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith(("checksum", "sha256")))
    file.write_text(text.replace("weight_decay = 0.01", "weight_decay = 0.02"))
    with pytest.raises(InvalidInput, match="'study 0' is not the one that was saved: its fingerprint is"):
        ic.Study.load(tmp_path)


def test_a_file_that_was_exchanged_for_a_whole_one_is_named(pair, tmp_path):
    pair[0].save(tmp_path / "a")
    pair[1].save(tmp_path / "b")
    for part in ("model", "train", "test", "trajectory"):
        mine, other = (next((tmp_path / folder).glob(f"{part}-*")) for folder in "ab")
        whole = mine.read_bytes()
        shutil.copy(other, mine)
        with pytest.raises(InvalidInput, match=rf"{mine.name} is not the file that the study was saved with"):
            ic.Study.load(tmp_path / "a")
        mine.write_bytes(whole)


def test_files_outside_of_the_folder_are_refused(pair, tmp_path):
    file = pair[0].save(tmp_path / "in")
    (weights,) = (tmp_path / "in").glob("model-*")
    shutil.move(weights, tmp_path / weights.name)
    text = file.read_text().partition("\n")[2]
    for path in (f"../{weights.name}", str(tmp_path / weights.name)):
        file.write_text(text.replace(weights.name, path))
        with pytest.raises(InvalidInput, match="which lies outside of its folder: copy it in"):
            ic.Study.load(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a" + ".a" * 50_000 + " = 1", "a key with more than 64 dots"),
        ('x = {"a"' + ' . "a"' * 50_000 + " = 1}", "a key with more than 64 dots"),
        ("x = " + "[" * 100_000, "not valid TOML"),
        ("#" * (2 << 20), "larger than 1,048,576 bytes"),
    ],
)
def test_a_study_file_without_bounds_is_refused_at_once(tmp_path, content, message):
    (tmp_path / "study.toml").write_text(content)
    begun = time.process_time()
    with pytest.raises(InvalidInput, match=message):
        ic.Study.load(tmp_path)
    assert time.process_time() - begun < 2


def test_no_temporary_file_stays(tmp_path):
    def half() -> None:
        with files.writing(tmp_path / "x.bin"), files.temporary(tmp_path, "x") as part:
            part.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(InvalidInput, match=r"x\.bin cannot be written \(No space left"):
        half()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_does_not_keep_a_folder(tmp_path):
    import fcntl

    with files.alone_in(tmp_path) as alone:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    mine = os.open(tmp_path, os.O_RDONLY)
    try:
        assert alone
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if somebody has it
    finally:
        os.close(mine)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_one_dataset_at_a_time_is_in_memory(pair, tmp_path, monkeypatch):
    held, real = [], study_file.write_tensors

    def write(part, tensors, texts):
        held.append({name: weakref.ref(tensor) for name, tensor in tensors.items() if name == "inputs"})
        assert [ref() for former in held[:-1] for ref in former.values() if ref() is not None] == []
        return real(part, tensors, texts)

    monkeypatch.setattr(study_file, "write_tensors", write)
    pair[0].save(tmp_path)
    assert len(held) == 4


def test_a_backup_keeps_its_files(pair, tmp_path):
    file = pair[0].save(tmp_path)
    shutil.copy(file, tmp_path / "study.toml.bak")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "train-0123456789ab.safetensors").write_bytes(b"left by a save that was killed")
    pair[1].save(tmp_path)
    assert not (tmp_path / "train-0123456789ab.safetensors").exists()
    shutil.move(tmp_path / "study.toml.bak", file)
    assert facts(ic.Study.load(tmp_path)) == facts(pair[0])


def test_a_study_behind_a_link(pair, tmp_path):
    (tmp_path / "linked.toml").symlink_to(pair[0].save(tmp_path / "real"))
    assert facts(ic.Study.load(tmp_path / "linked.toml")) == facts(pair[0])


@pytest.mark.skipif(os.name != "posix", reason="names of POSIX")
def test_a_folder_that_is_no_utf_8_is_refused(pair, tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    for save in (pair[0].save, lambda path: ic.models.save_tensors(path / "t.safetensors", {"a": torch.ones(1)})):
        with pytest.raises(InvalidInput, match="a name has characters that no file can hold"):
            save(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [lambda b: b.replace(b"\n", b"\r\n"), lambda b: b"\xef\xbb\xbf" + b])
def test_line_ends_and_marks_of_windows(pair, tmp_path, change):
    file = pair[0].save(tmp_path)
    file.write_bytes(change(file.read_bytes()))
    assert facts(ic.Study.load(tmp_path)) == facts(pair[0])


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000])
@pytest.mark.parametrize("key", ["weight_decay", "x"])
def test_numbers_without_end(pair, tmp_path, number, key):
    file = pair[0].save(tmp_path)
    file.write_text(f"{key} = {number}\n" + file.read_text().replace("weight_decay", "#"))
    with pytest.raises(InvalidInput, match=r"study\.toml") as caught:
        ic.Study.load(tmp_path)
    assert len(str(caught.value)) < 1000


def test_the_way_out_of_an_edited_file_is_named(pair, tmp_path):
    file = pair[0].save(tmp_path)
    text = file.read_text().replace("weight_decay = 0.01", "weight_decay = 0.02")
    file.write_text(text)
    with pytest.raises(InvalidInput, match="'checksum' out of it, and 'fingerprint' too if you changed a number"):
        ic.Study.load(tmp_path)
    file.write_text(text.partition("\n")[2])
    with pytest.raises(InvalidInput, match=r"the \.toml was edited \(weight_decay, frozen, a dataset\)"):
        ic.Study.load(tmp_path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 4:
        print({"kills": kills, "flips": flips}[sys.argv[1]](Path(sys.argv[3]), int(sys.argv[2])))
    else:
        with tempfile.TemporaryDirectory() as root:
            print(kills(Path(root) / "kills", 60))
            print(flips(Path(root) / "flips", 600))
