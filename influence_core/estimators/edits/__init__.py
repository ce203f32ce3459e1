"""Edits of the weights after the training set changed: no scores, but ``parameter_change``."""
