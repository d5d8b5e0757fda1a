"""The script and the files it reads: saved predictions, JSON lists, and every way to get them wrong."""

import json

import pytest
from programs import program

from layertune.errors import ConfigError
from layertune.evaluation import nlg
from layertune.evaluation.nlg.text import read_lists, read_predictions

ROWS = [
    {
        "mr": "name[The Mill]",
        "hypothesis": "The Mill is a pub.",
        "references": ["The Mill is a pub.", "A pub."],
    },
    {"mr": "name[Élan]", "hypothesis": "", "references": ["Élan\u2028serves food for £20-25."]},
]
HYPOTHESES = [row["hypothesis"] for row in ROWS]
REFERENCES = [row["references"] for row in ROWS]
NO_JAVA = ["--java", "/nowhere/java"]


@pytest.fixture
def script(repo, monkeypatch):
    return lambda arguments: program(repo / "scripts" / "score_e2e.py", arguments, monkeypatch)


@pytest.fixture
def write(tmp_path):
    def write(name, value, as_lines=False):
        path = tmp_path / name
        # ensure_ascii=False leaves U+2028 as it is, which must not end a line of the file
        dump = [json.dumps(row, ensure_ascii=False) for row in (value if as_lines else [value])]
        path.write_text("\n".join(dump) + "\n", encoding="utf-8")
        return str(path)

    return write


def test_saved_predictions_are_read_line_by_line(write):
    assert read_predictions(write("p.jsonl", ROWS, as_lines=True)) == (HYPOTHESES, REFERENCES)


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\r\n\r\n" + json.dumps(ROWS[1]).encode()
    )
    assert read_predictions(path) == (HYPOTHESES, REFERENCES)


def test_the_script_prints_one_json_object_the_same_for_both_kinds_of_file(script, write, capsys):
    lists = ["--hypotheses", write("h.json", HYPOTHESES), "--references", write("r.json", REFERENCES)]
    assert script([*lists, "--json", *NO_JAVA]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores == nlg.score(HYPOTHESES, REFERENCES, java="/nowhere/java")
    assert script(["--predictions", write("p.jsonl", ROWS, as_lines=True), "--json", *NO_JAVA]) == 0
    assert json.loads(capsys.readouterr().out) == scores


def test_the_script_prints_percent_for_people_and_adds_the_secondary_metrics(script, write, capsys):
    rows = [
        ROWS[0],
        {"mr": "x", "hypothesis": "Good food here today.", "references": ["Good food here today."]},
    ]
    assert script(["--predictions", write("p.jsonl", rows, as_lines=True), "--secondary", *NO_JAVA]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["bleu"] == lines["rouge_l"] == lines["nltk_bleu"] == "100.00"
    assert lines["meteor"] == "None"
    assert float(lines["cider"]) == pytest.approx((10 * (1 + 0) / 2 + 10) / 2, abs=2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "nothing to score"),
        ([ROWS[0], ROWS[0]], "the same mr on lines 1 and 2"),
        ([ROWS[0], {"mr": "x", "hypothesis": "y"}], "line 2, must be an object with the keys mr"),
        (["text"], "line 1, must be an object"),
        ([{**ROWS[0], "references": "A pub."}], "line 1: mr must be a string, references a list"),
        ([{**ROWS[0], "mr": ["x"]}], "line 1: mr must be a string"),
        ([{**ROWS[0], "references": []}], "item 1 has no reference"),
        ([{**ROWS[0], "hypothesis": None}], "item 1: the hypothesis must be a string"),
    ],
)
def test_wrong_predictions_name_the_file_and_the_line(write, rows, message):
    path = write("p.jsonl", rows, as_lines=True)
    with pytest.raises(ConfigError, match=message) as caught:
        read_predictions(path)
    assert path in str(caught.value)


def test_wrong_lists_name_both_files(write):
    good, dictionary = write("h.json", HYPOTHESES), write("d.json", {"a": 1})
    with pytest.raises(ConfigError, match=r"d\.json must hold a JSON list, not a dict"):
        read_lists(good, dictionary)
    with pytest.raises(ConfigError, match=r"h\.json and .*s\.json: 2 hypotheses for 1 items"):
        read_lists(good, write("s.json", REFERENCES[:1]))


def test_bad_input_is_one_sentence_and_exit_code_two(script, tmp_path, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text("[1,")
    latin = tmp_path / "latin.json"
    digits = tmp_path / "digits.json"
    digits.write_text("9" * 5000)  # Python reads integers of up to 4,300 digits
    latin.write_bytes('["£20"]'.encode("latin-1"))
    for arguments, message in [
        ([], "give either --predictions, or --hypotheses and --references"),
        (["--hypotheses", str(broken)], "give either"),
        (["--predictions", str(tmp_path / "none")], "No such file"),
        (["--predictions", str(tmp_path)], "Is a directory"),
        (["--predictions", str(broken)], "line 1, is not JSON"),
        (["--predictions", str(digits)], "line 1, is not JSON"),
        (["--hypotheses", str(digits), "--references", str(digits)], "is not JSON"),
        (["--hypotheses", str(latin), "--references", str(latin)], "is not UTF-8 text"),
    ]:
        assert script(arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
