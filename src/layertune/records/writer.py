"""From the opening of a run to its record on disk: whatever happens in between, one record says so."""

from __future__ import annotations

import dataclasses
import errno
import logging
import operator
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, reduce
from pathlib import Path
from typing import Any

from layertune.config import RunConfig
from layertune.config.files import expanded
from layertune.config.run import path_keys
from layertune.errors import ConfigError, RecordError, RunFailed, in_words, with_causes
from layertune.records.record import (
    SCHEMA,
    IdentityRecord,
    Record,
    SpecRecord,
    Status,
)
from layertune.records.store import Store, versions_of

log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[3]  # of the checkout
_CODE = ("src", "configs", "run.py", "pyproject.toml", "constraints.txt")


class RecordDraft:
    """A record while its run is going on: sections are put in as they become known.

    Attributes:
        once_written: is called with the record when a run has come to its end and its record, done or failed
            by its checks, is on disk.
    """

    def __init__(self, run: RunConfig) -> None:
        self.run = run
        self.record = Record(
            schema=SCHEMA,
            run_id=run.run_id,
            status="interrupted",
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            error=None,
            spec=_spec(run),
            versions=versions_of(run),
            config=printable_config(run),
            identity=IdentityRecord(run.config_sha256, *git_state()),
        )

        self.once_written: Callable[[Record], None] = lambda record: None

    def put(self, **sections: Any) -> None:
        """Put sections into the record."""
        self.record = dataclasses.replace(self.record, **sections)

    def conclude(self) -> Record:
        """Set the status that follows from the checks, done or failed, and return the record."""
        if failures := self.record.failed_checks:
            self.put(status="failed", error=f"checks are false: {', '.join(failures)}")
        else:
            self.put(status="done")
        return self.record


@contextmanager
def open_record(run: RunConfig, store: Store) -> Iterator[RecordDraft]:
    """Open the record of a run and write it when the block ends.

    A wrong request (ConfigError) leaves no record. Any other failure becomes a record with its reason; it
    never replaces a finished record (`force=true` repeats one).

    Raises:
        RunFailed: the block failed, or a check that proves the method's work is false.
    """
    draft = RecordDraft(run)
    try:
        yield draft
    except ConfigError:
        raise
    except BaseException as error:
        status = _status_of(error)
        draft.put(status=status, error=_traceback(error))
        unwritten = _save_failure(draft, store)
        if isinstance(error, Exception):
            raise RunFailed(f"{run.run_id}: {status}: {in_words(error)}{unwritten}") from error
        raise
    if draft.conclude().status == "failed":
        unwritten = _save_failure(draft, store)
        if not unwritten:
            draft.once_written(draft.record)
        raise RunFailed(f"{run.run_id}: failed: {draft.record.error}{unwritten}")
    log.info("record: %s", store.save(draft.record, run))
    draft.once_written(draft.record)


def _save_failure(draft: RecordDraft, store: Store) -> str:
    """Write the record of a failure; what hinders that is returned, to be said after the failure itself."""
    try:
        try:
            finished = store.find(draft.run) is not None
        except RecordError:  # a damaged file is no finished record
            finished = False
        if finished:
            log.warning("%s: the finished record stays as it is", store.path(draft.run))
        else:
            log.info("record (%s): %s", draft.record.status, store.save(draft.record, draft.run))
    except Exception as hindrance:  # whatever it is, it must not hide why the run failed
        log.error("%s", draft.record.error)
        return f"; and its record could not be written: {in_words(hindrance)}"
    return ""


def _status_of(error: BaseException) -> Status:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    return "oom" if any(map(_is_lack_of_memory, with_causes(error))) else "failed"


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch says so of a CPU in the words of a RuntimeError."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("out of memory", os.strerror(errno.ENOMEM), "ALLOC_FAILED", "bad_alloc")
    told = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return told or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _traceback(error: BaseException) -> str:
    """Return the traceback without the folders of this machine: records are shared."""
    text = "".join(traceback.format_exception(error))
    for folder, shown in ((_ROOT, ""), (Path(sys.prefix), ""), (expanded("~"), "~/")):
        text = text.replace(f"{folder}/", shown)
    return text.encode("utf-8", "backslashreplace").decode()  # half a character is no JSON


def _spec(run: RunConfig) -> SpecRecord:
    return SpecRecord(
        model=run.model.name,
        task=run.task.name,
        method=run.method.name,
        k=run.method.k,
        seed=run.seed,
        protocol=run.protocol.name,
        train=run.train.mode,
        grid=run.grid,
        stage=run.stage,
        overrides=tuple(_without_folders(item) for item in run.overrides),
    )


def printable_config(run: RunConfig) -> dict[str, Any]:
    """Return the full configuration as plain values, local paths cut to their last component."""
    tree = dataclasses.asdict(run)
    for key in path_keys():
        *groups, leaf = key.split(".")
        node = reduce(operator.getitem, groups, tree)
        node[leaf] = _last(node[leaf])
    tree.pop("overrides")  # they are in `spec`
    return tree


def _last(path: str | None) -> str | None:
    return Path(path).name if path else path


_QUOTES = "'" + '"'
# Folders of an absolute path, wherever it stands: {path: /home/me/bert}, hydra.run.dir=/home/me/runs.
_FOLDERS = re.compile(r"(?<![\w./~-])(?:~[\w.-]*)?/(?!/)(?:[^/,\]}'\"]+/)*")


def _without_folders(override: str) -> str:
    key, _, value = override.partition("=")
    if key.lstrip("+") in path_keys():
        return f"{key}={_last(value.strip(_QUOTES))}"
    return _FOLDERS.sub("", override)


@cache
def git_state(root: Path = _ROOT) -> tuple[str | None, bool | None]:
    """Return the commit of a checkout and whether its code differed from it; (None, None) without one.

    An installed package may lie inside the repository of somebody else.
    """
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None, None
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(changes)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
