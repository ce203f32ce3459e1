"""Influence without an inverse: how the losses of two images change together around the trained weights."""
