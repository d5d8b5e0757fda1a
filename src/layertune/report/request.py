"""What is asked of the records, in the words of `run.py`: which model, in which mode, with which settings.

`model=gte_small train=fast readout=best train.epochs=3` means the same to tables, claims, figures, plans and
the table sweeper of `python run.py -m hydra/sweeper=table`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter

from layertune.config.compose import group_choice
from layertune.config.files import write_atomic
from layertune.config.groups import looking_into
from layertune.errors import ConfigError
from layertune.report.spec import TableSpec, load_table, table_names
from layertune.report.values import ReadOut

COMPARED = ("table1", "table2")  # where all methods stand over many tasks
FILE = "request.json"
SELECTING = ("task", "method", "seed")  # words that say which of a table's runs are meant, and change none
CHOOSING = ("model", "lm", "train", "grid", "protocol")  # words that say how every run is made
FOLDERS = ("results_dir", "outputs_dir")
NO_SETTINGS = (*FOLDERS, "data_dir", "model.path", "train.num_threads")  # no number depends on these words
_LATER = ("config_dir",)  # not in requests that were written first, and left out where they say nothing
_LONGEST = 120  # characters of a folder's name


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
    seeds: tuple[int, ...] = ()  # cells are of these alone; none: of all that a table names
    config_dir: str = ""  # the folder of methods and tables of one's own

    def looking(self) -> AbstractContextManager[None]:
        """Find what lies in its own folder, and in none of another request, meanwhile.

        Raises:
            ConfigError: there is no such folder.
        """
        return looking_into([self.config_dir] if self.config_dir else [])

    def table(self, name: str, content: Mapping[str, Any] | None = None) -> TableSpec:
        """Return one table as asked; `content` is that of a file elsewhere than in `configs/table`.

        Raises:
            ConfigError: no such table, model or setting; the table is of other seeds.
        """
        spec = load_table(
            name, self.model, self.lm, self.train, self.grid, self.protocol, self.overrides, content
        )
        if unknown := [str(seed) for seed in self.seeds if seed not in spec.seeds]:
            there = ", ".join(map(str, spec.seeds))
            raise ConfigError(f"seed={','.join(unknown)}: {name} is of seeds {there}.")
        return replace(spec, seeds=self.seeds or spec.seeds)

    @property
    def words(self) -> tuple[str, ...]:
        """The words for which no variable of Make stands."""
        return (*self.overrides, *([f"seed={','.join(map(str, self.seeds))}"] if self.seeds else []))

    @property
    def settings(self) -> tuple[str, ...]:
        """The words besides the model that a number can depend on, defaults left out."""
        default = Request()
        named = ("lm", "train", "grid", "protocol", "readout")
        words = [
            f"{name}={getattr(self, name)}" for name in named if getattr(self, name) != getattr(default, name)
        ]
        words += [word for word in self.words if word.partition("=")[0] not in NO_SETTINGS]
        return (*words, *self.folder_words)

    @property
    def folder_words(self) -> tuple[str, ...]:
        """The option of `run.py` that names its folder of one's own."""
        return (f"--config-dir={self.config_dir}",) if self.config_dir else ()

    @property
    def asked(self) -> str:
        """Model and settings, as `run.py` takes them."""
        return " ".join((f"model={self.model}", *self.settings))

    @property
    def folder(self) -> str:
        """The folder of what is made of this request; requests that can differ have different ones."""
        return folder_of(self.model, self.settings)

    def choices(self, spec: TableSpec) -> list[str]:
        """Return the words of a command that asks for the runs of a table, defaults left out."""
        model, lm = self.model != "bert" and spec.paper_model != "gpt2", spec.paper_model == "gpt2"
        chosen = [f"model={self.model}"] if model else []
        chosen += [f"model={self.lm}"] if lm and self.lm != "gpt2" else []
        chosen += [f"train={self.train}"] if self.train != "published" else []
        chosen += [f"grid={self.grid}"] if self.grid != "paper" else []
        chosen += [f"protocol={self.protocol}"] if self.protocol == spec.protocol != "paper" else []
        return chosen + list(self.words)

    def make(self, target: str = "tables") -> str:
        """Return the command that writes these tables, or what another target makes of the same request."""
        words = [f"MODEL={self.model}"]
        words += [
            f"{name.upper()}={value}"
            for name, value in (word.split("=", 1) for word in self.settings if word not in self.words)
            if name in (*CHOOSING, "readout")
        ]
        if self.words:
            given = " ".join(self.words)
            words.append(f'SET="{given}"' if " " in given else f"SET={given}")
        if self.config_dir:
            words.append(f"CONFIG_DIR={shlex.quote(self.config_dir)}")
        return " ".join([f"make {target}", *words])

    def write(self, folder: Path) -> Path:
        """Write the request beside its tables; return the path."""
        content = {key: value for key, value in asdict(self).items() if value or key not in _LATER}
        return write_atomic(folder / FILE, (json.dumps(content, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Question:
    """Some tables, the model and settings they are asked for, and which of their runs."""

    tables: tuple[str, ...]
    request: Request = Request()
    only: Mapping[str, tuple[str, ...]] | None = None  # task, method, seed -> the values wanted
    contents: Mapping[str, Mapping[str, Any]] | None = None  # table files that are not in configs/table

    def specs(self) -> list[TableSpec]:
        """Return the tables.

        Raises:
            ConfigError: no such table, model or setting.
        """
        return [self.request.table(name, (self.contents or {}).get(name)) for name in self.tables]


def folder_of(name: str, settings: Iterable[str]) -> str:
    """Return a folder's name; one that would lose signs, or be long, ends in a hash."""
    whole = "-".join((name, *(word.lstrip("-") for word in settings)))
    kept = re.sub(r"[^\w.,=+-]", "_", whole)[:_LONGEST]
    return kept if kept == whole else f"{kept}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def read_words(
    words: Iterable[str], contents: Mapping[str, Mapping[str, Any]] | None = None, lm: str | None = None
) -> Question:
    """Read the words of a plan, as `make plan` and the table sweeper take them.

    `table`, `task`, `method` and `seed` take lists; `model`, `train`, `grid` and `protocol` choose for every
    run; `model` names the language model where only tables of language models are asked for; every other word
    is an override of every run.

    Raises:
        ConfigError: a word is no `key=value`, a list stands for one value, or there is no such table.
    """
    chosen, overrides = _read(words, ("table", *SELECTING))
    tables = tuple(f"table{name}" if name.isdigit() else name for name in chosen.get("table", table_names()))
    one = {key: values[0] for key, values in chosen.items()}
    model = one.get("model", "bert")
    of_lms = all(_paper_model(name, contents or {}) == "gpt2" for name in tables)
    request = Request(
        model=model,
        lm=one.get("lm") or lm or (model if of_lms and "model" in one else "gpt2"),
        train=one.get("train", "published"),
        grid=one.get("grid", "paper"),
        protocol=one.get("protocol"),
        overrides=tuple(overrides),
    )
    return Question(tables, request, {key: chosen[key] for key in SELECTING if key in chosen}, contents)


def read_requests(
    words: Iterable[str], sides: int = 1, config_dir: str = ""
) -> tuple[tuple[Request, ...], Path]:
    """Read the words of tables, claims or figures: one request, or two that are to stand side by side.

    `readout=last,best` asks for both read-outs, `compare=<model>` for a second model, `seed=0` for cells of
    one seed alone, which are then done without the others.

    Returns:
        The requests, and the `results_dir` of the records.

    Raises:
        ConfigError: a word is no `key=value` or selects runs, another read-out, or more sides than are taken.
    """
    chosen, overrides = _read(words, ("readout", "seed"), ("compare",))
    for word in overrides:
        if (key := word.partition("=")[0]) in ("table", *SELECTING):
            raise ConfigError(
                f"{word}: all runs of all tables are read; {key}= is for plans and sweeps alone."
            )
    seeds = chosen.pop("seed", ())
    if not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"seed={','.join(seeds)} is no list of seeds: it reads seed=0 or seed=0,42.")
    folders = dict(word.split("=", 1) for word in overrides if word.partition("=")[0] in FOLDERS)
    own = tuple(word for word in overrides if word.partition("=")[0] not in FOLDERS)
    given = chosen.pop("readout", ("last",))
    compare = chosen.pop("compare", ())
    readouts = [name for name in get_args(ReadOut) if name in given]
    if sorted(readouts) != sorted(given) or len(readouts) * (1 + len(compare)) > sides:
        other = "" if sides == 1 else ", or last,best without compare="
        raise ConfigError(
            f"readout={','.join(given)}{' compare=' + compare[0] if compare else ''} is not allowed: "
            f"last or best{other}{' of one model' if sides == 1 else ''}."
        )
    one = {key: values[0] for key, values in chosen.items()}
    several = {"overrides": own, "seeds": tuple(sorted(set(map(int, seeds)))), "config_dir": config_dir}
    asked = Request(**several, **one)  # type: ignore[arg-type]
    models = (asked.model, *compare)
    requests = tuple(replace(asked, model=model, readout=name) for model in models for name in readouts)
    return requests, Path(folders.get("results_dir", "results"))


def read_request(path: Path) -> Request:
    """Read a request.

    Raises:
        ConfigError: the file is none.
    """
    try:
        content = path.read_bytes()
        request = TypeAdapter(Request).validate_json(content, strict=True, extra="forbid")
        if missing := {field.name for field in fields(Request)} - {*json.loads(content), *_LATER}:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return request
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is no request for tables ({error}): delete it or run make tables"
        ) from error


def _read(
    words: Iterable[str], lists: tuple[str, ...], single: tuple[str, ...] = ()
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the values of the words that choose, and the words that are overrides."""
    chosen: dict[str, tuple[str, ...]] = {}
    overrides: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key or not text:
            raise ConfigError(f"{word!r} is no override: it reads key=value.")
        values = tuple(text.split(",")) if not text.startswith(("[", "{", "'", '"')) else (text,)
        if key in lists:
            chosen[key] = values
        elif len(values) > 1 or text.startswith(("range(", "choice(", "glob(", "interval(")):
            raise ConfigError(f"{word}: a request takes one value of {key}; lists: {', '.join(lists)}.")
        elif key in (*CHOOSING, *single):
            chosen[key] = values
        else:
            overrides.append(word)
    return chosen, overrides


def _paper_model(table: str, contents: Mapping[str, Mapping[str, Any]]) -> str:
    content = contents.get(table) or group_choice("table", table)
    return str(content.get("paper_model", "bert"))
