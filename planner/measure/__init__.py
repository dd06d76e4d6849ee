"""Simulations with a verdict: capacity points, replays, and the cache that remembers them."""
