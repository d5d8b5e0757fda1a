"""One run, top to bottom: the paper's Algorithm 1 between a configuration and a record."""

from __future__ import annotations

import logging
from functools import partial

from layertune.config import RunConfig
from layertune.evaluation.evaluate import saved_outputs
from layertune.methods import build_method
from layertune.models import build_model, load_tokenizer
from layertune.models.limits import refuse_what_does_not_fit
from layertune.records import Record, Store
from layertune.records.store import claimed
from layertune.records.tracking import Tracker
from layertune.records.writer import RecordDraft, open_record
from layertune.report.figures import plot_record
from layertune.runtime import freeing_memory, prepare_runtime
from layertune.saved import end_interrupted, keep_model, refuse_without_room
from layertune.stopping import stopping_at_once
from layertune.tasks import load_task
from layertune.training import train
from layertune.training.checkpoint import remove_checkpoint
from layertune.training.proof import Engagement, measured_facts, model_record, parameter_facts

log = logging.getLogger(__name__)


def execute(run: RunConfig, store: Store) -> Record:
    """Run a configuration and return its record; what is done, here or by another process, is not repeated.

    Raises:
        ConfigError: the request cannot be met (data, weights, device, folders); no record is written.
        RunFailed: the run failed; its record says why.
        Interruption: the run was asked to stop and can be resumed.
    """
    end_interrupted(run)
    with claimed(run, store) as done:
        if done is not None:
            log.info("%s is done: %s (force=true repeats it)", run.run_id, store.path(run))
            remove_checkpoint(run)  # of a process that was killed when it had written the record
            return done
        resumable = run.checkpoint.every_steps is not None
        if run.save is not None and not run.force and store.find(run) is not None:
            log.info(
                "%s is done, and its weights were not kept: it trains again for %s, or goes on from its "
                "checkpoint",
                run.run_id,
                run.save,
            )
        with stopping_at_once(resumable), open_record(run, store) as draft, freeing_memory():
            _train_and_measure(run, draft)
        return draft.record


def _train_and_measure(run: RunConfig, draft: RecordDraft) -> None:
    """Score, select, freeze, train, evaluate; what becomes known goes into the record."""
    method = build_method(run)
    runtime = prepare_runtime(run)
    tokenizer, tokenizer_key = load_tokenizer(run.model)
    data = load_task(run, tokenizer, tokenizer_key)
    model = build_model(run, data.num_outputs, data.kind).to(runtime.device)
    refuse_what_does_not_fit(model.backbone.model, *data.extent)
    refuse_without_room(run, model)
    draft.put(env=runtime.env, data=data.provenance)

    prep = method.prepare(model, data, runtime)  # score, select, freeze (§3)
    facts = parameter_facts(model, prep)
    of_model = partial(model_record, run, tokenizer_key, model.backbone.commit)
    draft.put(selection=prep.record(run), model=of_model(facts))
    if run.stage == "score":
        return

    proof = Engagement(model)
    with Tracker(run) as track:
        outcome = train(run, model, data, method, runtime, track)  # fine-tune the chosen layers (§4)
        draft.put(
            model=of_model(measured_facts(model, prep, outcome)),
            training=outcome.record(),
            metrics=outcome.metrics(saved_outputs(run, data, outcome.read_epochs)),
            checks=proof.check(run, model, data, prep, outcome),
        )
        if prep.scores is not None:
            track.log_figure("layer similarity", partial(plot_record, draft.record))
        track.finish(draft.conclude())
    draft.put(tracking=track.facts)

    def once_written(record: Record) -> None:
        """Keep the model of a run that is done, where it says where; only then the checkpoint may go."""
        if outcome.evaluated is not None and record.status == "done":
            keep_model(run, record, data, method, outcome.evaluated)
        remove_checkpoint(run, done=record.status == "done")

    draft.once_written = once_written
