"""Imports go one way, from the ground floor up: no circle, no arrow that runs back up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import layertune

HOUSE = Path(layertune.__file__).parent
# A room may import rooms of its own floor and of those below.
FLOORS = (
    ("errors",),
    ("config", "selection", "stopping"),
    ("cache_store", "hub", "records"),
    ("report",),
    ("tasks",),
    ("models",),
    ("runtime", "scoring"),
    ("methods",),
    ("evaluation", "fast", "training"),
    ("baselines", "landscape", "recommend", "saved"),
    ("pipeline",),
    ("api", "cli", "command_line", "doctor", "fine_tuning"),
    ("callbacks", "estimators"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path: Path) -> str:
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in HOUSE.rglob("*.py")}


def imported(node: ast.AST, only_typing: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the modules of the house that a module imports anywhere, and whether for annotations alone."""
    for child in ast.iter_child_nodes(node):
        typing = only_typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        if isinstance(child, ast.ImportFrom) and child.module and child.module.startswith("layertune"):
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                yield (whole if whole in MODULES else child.module), typing
        yield from imported(child, typing)


ARROWS = {name: set(imported(ast.parse(path.read_text()))) for name, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def test_every_room_has_a_floor() -> None:
    assert {room_of(module) for module in MODULES} - {""} == set(FLOOR_OF)


@pytest.mark.parametrize("room", FLOOR_OF)
def test_no_import_runs_back_up(room: str) -> None:
    of_room = [module for module in MODULES if room_of(module) == room]
    rising = [
        f"{module} imports {target}"
        for module in of_room
        for target, _ in ARROWS[module]
        if FLOOR_OF.get(room_of(target), -1) > FLOOR_OF[room]
    ]
    assert not rising


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = {
        module: {target for target, only_typing in arrows if not only_typing and target != module}
        for module, arrows in ARROWS.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")
