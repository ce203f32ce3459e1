"""Influence at a minimum of the validation loss, flat or plain."""
