"""What is made of a node's answers to CLUSTER SLOTS and CLUSTER NODES."""

from __future__ import annotations

from typing import Any

import pytest

from mpx_channels.multiplexer import CommandRefused, NotConnected
from mpx_channels.multiplexer.cluster.view import Remap, Share, View, view_of

ONE, OTHER = b"1" * 40, b"2" * 40
SLOTS = [
    [8192, 16383, [b"10.0.0.2", 7001, OTHER, []], [b"10.0.0.3", 7002, b"3" * 40, []]],
    [0, 8191, [b"10.0.0.1", 7000, ONE, []]],
]
NODES = b"".join(
    [
        ONE + b" 10.0.0.1:7000@17000,host myself,master - 0 0 5 connected 0-8191 [7-<-222]\n",
        OTHER + b" 10.0.0.2:7001@17001 master - 0 17 12 connected 8192-16383\n",
        b"3" * 40 + b" 10.0.0.3:7002@17002 slave " + OTHER + b" 0 17 12 connected\n",
        b"\n",
    ]
)


def view(slots: Any, nodes: Any = NODES, remap: Remap | None = None) -> View:
    """Of a node that says this."""
    return view_of([slots, nodes], ("asked", 7000), "redis://asked:7000", remap)


def test_masters_and_their_epochs_in_the_order_of_slots() -> None:
    seen = view(SLOTS)
    assert seen == View(
        "redis://asked:7000",
        (
            Share(0, 8191, ("10.0.0.1", 7000), 5),
            Share(8192, 16383, ("10.0.0.2", 7001), 12),
        ),
    )


@pytest.mark.parametrize("host", [b"", None, b"?"])
def test_without_a_host_it_is_the_one_that_was_asked(host: bytes | None) -> None:
    seen = view([[0, 16383, [host, 7005, ONE]]])
    assert [share.address for share in seen.shares] == [("asked", 7005)]


def test_addresses_are_remapped_also_those_that_the_node_did_not_know() -> None:
    asked = []

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        asked.append(address)
        return "outside", address[1] + 1000

    slots = [[0, 1, [b"10.0.0.1", 7000, ONE]], [2, 16383, [b"", 7001, OTHER]]]
    seen = view(slots, remap=remap)
    assert asked == [("10.0.0.1", 7000), ("asked", 7001)]
    assert [share.address for share in seen.shares] == [("outside", 8000), ("outside", 8001)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "None"),
        ("outside", "'outside'"),
        (("outside",), r"\('outside',\)"),
        (("outside", "port"), r"\('outside', 'port'\)"),
        (("outside", 0), r"\('outside', 0\)"),
        (("", 7000), r"\('', 7000\)"),
        ((None, 7000), r"\(None, 7000\)"),
    ],
)
def test_what_is_no_address_is_said(given: Any, said: str) -> None:
    why = rf"address_remap returned {said} for \('10\.0\.0\.1', 7000\), and not \(host, port\)"
    with pytest.raises(NotConnected, match=why):
        view(SLOTS[1:], remap=lambda address: given)


def test_two_nodes_cannot_be_at_one_address() -> None:
    both = r"for both \('10\.0\.0\.2', 7001\) and \('10\.0\.0\.1', 7000\)"
    with pytest.raises(NotConnected, match=rf"returned \('outside', 8000\) {both}"):
        view(SLOTS, remap=lambda address: ("outside", 8000))


def test_where_nodes_may_not_be_asked_for_all_are_of_the_same_age() -> None:
    seen = view(SLOTS, CommandRefused("NOPERM"))
    assert {share.epoch for share in seen.shares} == {0}


def test_a_node_that_is_not_in_the_table_has_no_epoch() -> None:
    seen = view([[0, 16383, [b"h", 1, b"9" * 40]], [5, 5, [b"h", 1]]])
    assert {share.epoch for share in seen.shares} == {0}


def test_no_cluster() -> None:
    refusal = CommandRefused("ERR This instance has cluster support disabled")
    with pytest.raises(NotConnected, match=r"asked:7000 is no node of a cluster.*disabled"):
        view(refusal, refusal)


def test_a_node_without_a_cluster_knows_nothing() -> None:
    with pytest.raises(NotConnected, match=r"asked:7000 knows of no node that has slots"):
        view([])


def test_a_broken_connection_is_said_as_it_is() -> None:
    with pytest.raises(OSError, match="broken"):
        view(OSError("broken"), OSError("broken"))
