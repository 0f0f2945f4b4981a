"""The base class of adapters."""

from __future__ import annotations

import pytest

import missive
from missive import adapters
from missive.testing import MemoryAdapter
from missive.transport import CONTRACT_VERSION, ContractVersion


@pytest.mark.parametrize(
    ("declared", "remedy"),
    [
        ((CONTRACT_VERSION.major + 1, 0), "upgrade missive"),
        ((CONTRACT_VERSION.major, CONTRACT_VERSION.minor + 1), "upgrade missive"),
        ((CONTRACT_VERSION.major - 1, 7), f"upgrade the package of {__name__}"),
    ],
    ids=["newer major", "newer minor", "older major"],
)
def test_an_adapter_for_an_incompatible_contract_is_refused(declared: tuple[int, int], remedy: str):
    """The constructor names the adapter, both versions and the package to upgrade."""

    class Foreign(MemoryAdapter):
        contract_version = declared

    with pytest.raises(missive.UsageError) as raised:
        Foreign(missive.Processor(), [])
    assert str(raised.value) == (
        f"{__name__}.{Foreign.__qualname__} was written for version {declared[0]}.{declared[1]} of the adapter"
        f" contract, but missive {missive.__version__} implements version {CONTRACT_VERSION}: {remedy}"
    )


def test_an_adapter_for_the_current_contract_is_accepted():
    """An adapter may declare the contract that this release implements."""

    class Current(MemoryAdapter):
        contract_version = CONTRACT_VERSION

    assert Current(missive.Processor(), []).contract_version == CONTRACT_VERSION


@pytest.mark.parametrize("name", [name for name in adapters.__all__ if name.endswith("Adapter")])
def test_every_adapter_of_this_release_fits_its_contract(name: str):
    """The built-in adapters change together with the contract."""
    assert CONTRACT_VERSION.accepts(ContractVersion(*getattr(adapters, name).contract_version))
