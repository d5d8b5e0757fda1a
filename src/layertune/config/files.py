"""Files of a request: local splits, what a run needs, hashes, atomic writes, and locks between processes.

Locks are those of the operating system, which end with the process, however it ends. A lock is a file, made
for it and removed at its end. Where a network file system has locks they hold between its machines; where one
has none, or keeps them to each machine, it is known and said.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from layertune.config.schema import OwnSpec, ProtocolSpec, TaskSpec
from layertune.errors import ConfigError

_NONE_HERE = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_OF_THIS_MACHINE = {"nolock", "local_lock=flock", "local_lock=all", "localflock"}  # NFS, Lustre
_MOUNTS = Path("/proc/self/mounts")


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool | None]:
    """Hold a lock for the length of the block.

    Args:
        path: its file, which is made, and the folders above it; what was made is removed again.
        wait: False does not wait for a process that holds it.

    Yields:
        True: it is held. False: another process holds it. None: the file system has no locks.

    Raises:
        OSError: its file cannot be made.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    was_there = path.exists()
    lock = FileLock(path, fallback_to_soft=False)
    try:
        held = _acquire(lock, wait)
        try:
            yield held
        finally:
            if held or (held is None and not was_there):
                path.unlink(missing_ok=True)  # before its end: who waits for it sees that, and makes another
            lock.release()
    finally:
        for folder in made:
            with suppress(OSError):  # others use it
                folder.rmdir()


def _acquire(lock: FileLock, wait: bool) -> bool | None:
    while True:
        folder = Path(lock.lock_file).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=wait)
        except Timeout:
            return False
        except FileNotFoundError:  # another process has just removed the folder
            continue
        except FileExistsError:  # the same, between two looks of mkdir
            if folder.exists() and not folder.is_dir():
                raise
            continue
        except OSError as error:
            if error.errno in _NONE_HERE:
                return None
            raise
        return True


def ends_at_this_machine(folder: Path) -> bool:
    """Whether locks in a folder hold between the processes of this machine alone, though others see it."""
    mounts = [line.split() for line in _MOUNTS.read_text().splitlines()] if _MOUNTS.is_file() else []
    above = {str(parent) for parent in (folder.resolve(), *folder.resolve().parents)}
    options = {len(point): options for _, point, _, options, *_ in mounts if point in above}
    return bool(options) and not _OF_THIS_MACHINE.isdisjoint(options[max(options)].split(","))


WRITING = ".writing-"  # begins the name of what a process is writing and will rename
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")


def expanded(name: str | Path) -> Path:
    """Return a path with `~` as the home folder; as it is where there is no such home."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises then


def resolved_data_dir(data_dir: str | None) -> Path | None:
    """Return the local data folder: `data_dir`, else the variable LAYERTUNE_DATA, else None (the hub).

    Raises:
        ConfigError: the folder does not exist.
    """
    name = data_dir or os.environ.get("LAYERTUNE_DATA")
    if not name:
        return None
    folder = expanded(name)
    if not folder.is_dir():
        source = "data_dir" if data_dir else "LAYERTUNE_DATA"
        raise ConfigError(
            f"{source}={name} is not a folder; it holds <task>/<split>.parquet, csv, tsv or jsonl."
        )
    return folder


def local_split_file(data_dir: Path, task: str, split: str) -> Path:
    """Return the file of one split below a local data folder.

    Raises:
        ConfigError: there is none; the message lists what was looked for.
    """
    for suffix in SUFFIXES:
        path = data_dir / task / f"{split}{suffix}"
        if path.is_file():
            return path
    wanted = ", ".join(f"{split}{suffix}" for suffix in SUFFIXES)
    raise ConfigError(f"No file for the {split} split of {task} in {data_dir / task}; looked for {wanted}.")


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def own_files(own: OwnSpec) -> list[Path] | None:
    """Return the files of `own.train` and, where it is given, `own.eval`; None for a data set on the hub.

    Raises:
        ConfigError: a file is not there, or is none of the formats that are read.
    """
    names = {key: name for key, name in (("train", own.train), ("eval", own.eval)) if name is not None}
    paths = {key: expanded(name) for key, name in names.items()}
    is_id = _HUB_ID.fullmatch(own.train or "") and paths["train"].suffix.lower() not in SUFFIXES
    if is_id and not paths["train"].exists():
        if own.eval is not None:
            raise ConfigError(
                f"own.eval={own.eval} has no place beside the data set {own.train} of the hub, whose own "
                "splits are read: leave it out, or name a file of training rows too."
            )
        return None
    for key, path in paths.items():
        refuse_no_table(path, f"own.{key}={names[key]}", "file, or the id of a data set")
    return list(paths.values())


def refuse_no_table(path: Path, said: str, what: str = "file") -> None:
    """Refuse what is no file of the formats that are read.

    Args:
        path: where it should be.
        said: what was asked for, and how.
        what: is wanted.

    Raises:
        ConfigError: it is a folder, not there, or of another format.
    """
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return
    found = "a folder" if path.is_dir() else "of another format" if path.is_file() else "not there"
    raise ConfigError(f"{said} is {found}: name a {what} ({', '.join(SUFFIXES)}).")


def splits_needed(task: TaskSpec, protocol: ProtocolSpec) -> list[tuple[str, str]]:
    """List the (folder, split) pairs a run reads: train, the evaluation split, the foreign evaluation splits.

    Under `holdout` the evaluation split is not read at all.
    """
    own = task.data_name
    needed = [(own, task.train_split)]
    if protocol.holdout is None:
        needed += [(own, split) for split in (task.dev_split, task.eval_split) if split is not None]
        needed += [(foreign.data_name, foreign.eval_split) for foreign in task.foreign.values()]
    return needed


def label_order(data_dir: Path, path: Path, labels: Sequence[str]) -> list[str] | None:
    """Return what manifest.json says the numbers of a file's labels mean, where that is not the task's order.

    A manifest that cannot be read says nothing here: it is refused when the rows are read.
    """
    try:
        files = json.loads((data_dir / "manifest.json").read_bytes())["files"]
        names = files[path.relative_to(data_dir).as_posix()]["label_names"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return list(map(str, names)) if isinstance(names, list) and names != list(labels) else None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def noted_sha256(path: Path, notes: Path) -> str:
    """Hash a file once per content: a large one's result is kept under what changes when it is written to.

    `cp -p` and `rsync -t` set size and modification time as they like, the inode's change time nobody can.

    Args:
        path: of the file.
        notes: folder of the results; where nothing can be written, each call hashes.
    """
    state = _state(path)
    if path.stat().st_size <= 1 << 24:  # read faster than it is worth remembering
        return file_sha256(path)
    note = notes / hashlib.sha256(json.dumps(state, separators=(",", ":")).encode()).hexdigest()
    known = note.read_text().split() if note.is_file() else []
    if known[:1] == [note.name] and len(known) == 2:
        return known[1]
    digest = file_sha256(path)
    if _state(path) == state:  # else it was written to meanwhile
        with suppress(OSError):
            write_atomic(note, f"{note.name} {digest}".encode())
    return digest


def _state(path: Path) -> list[str | int]:
    stat = path.stat()
    times = (stat.st_mtime_ns, stat.st_ctime_ns)
    return [str(path.resolve()), stat.st_dev, stat.st_ino, stat.st_size, *times]


def write_atomic(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all: a temporary file beside it, flushed to disk, then renamed there.

    Raises:
        OSError: the file cannot be written (no space left, no permission); nothing half-written stays behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    temporary = path.with_name(f"{WRITING}{path.name}-{secrets.token_hex(4)}")
    with locked(temporary):  # which removes it, unless it was renamed
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    with suppress(OSError):  # not every file system flushes folders
        os.fsync(folder)
    os.close(folder)
    return path


def remove_abandoned(folder: Path) -> None:
    """Remove from a folder what processes were writing that are gone, however they ended.

    It begins with `WRITING`. What lives is locked: a file itself, a folder by `lock_of` its later name.
    """
    for path in folder.glob(f"{WRITING}*"):
        lock = lock_of(path.with_name(path.name.removeprefix(WRITING))) if path.is_dir() else path
        with locked(lock, wait=False) as is_abandoned:
            if is_abandoned and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)


def lock_of(path: Path) -> Path:
    """Return the lock under which one process at a time makes what is not there yet, a file or a folder."""
    return path.with_name(f".{path.name}.lock")


def require_writable(folder: Path, keys: str = "results_dir and outputs_dir") -> None:
    """Try to write below a folder, which need not be there; nothing stays behind.

    Args:
        folder: where to.
        keys: which of the configuration say where.

    Raises:
        ConfigError: it is not possible: a full disk, no permission, a file in the way.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=there) as stream:
            stream.write(bytes(1 << 16))  # as much as a record
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ConfigError(
            f"Nothing can be written to {folder} ({error.strerror}): make room there, or name another folder "
            f"with {keys}."
        ) from error
