"""Estimators that look at outputs and labels alone, of whatever model gave them."""
