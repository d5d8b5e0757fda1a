"""From exceptions to sentences and exit codes: what `run.py` wraps around Hydra."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

from layertune.config.schema import ConfigError

DONE, FAILED, WRONG_REQUEST, RESUMABLE = 0, 1, 2, 75


def run_command_line(main: Callable[[], None], arguments: Sequence[str] | None = None) -> int:
    """Call a Hydra main function and return the exit code; every error ends as one sentence on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sweep = any(argument in ("-m", "--multirun") for argument in arguments)
    try:
        main()
    except ConfigError as error:
        return _say(str(error), FAILED if sweep else WRONG_REQUEST)
    except KeyboardInterrupt:
        return _say("interrupted", FAILED)
    except Exception as error:
        name = type(error).__name__
        if name == "Interruption":
            return _say(str(error), RESUMABLE)
        if name in ("RunFailed", "RecordError"):
            return _say(str(error), FAILED)
        if (sentence := request_error(error)) is not None:
            return _say(sentence, WRONG_REQUEST)
        if isinstance(error, OSError):
            return _say(f"the record or a cache could not be written: {error}", FAILED)
        raise
    return DONE


def _say(sentence: str, code: int) -> int:
    print(f"layertune: {sentence}", file=sys.stderr)
    return code


def request_error(error: Exception) -> str | None:
    """Turn an error of Hydra or OmegaConf into one sentence with what is allowed; None for other errors."""
    module = type(error).__module__
    if not module.startswith(("hydra", "omegaconf")):
        return None
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_override(found[1], text)
    if found := re.search(r"Could not find '([^'/]+)/([^']+)'", text):
        return _unknown_choice(found[1], found[2])
    if found := re.search(r"You must specify '([^']+)'", text):
        group = found[1]
        return f"No {group} given: say {group}=<name>; allowed: {_choices(group)}."
    return " ".join(text.split())


def _unknown_override(key: str, text: str) -> str:
    from layertune.config.build import unknown_key
    from layertune.config.compose import schema_keys

    parent, _, leaf = key.rpartition(".")
    allowed = schema_keys(parent)
    if allowed is None or leaf in allowed:
        return " ".join(text.split())
    return str(unknown_key(key, leaf, allowed))


def _unknown_choice(group: str, name: str) -> str:
    from layertune.config.build import unknown_key
    from layertune.config.compose import group_names

    return str(unknown_key(f"{group}={name}", name, group_names(group)))


def _choices(group: str) -> str:
    from layertune.config.compose import group_names

    return ", ".join(group_names(group))
