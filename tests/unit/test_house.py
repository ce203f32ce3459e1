"""The house: who may import whom. Imports inside functions and under ``TYPE_CHECKING`` count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import influence_core as ic

ROOT = Path(__file__).parents[2]
HOUSE = "influence_core"

FLOORS = (
    "errors machine serving inputs parameters threads imports files known_code identity progress pieces measure "
    "statistics batches losses pictures trust _torchvision data models gradients",
    "training curvature scores",
    "study_schema study_data study_data_read study_file study_checks study_general",
    "study",
    "estimators",
    "store runners jobs",
    "evaluation applications testing diagnosis figures",
    "demo cli",
    "influence_core",  # the public face; and above it app.py and pages/
)
"""From the ground up. A file imports from its own floor and from those below; a new one needs a place here."""

KNOWN_UPWARD: set[str] = set()
KNOWN_CIRCLES: list[set[str]] = []
"""What is still to be mended, and nothing else: a line that is no longer true fails too."""

Arrows = dict[str, set[str]]


def name_of(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path, module: str) -> Iterator[tuple[str, str | None]]:
    """Every import of a file, wherever in it: the module, and the name that is taken from it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
            beyond = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*beyond, *([node.module] if node.module else [])])
            for alias in node.names:
                yield source, alias.name


def arrows(root: Path, house: str = HOUSE) -> Arrows:
    """Module -> the modules of the package that it imports."""
    files = {name_of(file, root): file for file in sorted((root / house).rglob("*.py"))}
    found: Arrows = {module: set() for module in files}
    for module, file in files.items():
        for source, name in imports(file, module):
            target = f"{source}.{name}" if f"{source}.{name}" in files else source
            if target.split(".")[0] == house:
                found[module].add(target)
    return found


def floor(module: str) -> int:
    room = module.split(".")[1] if "." in module else module
    places = [number for number, rooms in enumerate(FLOORS) if room in rooms.split()]
    assert places, f"{module} stands on no floor: give {room!r} a place in FLOORS, above all that it imports"
    return places[0]


def upward(found: Arrows) -> set[str]:
    return {f"{a} -> {b}" for a, targets in found.items() for b in targets if floor(b) > floor(a)}


def circles(found: Arrows) -> list[list[str]]:
    """A shortest circle through each group of modules that reach one another."""
    seen: set[str] = set()
    shown = []
    for start in found:
        if start in seen:
            continue
        came: dict[str, str] = {}
        waiting = [start]
        while waiting and start not in came:
            here = waiting.pop(0)
            for there in sorted(found.get(here, ())):
                if there not in came:
                    came[there] = here
                    waiting.append(there)
        if start in came:
            circle = [start]
            while came[circle[0]] != start:
                circle.insert(0, came[circle[0]])
            seen.update(circle)
            shown.append([start, *circle])
    return shown


def test_nothing_imports_from_a_floor_above() -> None:
    found = upward(arrows(ROOT))
    assert not found - KNOWN_UPWARD, "imports from above:\n" + "\n".join(sorted(found - KNOWN_UPWARD))
    assert not KNOWN_UPWARD - found, f"mended, so take it off the list: {sorted(KNOWN_UPWARD - found)}"


def test_there_are_no_circles() -> None:
    found = circles(arrows(ROOT))
    new = [circle for circle in found if set(circle) not in KNOWN_CIRCLES]
    assert not new, "modules that import one another:\n" + "\n".join(" -> ".join(circle) for circle in new)
    mended = [sorted(known) for known in KNOWN_CIRCLES if known not in [set(circle) for circle in found]]
    assert not mended, f"mended, so take it off the list: {mended}"


APP = [ROOT / "app.py", *sorted((ROOT / "pages").rglob("*.py"))]


@pytest.mark.parametrize("file", APP, ids=lambda file: file.name)
def test_the_app_knows_the_public_face_alone(file: Path) -> None:
    for source, name in imports(file, name_of(file, ROOT)):
        inside = source.split(".")[0] == HOUSE
        assert not inside or (source, name) == (HOUSE, None), f"{file.name} imports {source} {name or ''}: take ic.…"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            path = ast.unparse(node).split(".")
            if path[0] == "ic" and "(" not in ast.unparse(node):  # what a call returns is its own affair
                hidden = not_public(path[1:])
                assert not hidden, f"{file.name}:{node.lineno} uses ic.{hidden}, which is not public"


def not_public(path: list[str]) -> str | None:
    """The first part of ``ic.a.b`` that is not in the ``__all__`` of the module before it."""
    thing: object = ic
    for depth, name in enumerate(path, start=1):
        if getattr(thing, "__package__", None) is None:
            return None  # a class or a function: its own affair
        if name not in getattr(thing, "__all__", [n for n in vars(thing) if not n.startswith("_")]):
            return ".".join(path[:depth])
        thing = getattr(thing, name)
    return None


# --- and the test itself sees what it should


@pytest.fixture
def small(tmp_path: Path) -> Path:
    files = {
        "__init__": "from influence_core.study import Study",
        "errors": "",
        "data/__init__": "from influence_core.data.labels import check",
        "data/labels": "def check():\n    from ..errors import Error\n    from . import noise",
        "data/noise": "import influence_core.errors, torch",
        "study": "from influence_core import data, errors\nfrom influence_core.errors import Error",
    }
    for name, text in files.items():
        file = tmp_path / HOUSE / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_every_way_to_import_is_seen(small: Path) -> None:
    found = {a.removeprefix(f"{HOUSE}."): {b.removeprefix(f"{HOUSE}.") for b in to} for a, to in arrows(small).items()}
    assert found == {
        HOUSE: {"study"},
        "errors": set(),
        "data": {"data.labels"},
        "data.labels": {"errors", "data.noise"},
        "data.noise": {"errors"},
        "study": {"data", "errors"},
    }
    assert upward(arrows(small)) == set()
    assert circles(arrows(small)) == []


@pytest.mark.parametrize(
    ("line", "above", "circle"),
    [
        ("if TYPE_CHECKING:\n    from influence_core.study import Study", "study", ["study", "data", "data.labels"]),
        ("def late():\n    import influence_core.study as s", "study", ["study", "data", "data.labels"]),
        ("from influence_core import Study", None, ["study", "data", "data.labels"]),
        ("from influence_core.data import check", "", ["data", "data.labels"]),
    ],
)
def test_an_arrow_upward_and_a_circle_are_seen(small: Path, line: str, above: str | None, circle: list[str]) -> None:
    (small / HOUSE / "data" / "labels.py").write_text(line)
    target = HOUSE if above is None else f"{HOUSE}.{above}"
    assert upward(arrows(small)) == (set() if above == "" else {f"{HOUSE}.data.labels -> {target}"})
    (found,) = circles(arrows(small))
    assert {f"{HOUSE}.{name}" for name in circle} | ({HOUSE} if above is None else set()) == set(found)
    assert found[0] == found[-1]


def test_a_file_without_a_floor_is_named() -> None:
    with pytest.raises(AssertionError, match=r"influence_core\.attic stands on no floor"):
        floor("influence_core.attic")


@pytest.mark.parametrize(
    ("path", "hidden"), [("Study.load", None), ("data.split_", "data.split_"), ("trust.caveats", "trust")]
)
def test_what_is_not_public_is_seen(path: str, hidden: str | None) -> None:
    assert not_public(path.split(".")) == hidden
