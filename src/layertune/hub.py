"""Files of a repository on the hub, in the local cache: all that are wanted, at one commit, or one sentence.

Models, and data whose files a task names, are read from the folder that `repository` returns and never
through the hub, so that a run without a network reads what the one before it read. What is read has the
content that the cache names it after.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from layertune.config.files import noted_sha256, write_atomic
from layertune.errors import HubError, message_of, with_causes

log = logging.getLogger(__name__)

# Chooses among all files of a repository, given the folder of those that are there already.
Wanted = Callable[[Sequence[str], Path | None], Sequence[str]]

_PROBE_SECONDS = 5.0


def repository(
    name: str,
    revision: str | None,
    wanted: Wanted,
    complete: Callable[[Path], bool],
    kind: Literal["model", "dataset"] = "model",
    certain: Callable[[Path], bool] = lambda _: True,
) -> Path:
    """Return the local folder of a repository at one commit; its last component is the commit.

    Args:
        name: of the repository, `owner/name`.
        revision: commit, branch or tag; None = the main branch, as cached where it is.
        wanted: chooses the files to fetch: what `complete` looks for comes last, so that no other process
            takes a part for the whole. It is asked again when its choice is there, until nothing is added.
        complete: says of a folder whether everything is there.
        kind: of repository.
        certain: whether a folder that is `complete` shows that nothing is missing, whoever filled it; where
            it does not, the hub is asked once, if it can be.

    Raises:
        HubError: something is missing and the hub does not give it.
    """
    cached = _cached(name, revision, kind)
    whole: Path | None = None
    if cached is not None:
        _refuse_damaged(name, cached, wanted)
        if complete(cached) and not _lacks(cached, wanted):
            whole = cached
            if certain(cached) or _note_of_fetch(cached).is_file():
                return cached
    if (silence := why_no_answer()) is not None:
        if whole is not None:
            return whole
        found = "only a part of it is" if cached is not None else "is not"
        raise HubError(f"{name} at {revision or 'main'} {found} on this machine and {silence}")
    try:
        folder = _fetch(name, revision, wanted, kind)
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        if whole is not None:
            log.warning(
                "%s is read as it lies here; the hub did not say if it is all: %s", name, reason(error)
            )
            return whole
        raise HubError(f"{name} at {revision or 'main'} cannot be fetched: {reason(error)}") from error
    _refuse_damaged(name, folder, wanted)
    if not complete(folder):
        raise HubError(f"{name} at {revision or 'main'} lacks files on the hub itself")
    if not certain(folder):
        with suppress(OSError):
            note = _note_of_fetch(folder)
            note.parent.mkdir(exist_ok=True)
            write_atomic(note, b"")
    return folder


def _note_of_fetch(folder: Path) -> Path:
    """Return the file that says of a folder of the cache that all was fetched that the hub listed."""
    return folder.parents[1] / ".layertune" / f"{folder.name}.fetched"


def refuse_damaged_data(name: str, commit: str | None, made: str | None) -> None:
    """Check what the `datasets` library fetched of a data set.

    Args:
        name: of the repository.
        commit: of the rows; None = the main branch, as cached.
        made: the folder of what the library made of the files, which goes with them.

    Raises:
        HubError: a file is not the one that the hub has.
    """
    if (folder := _cached(name, commit, "dataset")) is not None:
        _refuse_damaged(name, folder, lambda listed, _: listed, made)


def _refuse_damaged(name: str, folder: Path, wanted: Wanted, made: str | None = None) -> None:
    """Hold what is wanted of a folder of the cache against the hashes that its files are named after."""
    for known in (None, folder):  # an index of shards is checked before it is followed
        for file in wanted(_listed(folder), known):
            path = folder / file
            if path.is_file() and not _is_what_it_is_named_after(path):
                also = f" and {made}" if made else ""
                raise HubError(
                    f"{name} at {folder.name}: {file} is damaged on this machine: delete {path.resolve()}"
                    f"{also} and run again, it is fetched anew"
                )


def _lacks(folder: Path, wanted: Wanted) -> bool:
    """Whether the bytes of a file are gone that is linked to in a folder of the cache."""
    return not all((folder / file).is_file() for file in wanted(_listed(folder), folder))


def _listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _is_what_it_is_named_after(path: Path) -> bool:
    """Whether a file of the cache, a link to its blob, has the content of that name.

    Large files are named after their sha256, the others after git's sha1; what is not, has no such name (no
    links on this file system, a hub of another kind).
    """
    blob = path.parent / path.readlink() if path.is_symlink() else path
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        return noted_sha256(path, blob.parents[1] / ".layertune") == blob.name
    if re.fullmatch("[0-9a-f]{40}", blob.name):
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == blob.name
    return True


def main_commit(name: str, kind: Literal["model", "dataset"]) -> str | None:
    """Return the commit that the main branch of a repository is at: the hub's, without it that of the cache.

    None where neither knows it; whoever then wants the files says why they cannot be had.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    if why_no_answer() is None:
        with suppress(Exception):
            commit = HfApi().repo_info(name, repo_type=kind, timeout=2 * _PROBE_SECONDS).sha
            folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
            write_atomic(folder / "refs" / "main", commit.encode())
            return str(commit)
    folder = _cached(name, None, kind)
    return None if folder is None else folder.name


def _cached(name: str, revision: str | None, kind: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except Exception as error:  # not there; a name that cannot be one is told by the hub
        log.debug("%s is not in the cache: %s", name, error)
        return None


def _fetch(name: str, revision: str | None, wanted: Wanted, kind: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=2 * _PROBE_SECONDS)
    listed = [one.rfilename for one in info.siblings or ()]
    folder: Path | None = None
    fetched: set[str] = set()
    while missing := [file for file in wanted(listed, folder) if file not in fetched]:
        log.info("fetching %s of %s at %s", ", ".join(missing), name, info.sha)
        for file in missing:
            path = Path(hf_hub_download(name, file, repo_type=kind, revision=info.sha))
            folder = path.parents[len(Path(file).parts) - 1]
            fetched.add(file)
    if folder is None:
        raise HubError("none of the files that are needed is there")
    if revision != info.sha:  # what a branch or a tag is here, where the client looks for it without the hub
        write_atomic(folder.parents[1] / "refs" / (revision or "main"), info.sha.encode())
    return folder


def why_no_answer() -> str | None:
    """Return why the hub is not asked, after five seconds at the most; None if it answers."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception as error:  # whatever the HTTP library raises: refused, no such name, timed out
        return f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})"
    return None


def reason(error: BaseException) -> str:
    """Return the root cause of a failure of the hub's client, in a few words."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain = with_causes(error)
    for one in chain:
        if isinstance(one, HubError):
            return str(one)
        if isinstance(one, GatedRepoError):
            return (
                f"access is granted on request: ask for it on its page at {constants.ENDPOINT} and log in "
                "with `hf auth login`"
            )
        if isinstance(one, RevisionNotFoundError):
            return "the hub knows no such revision"
        if isinstance(one, RepositoryNotFoundError):
            return "the hub knows no such repository, or it is private: log in with `hf auth login`"
        if isinstance(one, HfHubHTTPError) and one.response is not None:
            return f"the hub answered {one.response.status_code} {one.response.reason_phrase}".rstrip()
    return message_of(chain[-1])
