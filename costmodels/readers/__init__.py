"""Readers of measured tables that other projects publish, each into a `TableSet`."""
