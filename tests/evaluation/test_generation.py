"""Beam search on a language model that can be followed by hand, and batches against one prompt at a time."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from programs import program
from tiny_runs import compose_tiny
from transformers import GenerationConfig, GPT2Config, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from layertune.config import DecodingSpec, TaskSpec
from layertune.errors import JavaError
from layertune.evaluation.generation import (
    forced_scores,
    generate,
    left_padded,
    predictions_path,
    save_predictions,
    score_outputs,
)
from layertune.evaluation.nlg import scorer
from layertune.evaluation.nlg import text as texts
from layertune.models import build_model
from layertune.models.tiny_tokenizer import tiny_tokenizer
from layertune.runtime import prepare_runtime
from layertune.tasks import Split, TokenStore
from layertune.tasks.meanings import group_meanings
from layertune.tasks.prompts import encode_generation
from layertune.tasks.rows import unlabelled

END, A, B, C, D = range(5)
WORDS = {A: "a", B: "b", C: "c", D: "d"}
CHAIN = torch.full((5, 5), 1e-9)  # [token, next token]: after the prompt's end a, b or nothing ...
CHAIN[END, [A, B, END]] = torch.tensor([0.5, 0.4, 0.1])
CHAIN[A, [C, D, END]] = torch.tensor([0.4, 0.35, 0.25])
CHAIN[B, [END, A]] = torch.tensor([0.9, 0.1])
CHAIN[C, END] = CHAIN[D, END] = 1.0


class Chain(PreTrainedModel, GenerationMixin):
    """A language model in which the last token alone decides."""

    config_class = GPT2Config

    def __init__(self, chain):
        super().__init__(GPT2Config(vocab_size=5, n_embd=4, n_layer=1, n_head=1))
        self.anything = torch.nn.Linear(1, 1)
        self.chain = chain.log()

    def forward(self, input_ids, **others):
        return CausalLMOutputWithPast(logits=self.chain[input_ids])


class Followed(torch.nn.Module):
    """As much of a task model as decoding needs."""

    def __init__(self, chain):
        super().__init__()
        self.causal_lm = Chain(chain).eval()


class Letters:
    """A tokenizer of five words."""

    eos_token_id = END

    def decode(self, tokens, skip_special_tokens):
        return " ".join(WORDS[token] for token in tokens)

    def encode(self, text, add_special_tokens):
        return [token for token, word in WORDS.items() if word in text.split()]


@pytest.fixture
def runtime(tmp_path):
    return prepare_runtime(compose_tiny(tmp_path))


def prompts_of(lengths):
    """A split whose prompts are runs of `a` that end with the separator."""
    ids = np.concatenate([[A] * (n - 1) + [END] for n in lengths]).astype(np.int32)
    rows = unlabelled(([f"m{i}" for i in range(len(lengths))], [f"r{i}" for i in range(len(lengths))]))
    store = TokenStore(
        ids=ids,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        segments=None,
        labels=rows.labels,
        truncated=0,
        pad_id=END,
        prompts=np.array(lengths, dtype=np.int32),
    )
    return Split("e2e", "test", store, group_meanings(rows))


def followed(runtime, chain=CHAIN, lengths=(3,), **decoding):
    return generate(Followed(chain), prompts_of(list(lengths)), Letters(), DecodingSpec(**decoding), runtime)


def test_beams_find_what_is_likelier_as_a_whole(runtime):
    # Greedy takes a (0.5), then c (0.4). With beams: b, end 0.36; a c, end 0.2; a d, end 0.175; end 0.1.
    # Divided by (tokens, end included) ** 0.8: ln 0.36 / 2 ** 0.8 = -0.587; ln 0.2 / 3 ** 0.8 = -0.668.
    assert followed(runtime, num_beams=1) == ["a c"]
    assert followed(runtime, num_beams=3) == ["b"]
    # With a penalty of 2 the longer wins: ln 0.36 / 4 = -0.255; ln 0.2 / 9 = -0.179.
    assert followed(runtime, num_beams=3, length_penalty=2.0) == ["a c"]


def test_a_stop_text_ends_an_output_as_the_end_of_sequence_does(runtime):
    # Greedy takes a, then c, which ends the output and is no part of it.
    assert followed(runtime, num_beams=1, stop="c") == ["a"]
    # `a c` now ends after two tokens: ln 0.2 / 4 = -0.402 loses to `b`, end: ln 0.36 / 4 = -0.255.
    assert followed(runtime, num_beams=3, length_penalty=2.0, stop="c") == ["b"]


def test_a_stop_text_of_several_tokens_is_left_out_with_a_warning(runtime, caplog):
    assert followed(runtime, num_beams=1, stop="c d") == ["a c"]
    assert "task.decoding.stop='c d' has no effect: it is 2 tokens here, not one" in caplog.text


def test_the_search_stops_as_soon_as_there_are_as_many_outputs_as_beams(runtime):
    chain = CHAIN.clone()
    chain[A] = torch.tensor([0.001, 0.999, 1e-9, 1e-9, 1e-9])  # a a a ... is the likeliest text of all
    # 3 beams finish "" (0.1), "b" (0.36) and "a a" (0.0005) within three tokens; "b" is the best of them,
    # although "a a a" is likelier still. 2 beams finish "b" alone, and the long text is there at the end.
    assert followed(runtime, chain, num_beams=3, max_new_tokens=4) == ["b"]
    assert followed(runtime, chain, num_beams=2, max_new_tokens=4) == ["a a a a"]


def test_at_most_so_many_tokens_are_made(runtime):
    chain = torch.full((5, 5), 1e-9)
    chain[:, A], chain[:, END] = 1.0, 0.0
    assert followed(runtime, chain, num_beams=2, max_new_tokens=6) == ["a a a a a a"]
    assert followed(runtime, chain, num_beams=1, max_new_tokens=2) == ["a a"]


def test_a_phrase_may_not_come_twice_in_the_output_though_it_is_in_the_prompt(runtime):
    chain = torch.full((5, 5), 1e-9)
    chain[:, A], chain[:, B], chain[:, C] = 0.9, 0.09, 0.01
    # The prompt is "a a a a a". After a: aa; then ab, aa being used; ba; then ac, aa and ab being used.
    options = {"num_beams": 1, "max_new_tokens": 5}
    assert followed(runtime, chain, lengths=(6,), no_repeat_ngram=2, **options) == ["a a b a c"]
    assert followed(runtime, chain, lengths=(6,), **options) == ["a a a a a"]


def test_the_checkpoints_own_settings_play_no_part_and_come_back(runtime):
    model = Followed(CHAIN)
    own = GenerationConfig(repetition_penalty=50.0, bad_words_ids=[[B]], min_new_tokens=3)
    model.causal_lm.generation_config = own
    outputs = generate(model, prompts_of([3]), Letters(), DecodingSpec(num_beams=3), runtime)
    assert outputs == ["b"] and model.causal_lm.generation_config is own


def test_outputs_come_back_in_the_order_of_the_meanings(runtime):
    chain = CHAIN.clone()
    model, split = Followed(chain), prompts_of([2, 9, 4])
    seen = []
    real = model.causal_lm.generate

    def watched(**options):
        seen.append(options["attention_mask"].sum(1).tolist())
        return real(**options)

    model.causal_lm.generate = watched
    assert generate(model, split, Letters(), DecodingSpec(num_beams=3, batch_size=2), runtime) == ["b"] * 3
    assert seen == [[9, 4], [2]]  # by length, longest first


def test_prompts_are_padded_on_the_left():
    split = prompts_of([2, 4])
    ids, mask = left_padded(split.store, np.array([0, 1]))
    assert ids.tolist() == [[END, END, A, END], [A, A, A, END]]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


# --- a real architecture


MEANINGS = [f"name[{'the pub ' * n}], area[river side]" for n in (1, 5, 2, 3)]


@pytest.fixture
def tokenizer():
    found = tiny_tokenizer("decoder")
    found.pad_token = found.eos_token
    return found


@pytest.fixture
def model(tmp_path):
    """A random GPT-2 whose output layer is its own, and whose weights are large enough to say something."""
    run = compose_tiny(
        tmp_path,
        "model=tiny_gpt2",
        "+model.random_config.tie_word_embeddings=false",
        "+model.random_config.initializer_range=0.5",
    )
    return build_model(run, 0, "generation")


@pytest.fixture
def split(tokenizer):
    rows = unlabelled(([*MEANINGS, MEANINGS[0]], ["the pub", "a pub", "the area", "by the river", "it"]))
    spec = TaskSpec(name="e2e", kind="generation", max_length=128)
    return Split("e2e", "test", encode_generation(rows, tokenizer, spec), group_meanings(rows))


def test_a_batch_of_left_padded_prompts_gives_what_each_gives_alone(model, split, tokenizer, runtime):
    decoding = DecodingSpec(num_beams=4, max_new_tokens=12)
    together = generate(model, split, tokenizer, decoding, runtime)
    alone = generate(model, split, tokenizer, dataclasses.replace(decoding, batch_size=1), runtime)
    assert together == alone and len(set(together)) > 1
    for row, text in zip(split.meanings.rows, together, strict=True):  # and what the library gives unpadded
        start = split.store.offsets[row]
        prompt = torch.tensor(split.store.ids[start : start + split.store.prompts[row]])[None].long()
        found = model.causal_lm.generate(
            prompt,
            num_beams=4,
            length_penalty=0.8,
            early_stopping=True,
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )[0, prompt.shape[1] :]
        assert " ".join(tokenizer.decode(found, skip_special_tokens=True).split()) == text


def test_decoding_is_the_same_again_and_leaves_modes_and_random_state_alone(model, split, tokenizer, runtime):
    model.train()
    state = torch.get_rng_state()
    decoding = DecodingSpec(num_beams=3, max_new_tokens=8)
    first = generate(model, split, tokenizer, decoding, runtime)
    assert generate(model, split, tokenizer, decoding, runtime) == first
    assert model.training and torch.equal(state, torch.get_rng_state())


def test_forced_scores_are_means_over_the_tokens_of_all_references(model, split, runtime):
    model.label_smoothing = 0.1  # plays no part here
    found = forced_scores(model, split, runtime, batch_size=2)
    losses, right = [], []
    for row in range(len(split.store)):
        start, stop = split.store.offsets[row], split.store.offsets[row + 1]
        ids = torch.tensor(split.store.ids[start:stop]).long()
        logits = model.causal_lm(ids[None]).logits[0]
        for position in range(int(split.store.prompts[row]), len(ids)):
            losses.append(-logits[position - 1].log_softmax(-1)[ids[position]].item())
            right.append(logits[position - 1].argmax().item() == ids[position].item())
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert found["token_accuracy"] == sum(right) / len(right)


def test_even_chances_have_the_size_of_the_vocabulary_as_perplexity(model, split, runtime):
    with torch.no_grad():
        model.head.weight.zero_()
    found = forced_scores(model, split, runtime, batch_size=64)
    assert found["perplexity"] == pytest.approx(768, rel=1e-5)
    assert found["loss"] == pytest.approx(math.log(768), rel=1e-6)


# --- outputs on disk


def test_saved_outputs_can_be_scored_again_without_the_model(split, tmp_path, monkeypatch, repo, capsys):
    def no_java(path=None):
        raise JavaError("no Java here")

    monkeypatch.setattr(scorer, "find_java", no_java)
    outputs = ["the pub by the river", "", "a “pub”", "£20\u2028less"]
    run = compose_tiny(tmp_path, "model=tiny_gpt2")
    path = save_predictions(predictions_path(run, split, 3), split, outputs)
    assert path.name == f"{run.run_id}-test-epoch3.jsonl" and path.parent.name == "predictions"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [line["mr"] for line in lines] == MEANINGS
    assert lines[0]["references"] == ["the pub", "it"]
    assert texts.read_predictions(path) == (outputs, [line["references"] for line in lines])

    scores = score_outputs(outputs, split, secondary=True)
    assert scores["meteor"] is None and scores["meteor_reason"] == "no Java here"
    words = ["--predictions", str(path), "--json", "--secondary"]
    assert program(repo / "scripts" / "score_e2e.py", words, monkeypatch) == 0
    again = json.loads(capsys.readouterr().out)
    for name in ("bleu", "nist", "rouge_l", "cider", "nist_mean_reference", "nltk_bleu"):
        assert again[name] == scores[name], name
    assert 0 < scores["rouge_l"] < 1


def test_the_released_codes_metrics_are_left_out_where_they_are_not_asked_for(split, monkeypatch):
    monkeypatch.setattr(scorer, "find_java", lambda path=None: (_ for _ in ()).throw(JavaError("none")))
    assert not {"nltk_bleu", "nltk_nist", "rouge_score_rouge_l"} & set(score_outputs(["a"] * 4, split))
