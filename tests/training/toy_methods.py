"""Methods made for tests of the phases: they train copies, restart schedules and write everything down."""

from __future__ import annotations

import copy

import torch

from layertune.methods import Full, Phase, Preparation, count


class Copies(Full):
    """Train a copy of the model in each phase, one layer of it frozen, and write it back at the end.

    The steps are cut 3, 3, rest: of two epochs of four steps, each boundary but the last in mid-epoch.
    """

    frozen = 1

    def prepare(self, model, data, runtime):
        prep = super().prepare(model, data, runtime)
        layer = count(model.backbone.layers[0].parameters())
        return Preparation(prep.expected_trainable - self.frozen * layer)

    def phases(self, total_steps):
        return Phase(3), Phase(3, restart_schedule=True), Phase(total_steps - 6)

    def start_phase(self, model, phase):
        self.full = model
        twin = copy.deepcopy(model)
        for layer in twin.backbone.layers[: self.frozen]:
            layer.requires_grad_(False)
        return twin

    def end_phase(self, model, optimizer, phase):
        assert model is not self.full
        with torch.no_grad():
            for ours, theirs in zip(self.full.parameters(), model.parameters(), strict=True):
                ours.copy_(theirs)

    def state_dict(self):
        return {"full": {name: value.cpu().clone() for name, value in self.full.state_dict().items()}}

    def load_state_dict(self, state):
        self.loaded = state["full"]

    def resume_phase(self, model, phase):
        model.load_state_dict(self.loaded)
        return self.start_phase(model, phase)


class Diary(Full):
    """Three phases of 3, 3 and the remaining steps, with every call written down."""

    def __init__(self, run):
        super().__init__(run)
        self.calls = []

    def phases(self, total_steps):
        return Phase(3), Phase(3), Phase(total_steps - 6)

    def start_phase(self, model, phase):
        self.calls.append(f"start {phase}")
        return model

    def optimizer_ready(self, optimizer, phase):
        assert not optimizer.state
        self.calls.append(f"ready {phase}")

    def on_epoch_start(self, model, epoch):
        self.calls.append(f"epoch {epoch}")

    def after_step(self, model, step):
        self.calls.append(step)

    def end_phase(self, model, optimizer, phase):
        assert optimizer.state
        self.calls.append(f"end {phase}")

    def eval_model(self, model):
        self.calls.append("evaluate")
        return model
