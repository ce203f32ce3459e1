"""The server: what it opens, whom it answers, and what it says to requests that no page of its own would send."""

from __future__ import annotations

import asyncio
import http.client
import io
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
import uvicorn
from PIL import Image
from starlette.types import Message, Receive, Scope, Send
from streamlit.runtime import Runtime
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.models import architectures

sys.path.insert(0, str(Path(__file__).parents[2] / "pages"))

from parts import arguments, guard, studies, thumbnails  # type: ignore[import-not-found]

ALLOWED = "app.example.com"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Server:
    port: int

    def ask(self, path: str, method: str = "GET", host: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            connection.putheader("Host", f"127.0.0.1:{self.port}" if host is None else host)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            body = b"" if answer.status == 101 else answer.read()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, body)
        finally:
            connection.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The real ``app.app`` in this process, so that a test sees what it has open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["app.py", "--host", ALLOWED])
        import app

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        patch.setattr(Runtime, "_instance", None)
        running = uvicorn.Server(uvicorn.Config(app.app, port=port, log_config=None, ws="websockets-sansio"))
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        started = time.monotonic()
        while not running.started:
            assert thread.is_alive()
            assert time.monotonic() - started < 60
            time.sleep(0.05)
        yield Server(port)
        running.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def data(demo: ic.Study) -> ic.data.LabelledDataset:
    """A dataset whose pictures the server shows."""
    return studies.study("digits").train


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the server may open, beside one that it may not."""
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", ["app.py", "--root", str(folder)])
    for table in ("_sources", "_studies", "_datasets"):
        monkeypatch.setattr(studies, table, dict(getattr(studies, table)))
    return folder


# Whom it answers


@pytest.mark.parametrize("path", ["/", "/_stcore/health", "/api/picture/none/1.webp?size=96", "/_stcore/stream"])
@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("localhost", True),
        ("LOCALHOST:8501", True),
        ("127.0.0.1:1", True),
        ("[::1]:8501", True),
        (ALLOWED, True),
        (f"{ALLOWED}:443", True),
        ("evil.example", False),
        ("evil.example:8501", False),
        ("localhost.evil.example", False),
        ("evil.example@localhost", False),
        ("localhost@evil.example", False),
        ("localhost/evil.example", False),
        ("[::2]", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_only_its_own_names_are_answered(server: Server, path: str, host: str, served: bool) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": f"http://{host}"}
    upgrade |= {"Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "x3JJHMbDL1EzLkh9GBhXDw=="}
    answer = server.ask(path, host=host, **(upgrade if path.endswith("stream") else {}))
    if served:
        assert answer.status == {"/_stcore/stream": 101, "/": 200, "/_stcore/health": 200}.get(path, 404)
    else:
        assert answer.status == 400
        assert b"--host NAME" in answer.body
        assert b"<" not in answer.body


def test_static_files_are_behind_the_guard_too(server: Server) -> None:
    page = server.ask("/").body.decode()
    script = page.split('src="./')[1].split('"')[0]
    answer = server.ask(f"/{script}")
    assert (answer.status, "javascript" in answer.headers["content-type"]) == (200, True)
    assert guard.HEADERS.items() <= {k: answer.headers.get(k.lower()) for k in guard.HEADERS}.items()
    assert server.ask(f"/{script}", host="evil.example").status == 400


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (("--host", "One.Example", "--host", "two.example:80"), {"one.example", "two.example"}),
        (("--host", "*"), {"*"}),
        ((), set()),
    ],
)
def test_names_of_the_command_line_and_of_the_settings(
    given: tuple[str, ...], names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", *given])
    configured = {"server.address": "192.0.2.7", "browser.serverAddress": "https://Three.example/app"}
    monkeypatch.setattr(guard.config, "get_option", configured.get)
    assert guard.Guard(answers).names == {"localhost", "127.0.0.1", "::1", "192.0.2.7", "three.example"} | names


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError


def through_the_guard(host: bytes) -> tuple[list[Message], BaseException | None]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host)]}
    try:
        asyncio.run(guard.Guard(answers)(scope, receive, send))
    except ZeroDivisionError as error:
        return sent, error
    return sent, None


def test_any_name_is_answered_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert through_the_guard(b"any.example")[0][0]["status"] == 400
    monkeypatch.setattr(sys, "argv", ["app.py", "--host", "*"])
    assert through_the_guard(b"any.example")[1] is not None


def test_a_failure_has_the_headers_and_no_traceback() -> None:
    sent, error = through_the_guard(b"localhost")
    assert error is not None  # goes on to the server's log
    assert sent[0]["status"] == 500
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    assert {k.lower(): v for k, v in guard.HEADERS.items()}.items() <= headers.items()
    assert b"ZeroDivision" not in sent[1]["body"]


@pytest.mark.parametrize("path", ["/", "/_stcore/health", "/api/picture/none/1.webp?size=96", "/no/such/page"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_response_tells_the_browser_to_be_careful(server: Server, path: str, host: str, method: str) -> None:
    headers = server.ask(path, method, host).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["referrer-policy"] == "same-origin"


# Pictures


def address(data: ic.data.LabelledDataset, index: object = 3, query: str = "?size=96") -> str:
    path = studies.picture_url(data, 3).partition("?")[0]
    return path.replace("/3.webp", f"/{index}.webp") + query


def test_a_picture_and_its_head(server: Server, data: ic.data.LabelledDataset) -> None:
    answer = server.ask(studies.picture_url(data, 3, 192))
    assert (answer.status, answer.headers["content-type"]) == (200, "image/webp")
    image = Image.open(io.BytesIO(answer.body))
    assert (image.format, max(image.size)) == ("WEBP", 192)
    head = server.ask(studies.picture_url(data, 3, 192), "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize(
    "query", ["", "?size=", "?size=abc", "?size=-96", "?size=95", f"?size={'9' * 5000}", "?size=96.0", "?size=%00"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_size_that_is_not_offered(server: Server, data: ic.data.LabelledDataset, query: str, method: str) -> None:
    answer = server.ask(address(data, query=query), method)
    assert answer.status == 400
    assert len(answer.body) < 100
    assert method == "HEAD" or all(str(size).encode() in answer.body for size in studies.SIZES)


@pytest.mark.parametrize("index", [-1, 10**6, 2**63, 2**64, "9" * 5000, "abc", "%D9%A3", "3.0", "3%20", ""])
def test_an_index_that_is_not_there(server: Server, data: ic.data.LabelledDataset, index: object) -> None:
    answer = server.ask(address(data, index))
    assert (answer.status, answer.body) == (404, b"no such picture\n")


def test_no_such_dataset_and_no_image(
    server: Server, data: ic.data.LabelledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = ic.data.LabelledDataset(TensorDataset(torch.zeros(4, 5), torch.zeros(4).long()))
    monkeypatch.setitem(studies._datasets, vectors.fingerprint[:16], vectors)
    for path in (address(vectors), address(data).replace(data.fingerprint[:16], "0" * 16)):
        assert server.ask(path).status == 404


def test_a_picture_that_fails_is_one_line_in_the_log(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(index: int) -> Any:
        raise ZeroDivisionError(f"secret\n{index}")

    bad = ic.data.LabelledDataset(TensorDataset(torch.zeros(4, 1, 2, 2), torch.ones(4).long()), pictures=fails)
    monkeypatch.setitem(studies._datasets, bad.fingerprint[:16], bad)
    with caplog.at_level(logging.INFO):
        answer = server.ask(address(bad))
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    (line,) = [record.getMessage() for record in caplog.records if record.name == "influence"]
    assert "ZeroDivisionError" in line
    assert "\n" not in line
    assert not [record for record in caplog.records if record.exc_info]


def test_many_pictures_at_once_leave_the_app_its_threads(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    go, lock, at_work, most = threading.Event(), threading.Lock(), 0, 0

    def slow(*_: object) -> bytes:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        go.wait(20)
        with lock:
            at_work -= 1
        return b"x"

    monkeypatch.setattr(studies, "thumbnail", slow)
    with ThreadPoolExecutor(40) as browsers:
        asked = [browsers.submit(server.ask, f"/api/picture/a/{i}.webp?size=96") for i in range(40)]
        time.sleep(1)
        begun = time.monotonic()
        page = server.ask("/")
        waited = time.monotonic() - begun
        go.set()
        assert {answer.result().status for answer in asked} == {200}
    assert page.status == 200
    assert waited < 5
    assert 1 <= most <= 2  # as many as the smallest machine that is served well has cores


@pytest.mark.parametrize("base", ["", "some/where", "/with space/"])
def test_the_address_of_a_picture_leads_to_its_route(
    base: str, data: ic.data.LabelledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies.config, "get_option", {"server.baseUrlPath": base}.get)
    path = unquote(urlsplit(studies.picture_url(data, 5)).path)
    match, scope = thumbnails.route().matches({"type": "http", "method": "GET", "path": path, "headers": []})
    assert match.name == "FULL"
    assert scope["path_params"] == {"data": data.fingerprint[:16], "file": "5.webp"}


# What it opens

SECRET = "s3cr3t"
FOREIGN = f'[{SECRET}]\npassword = "{SECRET}"\n'


def outside(root: Path, demo: ic.Study) -> str:
    return str(demo.save(root.parent / "outside"))


def upwards(root: Path, demo: ic.Study) -> str:
    demo.save(root.parent / "outside")
    return "../outside"


def link_to_a_folder(root: Path, demo: ic.Study) -> str:
    demo.save(root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    return "link"


def link_to_a_file(root: Path, demo: ic.Study) -> str:
    (root / "study.toml").symlink_to(demo.save(root.parent / "outside"))
    return "."


def beside(root: Path, demo: ic.Study) -> str:
    return str(demo.save(root.parent / "root-and-more"))


def foreign(root: Path, demo: ic.Study) -> str:
    (root / "secrets.toml").write_text(FOREIGN)
    return "secrets.toml"


def foreign_outside(root: Path, demo: ic.Study) -> str:
    (root.parent / "secrets.toml").write_text(FOREIGN)
    return str(root.parent / "secrets.toml")


def no_toml(root: Path, demo: ic.Study) -> str:
    (root / "study.toml").write_bytes(b"\xff" + SECRET.encode())
    return "study.toml"


def unreadable(root: Path, demo: ic.Study) -> str:
    file = root / "study.toml"
    file.write_text(FOREIGN)
    file.chmod(0)
    return "study.toml"


def pipe(root: Path, demo: ic.Study) -> str:
    os.mkfifo(root / "study.toml")
    return "."


def loop(root: Path, demo: ic.Study) -> str:
    (root / "loop").symlink_to("loop")
    return "loop"


def empty(root: Path, demo: ic.Study) -> str:
    return "."


def huge(root: Path, demo: ic.Study) -> str:
    (root / "study.toml").write_text("# " + "x" * (1 << 21))
    return "."


def one_long_word(root: Path, demo: ic.Study) -> str:
    (root / "study.toml").write_text("a" * 60_000)
    return "."


def many_dots(root: Path, demo: ic.Study) -> str:
    (root / "study.toml").write_text("a" + ".a" * 50_000 + " = 1")
    return "."


def said(path: str) -> str:
    with pytest.raises(ic.InvalidInput) as caught:
        studies.add(path)
    return str(caught.value)


MAKERS: list[Callable[[Path, ic.Study], str]] = [
    outside, upwards, link_to_a_folder, link_to_a_file, beside, foreign, foreign_outside, no_toml, unreadable, pipe,
    loop, empty, huge, one_long_word, many_dots,
]  # fmt: skip
WORDS = [
    "missing",
    "/nowhere/study.toml",
    "/etc/passwd",
    "~nosuchuser/x",
    "a\0b",
    "\0",
    "x" * 5000,
    "\udcff",
    "a\nb",
    "~",
]


@pytest.mark.parametrize("made", [*MAKERS, *WORDS], ids=lambda m: repr(m)[:20] if isinstance(m, str) else m.__name__)
def test_what_is_no_study_inside_is_told_in_the_same_words(
    made: Callable[[Path, ic.Study], str] | str, root: Path, demo: ic.Study
) -> None:
    typed = made if isinstance(made, str) else made(root, demo)
    before = studies.sources()
    begun = time.monotonic()
    message = said(typed)
    assert time.monotonic() - begun < 5
    shown = repr(typed[:80]) + ("…" if len(typed) > 80 else "")
    assert message.count(shown) == 1
    assert message.replace(shown, "X") == said("really/not/there").replace(repr("really/not/there"), "X")
    assert str(root) in message
    assert "--root" in message
    assert SECRET not in message
    assert studies.sources() == before


def test_the_studies_of_the_folder_open(root: Path, demo: ic.Study) -> None:
    file = demo.save(root / "in a folder" / "mine")
    (root / "link").symlink_to(root / "in a folder")
    before = set(studies.sources())
    for path in ("in a folder/mine", "in a folder/mine/study.toml", str(file), "link/mine", "../root/link/mine"):
        assert studies.add(path) == "mine"
    assert set(studies.sources()) == {*before, "mine"}
    assert studies.is_loaded("mine")
    assert studies.study("mine").fingerprint == demo.fingerprint
    assert studies.sources()["mine"].load().fingerprint == demo.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("weights =", "wights =", "model.wights"),
        ("weight_decay =", "weight_decay = 'x' #", "weight_decay"),
        ('checksum = "', 'checksum = "0', "checksum"),
    ],
)
def test_what_is_wrong_with_a_study_of_the_folder_is_told(
    old: str, new: str, named: str, root: Path, demo: ic.Study
) -> None:
    file = demo.save(root)
    lines = [line for line in file.read_text().splitlines() if "checksum" in old or not line.startswith("checksum")]
    file.write_text("\n".join(lines).replace(old, new))
    before = studies.sources()
    assert named in said(".")
    assert "there is no study at" not in said(".")
    assert studies.sources() == before
    assert not studies.is_loaded("root")


def test_missing_weights_leave_nothing_behind_and_can_be_mended(root: Path, demo: ic.Study) -> None:
    demo.save(root / "mine")
    weights = next((root / "mine").glob("model-*"))
    kept = weights.read_bytes()
    weights.unlink()
    before = studies.sources()
    assert weights.name in said("mine")
    assert studies.sources() == before
    weights.write_bytes(kept)
    assert studies.add("mine") == "mine"


def test_the_studies_of_the_command_line_are_not_bound_and_come_first(
    root: Path, demo: ic.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = demo.save(root.parent / "theirs")
    words = ["--root", str(root), "--study", str(file.parent), "--study", str(root / "broken")]
    monkeypatch.setattr(sys, "argv", ["app.py", *words])
    monkeypatch.setattr(studies, "_sources", {})
    assert studies.default() == next(iter(studies.sources())) == "theirs"
    assert len(studies.sources()) == 4  # the broken one and the two demos
    assert studies.study("theirs").fingerprint == demo.fingerprint


def test_without_arguments_a_demo_comes_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "_sources", {})
    assert studies.default() == "digits"


@pytest.mark.parametrize(
    "words", [("--rot", "."), ("--roo", "."), ("--root", "no/such/folder"), ("--study", "~nosuch/x")]
)
def test_wrong_arguments_stop_the_start(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", *words])
    with pytest.raises(SystemExit):
        arguments.given()
    assert words[-1] in capsys.readouterr().err


NET = """
import influence_core as ic
from torch import nn

@ic.models.register("net_of_a_plugin")
def net(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study beside its plugin, which has not run; somebody starts the app elsewhere."""
    plugin, study = tmp_path / f"net_{tmp_path.name.replace('-', '_')}.py", tmp_path / "study"
    plugin.write_text(f"{NET}# {tmp_path}\n")
    monkeypatch.setattr(architectures, "_BUILDERS", dict(architectures._BUILDERS))  # later tests know nothing of it
    made = ic.models.load_plugin(plugin).builders["net_of_a_plugin"](3)
    data = TensorDataset(torch.rand(4, 1, 4, 4), torch.arange(4) % 3)
    ic.Study(made, data, data).save(study, plugin=plugin)
    monkeypatch.setattr(ic.models.plugins, "_loaded", {})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    arguments._parsed.cache_clear()
    for table in ("_sources", "_studies", "_datasets"):
        monkeypatch.setattr(studies, table, {})
    return study


@pytest.mark.parametrize("way", ["name", "file", "path", "module"])
def test_a_plugin_is_a_module_or_a_file_and_found_beside_the_study(
    way: str, plugged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = plugged.glob("*.py")
    if way == "module":
        monkeypatch.syspath_prepend(plugged.parent)
    words = {"name": file.stem, "file": file.name, "path": str(file), "module": file.stem}
    monkeypatch.setattr(sys, "argv", ["app.py", "--study", str(plugged), "--plugin", words[way]])
    assert studies.study("study").outputs().shape == (4, 3)
    assert (file.stem in sys.modules) == (way == "module")
    sys.modules.pop(file.stem, None)


def test_without_the_plugin_its_study_is_refused_in_a_sentence(plugged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--study", str(plugged)])
    with pytest.raises(
        ic.InvalidInput, match=r"needs its plugin net_.*\.py, .*trust=True\), .*--trust, or .* --plugin .*net_.*\.py$"
    ):
        studies.study("study")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("no_such_net", "there is no plugin 'no_such_net': it is no module that can be imported, and no file no_such_"),
        ("no_such.net", "there is no plugin 'no_such.net': "),
        ("../no_such_net.py", "there is no plugin '../no_such_net.py': "),
        ("", "was stopped by an error: ValueError: Empty module name"),
        ("broken.py", "was stopped by an error: NameError: name 'x' is not defined (line 2)"),
        ("syntax.py", "was stopped by an error: SyntaxError: "),
        ("broken", "was stopped by an error: NameError: name 'x' is not defined"),
        ("needs", "was stopped by an error: ModuleNotFoundError: No module named 'no_such_package'"),
        ("leaves", "was stopped by an error: SystemExit: 3"),
    ],
)
def test_a_plugin_that_cannot_be_had_stops_the_start_with_a_sentence(
    word: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments._parsed.cache_clear()
    lines = {"broken": "# a\nx", "syntax": "a b", "needs": "import no_such_package", "leaves": "raise SystemExit(3)"}
    for name, line in lines.items():
        (tmp_path / f"{name}.py").write_text(line)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["app.py", "--plugin", word])
    with pytest.raises(SystemExit) as stopped:
        arguments.given()
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert said in line


def test_the_folder_is_by_default_the_one_of_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments._parsed.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    assert arguments.given().root == tmp_path.resolve()
    monkeypatch.chdir(tmp_path.parent)
    assert arguments.given().root == tmp_path.resolve()
    arguments._parsed.cache_clear()


def test_an_open_study_is_served_while_another_one_loads(root: Path, demo: ic.Study) -> None:
    studies.study("digits")
    loading, go = threading.Event(), threading.Event()

    def load() -> ic.Study:
        loading.set()
        go.wait(20)
        return demo

    studies._sources["slow"] = studies.Source(load, "slow")
    with ThreadPoolExecutor(2) as tabs:
        slow = tabs.submit(studies.study, "slow")
        loading.wait(20)
        try:
            assert tabs.submit(lambda: (studies.sources(), studies.study("digits"))).result(5)
        finally:
            go.set()
        assert slow.result(20) is demo
