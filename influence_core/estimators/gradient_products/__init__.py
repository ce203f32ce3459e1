"""Products of gradients along the training, plain or through random projections."""
