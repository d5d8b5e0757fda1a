"""Landscapes: what every set of k layers reaches on a task, so that any rule of choice can be placed."""
