"""The claims of `once=` in a test client, which takes messages one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from missive.dlq.once import ClaimRequest, MemoryOnce
from missive.engine.completion.claims import HAPPENED, decide_claimed, decide_keyless
from missive.engine.job import Job, Work
from missive.engine.workers.decision import decide


class MemoryClaims:
    """Claims on effects, held in memory. `clock` is the virtual clock of the client."""

    def __init__(self, service: str, clock: Callable[[], float]) -> None:
        self._service = service
        self._store = MemoryOnce(clock)
        self._held: dict[Job, ClaimRequest] = {}

    def begin(self, work: Work) -> None:
        """Claim the effect of a job. Decide the job when its effect happened before, or when the claim fails."""
        once = None if work.route is None else work.route.terms.once
        if not isinstance(work, Job) or work.route is None or once is None or once.form != "lease":
            return
        try:
            digest = once.digest_of(work.message)
        except Exception as error:  # noqa: BLE001 - a user's callable may raise anything
            work.decision, work.error = decide(None, error), error
            return
        if digest is None:
            work.decision = decide_keyless()
            return
        request = ClaimRequest(work.route.name, digest, hashlib.sha256(work.message.raw_data).hexdigest())
        (answer,) = self._store.once_begin(self._service, [request], str(id(work)), once.lease, once.ttl)
        work.decision = decide_claimed(answer, once)
        if work.decision is None:
            self._held[work] = request

    def end(self, work: Work) -> None:
        """Record that the claimed effect has happened, or release the claim."""
        request = None if not isinstance(work, Job) else self._held.pop(work, None)
        if request is None or not isinstance(work, Job) or work.route is None or work.route.terms.once is None:
            return
        owner = str(id(work))
        if work.decision is not None and work.decision.outcome in HAPPENED:
            self._store.once_done(self._service, [request.effect], owner, work.route.terms.once.ttl)
        else:
            self._store.once_drop(self._service, [request.effect], owner)
