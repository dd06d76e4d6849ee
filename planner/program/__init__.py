"""The planning problem in numbers, and the integer program that solves it."""
