"""Transport addresses: two forms, parsed strictly, written as they were read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.address import CID_ANY, AddressError, UnixAddress, VsockAddress, parse_address


@given(st.integers(min_value=0, max_value=2**32 - 1), st.integers(min_value=1, max_value=2**32 - 2))
def test_vsock_round_trip(cid: int, port: int) -> None:
    """A vsock address survives its text."""
    address = VsockAddress(cid, port)
    assert parse_address(str(address)) == address


def test_any_cid() -> None:
    """`any` is VMADDR_CID_ANY, both ways."""
    assert parse_address("vsock://any:5000") == VsockAddress(CID_ANY, 5000)
    assert str(VsockAddress(CID_ANY, 5000)) == "vsock://any:5000"


def test_unix_round_trip() -> None:
    """A path survives its text."""
    assert parse_address("unix:///run/x.sock") == UnixAddress("/run/x.sock")
    assert str(UnixAddress("/run/x.sock")) == "unix:///run/x.sock"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp://127.0.0.1:1",
        "vsock://3",
        "vsock://3:",
        "vsock://:5000",
        "vsock://-1:5000",
        "vsock://3:0",
        "vsock://3:4294967295",
        "vsock://4294967296:5000",
        "vsock://3:5000/",
        "vsock://3:5000\n",
        "vsock://٣:5000",
        "unix://relative",
        "unix://",
        "unix:///folder/",
        "unix:///nul\0",
        "unix:///" + "a" * 107,
    ],
)
def test_refused(text: str) -> None:
    """What is not an address is an AddressError that shows the text."""
    with pytest.raises(AddressError):
        parse_address(text)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=130))
def test_only_the_declared_error_comes_out(text: str) -> None:
    """Any text is an address that can be written again, or an AddressError."""
    for candidate in (text, f"vsock://{text}", f"unix://{text}"):
        try:
            address = parse_address(candidate)
        except AddressError:
            continue
        assert parse_address(str(address)) == address


def test_siblings() -> None:
    """Server process `i` has an address of its own, and process 0 the base."""
    assert VsockAddress(16, 5000).sibling(3) == VsockAddress(16, 5003)
    assert UnixAddress("/x").sibling(0) == UnixAddress("/x")
    assert UnixAddress("/x").sibling(2) == UnixAddress("/x.2")
