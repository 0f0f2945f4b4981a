"""What is put around an adapter: it passes everything on, for others to watch or to spoil."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from missive.adapters.base import Adapter
from missive.transport import Credit, Delivery, Host, Session, SessionStatus, Settlement, SettlementResult, Watermark


class WrappedSession(Session):
    """Passes everything on to the session inside."""

    def __init__(self, inner: Session) -> None:
        super().__init__()
        self.inner = inner
        self.capabilities = inner.capabilities
        self.client = inner.client

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Pass it on."""
        return await self.inner.fetch(credit)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Pass it on."""
        return await self.inner.settle(settlements)

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        """Pass it on."""
        return await self.inner.commit(watermarks)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Pass it on."""
        return await self.inner.extend(deliveries)

    async def pause(self, lanes: Collection[str]) -> None:
        """Pass it on."""
        await self.inner.pause(lanes)

    async def resume(self, lanes: Collection[str]) -> None:
        """Pass it on."""
        await self.inner.resume(lanes)

    async def status(self) -> SessionStatus:
        """Pass it on."""
        return await self.inner.status()

    async def stop_intake(self) -> Sequence[Delivery]:
        """Pass it on."""
        return await self.inner.stop_intake()

    async def close(self) -> None:
        """Pass it on."""
        await self.inner.close()


class WrappedAdapter(Adapter):
    """Passes everything on to the adapter inside; `kind` makes what goes around each of its sessions."""

    transport = "wrapped"

    def __init__(self, inner: Adapter, kind: Callable[[Session], Session]) -> None:
        super().__init__(inner.processor, drain=inner.drain)
        self.inner = inner
        self._around = kind

    @property
    def destination(self) -> str:
        """As the one inside."""
        return self.inner.destination

    @property
    def url(self) -> str:
        """As the one inside."""
        return self.inner.url

    async def connect(self, host: Host) -> Session:
        """Open a session inside another one."""
        return self._around(await self.inner.connect(host))
