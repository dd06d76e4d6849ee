"""Floor 2: the cluster as a discrete-event model. `run.py` is the door, `engine/domain.py` holds the main loop."""
