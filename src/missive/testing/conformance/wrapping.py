"""Wrappers that forward every call. Derive from them to observe or disturb an adapter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from missive.adapters.base import Adapter
from missive.transport import Credit, Delivery, Host, Session, SessionStatus, Settlement, SettlementResult, Watermark


class WrappedSession(Session):
    """A session that forwards every call to the session inside."""

    def __init__(self, inner: Session) -> None:
        super().__init__()
        self.inner = inner
        self.capabilities = inner.capabilities
        self.client = inner.client

    @property
    def enforced_lease(self) -> float | None:  # type: ignore[override] # read from the session inside
        """The one of the session inside."""
        return self.inner.enforced_lease

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Forward the call."""
        return await self.inner.fetch(credit)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Forward the call."""
        return await self.inner.settle(settlements)

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        """Forward the call."""
        return await self.inner.commit(watermarks)

    async def first_positions(self, lanes: Collection[str]) -> Mapping[str, int]:
        """Forward the call."""
        return await self.inner.first_positions(lanes)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Forward the call."""
        return await self.inner.extend(deliveries)

    async def pause(self, lanes: Collection[str]) -> None:
        """Forward the call."""
        await self.inner.pause(lanes)

    async def resume(self, lanes: Collection[str]) -> None:
        """Forward the call."""
        await self.inner.resume(lanes)

    async def status(self) -> SessionStatus:
        """Forward the call."""
        return await self.inner.status()

    async def stop_intake(self) -> Sequence[Delivery]:
        """Forward the call."""
        return await self.inner.stop_intake()

    async def close(self) -> None:
        """Forward the call."""
        await self.inner.close()


class WrappedAdapter(Adapter):
    """An adapter that forwards every call to the adapter inside. `kind` wraps each of its sessions."""

    transport = "wrapped"

    def __init__(self, inner: Adapter, kind: Callable[[Session], Session]) -> None:
        super().__init__(inner.processor, drain=inner.drain, max_body=inner.max_body)
        self.inner = inner
        self._around = kind

    @property
    def destination(self) -> str:
        """The one of the adapter inside."""
        return self.inner.destination

    @property
    def url(self) -> str:
        """The one of the adapter inside."""
        return self.inner.url

    async def connect(self, host: Host) -> Session:
        """Connect the adapter inside, and wrap its session."""
        return self._around(await self.inner.connect(host))
