"""RECAP: groups of weights, their removal, masks, and the method that goes round with them."""

from layertune.methods.recap.method import Recap

__all__ = ["Recap"]
