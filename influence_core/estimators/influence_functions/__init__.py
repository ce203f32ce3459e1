"""Influence functions: what the minimum does when the weight of a training image changes, by an inverse curvature."""
