"""What policies may know of a program, the requests of one agent or workflow, while it runs."""

from __future__ import annotations


class Program:
    """What is known of an agent's or a workflow's run so far; a request has the program it belongs to. Times in ticks.

    arrival : of its first request. due : when all of it is to be done, -1 = never.
    turns, waited, served : finished requests, the ticks they queued, and the ticks they ran.
    path : ticks of the longest chain of finished requests, each sent after the one before had finished.
    """

    __slots__ = ("arrival", "due", "id", "path", "served", "turns", "waited")

    def __init__(self, id_: int, arrival: int, due: int = -1) -> None:
        self.id = id_
        self.arrival = arrival
        self.due = due
        self.turns = self.waited = self.served = self.path = 0
