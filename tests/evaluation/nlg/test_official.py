"""The whole scorer beside the packages of the official one, on the real test references (slow)."""

import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from layertune.evaluation import nlg

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(shared_data):
    """First reference of each item against the others."""
    table = pq.read_table(shared_data / "e2e" / "test.parquet").to_pydict()
    groups: dict[str, list[str]] = {}
    for meaning, reference in zip(table["meaning_representation"], table["human_reference"], strict=True):
        groups.setdefault(meaning, []).append(reference)
    assert (len(groups), sum(map(len, groups.values()))) == (630, 4693)
    human = [group[0] for group in groups.values()]
    return [group[1:] or group for group in groups.values()], human


def test_all_metrics_equal_the_official_packages(corpus, java, monkeypatch):
    """On every ninth item: outputs as they are, empty, in capitals and cut short."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    from sacrebleu import corpus_bleu

    monkeypatch.setenv("PATH", f"{Path(java).parent}{os.pathsep}{os.environ['PATH']}")
    references, human = (part[::9] for part in corpus)
    rng = random.Random(0)
    outputs = [rng.choice([text, "", text.upper(), " ".join(text.split()[:4])]) for text in human[:-1]] + [""]
    ours = nlg.score(outputs, references)
    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({i: [{"caption": text} for text in group] for i, group in enumerate(references)})
    res = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(outputs)})
    assert ours["meteor"] == pytest.approx(Meteor().compute_score(gts, res)[0], abs=1e-12)
    assert ours["rouge_l"] == pytest.approx(Rouge().compute_score(gts, res)[0], abs=1e-12)
    assert ours["cider"] == pytest.approx(Cider().compute_score(gts, res)[0], abs=1e-12)

    lower = {code: code + 32 for code in range(65, 91)}
    width = range(max(map(len, references)))
    lowered = [[text.translate(lower) for text in group] for group in references]
    streams = [[group[k] if k < len(group) else None for group in lowered] for k in width]
    expected = corpus_bleu([text.translate(lower) for text in outputs], streams, tokenize="13a", force=True)
    assert ours["bleu"] == pytest.approx(expected.score / 100, abs=1e-12)
    assert ours["nist"] != ours["nist_mean_reference"]  # both conventions differ here


def test_the_order_of_magnitude_of_a_human_output(corpus):
    """Measured with the challenge's scorer on the same sentences: BLEU about 61, NIST 8.99."""
    references, human = corpus
    scores = nlg.score(human, references, java="/nowhere/java")
    assert scores["bleu"] == pytest.approx(0.61, abs=0.01)
    assert scores["nist"] == pytest.approx(8.99, abs=0.01)
    secondary = nlg.secondary(human, references)
    assert secondary["nltk_nist"] < scores["nist"] - 0.5  # nltk's fault with several references
    assert secondary["nltk_bleu"] < scores["bleu"]
