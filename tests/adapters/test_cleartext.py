"""Connections without TLS: one warning off this machine."""

from __future__ import annotations

import asyncio

import pytest

import missive
from missive.adapters.registry import from_url
from missive.errors import Transient
from missive.operations.doctor import DiagnosticHost
from missive.urls import cleartext_risk


@pytest.mark.parametrize(
    ("url", "twin"),
    [
        ("amqp://user:pw@192.0.2.1/?queue=orders", "amqps"),
        ("redis://:pw@192.0.2.1/0?stream=orders&group=g", "rediss"),
        ("amqps://user:pw@192.0.2.1/?queue=orders", None),
        ("rediss://:pw@192.0.2.1/0?stream=orders&group=g", None),
        ("amqp://user:pw@localhost/?queue=orders", None),
        ("redis://:pw@[::1]/0?stream=orders&group=g", None),
    ],
)
def test_a_scheme_without_tls_is_a_risk_off_this_machine(url: str, twin: str | None):
    """The line names the scheme with TLS, and no password."""
    risk = cleartext_risk(from_url(url, missive.Processor()).url)
    assert (risk is None) is (twin is None)
    assert risk is None or (f"is not encrypted: use {twin}://" in risk and "pw" not in risk)


@pytest.mark.parametrize(
    "url", ["amqp://u:pw@0.0.0.0:1/?queue=orders", "redis://:pw@0.0.0.0:1/0?stream=orders&group=g"]
)
def test_the_warning_is_logged_once(url: str, caplog: pytest.LogCaptureFixture):
    """Several attempts to connect log one warning."""
    adapter = from_url(url, missive.Processor())

    async def connect() -> None:
        for _ in range(2):
            with pytest.raises(Transient):
                await adapter.connect(DiagnosticHost("service"))

    asyncio.run(connect())
    assert [record.levelname for record in caplog.records if "is not encrypted" in record.message] == ["WARNING"]
