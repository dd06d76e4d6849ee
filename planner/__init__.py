"""Floor 3: candidates, capacity points, the MILP and the search with simulation in the loop."""
