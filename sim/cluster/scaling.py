"""Scaling: an autoscaler's wish becomes replicas that start, serve, are drained and stop."""

from __future__ import annotations

from collections.abc import Sequence

from ...configs.dynamics import Scaling
from ...costmodels.base import TICKS_PER_SECOND, ticks
from ..core import Autoscaler, ReplicaView, Request
from ..records import End
from .cluster import Cluster
from .replica import Replica


class Scaler:
    """Scales one pool. `replicas` are all that it can have; those beyond its initial number begin "off".

    start_up : ticks from the wish to the first request.
    """

    def __init__(
        self, cluster: Cluster, replicas: Sequence[Replica], seen: Sequence[ReplicaView], spec: Scaling,
        policy: Autoscaler, start_up: int, initial: int,
    ) -> None:  # fmt: skip
        self.cluster, self.replicas, self.seen, self.spec, self.policy = cluster, replicas, seen, spec, policy
        self._start_up = start_up
        self._period, self._cooldown = ticks(spec.period), ticks(spec.cooldown)
        self._mine = {replica.id for replica in replicas}
        self._recent: list[float] = []
        self._changed = -self._cooldown
        self._armed = False
        self.ups = self.downs = 0
        for i, replica in enumerate(replicas):
            replica.state = "up" if i < initial else "off"
            replica.history.append((0, replica.state))
        cluster.on_submit.append(self._wake)
        cluster.on_end.append(self._ended)

    def _wake(self, _: Request) -> None:
        if not self._armed:
            self._armed = True
            self.cluster.post(self.cluster.env.now + self._period, self._look)

    def _ended(self, request: Request, end: End, now: int) -> None:
        if request.replica in self._mine and request.first_token >= 0:
            self._recent.append((request.first_token - request.arrival) / TICKS_PER_SECOND)

    def _look(self) -> None:
        self._armed = False
        self._stop_the_drained()
        if self.cluster.through:
            return
        self._wake_again()
        up = [i for i, replica in enumerate(self.replicas) if replica.state == "up"]
        starting = sum(replica.state == "starting" for replica in self.replicas)
        now = self.cluster.env.now
        recent, self._recent = self._recent, []
        wish = self.policy.wanted([self.seen[i] for i in up], starting, now / TICKS_PER_SECOND, recent)
        wish = min(max(wish, self.spec.min_replicas), self.spec.max_replicas)
        have = len(up) + starting
        if wish > have:
            self._grow(wish - have)
            self._changed = now
        elif wish < have and now - self._changed >= self._cooldown:
            self._shrink(up, have - wish)
            self._changed = now

    def _wake_again(self) -> None:
        self._armed = True
        self.cluster.post(self.cluster.env.now + self._period, self._look)

    def _grow(self, missing: int) -> None:
        """Take back who is being drained, then start others."""
        for state in ("draining", "off"):
            for replica in [r for r in self.replicas if r.state == state][:missing]:
                missing -= 1
                self.ups += 1
                if state == "draining":
                    self.cluster.set_state(replica, "up")
                    continue
                self.cluster.set_state(replica, "starting")
                at = self.cluster.env.now + self._start_up
                self.cluster.post(at, self.cluster.set_state, replica, "up")

    def _shrink(self, up: Sequence[int], surplus: int) -> None:
        """Drain the last ones; one that serves stays."""
        for i in list(up)[max(1, len(up) - surplus) :]:
            self.downs += 1
            self.cluster.set_state(self.replicas[i], "draining")
        self._stop_the_drained()

    def _stop_the_drained(self) -> None:
        for replica in self.replicas:
            if replica.state == "draining" and not replica.requests:
                self.cluster.set_state(replica, "off")
