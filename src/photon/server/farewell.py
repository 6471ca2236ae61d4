"""The last word to the nodes of a run: the receipts of links that no instruction follows."""

from __future__ import annotations

import time
from collections.abc import Collection

from photon.chain.receipts import Outbox
from photon.server.link import Link
from photon.server.roster import Roster
from photon.wire.messages import pack_request

SECONDS = 10.0
"""Nobody waits longer for answers; who misses it is told when the run goes on."""


def tell_last(outbox: Outbox, run: str, roster: Roster, link: Link, busy: Collection[str]) -> None:
    """Tell nodes what they have not been told.

    Args:
        busy: addresses of those that still train: they would not hear of it in time.
    """
    waiting, deadline = {}, time.monotonic() + SECONDS
    for member in roster.members.values():
        notice = outbox.notice(run, member.name)
        if notice is not None and member.address not in busy:
            waiting[link.send(member.address, pack_request(notice))] = member, notice
    while waiting and (left := deadline - time.monotonic()) > 0:
        for name, answer in link.answers(min(left, 1.0)):
            member, notice = waiting.pop(name, (None, None))
            if member is not None and answer is not None:
                outbox.was_told(member.name, notice)
