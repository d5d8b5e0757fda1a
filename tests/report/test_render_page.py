"""Whole folders of tables: what is written and that records alone decide it, links, comparisons, refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_records import PROVEN, made, write

from layertune.config.compose import plain_run
from layertune.errors import ConfigError
from layertune.records import Record, versions_of
from layertune.report.render.words import fill_command
from layertune.report.render.write import renew_page, write_comparison, write_tables
from layertune.report.request import Request, read_request, read_requests

GTE = Request("gte_small", overrides=("train.epochs=3",))


def _records() -> list[Record]:
    """Three seeds of a cell of Table 9, one of another method, one record of a model without tables."""
    cell = GTE.table("table9").cell("block_high", "sst2")
    low = GTE.table("table9").cell("block_low", "sst2")
    scores = zip(cell.own_runs(), (0.90, 0.91, 0.92), (0.92, 0.92, 0.92), strict=True)
    found = [made(run, last, best=best) for run, last, best in scores]
    found += [made(run, 0.8) for run in low.own_runs()]
    found.append(made(plain_run(["model=gte_small", "task=trec", "method=head_only"]), 0.712))
    found.append(made(plain_run(["model=gte_small", "task=trec", "method=lisa"]), status="failed", error="x"))
    found.append(made(plain_run(["model=mpnet", "task=trec", "method=full"]), 0.95, data="own-split"))
    return found


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with records, and without tables."""
    write(tmp_path / "results" / "runs", *_records())
    return tmp_path / "results"


def _page(results: Path) -> str:
    return (results / "tables" / "index.html").read_text(encoding="utf-8")


def _files(results: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(results.glob("tables/**/*.*"))
        if path.is_file()
    }


def test_ten_tables_in_three_formats_and_the_page_are_written(results: Path) -> None:
    written = write_tables(GTE, results)
    names = {path.relative_to(results / "tables").as_posix() for path in written.files}
    assert names == {
        f"{GTE.folder}/table{n}.{suffix}" for n in range(1, 11) for suffix in ("md", "tex", "csv")
    }
    assert written.page == results / "tables" / "index.html"
    done = {table: (cells, of) for table, cells, of in written.coverage if cells}
    # block_high and block_low on SST-2 stand in four tables
    assert done == {"table1": (2, 153), "table8": (2, 28), "table9": (2, 16), "table10": (2, 36)}
    assert written.gaps == sum(of - cells for _, cells, of in written.coverage) > 0


def test_a_second_run_changes_no_byte_wherever_and_in_whatever_order_the_files_were_made(
    results: Path, tmp_path: Path
) -> None:
    write_tables(GTE, results)
    first = _files(results)
    write_tables(GTE, results)
    assert _files(results) == first
    other = tmp_path / "elsewhere"
    write(other / "runs", *reversed(_records()))
    write_tables(GTE, other)
    assert _files(other) == first
    assert not any(str(tmp_path).encode() in content for content in first.values())


def test_the_page_shows_every_backbone_that_has_a_folder_as_its_request_asks(results: Path) -> None:
    write_tables(GTE, results)
    write_tables(Request(readout="best"), results)
    assert read_request(results / "tables" / GTE.folder / "request.json") == GTE
    page = _page(results)
    assert "make tables MODEL=gte_small SET=train.epochs=3" in page
    assert "make plan MODEL=bert READOUT=best" in page
    empty_last = ('id="gte_small-train.epochs=3"', 'id="bert-readout=best"')
    assert page.index(empty_last[0]) < page.index(empty_last[1])
    assert "91.0 ± 1.0" in page


class _Links(HTMLParser):
    """What a page refers to, and the ids it defines."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.add(str(value))
            if name == "id":
                self.ids.append(str(value))


def test_every_link_of_the_page_leads_somewhere_and_nothing_is_loaded(results: Path) -> None:
    write_tables(GTE, results)
    page = results / "tables" / "index.html"
    found = _Links(page.read_text(encoding="utf-8"))
    assert not found.tags & {"link", "iframe"}  # style and script are within the page
    assert len(set(found.ids)) == len(found.ids)
    inside = {link[1:] for link in found.links if link.startswith("#")}
    assert inside <= set(found.ids)
    files = {link for link in found.links if not link.startswith("#")}
    assert all((page.parent / link).is_file() for link in files)
    records = {link for link in files if link.endswith(".json")}
    assert {(page.parent / link).resolve().name for link in records} == {
        path.name
        for path in (results / "runs").iterdir()  # all of them: what no table shows is listed below
    }
    assert all((page.parent / link).is_file() for link in records)


def test_links_of_a_markdown_table_lead_to_records(results: Path) -> None:
    write_tables(GTE, results)
    path = results / "tables" / GTE.folder / "table9.md"
    links = re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    assert len(links) == 6
    assert all(json.loads((path.parent / link).read_text())["spec"]["task"] == "sst2" for link in links)


def test_a_summary_stands_before_the_tables_and_links_to_claims_and_figures(results: Path) -> None:
    write_tables(GTE, results)
    places = [results / "claims" / f"{GTE.folder}.md", results / "figures" / GTE.folder / "index.html"]
    assert not any(f"../{place.relative_to(results)}" in _page(results) for place in places)
    for place in places:  # made after the tables, as README does it
        place.parent.mkdir(parents=True)
        place.touch()
    renew_page(results)
    page = _page(results)
    start, tables = page.index('<section class="summary"'), page.index('<table class="numbers">')
    summary = page[start:tables]
    assert "6 runs of 2 methods on 1 task, seeds 0, 42 and 100, on GPU A" in summary
    assert "no average compares yet" in summary and "16</td>" in summary
    assert all(f'href="../{place.relative_to(results)}"' in summary for place in places)


def test_a_page_that_is_not_there_is_not_renewed(results: Path) -> None:
    renew_page(results)
    assert not (results / "tables").exists()


def test_an_average_over_all_tasks_is_said_in_a_sentence_and_drawn_against_its_cost(tmp_path: Path) -> None:
    spec = Request().table("table2")
    scores = {"full": 0.9, "lora": 0.8, "low_k": 0.7, "block_low": 0.85}
    records = [
        made(run, scores[row.key], run_id=f"{row.key}-{run.config_sha256[:12]}", selected=None)
        for row in spec.rows
        if row.key in scores
        for column in spec.columns
        if not column.mean_of
        for run in spec.cell(row.key, column.key).own_runs()
    ]
    write(tmp_path / "runs", *records)
    written = write_tables(Request(), tmp_path)
    page = written.page.read_text(encoding="utf-8")
    assert (
        "Table 2, average of 7 tasks, 4 of 17 rows: Full Fine-tuning 90.0; the best others Block-wise lowest "
        "layer 85.0, LoRA 80.0 and Low Scoring k layers 70.0; layers by cosine score: Block-wise lowest "
        "layer 85.0 and Low Scoring k layers 70.0."
    ) in page
    assert "mrpc" in (tmp_path / "tables" / "bert" / "cost.svg").read_text(encoding="utf-8")
    at_majority = replace(PROVEN, beats_majority=False)
    nothing = [replace(one, checks=at_majority) for one in records if one.spec.task == "mrpc"]
    write(tmp_path / "runs", *nothing)
    page = write_tables(Request(), tmp_path).page.read_text(encoding="utf-8")
    assert (
        "Table 2, average of the 6 of 7 tasks on which all learned something (†), 4 of 17 rows: Full" in page
    )
    assert "mrpc" not in (tmp_path / "tables" / "bert" / "cost.svg").read_text(encoding="utf-8")
    assert 'src="bert/cost.svg"' in page and (tmp_path / "tables" / "bert" / "cost.svg").is_file()
    for path in (tmp_path / "runs").iterdir():
        path.unlink()
    assert "cost.svg" not in write_tables(Request(), tmp_path).page.read_text(encoding="utf-8")
    assert not (tmp_path / "tables" / "bert" / "cost.svg").exists()


def test_records_that_no_table_shows_are_listed(results: Path) -> None:
    write_tables(GTE, results)
    page = _page(results)
    assert "<summary>gte_small: 2 records</summary>" in page
    assert "accuracy 71.2" in page and "head_only" in page
    assert 'none (<a href="../runs/gte_small-trec-lisa-s0.json">0</a>)</td>' in page
    assert "<code>make tables MODEL=mpnet</code>" in page and "accuracy 95.0" in page


def test_the_command_that_would_show_records_of_other_settings_is_named(tmp_path: Path) -> None:
    words = ["model=gte_small", "task=cr", "train.epochs=3", "data_dir=rows", "seed=0"]
    records = [made(plain_run([*words, f"method={method}"])) for method in ("full", "low_k")]
    spoken = [replace(one, spec=replace(one.spec, overrides=tuple(words))) for one in records]
    write(tmp_path / "runs", *spoken)
    written = write_tables(Request("gte_small"), tmp_path)
    assert written.hint == "make tables MODEL=gte_small SET=train.epochs=3"
    assert f"<code>{written.hint}</code>" in written.page.read_text(encoding="utf-8")
    assert write_tables(GTE, tmp_path).hint == ""


def test_tables_without_a_record_say_that_all_cells_are_missing(results: Path) -> None:
    write_tables(Request(), results)
    page = _page(results)
    (line,) = [line for line in page.splitlines() if line.startswith('<li id="bert">')]
    assert "no record yet" in line and 'href="bert/table1.md"' in line and "make plan MODEL=bert" in line
    assert '<section id="bert' not in page  # a model without records is one line
    text = (results / "tables" / "bert" / "table7.md").read_text(encoding="utf-8")
    assert text.count("| —<br>") == 16
    assert "— missing: no run has been recorded." in text
    assert "- Fill the gaps: `python run.py -m hydra/sweeper=table table=table7`" in text


def test_a_file_that_is_no_record_is_named(results: Path) -> None:
    (results / "runs" / "broken.json").write_text("{", encoding="utf-8")
    write_tables(GTE, results)
    page = _page(results)
    assert "broken.json" in page


def test_of_another_model_the_papers_numbers_stand_without_a_difference(results: Path) -> None:
    write_tables(GTE, results)
    text = (results / "tables" / GTE.folder / "table9.md").read_text(encoding="utf-8")
    assert "91.0 ± 1.0 (3)<br><sub>paper 90.7</sub>" in text
    assert "no difference is taken" in text and "(+" not in text


def test_the_command_that_fills_the_gaps_carries_what_was_asked() -> None:
    asked = replace(GTE, lm="smollm2", train="fast", grid="fair", protocol="study")
    command = {name: fill_command(asked.table(name), asked) for name in ("table1", "table3", "table4")}
    start, words = (
        "python run.py -m hydra/sweeper=table",
        "train=fast grid=fair protocol=study train.epochs=3",
    )
    assert command["table1"] == f"{start} table=table1 model=gte_small {words}"
    assert command["table3"] == f"{start} table=table3 model=smollm2 {words}"
    timing = "train=fast grid=fair train.epochs=3"  # its protocol is the table's own
    assert command["table4"] == f"{start} table=table4 model=gte_small {timing}"
    assert asked.make() == (
        "make tables MODEL=gte_small LM=smollm2 TRAIN=fast GRID=fair PROTOCOL=study SET=train.epochs=3"
    )


def test_two_read_outs_stand_side_by_side(results: Path) -> None:
    words = ["model=gte_small", "train.epochs=3", "readout=last,best"]
    (one, other), _ = read_requests(words, sides=2)
    assert one == GTE
    written = write_comparison(one, other, results)
    folder = results / "tables" / "gte_small_last_and_best-train.epochs=3"
    assert written.page == folder / "index.html"
    text = (folder / "table9.md").read_text(encoding="utf-8")
    # 90, 91, 92 after the last epoch; 92 at the best of every seed.
    assert "last: 91.0 ± 1.0 (3)<br>best: 92.0 ± 0.0 (3)<br><sub>Δ +1.0</sub>" in text
    links = _Links((folder / "index.html").read_text(encoding="utf-8")).links
    assert all((folder / link).is_file() for link in links if not link.startswith("#"))
    first = _files(results)
    write_comparison(one, other, results)
    assert _files(results) == first


def test_two_backbones_stand_side_by_side(results: Path) -> None:
    other = Request("mpnet", overrides=GTE.overrides)
    runs = other.table("table9").cell("block_high", "sst2").own_runs()
    write(results / "runs", *(made(run, 0.905) for run in runs))
    write_comparison(GTE, other, results)
    text = (results / "tables" / "gte_small_and_mpnet-train.epochs=3" / "table9.md").read_text(
        encoding="utf-8"
    )
    assert "# Table 9, GTE-small, MPNet" in text
    assert "91.0 ± 1.0 (3)<br>MPNet: 90.5 ± 0.0 (3)<br><sub>Δ −0.5</sub>" in text
    table6 = (results / "tables" / "gte_small_and_mpnet-train.epochs=3" / "table6.md").read_text(
        encoding="utf-8"
    )
    assert "*GTE-small*" in table6 and "*MPNet*" in table6  # each has its sixth group


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["readout=first"], "readout=first"),
        (["readout=last,last"], "readout=last,last"),
        (["readout=last,best", "compare=mpnet"], "compare=mpnet"),
        (["task=trec"], "task=trec"),
        (["table=1"], "table=1"),
        (["train.epochs=3,5"], "train.epochs"),
        (["gte_small"], "key=value"),
    ],
    ids=" ".join,
)
def test_words_that_mean_nothing_to_tables_are_refused(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        read_requests(words, sides=2)


def test_cells_of_one_seed_are_done_without_the_others(tmp_path: Path) -> None:
    (asked,), _ = read_requests(["model=gte_small", "train.epochs=3", "seed=0"])
    assert (asked.folder, asked.make()) == (
        "gte_small-train.epochs=3-seed=0",
        'make tables MODEL=gte_small SET="train.epochs=3 seed=0"',
    )
    runs = GTE.table("table9").cell("block_high", "sst2").own_runs()
    write(tmp_path / "runs", *(made(run, 0.9) for run in runs if run.seed == 0))
    for request, shown in ((asked, "90.0 (1)"), (GTE, "90.0 ·1/3")):
        write_tables(request, tmp_path)
        folder = tmp_path / "tables" / request.folder
        assert shown in (folder / "table9.md").read_text(encoding="utf-8")
        assert read_request(folder / "request.json") == request
    assert fill_command(asked.table("table9"), asked).endswith("train.epochs=3 seed=0")


def test_a_seed_that_no_table_has_is_named() -> None:
    (asked,), _ = read_requests(["seed=7,0"])
    with pytest.raises(ConfigError, match="seed=7"):
        asked.table("table1")
    with pytest.raises(ConfigError, match="seed=x"):
        read_requests(["seed=x"])


def test_claims_and_figures_take_one_side() -> None:
    assert read_requests(["results_dir=there", "readout=best"]) == ((Request(readout="best"),), Path("there"))
    for word in ("readout=last,best", "compare=mpnet"):
        with pytest.raises(ConfigError, match=re.escape(word)):
            read_requests([word])


def test_different_settings_have_different_folders_and_paths_change_nothing(results: Path) -> None:
    asked = [
        Request(),
        GTE,
        Request("gte_small"),
        replace(GTE, train="fast"),
        replace(GTE, grid="fair"),
        replace(GTE, protocol="study"),
        replace(GTE, readout="best"),
        replace(GTE, lm="smollm2"),
        replace(GTE, overrides=("train.betas=[0.9,0.95]",)),
        replace(GTE, overrides=("train.betas={0.9,0.95}",)),
        replace(GTE, overrides=tuple(f"train.epochs={n}" for n in range(99))),
        replace(GTE, overrides=tuple(f"train.epochs={n}" for n in range(98))),
    ]
    names = [one.folder for one in asked]
    assert len(set(names)) == len(asked) and all(re.fullmatch(r"[\w.,=+-]{1,140}", name) for name in names)
    assert names[:2] == ["bert", "gte_small-train.epochs=3"]
    assert replace(GTE, overrides=("model.path=a b", *GTE.overrides, "data_dir=/d")).folder == GTE.folder
    write_tables(GTE, results)
    first = (results / "tables" / GTE.folder / "table9.md").read_bytes()
    write_tables(Request("gte_small"), results)
    assert (results / "tables" / GTE.folder / "table9.md").read_bytes() == first
    page = _page(results)
    assert 'id="gte_small"' in page and 'id="gte_small-train.epochs=3"' in page


def test_a_damaged_request_is_named(results: Path) -> None:
    write_tables(Request(), results)
    path = results / "tables" / "bert" / "request.json"
    good = path.read_text(encoding="utf-8")
    for text in ("{}", "[" * 100_000, good.replace('"bert"', "7"), good.replace("[]", '[["a"]]')):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=re.escape("bert/request.json is no request")):
            write_tables(GTE, results)


def _command(
    repo: Path, results: Path, *words: str, command: str = "tables"
) -> subprocess.CompletedProcess[str]:
    script = repo / "scripts" / "report.py"
    return subprocess.run(
        [sys.executable, str(script), command, f"results_dir={results}", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_and_strict_fails_on_a_gap(repo: Path, results: Path) -> None:
    done = _command(repo, results, "model=gte_small", "train.epochs=3", "--strict")
    assert done.returncode == 1, done.stderr
    assert "table9      2 of 16 cells done" in done.stdout and done.stderr == ""
    assert (results / "tables" / GTE.folder / "table9.md").is_file()


def test_damaged_and_stale_records_are_named_on_the_terminal(repo: Path, results: Path) -> None:
    run = Request("gte_small").table("table9").cell("block_high", "cola").own_runs()[0]
    old = made(run, versions=replace(versions_of(run), method=0), run_id="an-old-one")
    write(results / "runs", old)
    (results / "runs" / "broken.json").write_text("{", encoding="utf-8")
    for command in ("tables", "claims"):
        done = _command(repo, results, "model=gte_small", command=command)
        assert done.returncode == 0
        assert done.stderr.count("broken.json") == 1 and "an-old-one" in done.stderr


def test_a_wrong_request_is_one_sentence_and_code_2(repo: Path, results: Path) -> None:
    wrong = _command(repo, results, "model=brt")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr.startswith("error: model=brt does not exist") and wrong.stderr.count("\n") == 1
    assert not (results / "tables").exists()


def test_tables_are_made_without_torch(repo: Path, results: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from layertune.report.request import Request;"
        "from layertune.report.render.write import write_tables;"
        f"write_tables(Request(), Path({str(results)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=repo, check=False).returncode == 0
