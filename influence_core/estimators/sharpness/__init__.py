"""Influence on models that were trained with sharpness-aware minimisation."""
