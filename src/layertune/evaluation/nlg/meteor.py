"""METEOR 1.5 of the E2E challenge: the Java program that `pycocoevalcap` carries, as one process."""

from __future__ import annotations

import math
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from pycocoevalcap.meteor import meteor as pycoco

from layertune.errors import JavaError


class Meteor(pycoco.Meteor):
    """A METEOR process, a context manager; start it early, because it takes seconds to load its tables.

    The dialogue with the process is the parent's. Replaced is its start (any Java, not only one on the
    PATH; UTF-8 whatever the locale; no pipe that nobody empties) and its end (the parent's waits for ever
    after a failure).
    """

    def __init__(self, java: str):
        jar = Path(pycoco.__file__).with_name(pycoco.METEOR_JAR)
        # The serial collector halves the memory and changes nothing else.
        command = [java, "-XX:+UseSerialGC", "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(jar)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        try:
            self.meteor_p = subprocess.Popen(
                [*command, "-", "-", "-stdio", "-l", "en", "-norm"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            self._errors.close()
            raise JavaError(f"METEOR could not be started: {error}") from error
        self.lock = threading.RLock()  # the parent leaves it locked when it fails

    def corpus_score(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Return METEOR of PTB-tokenized texts, aggregated over the corpus (not the mean over items).

        Raises:
            JavaError: the process ended or answered with something that is not a number.
        """
        gts = dict(enumerate(map(list, references)))
        res = {item: [text] for item, text in enumerate(hypotheses)}
        try:
            score = float(self.compute_score(gts, res)[0])
        except (OSError, ValueError) as error:
            raise JavaError(f"METEOR ended early: {self._last_words() or error}") from error
        if not math.isfinite(score):
            raise JavaError(f"METEOR answered {score}")
        return score

    def __enter__(self) -> Meteor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; harmless when it has ended already."""
        self.meteor_p.kill()
        self.meteor_p.communicate()
        self._errors.close()

    def __del__(self) -> None:
        """Do nothing: the owner closes."""

    def _last_words(self) -> str:
        self.meteor_p.kill()
        self.meteor_p.wait()
        self._errors.seek(0)
        return " ".join(self._errors.read().decode(errors="replace").split())[-300:]
