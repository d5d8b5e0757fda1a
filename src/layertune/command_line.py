"""What `run.py` and the scripts are wrapped in: errors become sentences and exit codes, on any terminal."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from layertune.config.compose import check_overrides, request_error
from layertune.errors import (
    DONE,
    FAILED,
    WRONG_REQUEST,
    ConfigError,
    Interruption,
    RecordError,
    RunFailed,
)
from layertune.stopping import stopping_at_once

log = logging.getLogger(__name__)


def run_command_line(main: Callable[[], object], arguments: Sequence[str] | None = None) -> int:
    """Call a Hydra main function and return the exit code; every error ends as one sentence on stderr."""
    any_terminal()
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help") for argument in arguments):
        print(help_text())
        return DONE
    sweep = any(argument in ("-m", "--multirun") or argument.startswith("sweep=") for argument in arguments)
    _job_errors.clear()
    try:
        _check_arguments(arguments)
    except ConfigError as error:
        return _say(error, error.exit_code)
    try:
        with stopping_at_once(resumable=True):  # before, between and after its runs
            main()
        if _job_errors:
            raise _job_errors[0]
    except ConfigError as error:
        return _say(error, FAILED if sweep else error.exit_code)
    except (RunFailed, RecordError, Interruption) as error:
        return _say(error, error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", FAILED)
    except Exception as error:
        if (sentence := request_error(error)) is not None:
            return _say(sentence, WRONG_REQUEST)
        if isinstance(error, OSError):
            return _say(f"the record or a cache could not be written: {error}", FAILED)
        raise
    return DONE


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Call a command's main function and exit; every error that has a name ends as one sentence on stderr."""
    any_terminal()
    try:
        sys.exit(main() or DONE)
    except BrokenPipeError:  # `make plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush at the end
        sys.exit(DONE)
    except (ConfigError, RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_REQUEST)
    except (RunFailed, Interruption) as error:
        sys.exit(_say(error, error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", FAILED))


def _check_arguments(arguments: Sequence[str]) -> None:
    """Read a command line as Hydra will; what it cannot read is a ConfigError instead of a usage page."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message} (options such as -m stand before or behind all key=value words).")

    parser = get_args_parser()
    parser.error = refuse
    check_overrides(parser.parse_args(list(arguments)).overrides)


_job_errors: list[Exception] = []


@contextmanager
def job() -> Iterator[None]:
    """Enclose one job: a single run's error waits for `run_command_line`, a sweep's is logged and raised.

    Hydra prints the overrides of a job that raises, which a sweep needs and a single run does not. Of a
    sweep's errors it passes on the first alone, so each is said when it happens.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        yield
    except Exception as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            log.error("job %s: %s", HydraConfig.get().job.num, error)
            raise
        _job_errors.append(error)


def _say(sentence: object, code: int) -> int:
    print(f"layertune: {sentence}", file=sys.stderr)
    return code


def help_text() -> str:
    """Return the help page: the groups with their choices, and the keys people use."""
    groups = ("model", "task", "method", "protocol", "train", "tracking", "sweep", "table")
    return f"{_HELP_HEAD}\n{choices_of(groups)}\n{_HELP_TAIL}"


def choices_of(groups: Sequence[str]) -> str:
    """Return what may be said of each group, as a help page lists it."""
    from layertune.config.groups import group_names

    width = max(map(len, groups)) + 1
    return "\n\n".join(
        textwrap.fill(
            " ".join(group_names(group)),
            100,
            initial_indent=f"  {group + '=':<{width}} ",
            subsequent_indent=" " * 12,
        )
        for group in groups
    )


_HELP_HEAD = """One run:  python run.py model=bert task=sst2 method=low_k
A sweep:  python run.py -m model=bert task=sst2,qnli method=low_k,high_k 'method.k=range(1,12)' seed=0,42,100
A table:  python run.py -m hydra/sweeper=table table=table1   # what it misses; make plan TABLE=1 shows it

Groups (model, task and method are required):
"""

_HELP_TAIL = """
Keys:
  seed=0  method.k=3  grid=paper|fair  stage=run|score  force=true
  train.epochs  train.batch_size  train.micro_batch  train.learning_rate  train.precision=fp32|bf16
  train.device=auto|cpu|cuda  train.deterministic=true  scoring.examples=all|<rows>
  eval_generation=every|last  task.score_text=full|prompt  task.decoding.no_repeat_ngram=0  (task=e2e)
  checkpoint.every_steps=<steps>
  head=concat|pooled|standard  save=<folder for the trained model>  save_epoch=last|best  merge=true
  model.path=<folder with weights>  data_dir=<folder with data>  results_dir=results  outputs_dir=outputs

--cfg job prints the configuration of a run instead of running it; -m sweeps over comma-separated values.
Exit codes: 0 done, 1 the run failed, 2 the request was wrong, 75 interrupted and resumable;
a sweep goes on after a run that fails or is refused, and ends with 1."""


_INSTEAD = {"█": "#", "±": "+-", "×": "x", "·": ".", "–": "-", "—": "-", "−": "-", "…": "...", "‡": "++"}
_INSTEAD |= {"→": "->", "§": "S.", "£": "GBP"}


def any_terminal() -> None:
    """Let stdout and stderr print all characters, whatever their encoding (ASCII, cp1252, ...)."""
    codecs.register_error("layertune", _other_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="layertune")


def _other_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_INSTEAD.get(character) or _ascii(character) for character in missing), error.end


def _ascii(character: str) -> str:
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"
