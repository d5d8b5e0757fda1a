"""What is asked of the records: which model stands in the tables, in which mode, with which settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter

from layertune.config.files import write_atomic
from layertune.errors import ConfigError
from layertune.report.aggregate import ReadOut
from layertune.report.cells import TableSpec
from layertune.report.spec import load_table

TABLES = tuple(f"table{number}" for number in range(1, 11))
FILE = "request.json"


@dataclass(frozen=True)
class Request:
    """One backbone's ten tables. A folder keeps its request, so that the page can show all folders."""

    model: str = "bert"
    lm: str = "gpt2"
    train: str = "published"
    grid: str = "paper"
    protocol: str | None = None  # None: as each table says
    readout: ReadOut = "last"
    overrides: tuple[str, ...] = ()

    def table(self, name: str, content: Mapping[str, Any] | None = None) -> TableSpec:
        """Return one table as asked; `content` is that of a file elsewhere than in `configs/table`.

        Raises:
            ConfigError: no such table, model or setting.
        """
        return load_table(
            name, self.model, self.lm, self.train, self.grid, self.protocol, self.overrides, content
        )

    def choices(self, spec: TableSpec) -> list[str]:
        """Return the words of a command that asks for the runs of a table, defaults left out."""
        model, lm = self.model != "bert" and spec.paper_model != "gpt2", spec.paper_model == "gpt2"
        chosen = [f"model={self.model}"] if model else []
        chosen += [f"model={self.lm}"] if lm and self.lm != "gpt2" else []
        chosen += [f"train={self.train}"] if self.train != "published" else []
        chosen += [f"grid={self.grid}"] if self.grid != "paper" else []
        chosen += [f"protocol={self.protocol}"] if self.protocol == spec.protocol != "paper" else []
        return chosen + list(self.overrides)

    def make(self, target: str = "tables") -> str:
        """Return the command that writes these tables, or what another target makes of the same request."""
        chosen = [f"MODEL={self.model}"]
        chosen += [f"LM={self.lm}"] if self.lm != "gpt2" else []
        chosen += [f"TRAIN={self.train}"] if self.train != "published" else []
        chosen += [f"GRID={self.grid}"] if self.grid != "paper" else []
        chosen += [f"PROTOCOL={self.protocol}"] if self.protocol is not None else []
        chosen += [f"READOUT={self.readout}"] if self.readout != "last" else []
        if self.overrides:
            words = " ".join(self.overrides)
            chosen.append(f'SET="{words}"' if " " in words else f"SET={words}")
        return " ".join([f"make {target}", *chosen])

    def write(self, folder: Path) -> Path:
        """Write the request beside its tables; return the path."""
        return write_atomic(folder / FILE, (json.dumps(asdict(self), indent=1) + "\n").encode())


def requests(request: Request, readouts: str, compare: str | None) -> tuple[Request, ...]:
    """Return what a command asks for: one request, or two that are to stand side by side.

    Args:
        request: everything but the read-out.
        readouts: `last`, `best`, or both with a comma.
        compare: a second model.

    Raises:
        ConfigError: another read-out, or two comparisons at once.
    """
    given = readouts.split(",")
    chosen = [name for name in get_args(ReadOut) if name in given]
    if not chosen or sorted(chosen) != sorted(given) or (compare and len(given) > 1):
        raise ConfigError(
            f"READOUT={readouts} is not allowed: last, best, or last,best without a second model."
        )
    models = (request.model, compare) if compare else (request.model,)
    return tuple(replace(request, model=model, readout=readout) for model in models for readout in chosen)


def read_request(path: Path) -> Request:
    """Read a request.

    Raises:
        ConfigError: the file is none.
    """
    try:
        content = path.read_bytes()
        request = TypeAdapter(Request).validate_json(content, strict=True, extra="forbid")
        if missing := {field.name for field in fields(Request)} - set(json.loads(content)):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return request
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is no request for tables ({error}): delete it or run make tables"
        ) from error
