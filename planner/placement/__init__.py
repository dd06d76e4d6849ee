"""Layer placement on heterogeneous nodes: contiguous ranges of layers that carry the largest flow of tokens."""
