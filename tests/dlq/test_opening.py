"""Opening stores by URL, including stores of third parties."""

from __future__ import annotations

import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from missive.dlq import open_dlq, open_store
from missive.dlq.sql import SQLStore
from missive.errors import UsageError
from tests.support.stores import on_each


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Install a distribution with a store for `probe:`; return the calls that open it."""
    info = tmp_path / "probe_store-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-store\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[missive.dlqs]\nprobe = probe_store:opened\n")
    asked: list[tuple[str, bool]] = []

    def opened(url: str, *, create: bool) -> SQLStore:
        asked.append((url, create))
        return SQLStore(f"sqlite:///{tmp_path}/probe.db")

    module = types.ModuleType("probe_store")
    module.opened = opened  # type: ignore[attr-defined]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "probe_store", module)
    return asked


def test_a_third_party_store_is_found_by_its_entry_point(third_party, monkeypatch):
    """The entry point of a scheme in `missive.dlqs` opens the store, with expanded variables in the URL."""
    monkeypatch.setenv("PROBE_PASSWORD", "hunter2")
    with_password = "probe://:${PROBE_PASSWORD}@host/letters"
    for store in (open_store("probe://host/letters", create=False), open_dlq(with_password)):
        assert isinstance(store, SQLStore)
        store.close()
    assert third_party == [("probe://host/letters", False), ("probe://:hunter2@host/letters", True)]


@pytest.mark.parametrize("bad", ["prob://host", "nothing", "", "mongodb://u:hunter2@host/db"])
def test_an_unknown_scheme_names_the_known_schemes(third_party, bad: str):
    """The error is one line with an example and the known schemes, and without a password."""
    with pytest.raises(UsageError, match=r"sqlite:///path/to/file\.db") as raised:
        open_dlq(bad)
    assert "(known schemes: mariadb, mysql, postgresql, probe, redis, rediss, sqlite)" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_variable_can_be_the_whole_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`${MISSIVE_TEST_URL}` stands for the URL in this variable."""
    monkeypatch.setenv("MISSIVE_TEST_URL", f"sqlite:///{tmp_path}/dlq.db")
    open_store("${MISSIVE_TEST_URL}").close()
    assert (tmp_path / "dlq.db").exists()


@on_each
def test_many_open_a_new_store_at_once(url: str):
    """Eight workers that open a new store at the same time all succeed, and create one schema."""
    barrier = threading.Barrier(8)

    def opened() -> None:
        barrier.wait()
        open_store(url).close()

    with ThreadPoolExecutor(8) as pool:
        for one in [pool.submit(opened) for _ in range(8)]:
            one.result(30)
    open_store(url, create=False).close()
