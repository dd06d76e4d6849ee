"""Floor 0: the request table, a reader a format, generators, transforms and statistics."""
