"""Locks between processes: those of the operating system, which end with the process, however it ends.

A lock is a file, made for it and removed at its end. Where a network file system has locks they hold between
its machines; where one has none, or keeps them to each machine, it is known and said.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

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
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=wait)
        except Timeout:
            return False
        except FileNotFoundError:  # another process has just removed the folder
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
