"""The search: the program proposes fleets, replays judge them; and what is said of the outcome."""
