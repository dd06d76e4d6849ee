"""Engines: one rank or several that share a clock, advanced by leaps. `domain.py` holds the main loop."""
