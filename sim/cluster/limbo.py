"""Where requests are that no replica has: they wait until one comes up."""

from __future__ import annotations

from collections.abc import Sequence

from ..core import Request
from .cluster import Cluster
from .replica import Replica


class Limbo:
    """Is the `engine` of those requests."""

    def __init__(self, cluster: Cluster, replicas: Sequence[Replica]) -> None:
        self.cluster = cluster
        self._replicas = replicas
        self._waiting: dict[Request, None] = {}

    def takes(self, request: Request) -> bool:
        """Take a request in, if a replica is coming up; else False."""
        if not any(replica.state == "starting" for replica in self._replicas):
            return False
        self.hold(request)
        return True

    def hold(self, request: Request) -> None:
        """Take a request in, which no replica counts any more."""
        request.engine, request.replica = self, -1
        self._waiting[request] = None

    def let_go(self, request: Request) -> bool:
        """Stop waiting; False if it was not here any more."""
        if request not in self._waiting:
            return False
        del self._waiting[request]
        return True

    def release(self) -> None:
        """A replica has come up or gone: try everybody again."""
        for request in list(self._waiting):
            if self.let_go(request):
                self.cluster.dispatch(request)

    def cancel(self, request: Request) -> None:
        """The client of one has gone."""
        if self.let_go(request):
            self.cluster.gone(request, self.cluster.env.now)
