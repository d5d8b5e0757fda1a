"""The documents tell the truth: their commands compose, their targets exist, their scripts run."""

from __future__ import annotations

import re
import shlex
import sys
from itertools import product

import pytest
import torch
from processes import forked
from programs import program
from report.made_records import made, write
from tiny_runs import compose_tiny, prepare, weights

from layertune.config.compose import compose_run
from layertune.landscape.sweep import lacking
from layertune.pipeline import execute
from layertune.records import Store, read_record
from layertune.report.request import read_request, read_words
from layertune.training import train


@pytest.fixture(scope="module")
def documents(repo):
    """README, CONTRIBUTING and docs/: path -> text."""
    paths = [repo / "README.md", repo / "CONTRIBUTING.md", *sorted((repo / "docs").glob("*.md"))]
    return {path: path.read_text(encoding="utf-8") for path in paths}


@pytest.fixture(scope="module")
def words(documents):
    return "\n".join(documents.values())


def expanded(argument):
    """Turn one sweep argument into its values: `seed=0,42` or `method.k=range(1,12)`; a list is one value."""
    key, _, value = argument.partition("=")
    if found := re.fullmatch(r"range\((\d+),(\d+)\)", value):
        return [f"{key}={number}" for number in range(int(found[1]), int(found[2]))]
    return [argument] if value.startswith("[") else [f"{key}={one}" for one in value.split(",")]


@pytest.mark.slow
def test_every_run_of_the_documents_composes(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.csv").write_text("review,stars\n")  # a file of the reader's own
    commands = re.findall(r"^python run\.py (.+)$", words, flags=re.M)
    assert len(commands) >= 5
    runs = set()
    for command in commands:
        words = [word for word in shlex.split(command, comments=True) if word not in ("-m", "--cfg", "job")]
        if "--config-dir=mine" in words:
            continue  # the worked example, run below
        if words[0] == "hydra/sweeper=table":
            specs = read_words(word for word in words if not word.startswith("hydra/")).specs()
            assert all(spec.cells()[0].runs() for spec in specs)
            continue
        if words[0] == "hydra/sweeper=landscape":
            assert lacking(word for word in words if not word.startswith("hydra/"))[0]
            continue
        choices = [expanded(word) for word in words]
        runs |= {tuple(choice[place] for choice in choices) for place in (0, -1)}  # of a sweep first and last
        assert all(one for one in product(*choices))
    for run in sorted(runs):
        compose_run(*run)


def test_every_make_target_of_the_documents_exists(words, repo):
    targets = set(re.findall(r"^([a-z-]+):", (repo / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", words, flags=re.M))
    named = {name for pair in named for name in pair if name}
    assert named and named <= targets


def test_every_file_of_the_documents_exists(documents, repo):
    for path, text in documents.items():
        linked = {path.parent / name for name in re.findall(r"\]\(([^)#:]+)\)", text)}
        named = {repo / name for name in re.findall(r"python (scripts/\S+\.py)", text)}
        missing = [name for name in linked | named if not name.exists()]
        assert not missing, f"{path.name}: {missing}"


def test_the_readme_is_short_enough_to_be_read(repo):
    assert (repo / "README.md").stat().st_size < 9_000


def test_what_the_results_say_of_a_search_is_what_its_command_prints(repo, tmp_path, monkeypatch, capsys):
    text = (repo / "results" / "README.md").read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if line.startswith("python scripts/choose_recipe.py")]
    (command,) = [line for line in commands if "--method" in line]
    words = shlex.split(command)[2:]
    words = [
        {"<folder>": str(tmp_path), "results/search": str(repo / "results/search")}.get(w, w) for w in words
    ]
    assert program(repo / "scripts" / "choose_recipe.py", words, monkeypatch) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("written")]
    assert printed and "```\n" + "\n".join(printed) + "\n```" in text


def test_what_the_documents_quote_stands_in_what_was_made_of_the_records(repo):
    made = [*(repo / "results/landscapes").glob("*-k*.md"), *(repo / "results/claims").glob("*.md")]
    sentences = {line.strip().removeprefix("- ") for path in made for line in path.read_text().splitlines()}
    for document in (repo / "README.md", repo / "results" / "README.md"):
        quoted = re.findall(r"^> (.+)$", document.read_text(encoding="utf-8"), flags=re.M)
        assert quoted and set(quoted) <= sentences, set(quoted) - sentences


@pytest.mark.slow
def test_the_claims_of_the_study_are_judged_anew_as_they_stand(repo, tmp_path, monkeypatch, capsys):
    for folder in (repo / "results" / "tables").glob("gte_small-*/"):
        asked = read_request(folder / "request.json")
        words = [f"model={asked.model}", *asked.settings]
        for name in ("runs", "scores", "landscapes"):
            if not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(repo / "results" / name)
        words.append(f"results_dir={tmp_path}")
        assert program(repo / "scripts" / "report.py", ["claims", *words], monkeypatch) == 0
        capsys.readouterr()
        written = tmp_path / "claims" / f"{asked.folder}.md"
        assert written.read_bytes() == (repo / "results" / "claims" / written.name).read_bytes()


def test_every_choice_is_listed_by_name_and_every_row_is_a_choice_of_the_code(documents, repo):
    """The code says `Choice: [name] what and why`; docs/methods.md has a row of that name."""
    methods = documents[repo / "docs" / "methods.md"]
    section = methods.split("## Where the paper is silent")[1].split("\n## ")[0]
    rows = [name for name in re.findall(r"^\| (.+?) \| .+ \|$", section, flags=re.M) if name != "question"]
    found: dict[str, str] = {}
    for path in [*(repo / "src").rglob("*.py"), *(repo / "configs").rglob("*.yaml")]:
        for choice in re.findall(r"(?<!class )Choice:(?:\s+\[(.+?)\])?", path.read_text(encoding="utf-8")):
            assert choice, f"{path} has a Choice: without a name"
            found[choice] = str(path)
    assert len(rows) == len(set(rows)) > 50
    assert set(rows) - set(found) == set(), "rows that no file makes"
    assert set(found) - set(rows) == set(), {name: found[name] for name in set(found) - set(rows)}


@pytest.mark.slow
def test_the_script_of_the_readme_runs(words, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path / "model"
    folder.mkdir()
    words_known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "dull", "film", "good"]
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words_known)}).save_pretrained(folder)
    config = BertConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    scripts = re.findall(r"```python\n(.+?)```", words, flags=re.S)
    (script,) = [script for script in scripts if "result = fine_tune(" in script]
    script = script.replace("google-bert/bert-base-uncased", str(folder))
    (tmp_path / "script.py").write_text(script)
    done = forked(tmp_path / "script.py", (), tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"trained layers \(\d, \d, \d\): [\d,]+ parameters", done.stdout)


# -- the worked example of a training method ----------------------------------------------------------------


@pytest.fixture
def example(documents, repo, tmp_path, monkeypatch):
    """Write the files of the example where docs/extend.md says, and return that document."""
    section = documents[repo / "docs" / "extend.md"]
    files = dict(re.findall(r"`(mine/[a-z/_.]+)`.*?:\n\n```[a-z]+\n(.+?)```", section, flags=re.S))
    assert set(files) == {"mine/bitfit.py", "mine/method/bitfit.yaml", "mine/table/biases.yaml"}
    assert all(content.count("\n") < 60 for content in files.values())
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    yield section
    sys.modules.pop("bitfit", None)


def bitfit_run(folder, *overrides):
    """Compose as `--config-dir=mine` does: the folder joins the search path of configurations."""
    return compose_tiny(folder, f"hydra.searchpath=[file://{folder / 'mine'}]", "method=bitfit", *overrides)


@pytest.mark.parametrize("terms", ["null", "[query,intermediate]"])
def test_the_method_of_the_readme_trains_biases_and_head_alone(example, tmp_path, terms):
    case = prepare(bitfit_run(tmp_path, f"method.terms={terms}"))
    before = weights(case.model)
    train(*case.parts)
    after = weights(case.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    wanted = re.compile("query|intermediate" if terms != "null" else "")
    biases = {
        name
        for name in before
        if re.search(r"layers?\.\d+\..*bias$", name)
        and wanted.search(name)
        and not name.endswith("key.bias")  # softmax does not see a constant added to every score
    }
    head = {name for name in before if name.startswith("head.")}
    assert len(biases) >= 8 and head
    assert changed - {name for name in changed if name.endswith("key.bias")} == biases | head
    record = execute(case.run, Store(case.run.results_dir, case.run.outputs_dir))
    assert record.status == "done" and record.checks.failures() == []
    assert (
        record.spec.method == "bitfit" and record.training.learning_rate == 1e-4
    )  # the task's own, grid=paper
    fair = bitfit_run(tmp_path, "grid=fair")
    assert (fair.train.learning_rate, fair.train.head_learning_rate) == (4e-4, 5e-5)


@pytest.mark.slow
def test_the_command_of_the_readme_runs_the_method(example, repo, tmp_path):
    commands = re.findall(r"^python run\.py (.+)$", example, flags=re.M)
    command, *others = [one for one in commands if " -m " not in one]
    assert all("--config-dir=mine" in one and "method=bitfit" in one for one in (command, *others))
    assert "export PYTHONPATH=mine" in example

    def call(*extra):
        return forked(repo / "run.py", [*shlex.split(command, comments=True), *extra], tmp_path)

    done = call("tracking=disabled")
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "outputs" / "records").glob("tiny_bert-demo-bitfit-s0-*.json")
    assert read_record(record).status == "done"
    refused = call("+method.term=x")  # options are those of the YAML, wherever it lies
    assert refused.returncode == 2 and "method.term does not exist" in refused.stderr


@pytest.mark.slow
def test_the_method_of_the_readme_has_its_row_in_every_table_from_a_folder_of_its_own(
    example, repo, tmp_path
):
    """One record of it, one of a table of one's own: the commands of the document find and print both."""
    # what follows `python scripts/report.py` in the document
    plan, tables = re.findall(r"^python scripts/report\.py (.+)$", example, flags=re.M)
    (sweep,) = re.findall(r"^python run\.py (.+ table=table1 .+)$", example, flags=re.M)

    def call(script, command, *extra):
        return forked(repo / script, [*shlex.split(command, comments=True), *extra], tmp_path)

    planned = call("scripts/report.py", plan, "task=trec", "seed=0")
    assert planned.returncode == 0, planned.stderr
    (line,) = [line for line in planned.stdout.splitlines() if "method=bitfit" in line and line[0] != "#"]
    words = shlex.split(line, comments=True)[2:]
    assert words[0] == "--config-dir=mine" and "task=trec" in words
    # the run that Hydra composes from that line is the one that the table looks for
    run = compose_run(f"hydra.searchpath=[file://{tmp_path / 'mine'}]", *words[1:])
    write(tmp_path / "results" / "runs", made(run, 0.875))
    again = call("scripts/report.py", plan, "task=trec", "seed=0")
    assert "nothing" in again.stdout or "method=bitfit" not in again.stdout.replace("# ", "")
    swept = call("run.py", sweep, "task=trec", "seed=0")
    assert swept.returncode == 0 and "nothing to run" in swept.stdout + swept.stderr, swept.stderr

    printed = call("scripts/report.py", tables)
    assert printed.returncode == 0, printed.stderr
    folder = tmp_path / "results" / "tables" / "bert-config-dir=mine"
    for number in range(1, 11):
        assert "| BitFit" in (folder / f"table{number}.md").read_text(), number
    assert "87.5" in (folder / "table1.md").read_text()
    own = (folder / "biases.md").read_text()
    assert "87.5" in own and "BitFit, queries" in own
    assert "Added" not in own  # it names its rows itself
    refused = call("scripts/report.py", "tables --config-dir=nowhere model=bert")
    assert refused.returncode == 2 and "nowhere" in refused.stderr
