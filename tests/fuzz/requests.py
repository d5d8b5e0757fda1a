"""Command lines: whatever `run.py` is given, it composes a run that passes its checks or says one sentence.

Nothing is trained: in place of the pipeline stands what it builds before the data are read, the method and,
where the words are about it, the random model. The sentence ends with exit code 2 (1 in a sweep), on one line
of stderr, and nothing is written.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from programs import own_logging

from layertune import command_line, pipeline
from layertune.config import RunConfig
from layertune.config.compose import plain_run, plain_tree
from layertune.errors import ConfigError
from layertune.methods import build_method
from layertune.models import build_model
from layertune.records import Record, read_record
from layertune.report import recipe

from . import in_folders

REPO = Path(__file__).resolve().parents[2]
BASE = ("model=tiny_bert", "task=demo", "method=low_k", "protocol=smoke", "tracking=disabled")
LARGEST_MODEL = 10_000  # of any size: larger ones may take all memory before they are refused
GROUPS = ("model", "task", "method", "protocol", "train", "tracking", "recipe", "sweep", "table")


def run(cases: int, seed: int) -> list[str]:
    """Spoil one to three words of a good command line per case, and read what comes back."""
    with _nothing_trained():
        return in_folders(cases, seed, _answer)


def _answer(folder: Path, rng: Random, words: list[str]) -> str | None:
    """Give the program a command line in an empty folder; return what is wrong with the answer."""
    words += _words(rng)
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            own_logging(),
            mock.patch.object(sys, "argv", ["run.py", *words]),
        ):
            runpy.run_path(str(REPO / "run.py"), run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        os.chdir(before)
    if written := [
        path.name for path in folder.rglob("*") if path.is_file() and path.name != "multirun.yaml"
    ]:
        return f"wrote {', '.join(written)}"
    return _wrong_answer(code, err.getvalue(), words) or _wrong_plain(words)


def _wrong_plain(words: list[str]) -> str | None:
    """Say what is wrong where the same words name a run of a table: the other composer reads them."""
    try:
        plain_run([word for word in words if not word.startswith("-")])
    except ConfigError:
        return None
    except Exception as error:
        return f"as a run of a table, {type(error).__name__}: {error}"
    return None


def _wrong_answer(code: Any, said: str, words: list[str]) -> str | None:
    sweep = any(word in ("-m", "--multirun") or word.startswith("sweep=") for word in words)
    if "Traceback" in said:
        return f"a traceback: {said[-300:]}"
    if code == command_line.DONE:
        return None
    if code not in ({1, 2} if sweep else {2}):
        return f"exit code {code}: {said[-300:]}"
    sentences = [line for line in said.splitlines() if line.startswith("layertune: ")]
    if len(sentences) != 1 or said.splitlines()[-1] != sentences[0]:
        return f"not one sentence: {said!r}"
    sentence = sentences[0].removeprefix("layertune: ")
    if len(sentence) < 20 or "allowed here: ." in sentence or not sentence.isprintable():
        return f"says nothing: {sentence!r}"
    return None


# --- in place of a run


@contextlib.contextmanager
def _nothing_trained() -> Iterator[None]:
    with (
        mock.patch.object(pipeline, "execute", _prepared),
        mock.patch.object(recipe, "objective", lambda run, record: 0.0),
    ):
        yield


def _prepared(run: RunConfig, store: Any) -> Record:
    """Build what a run builds before it reads data, and return some record."""
    build_method(run)
    sizes = [size for size in (run.model.random_config or {}).values() if isinstance(size, int)]
    spoilt = any("random_config" in word for word in run.overrides)
    if run.model.source == "random" and spoilt and max(sizes, default=0) < LARGEST_MODEL:
        build_model(run, run.task.num_outputs, run.task.kind)
    return _some_record()


@cache
def _some_record() -> Record:
    return read_record(sorted((REPO / "results" / "runs").glob("gte_small-trec-low_k-*.json"))[0])


# --- words


def _words(rng: Random) -> list[str]:
    chosen = dict(word.split("=") for word in BASE)
    chosen["model"] = rng.choice(("tiny_bert", "tiny_bert", "tiny_gpt2", "bert", "minilm_l6"))
    chosen["task"] = rng.choice(("demo", "demo", "sst2", "stsb", "mrpc", "e2e", "sst2_imdb"))
    chosen["method"] = rng.choice(_choices("method"))
    keys = _leaves(plain_tree([f"{group}={name}" for group, name in chosen.items()]), "")
    words = [f"{group}={name}" for group, name in chosen.items()]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        word = _spoilt(rng, keys)
        key = word.partition("=")[0]
        words = [other for other in words if other.partition("=")[0] != key]
        words.insert(rng.randrange(len(words) + 1), word)
    if rng.random() < 0.1:
        words.insert(rng.choice((0, len(words))), rng.choice(_FLAGS))
    if rng.random() < 0.05:
        words[0:0] = ["--cfg", rng.choice(("job", "all", "hydra", "x"))]
    return words


def _spoilt(rng: Random, keys: dict[str, Any]) -> str:
    kind = rng.random()
    if kind < 0.06:
        return rng.choice(_ODD)
    if kind < 0.15:
        return f"{rng.choice(GROUPS)}={rng.choice((*_VALUES, *_CHOICES_LIKE))}"
    key, value = rng.choice(list(keys.items()))
    if kind < 0.25:
        key = rng.choice(
            (f"+{key}", f"++{key}", f"~{key}", f"{key}.x", f"{key[:-1]}", f"{key}@x", key.upper())
        )
    like = _LIKE.get(type(value), _VALUES) if kind < 0.7 else _VALUES
    return f"{key}={rng.choice(like)}"


def _leaves(tree: Any, path: str) -> dict[str, Any]:
    """Return the keys of a composed run with their values."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found[f"{path}{key}"] = value
        if isinstance(value, dict):
            found |= _leaves(value, f"{path}{key}.")
    return found


@cache
def _choices(group: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (REPO / "configs" / group).glob("*.yaml")))


_VALUES: Sequence[str] = (
    "0", "1", "2", "3", "-1", "7", "100000", "99999999999999999999", "1e400", "0.5", "-0.5", "1.0", "1e-5",
    "nan", "inf", "-inf", "null", "true", "false", "", '""', "' '", "x", "ü", "\udcff", "a=b", "a(b", "a)b",
    "(", ")", "a:b", "a b", '"a', "a,b", "1,2", "[]", "[1]", "[1,2]", "[0.9,nan]", "[a,a]", "{}", "{a:1}",
    "[[1]]", "{a:{b:1}}", "${..}", "${x}", "${oc.env:HOME}", "${now:%H}", "${", "???", "range(1,3)",
    "choice(1,2)", "glob(*)", "../x", "a/b", "/", "/dev/null", "..", ".", "~", "~nobody/x", "x" * 300,
    "a\\nb", "\n", "a\tb", "\x07", "accuracy", "cosine", "highest", "nope.nope", "os.path", "os.path.join",
    "fast", "all", "adaptive", "cpu", "cuda", "train", "layertune", "'${a}'", "$x", "%", "#", "@", "1_000",
    "0x10", "٣", "1.5e3", "-0",
)  # fmt: skip

# Of the type that the key has: most pass the composition and meet the checks.
_LIKE: dict[type, Sequence[str]] = {
    int: ("0", "1", "2", "3", "7", "-1", "100", "100000", "4294967295", "99999999999999999999"),
    float: ("0", "0.0", "0.5", "1.0", "-0.5", "1e-5", "nan", "inf", "-inf", "1e300", "100", "1e-320"),
    bool: ("true", "false"),
    list: (
        "[]",
        "[1]",
        "[1,2]",
        "[0.5,0.9]",
        "[0.9,nan]",
        "[a]",
        "[a,b]",
        "[a,a]",
        "[[1]]",
        "[null]",
        "[fp32]",
    ),
}

_CHOICES_LIKE = (
    "tiny_brt", "bert", "sst2", "low_k", "smoke", "fast", "offline", "rates", "optuna", "table1", "b/c",
)  # fmt: skip

_ODD = (
    "", "=", "a", "a.b", "==", "+", "~", "~method", "~train.epochs", "~model.name", "+x=1", "++x=1",
    "+x.y=1", "model@foo=tiny_bert", "seed", "seed=", "=1", ".=1", "seed.=1", ".seed=1", "a..b=1", "ü=1",
    "\udcff=1", "1=1", "-x", "--foo", "--cfg", "--info", "--info=x", "--config-name=nope",
    "--config-dir=/nope", "--config-path=/nope", "--package=model", "--resolve", "--run",
    "--version", "--hydra-help", "train=fast", "hydra.mode=MULTIRUN",
    "hydra.verbose=x", "hydra=x", "hydra/job_logging=nope", "hydra.job.chdir=x", "model",
    "hydra.callbacks.x=1", "+hydra.callbacks.x=1",
    "hydra.searchpath=[file:///nope]", "hydra.searchpath=1", "base=1", "own.train=x", "task=own",
    "train.epochs=1,2", "seed=range(1,3)", "study=x", "model=[tiny_bert]", "model=[tiny_bert,bert]",
    "model={a:1}", "seed=choice(1,2)", "seed=sort(2,1)", "seed=int(1.5)",
)  # fmt: skip

_FLAGS = ("-m", "--multirun", "-h", "--help", "--resolve", "-x", "--info")
