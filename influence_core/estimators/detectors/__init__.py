"""Mislabel scores that are no influence, and the controls that every estimator has to beat."""
