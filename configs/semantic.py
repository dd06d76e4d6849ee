"""A cache of answers before the router: found by meaning, with its own rules for each category of requests."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from ..errors import InputError
from .strict import check


@dataclass(frozen=True)
class Category:
    """Requests of one kind. Either `hit_rate` says how often an answer is found, or it follows from `questions`.

    questions, alpha : different questions; number i is asked in proportion to (i + 1) ** -alpha.
    least_similarity : a question is put in other words: its similarity to its last wording is uniform from here to 1.
    threshold : similarity from which an old answer is given.
    ttl : seconds that an answer is good for. quota : answers that are kept, the least recently used goes first.
    """

    hit_rate: float | None = None
    questions: int | None = None
    alpha: float = 1.0
    least_similarity: float = 1.0
    threshold: float = 0.9
    ttl: float = inf
    quota: int | None = None

    def __post_init__(self) -> None:
        rate = self.hit_rate
        check(rate is None or 0 <= rate <= 1, "hit_rate", rate, "a share from 0 to 1")
        if (rate is None) == (self.questions is None):
            found = "neither `hit_rate` nor `questions`" if rate is None else "both `hit_rate` and `questions`"
            raise InputError("hit_rate", found, "one of the two")
        check(self.questions is None or self.questions >= 1, "questions", self.questions, "at least 1")
        check(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        for key in ("least_similarity", "threshold"):
            check(0 <= getattr(self, key) <= 1, key, getattr(self, key), "from 0 to 1")
        check(self.ttl > 0, "ttl", self.ttl, "seconds above 0")
        check(self.quota is None or self.quota >= 1, "quota", self.quota, "at least 1 answer")


@dataclass(frozen=True)
class SemanticCache:
    """search : seconds that a look-up takes, hit or not. categories : by the trace's `request_class`; "" for requests
        without one. Requests of a class that is not named are not looked up.
    loosen, busy : with so many requests under way thresholds are lower by `loosen`, with fewer in proportion.
    """

    search: float
    categories: dict[str, Category]
    loosen: float = 0.0
    busy: int = 100

    def __post_init__(self) -> None:
        check(0 <= self.search <= 1e8, "search", self.search, "seconds, 0 to 1e8")
        check(bool(self.categories), "categories", self.categories, "at least one")
        check(0 <= self.loosen <= 1, "loosen", self.loosen, "from 0 to 1")
        check(self.busy >= 1, "busy", self.busy, "at least 1 request")
