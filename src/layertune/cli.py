"""The command `layertune`: fit, predict, recommend, score.

    layertune fit google-bert/bert-base-uncased reviews.csv --text review --label stars --out my-model
    layertune predict my-model new.csv --out predictions.csv
    layertune recommend google-bert/bert-base-uncased reviews.csv --text review --label stars --budget 10m
    layertune score google-bert/bert-base-uncased texts.txt --k 3

`layertune fit --help` lists models, methods, and the words that may follow.
Exit codes: 0 done, 1 it failed, 2 the request was wrong (one sentence, nothing written).
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from layertune.command_line import choices_of, run_script
from layertune.config import ModelSpec, RunConfig
from layertune.config.build import build_dataclass
from layertune.config.compose import compose_run
from layertune.config.files import SUFFIXES, WRITING, expanded, own_files, refuse_no_table
from layertune.config.groups import group_file, group_names
from layertune.config.schema import OwnSpec
from layertune.errors import ConfigError, RunFailed, did_you_mean, said_in

if TYPE_CHECKING:
    from layertune.baselines import Baseline
    from layertune.records import Record
    from layertune.saved import SavedModel

CHUNK = 1024  # rows of a file that are read and predicted at once
OPTIONS = {f"own.{key}": f"--{key}" for key in ("eval", "text", "text2", "label")} | {
    "save": "--out",
    "method.k": "--k",
    "method": "--method",
    "seed": "--seed",
}
WORDS = {f"{key}=": f"{option} " for key, option in OPTIONS.items()} | {
    **{key: option for key, option in OPTIONS.items() if "." in key},
    **dict.fromkeys(("own.train=", "model=", "model.path=", "model.source="), ""),
    "own.regression=true": "--regression",
    "save_epoch=best": "--best",
    "k=": "--k ",
    "strategy=": "--strategy ",
}  # of `run.py` and of the functions, and what is typed for them here
MODEL_HELP = "hub id, folder, or a name (bert, minilm_l6, …)"
_WORDS_THAT_FOLLOW = """Words may follow:
  train.epochs=5  train.batch_size=32  train.learning_rate=1e-4  train.precision=bf16  train=published
  train.device=cuda  head=standard|concat|pooled  merge=true  protocol.train_examples=500
  task.max_length=128  scoring.examples=all|<rows>  'method.layers=[2,7,11]' (--method layers)

Models and methods that have names:"""
LAYERS = 3  # that are trained where nothing else is said, as in the paper
SEARCHING = ("protocol=search", "protocol.every_epoch=false")  # the last epoch of an arm is scored alone


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit."""
    parser = _parser()
    given, words = parser.parse_known_args(arguments)
    wrong = [word for word in words if word.startswith("-") or "=" not in word or "words" not in given]
    if wrong:
        parser.error(f"{wrong[0]} is not understood here: `layertune {given.name} --help` lists what is.")
    given.words = words
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    for noisy in ("httpx", "httpx2", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    def command() -> None:
        try:
            with said_in(WORDS | {"model=own": given.model}):
                given.command(given)
        except BrokenPipeError:
            raise
        except OSError as error:  # a full disk, say: the request was right
            raise RunFailed(str(error)) from error

    run_script(command)


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("layertune", description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(required=True, metavar="fit | predict | recommend | score")

    fit = commands.add_parser("fit", help="train a few layers of a model on a file of texts, and keep it")
    _add_data(fit)
    fit.add_argument("--out", required=True, help="folder for the trained model; new, or empty")
    fit.add_argument("--method", default="low_k", help="low_k (default), high_k, block_low, full, lora, …")
    fit.add_argument("--k", type=int, help=f"how many layers (default {LAYERS})")
    fit.add_argument("--best", action="store_true", help="keep the best epoch instead of the last")
    fit.set_defaults(command=_fit, name="fit")

    predict = commands.add_parser("predict", help="label the rows of a file with a kept model")
    predict.add_argument("model", help="folder that `fit --out` wrote")
    predict.add_argument("data", help=f"file ({', '.join(SUFFIXES)}); may be larger than memory")
    predict.add_argument("--text", help="column of the text (default: the one that was trained on)")
    predict.add_argument("--text2", help="column of the second text of a pair")
    predict.add_argument("--out", help="csv file to write (default: print it)")
    predict.add_argument("--batch-size", type=int, default=64)
    predict.set_defaults(command=_predict, name="predict")

    recommend = commands.add_parser(
        "recommend", help="try layers, numbers of them and rates on held-out rows"
    )
    _add_data(recommend)
    recommend.add_argument(
        "--budget",
        type=_seconds,
        help="how long it may take: 90s, 10m, 1h (default: twice as long as one full fine-tuning)",
    )
    recommend.set_defaults(command=_recommend, name="recommend")

    score = commands.add_parser("score", help="score the layers of a model on texts and choose k of them")
    score.add_argument("model", help=f"{MODEL_HELP}, or package:<import name>:<folder>")
    score.add_argument("texts", type=Path, help="text file, one text per line")
    add_score_arguments(score)
    score.set_defaults(command=score_command, name="score")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Add what names a model, the rows and how they are trained on."""
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("data", help=f"file ({', '.join(SUFFIXES)}) or id of a data set on the hub")
    parser.add_argument("--eval", help="file of evaluation rows (default: a tenth is held out)")
    parser.add_argument("--text", default="text", help="column of the text (default: text)")
    parser.add_argument("--text2", help="column of the second text of a pair")
    parser.add_argument("--label", default="label", help="column of the label (default: label)")
    parser.add_argument("--regression", action="store_true", help="labels are numbers to predict")
    parser.add_argument("--seed", type=int, default=0)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{_WORDS_THAT_FOLLOW}\n\n{choices_of(('model', 'method'))}"
    parser.set_defaults(words=())


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `score` takes beside a model and a file of texts."""
    parser.add_argument("--k", required=True, type=int, help="how many layers to choose")
    parser.add_argument("--strategy", default="low_k", help="low_k (default), high_k, block_low, …")
    parser.add_argument("--out", type=Path, help="where to write the heat-map, for example heatmap.png")


# -- fit ----------------------------------------------------------------------------------------------------


def _fit(given: argparse.Namespace) -> None:
    """Train, keep, compare with what needs no language model, and say what comes next."""
    began = time.perf_counter()
    words = request(given, given.method, given.k)
    words += [f"save={quoted(given.out)}", *(["save_epoch=best"] if given.best else []), *given.words]
    run = compose_run(*words)

    from layertune.baselines import baselines
    from layertune.pipeline import execute
    from layertune.records import Store
    from layertune.tasks.sources import rows_of

    os.environ.setdefault("WANDB_SILENT", "true")
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    total = time.perf_counter() - began
    simple = baselines(*rows_of(run), run.task.kind, run.task.metrics)
    print(f"\n{report(given.model, record, simple, run)}\n\n{_times(record, total)}\n\n{_next(given)}")


def request(given: argparse.Namespace, method: str, k: int | None) -> list[str]:
    """Return the words of `run.py` that a command's arguments stand for."""
    words = [*model_words(given.model), "task=own", f"own.train={quoted(given.data)}"]
    columns = {"eval": given.eval, "text": given.text, "text2": given.text2, "label": given.label}
    words += [f"own.{key}={quoted(value)}" for key, value in columns.items() if value is not None]
    if given.regression:
        words.append("own.regression=true")
    if own_files(OwnSpec(train=given.data, eval=given.eval)) is None:  # a data set of the hub may change
        from layertune.hub import main_commit

        commit = main_commit(given.data, "dataset")
        words += [f"own.revision={commit}"] if commit is not None else []
    words += [
        f"method={method}",
        f"seed={given.seed}",
        "train=fast",
        "tracking=disabled",
        "results_dir=outputs",
    ]
    known = group_file("method", method)
    if known is not None and known.get("selector") is not None:
        words.append(f"method.k={min(LAYERS, num_layers(words) - 1) if k is None else k}")
    elif known is not None and k is not None:
        raise ConfigError(f"--k {k} has no meaning for --method {method}, which selects no layers.")
    return words


def num_layers(words: Sequence[str]) -> int:
    """Return the number of layers of the model that some words name."""
    given = dict(word.split("=", 1) for word in words)
    known = group_file("model", given["model"]) or {}
    return int(given.get("model.num_layers", known.get("num_layers", LAYERS + 1)))


def model_words(model: str) -> list[str]:
    """Return the words of `run.py` that name a model: one of configs/model, a folder, or an id of the hub.

    Raises:
        ConfigError: it is none of them, or its configuration cannot be had.
    """
    from layertune.models.architectures import architecture_of

    names = _known_models()
    folder = expanded(model)
    if model in names and not folder.is_dir():
        return [f"model={model}"]
    if folder.is_dir():
        file = folder / "config.json"
        where = [f"model.path={quoted(model)}"]
    elif model.startswith((".", "/", "~")):
        raise ConfigError(
            f"{model} is not a folder: name one written by save_pretrained, or an id of the hub."
        )
    else:
        for name in names:
            source = str((group_file("model", name) or {}).get("source", ""))
            if model in (source, source.rpartition("/")[2]):
                return [f"model={name}"]
        file = _config_of_hub(model)
        where = [f"model.source={quoted(model)}", f"model.revision={file.parent.name}"]
    try:
        config = json.loads(file.read_bytes())
        layers = next(
            int(config[key]) for key in ("num_hidden_layers", "n_layer", "n_layers") if key in config
        )
    except (OSError, ValueError, TypeError, StopIteration) as error:
        raise ConfigError(
            f"{model} has no config.json that says how many layers there are: name a folder written by "
            "save_pretrained."
        ) from error
    kinds = config.get("architectures") or [""]
    causal = any(str(kind).endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds)
    causal = causal or architecture_of(str(config.get("model_type"))).sees == "before"
    family = "decoder" if causal else "encoder"
    return ["model=own", *where, f"model.num_layers={layers}", f"model.family={family}"]


def _known_models() -> list[str]:
    return [name for name in group_names("model") if name != "own"]


def _config_of_hub(model: str) -> Path:
    from layertune.errors import HubError
    from layertune.hub import repository

    try:
        folder = repository(
            model, None, lambda listed, _: ["config.json"], lambda folder: (folder / "config.json").is_file()
        )
    except HubError as error:
        raise ConfigError(
            f"{model} is no folder, none of {', '.join(_known_models())}, and not to be had from the hub: "
            f"{error}.{did_you_mean(model, _known_models())}"
        ) from error
    return folder / "config.json"


def quoted(value: str) -> str:
    """Return a value as Hydra reads it back, whatever is in it."""
    doubled = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{doubled}'"


def report(model: str, record: Record, simple: Sequence[Baseline], run: RunConfig) -> str:
    """Return the table: what needs no language model, and the trained one, on the same evaluation rows."""
    from layertune.report.rounding import printed
    from layertune.report.summary import aligned

    assert record.metrics is not None and record.data is not None and record.model is not None
    names = run.task.metrics
    scores = next(iter(record.metrics.at(run.save_epoch).values()))

    def row(name: str, layers: str, found: Any, seconds: float) -> tuple[str, ...]:
        shown = [found.get(metric) for metric in names]
        cells = ["—" if not isinstance(value, float) else printed(100 * value, 1) for value in shown]
        return (name, layers, *cells, f"{seconds:.1f}")

    chosen = record.selection.layers if record.selection is not None else None
    layers = " ".join(map(str, chosen)) if chosen else f"{100 * record.model.trainable_share:.0f} %"
    seconds = sum(record.seconds.values())
    rows = [row(one.name, "", one.scores, one.seconds) for one in simple]
    rows.append(row(f"{model}, {run.method.name}", layers, scores, seconds))
    counts = record.data.counts
    held = next(number for name, number in counts.items() if name != "train")
    table = aligned(("method", "layers", *names, "seconds"), rows)
    return f"{table}\n({counts['train']:,} rows to train on, {held:,} to evaluate; scores in %)"


def _times(record: Record, total: float) -> str:
    words = {"choosing": "choosing layers", "cache": "frozen layers, once", "training": "training"}
    shown = [f"{words[part]} {seconds:.1f} s" for part, seconds in record.seconds.items() if seconds]
    rest = total - sum(record.seconds.values())
    if rest > 0:
        shown.append(f"reading, evaluating, writing {rest:.1f} s")
    return "time: " + ", ".join(shown)


def _next(given: argparse.Namespace) -> str:
    text = "{'text': 'a text', 'text_pair': 'another'}" if given.text2 else "'a text'"
    read = f"pipeline('text-classification', {given.out!r})({text})"
    python = f"from transformers import pipeline; print({read})"
    lines = [f"layertune predict {shlex.quote(given.out)} <file> --out predictions.csv"]
    if json.loads((expanded(given.out) / "layertune.json").read_text())["form"] == "transformers":
        lines.append(f'python -c "{python}"')
    other = "low_k" if given.method == "full" else "full"
    lines.append(_fit_again(given, f"--method {other}", f"{given.out}-{other}"))
    return "\n".join([f"kept in {given.out}. Next:", *(f"  {line}" for line in lines)])


def _fit_again(given: argparse.Namespace, how: str, out: str, *words: str) -> str:
    """Return the command that fits the same rows in another way, into a folder that is not there yet."""
    names = (out, *(f"{out}-{number}" for number in range(2, 100)))
    free = next((name for name in names if not expanded(name).exists()), "<folder>")
    options = [f"layertune fit {shlex.quote(given.model)} {shlex.quote(given.data)}"]
    for key in ("eval", "text", "text2", "label"):
        if (value := getattr(given, key)) is not None:
            options.append(f"--{key} {shlex.quote(value)}")
    options += ["--regression"] * given.regression + [f"--seed {given.seed}"] * bool(given.seed)
    return " ".join([*options, how, f"--out {shlex.quote(free)}", *words, *map(shlex.quote, given.words)])


# -- recommend ----------------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is no time: say 90s, 10m or 1h.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _recommend(given: argparse.Namespace) -> None:
    """Try the arms, print what they reached and cost, and the command that trains the choice."""
    began = time.monotonic(), time.process_time()
    base = request(given, "low_k", 1)
    common = [word for word in base if not word.startswith("method")] + given.words

    from layertune import recommend
    from layertune.baselines import baselines
    from layertune.tasks.sources import rows_of

    candidates = recommend.arms(num_layers(base))
    level = logging.getLogger().level
    whole = compose_run(*common, *SEARCHING, *candidates[0].words)
    train_rows, held_out = rows_of(whole)
    rows, count = len(train_rows), len(held_out)
    logging.getLogger().setLevel(logging.WARNING)  # a line per arm is enough
    try:
        limit, cpu = (given.budget, False) if given.budget is not None else _limit(common, rows + count)
        clock = time.process_time if cpu else time.monotonic

        def train(arm: recommend.Arm, size: int) -> recommend.Tried:
            words = [*common, *SEARCHING, *arm.words]
            words += [f"protocol.train_examples={size}"] if size < rows else []
            scored = recommend.scored_rows(size, rows, count)
            words += [f"protocol.eval_examples={scored}"] if scored < count else []
            found = recommend.tried(arm, _executed(compose_run(*words)), cpu)
            print(found, file=sys.stderr)
            return found

        if limit is not None:
            limit -= clock() - began[cpu]
        search = recommend.successive_halving(candidates, rows, train, limit, clock)
    finally:
        logging.getLogger().setLevel(level)
    if not search.compares:
        spent = f"{clock() - began[cpu]:.0f} s went by {'with one arm' if search.tried else 'before any arm'}"
        print(f"The budget allows no comparison, so nothing is recommended: {spent}. Give a larger --budget.")
        return
    simple = baselines(train_rows, held_out, whole.task.kind, whole.task.metrics)
    print(f"\n{recommend.table(search.tried, whole.task.metric, simple, count)}\n")
    best, alike = recommend.choice(search.tried)
    if search.ended:
        print(search.ended)
    if sentence := recommend.not_beaten(search.tried, whole.task.metric, simple):
        print(sentence)
    if alike:
        print("No difference beyond noise among the best: take the cheapest.")
    how, rate = f"--method {best.arm.method} --k {best.arm.k}", best.arm.learning_rate
    print(f"  {_fit_again(given, how, 'my-model', f'train.learning_rate={rate:g}')}")


def _limit(common: Sequence[str], rows: int) -> tuple[float | None, bool]:
    """Time a few steps of full fine-tuning; return how long a search may take, and whether in CPU seconds.

    Those of a CPU are not stretched by what else it does.
    """
    from layertune import recommend

    words = ["method=full", "protocol=timing", "protocol.warmup_steps=2", "protocol.tracked=false"]
    words.append(f"protocol.max_steps={recommend.PROBED}")
    run = compose_run(*common, *words)
    try:
        record = _executed(run)
    except RunFailed as error:
        print(f"{error}: a search without --budget has no limit here.")
        return None, False
    cpu, train = record.is_on_cpu, run.train
    assert train.epochs is not None and train.batch_size is not None, "a run is resolved"
    full = recommend.whole_cost(record, rows, train.epochs, train.batch_size, cpu)
    limit = max(recommend.TIMES * full, recommend.SHORTEST)
    print(
        f"One full fine-tuning of these {rows:,} rows takes about {full:.0f} s{' of CPU time' * cpu} here; "
        f"this search ends within {limit:.0f} s (--budget says otherwise).",
        flush=True,
    )
    return limit, cpu


def _executed(run: RunConfig) -> Record:
    from layertune.pipeline import execute
    from layertune.records import Store

    return execute(run, Store(run.results_dir, run.outputs_dir))


# -- predict ------------------------------------------------------------------------------------------------


def _predict(given: argparse.Namespace) -> None:
    """Label a file, some rows at a time."""
    path = expanded(given.data)
    refuse_no_table(path, given.data)
    if given.batch_size < 1:
        raise ConfigError(f"--batch-size {given.batch_size} is not allowed: at least 1.")
    target = None if given.out is None else expanded(given.out).resolve()
    if target is not None and (not target.parent.is_dir() or (target.exists() and not target.is_file())):
        raise ConfigError(f"--out {given.out}: name a csv file in a folder that exists.")

    from layertune.saved import load

    saved = load(given.model)
    columns = _columns(given, saved)
    if target is None:
        _write_rows(csv.writer(sys.stdout), _predicted(path, columns, saved, given.batch_size))
        return
    beside = target.with_name(f"{WRITING}{target.name}")
    try:
        with beside.open("w", encoding="utf-8", newline="") as stream:
            count = _write_rows(csv.writer(stream), _predicted(path, columns, saved, given.batch_size))
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{count:,} rows: {given.out}")


def _columns(given: argparse.Namespace, saved: SavedModel) -> tuple[str, ...]:
    if len(saved.columns) == 1 and given.text2 is not None:
        raise ConfigError(f"--text2 {given.text2}: this model reads one text, not a pair.")
    chosen = (given.text, given.text2)
    return tuple(other or own for other, own in zip(chosen, saved.columns, strict=False))


def _predicted(
    path: Path, columns: tuple[str, ...], saved: SavedModel, batch_size: int
) -> Iterator[list[Any]]:
    """Yield the head, then for each row of the file its texts, the answer, the probability of each label."""
    from layertune.errors import DataError
    from layertune.saved.load import probabilities
    from layertune.tasks.formats import stream_table

    head = iter([[*columns, "prediction", *(f"probability {name}" for name in saved.labels)]])
    for table in stream_table(path, columns, CHUNK):
        for option, name in zip(("--text", "--text2"), columns, strict=False):
            if name not in table.columns:
                raise DataError(
                    f"{path} has no column {name!r}; its columns are {', '.join(table.names)}: "
                    f"say {option} <column>."
                )
        yield from head  # once; nothing is printed of a file that is refused
        rows = list(zip(*(table.columns[name] for name in columns), strict=True))
        full = [number for number, row in enumerate(rows) if all(_is_text(value) for value in row)]
        answers: dict[int, list[Any]] = {}
        if full:
            texts = [tuple(map(str, rows[number])) for number in full]
            logits = saved.logits(
                [text if len(text) == 2 else text[0] for text in texts],
                batch_size,  # type: ignore[misc]
            )
            shares = probabilities(logits) if saved.labels else [[]] * len(full)
            for number, answer, share in zip(full, saved.answers(logits), shares, strict=True):
                answers[number] = [answer, *(f"{value:.6f}" for value in share)]
        empty = [""] * (1 + len(saved.labels))  # a row without text has no answer
        yield from ([*row, *answers.get(number, empty)] for number, row in enumerate(rows))
    yield from head


def _is_text(value: Any) -> bool:
    return value is not None and bool(str(value).strip())


def _write_rows(writer: Any, rows: Iterator[list[Any]]) -> int:
    from tqdm import tqdm

    count = -1  # the head is none
    for row in tqdm(rows, unit="row", disable=not sys.stderr.isatty(), leave=False):
        writer.writerow(row)
        count += 1
    return count


# -- score --------------------------------------------------------------------------------------------------


def score_command(given: argparse.Namespace) -> None:
    """Score, select, print, draw (`scripts/score_layers.py`, `layertune score`)."""
    if not given.texts.is_file() or not given.texts.stat().st_size:
        raise ConfigError(f"{given.texts} is missing or empty: name a file with one text per line.")
    if given.out and not (given.out.parent.is_dir() and given.out.suffix in (".png", ".pdf", ".svg")):
        raise ConfigError(f"--out {given.out}: name a .png, .pdf or .svg file in a folder that exists.")
    is_folder = expanded(given.model).is_dir()
    if given.model.startswith((".", "/", "~")) and not is_folder:
        raise ConfigError(f"{given.model}: there is no such folder.")

    from layertune import score_layers, select_layers  # heavy imports, once the request looks right
    from layertune.models import load_model, load_tokenizer
    from layertune.models.loading import model_at
    from layertune.report.figures import plot_similarity
    from layertune.tasks.formats import text_of

    texts = [line.strip() for line in text_of(given.texts).split("\n") if line.strip()]
    if not texts:
        raise ConfigError(f"{given.texts} holds no text: name a file with one text per line.")
    known = None if is_folder else group_file("model", given.model)
    spec = model_at(given.model) if known is None else build_dataclass(ModelSpec, known, given.model)
    model = load_model(spec)
    select_layers([0.0] * model.config.num_hidden_layers, given.k, given.strategy)  # refused before the work
    scores = score_layers(model, (load_tokenizer(spec)[0], texts))
    layers = select_layers(scores, given.k, given.strategy)

    low, span = min(scores.values), (max(scores.values) - min(scores.values)) or 1.0
    for layer, (value, std) in enumerate(zip(scores.values, scores.std, strict=True), start=1):
        bar = "█" * (1 + round(39 * (value - low) / span))
        print(f"{layer:>3}{'*' if layer in layers else ' '} {value:.3f} ± {std:.3f} {bar}")
    title = f"{Path(spec.name).name}: {scores.examples} texts, {given.strategy}, k = {given.k}"
    print(f"{title}: layers {', '.join(map(str, layers))} ({scores.seconds:.1f} s)")
    if given.out:
        plot_similarity(scores, layers, given.out, title=title)


if __name__ == "__main__":
    main()
