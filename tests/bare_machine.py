"""Run a program as on a machine that has little but torch and transformers: all else installed is hidden.

python tests/bare_machine.py run.py model=tiny_bert task=demo method=low_k protocol=smoke
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

# What docs/fast.md says is to be carried there; pytest and numpy come with any such machine.
CARRIED = (
    "torch",
    "transformers",
    "accelerate",
    "absl-py",
    "peft",
    "hydra-core",
    "pydantic",
    "numpy",
    "pytest",
)


OWN = {"layertune", "hydra_plugins"}


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def with_needs(names: Sequence[str]) -> set[str]:
    """Return distributions and all that they need, by their normal names."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = normal(waiting.pop())
        if name not in found:
            found.add(name)
            with suppress(PackageNotFoundError):
                needs = [Requirement(line) for line in requires(name) or []]
                waiting += [
                    need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})
                ]
    return found


class Bare:
    """Stands where a finder of modules was, and finds only what is carried."""

    def __init__(self, finder: Any, carried: set[str], modules: set[str]) -> None:
        self.finder, self.carried, self.modules = finder, carried, modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name in self.modules else self.finder.find_spec(name, path, target)

    def find_distributions(self, context: Any) -> Iterator[Distribution]:
        found = getattr(self.finder, "find_distributions", lambda context: ())(context)
        return (one for one in found if normal(one.name) in self.carried)


def hide_the_rest() -> None:
    """Let this process find nothing but what is carried."""
    carried = with_needs(CARRIED)
    owners = {module: set(map(normal, names)) for module, names in packages_distributions().items()}
    modules = {module for module, names in owners.items() if not names & carried} - OWN
    sys.meta_path[:] = [Bare(finder, carried, modules) for finder in sys.meta_path]


def run(words: Sequence[str]) -> None:
    """Run `python <words>` in this process."""
    if words[0] == "-m":
        sys.argv, sys.path[0] = list(words[1:]), str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    hide_the_rest()
    run(sys.argv[1:])
