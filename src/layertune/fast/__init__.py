"""How a step is taken. The loop sees one door: `PlainStepper`, and `FastStepper` for `train=fast`."""

from layertune.fast.stepper import FastStepper, PlainStepper

__all__ = ["FastStepper", "PlainStepper"]
