"""Java for the tests of the E2E scorer, real and pretended."""

import pytest

pytest.importorskip("pycocoevalcap", reason="the COCO scorers are not installed (pip install pycocoevalcap)")

from layertune.errors import JavaError
from layertune.evaluation.nlg.meteor import Meteor
from layertune.evaluation.nlg.scorer import find_java


@pytest.fixture(scope="session")
def java() -> str:
    """A Java that starts; the test skips, with the reason, where there is none."""
    try:
        return find_java()
    except JavaError as error:
        pytest.skip(f"METEOR and the PTB tokenizer cannot be tested: {error}")


@pytest.fixture(scope="module")
def meteor(java):
    """One METEOR process for a whole module: it takes seconds to start."""
    with Meteor(java) as process:
        yield process


@pytest.fixture
def pretend_java(tmp_path):
    """Return a function that writes a `java` whose body is a shell script; `-version` always succeeds."""

    def write(body: str, version_code: int = 0) -> str:
        path = tmp_path / "bin" / "java"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\n[ "$1" = -version ] && exit {version_code}\n{body}\n')
        path.chmod(0o755)
        return str(path)

    return write
