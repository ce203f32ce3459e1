"""The app from a notebook and from a wheel: where its script is, which server shows a study, and the way to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import influence_core as ic
from influence_core import serving
from influence_core.errors import InfluenceError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, whose servers end with the test."""
    monkeypatch.setenv("INFLUENCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.delenv("JUPYTERHUB_USER", raising=False)
    links: list[serving.Link] = []
    whole = serving.open_link

    def noted(*arguments: object, **given: object) -> serving.Link:
        links.append(whole(*arguments, **given))  # type: ignore[arg-type]
        return links[-1]

    monkeypatch.setattr("influence_core.study.open_link", noted)
    yield tmp_path
    for link in links:
        link.stop()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return True
    return False


def test_a_study_and_its_results_open_in_one_server(kept: Path, demo: ic.Study) -> None:
    study = demo.replaced(name="mine", train=demo.train.subset(range(60)), trajectory=None)
    link = study.open_app("explain", estimator="ekfac", test=3)
    assert not link.reused
    port = int(link.url.split(":")[2].split("/")[0])
    assert serving.answers(port)
    assert link.url == f"http://localhost:{port}/explain?estimator=ekfac&test=3"
    assert link.tunnel == ""
    assert 'href="http://localhost' in link._repr_html_()
    assert "&amp;test=3" in link._repr_html_()

    scores = ic.estimators.LastLayer().fit(study).influence([5, 6])
    again = scores.open_app(6)
    assert (again.pid, again.reused) == (link.pid, True)
    assert again.url.endswith("/explain?estimator=lastlayer&test=6")
    found = ic.applications.detect(study, ic.estimators.Loss().fit(study).mislabel_scores()).budget(7)
    assert found.open_app().url.endswith("/mislabels?estimator=loss&flag=7")

    study.replaced(name="anew").save(next((kept / "cache" / "studies").iterdir()))
    other = study.open_app()
    assert not other.reused  # the former one has the study as it was
    assert gone(link.pid)
    other.stop()
    assert gone(other.pid)


def test_what_cannot_be_shown_is_said(kept: Path, demo: ic.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ic.InvalidInput, match="no page 'explian'; it has '', explain"):
        demo.open_app("explian")

    class Own(torch.nn.Sequential):
        pass

    strange = demo.replaced(model=Own(torch.nn.Flatten(), torch.nn.Linear(64, 10)), trajectory=None)
    with pytest.raises(ic.NotSupported, match=r"study\.save\(path, plugin='file\.py'\)"):
        strange.open_app()
    scores = ic.estimators.Loss().fit(demo).mislabel_scores()
    scores.save(kept / "scores.safetensors")
    with pytest.raises(ic.NotSupported, match="do not know their study"):
        ic.Scores.load(kept / "scores.safetensors").open_app()
    monkeypatch.setattr(serving, "server_command", lambda *_: [sys.executable, "-c", "raise SystemExit('no luck')"])
    with pytest.raises(InfluenceError, match=r"(?s)ended with code 1.*no luck"):
        demo.open_app()


def test_on_a_remote_machine_the_way_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.9 50000 10.0.0.4 22")
    way = serving.tunnel(8502)
    assert way.startswith("ssh -N -L 8502:localhost:8502 ")
    assert way.endswith("@10.0.0.4")
    assert way in serving.Link("http://localhost:8502/", 1, False, way)._repr_html_()
    monkeypatch.delenv("SSH_CONNECTION")
    monkeypatch.delenv("JUPYTERHUB_USER", raising=False)
    assert serving.tunnel(8502) == ""


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serving.free_port(port) != port
        assert not serving.answers(serving.free_port())


def test_the_wheel_holds_the_app_inside_the_package(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"influence_core", "influence_core-0.1.0.dist-info"}
    inside = {name.removeprefix("influence_core/_app/") for name in names if name.startswith("influence_core/_app/")}
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "pages").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert inside == here | {"app.py", "assets/icon.png", ".streamlit/config.toml"}
    assert "influence_core/assets/demo/study.toml" in names
    assert wheel.stat().st_size < 4 * 2**20

    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "pages").mkdir()
    (site / "pages" / "__init__.py").write_text("raise ImportError('another package')")
    (site / "parts.py").write_text("raise ImportError('another package')")
    code = "from influence_core import serving; print(serving.app_script())"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert found.stdout.strip() == str(site / "influence_core" / "_app" / "app.py"), found.stderr
