"""The error of this room."""

from __future__ import annotations

from layertune.config import ConfigError


class ModelError(ConfigError):
    """A model that cannot be loaded or does not fit the request; one sentence says what to do."""
