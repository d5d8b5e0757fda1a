"""All that `train=fast` is. The loop sees one door: `FastStepper`."""

from layertune.fast.stepper import FastStepper

__all__ = ["FastStepper"]
