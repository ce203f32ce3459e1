"""The doctor: each fault is one finding with its mend, and nothing is changed or written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

import influence_core as ic
from influence_core.data import LabelledDataset, lookalikes, small_pictures
from influence_core.diagnosis import Finding, Report
from influence_core.estimators import calibration, cost
from influence_core.estimators.memory import BatchSizes
from influence_core.machine import cache_folder, machine_name
from tests.broken_studies import FAULTS, REFUSALS, sound

QUICK = [ic.estimators.TracIn(), ic.estimators.EKFAC(), ic.estimators.Loss()]


@pytest.fixture(scope="module")
def whole() -> ic.Study:
    return sound()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_sound_study_has_nothing_to_mend(whole: ic.Study) -> None:
    report = ic.doctor(whole, estimators=QUICK, calibrate=False)
    assert report.findings == ()
    assert report.exit_code == 0
    assert report.worst is None
    assert "nothing to mend" in str(report)
    assert report.facts["train_accuracy"] > 0.9


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_once(fault: str, whole: ic.Study) -> None:
    broken, code, exit_code = FAULTS[fault]
    study = broken(whole)
    before = study.fingerprint
    report = ic.doctor(study, estimators=QUICK, calibrate=False)
    assert [finding.code for finding in report.findings] == [code], str(report)
    assert report.exit_code == exit_code
    (finding,) = report.findings
    assert all(len(text) > 10 for text in (finding.what, finding.why, finding.mend))
    assert study.fingerprint == study.replaced().fingerprint == before


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_study_that_does_not_open_is_a_finding(fault: str, whole: ic.Study, tmp_path: Path) -> None:
    whole.save(tmp_path)
    REFUSALS[fault](tmp_path)
    before = files_of(tmp_path)
    report = ic.doctor(tmp_path)
    assert [finding.code for finding in report.findings] == ["study-refused"]
    assert report.exit_code == 4
    assert files_of(tmp_path) == before


def test_too_little_memory_and_disk(whole: ic.Study) -> None:
    report = ic.doctor(whole, memory_mib=1.0, disk_mib=1e9)
    assert [finding.code for finding in report.findings] == ["memory-too-little"]
    assert report.exit_code == 3
    assert "1 MiB of memory are free" in report.findings[0].what
    report = ic.doctor(whole, estimators=QUICK, memory_mib=1e9, disk_mib=1e-9)
    assert [finding.code for finding in report.findings] == ["disk-too-little"]


def test_the_mend_of_a_leak_mends_it(whole: ic.Study) -> None:
    study = FAULTS["leak"][0](whole)
    (finding,) = ic.doctor(study, estimators=QUICK, calibrate=False).findings
    names = {"test": study.test}
    exec(finding.mend, names)
    mended = study.replaced(test=names["test"])
    assert len(mended.test) == len(study.test) - 2
    assert ic.doctor(mended, estimators=QUICK, calibrate=False).findings == ()


def test_the_mend_of_shifted_labels_mends_them(whole: ic.Study) -> None:
    study = FAULTS["off by one"][0](whole)
    (finding,) = ic.doctor(study, estimators=QUICK, calibrate=False).findings
    names = {"train": study.train, "test": study.test}
    exec(finding.mend, names)
    mended = study.replaced(train=names["train"], test=names["test"])
    assert mended.accuracy() > 0.9
    assert not ic.doctor(mended, estimators=QUICK, calibrate=False).has("labels-shifted")


def test_a_report_as_text_json_and_html() -> None:
    table = pd.DataFrame(
        [["tracin", "influence", True, "", 12.3, None, 0.01]],
        columns=["name", "what", "runs", "lacks", "seconds", "memory_mib", "disk_mib"],
    )
    finding = Finding("some-code", "warning", "<b>what</b>", "why", "mend()")
    report = Report("mine", (finding,), {"train_samples": "1 of 2"}, table, "here", 0.5)
    facts = json.loads(report.to_json())
    assert facts["findings"][0]["mend"] == "mend()"
    assert facts["estimators"][0]["memory_mib"] is None
    assert facts["exit_code"] == 3
    assert "mend: mend()" in str(report)
    assert "&lt;b&gt;what" in report._repr_html_()
    assert "<b>what" not in report._repr_html_()
    assert report.to_frame().loc[0, "code"] == "some-code"
    with pytest.raises(ic.InvalidInput, match="no severity 'bad'"):
        Finding("x", "bad", "", "", "")  # type: ignore[arg-type]


def test_labels_that_are_no_classes_are_examined_too() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(3), torch.randn(())) for _ in range(40)]
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))

    def squares(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (outputs[:, 0] - labels).square()

    study = ic.Study(model, ic.data.SampleSet(data), ic.data.SampleSet(data[:9]), loss=squares)
    report = ic.doctor(study, estimators=QUICK, calibrate=False)
    assert report.worst != "error"
    lacks = report.estimators.set_index("name")["lacks"]
    assert lacks["tracin"] == "checkpoints"


# --- copies


def noise(count: int, side: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=draw)
    return torch.nn.functional.interpolate(coarse, side, mode="bilinear")


def labelled(inputs: torch.Tensor) -> LabelledDataset:
    return LabelledDataset(torch.utils.data.TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.int64)))


def test_copies_are_found_however_they_were_changed() -> None:
    inputs = noise(200, 32, 0)
    others = noise(50, 32, 1)
    small = torch.nn.functional.interpolate(inputs[5:6], 24, mode="bilinear", antialias=True)
    others[3] = inputs[17]
    others[4] = torch.nn.functional.interpolate(small, 32, mode="bilinear")[0]
    others[5] = 0.5 * inputs[9] + 0.3 + 0.01 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(2))
    found = lookalikes(small_pictures(labelled(others)), small_pictures(labelled(inputs)))
    assert {(i, j) for i, j, _ in found} == {(3, 17), (4, 5), (5, 9)}
    assert found[0][2] == 2.0
    assert all(0.99 <= likeness <= 1.0001 for _, _, likeness in found[1:])


def test_one_shape_in_other_colours_is_no_copy() -> None:
    shapes = torch.zeros(2, 3, 40, 40)
    colours = [((0.9, 0.8, 0.1), (0.2, 0.1, 0.1)), ((0.2, 0.6, 1.0), (0.0, 0.1, 0.3))]
    for shape, (inside, outside) in zip(shapes, colours, strict=True):
        shape[:] = torch.tensor(outside)[:, None, None]
        shape[:, 10:30, 10:30] = torch.tensor(inside)[:, None, None]
    small = small_pictures(labelled(shapes))
    assert float(small.rows[0] @ small.rows[1]) > 0.99
    assert lookalikes(small) == []
    assert len(lookalikes(small_pictures(labelled(shapes[[0, 0, 1]])))) == 1


def test_the_mend_of_copies_leaves_one_of_each() -> None:
    inputs = noise(60, 16, 3)
    inputs[41:56] = inputs[:15]  # with the other label
    data = LabelledDataset(torch.utils.data.TensorDataset(inputs, torch.arange(60) % 2))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 256, 2))
    study = ic.Study(model, data, data.subset(range(20, 40)))
    found = {finding.code: finding for finding in ic.doctor(study, calibrate=False).findings}
    assert found["training-twice"].why.startswith("one of two different labels is wrong")
    scope = {"ic": ic, "train": study.train, "test": study.test}
    exec(found["training-twice"].mend, scope)
    assert len(scope["train"]) == 45
    exec(found["test-in-training"].mend, scope)
    assert len(scope["test"]) == 0


def test_pairs_within_one_set_come_once() -> None:
    inputs = noise(1100, 16, 0)  # more than one block of rows
    inputs[1050] = inputs[20]
    inputs[0] = 0.25
    inputs[1] = 0.75  # pictures of one colour are alike only if they are equal
    assert [(i, j) for i, j, _ in lookalikes(small_pictures(labelled(inputs)))] == [(20, 1050)]


def test_tiny_pictures_count_only_when_equal(demo: ic.Study) -> None:
    train, test = small_pictures(demo.train), small_pictures(demo.test)
    assert lookalikes(test, train) == lookalikes(train) == []
    assert lookalikes(test, train, likeness=0.95)


# --- calibration


def test_a_calibration_is_kept_under_the_machines_name(
    whole: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFLUENCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "busy", lambda: False)
    first = calibration.calibrated(whole)
    file = cache_folder() / "calibration" / f"{machine_name()}.json"
    assert len(json.loads(file.read_text())) == 1
    monkeypatch.setattr(calibration, "_measured", lambda study: pytest.fail("it was measured already"))
    assert calibration.calibrated(whole.replaced(name="other")) == first
    file.write_text("{broken")
    monkeypatch.setattr(calibration, "_measured", lambda study: first)
    assert calibration.calibrated(whole) == first
    assert len(json.loads(file.read_text())) == 1


def test_what_a_busy_machine_says_is_not_kept(whole: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLUENCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.getloadavg", lambda: (1.3 * (os.cpu_count() or 1), 0.0, 0.0))
    report = ic.doctor(whole, estimators=QUICK)
    assert report.facts["busy"]
    assert "many times too many, as the machine is busy" in str(report)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr("os.getloadavg", lambda: (1.2 * (os.cpu_count() or 1), 0.0, 0.0))
    report = ic.doctor(whole, estimators=QUICK)
    assert "busy" not in report.facts
    assert "half or twice is near" in str(report)
    assert list((tmp_path / "cache" / "calibration").iterdir())


def test_a_cache_that_cannot_be_written_is_none(
    whole: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INFLUENCE_CACHE", str(tmp_path / "file" / "below"))
    assert calibration.calibrated(whole) is not None


def test_predictions_follow_the_work(demo: ic.Study) -> None:
    paced = cost.MeasuredPass(1e-3, 1e-3, 1e-3, 0, 0, 0)
    given = calibration.Calibration(paced, BatchSizes(8 * 2**20, 2**20, 2**10), "here", 0.0)
    trak = calibration.predicted(demo, ic.estimators.TRAK(), "influence", 1, given)
    assert trak.seconds == pytest.approx(6.006 + calibration.START)
    solving = calibration.predicted(demo, ic.estimators.LiSSA(), "influence", 1, given)
    size = sum(p.numel() for p in demo.model.parameters())
    assert solving.memory_mib == pytest.approx(4 * 1000 * 10 * size / 2**20, rel=0.1)  # the Jacobians are kept
    assert trak.memory_mib is not None
    assert trak.memory_mib < solving.memory_mib
    unknown = calibration.predicted(demo, ic.estimators.VM(metric="lissa"), "influence", 1, given)
    assert unknown.seconds is unknown.memory_mib is None


@pytest.mark.parametrize("name", ["tracin", "tracinrp", "trak", "randproj", "ekfac", "lastlayer", "loss", "gex", "vm"])
def test_disk_is_what_save_writes(name: str, whole: ic.Study, tmp_path: Path) -> None:
    from tests.estimator_settings import quick

    study = whole.replaced(validation=whole.test)
    estimator = quick(type(ic.estimators.get(name)))()
    expected = estimator.disk(study)
    estimator.fit(study).save(tmp_path / "file.safetensors")
    real = (tmp_path / "file.safetensors").stat().st_size
    assert 0.5 * expected - 8192 < real < 2 * expected + 8192
