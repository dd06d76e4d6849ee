"""Recorded runs of real engines: one form, a reader a format."""
