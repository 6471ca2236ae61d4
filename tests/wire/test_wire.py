"""Messages: what is said comes back, bound to request and node, and payloads are not copied."""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
import tracemalloc

import msgpack
import pytest
from blake3 import blake3

from photon.container.container import ContainerRef
from photon.errors import PayloadError
from photon.machine import frames
from photon.server.link import Inbox
from photon.wire.buffers import LENGTH, SPAN, Buffers, pack, unpack
from photon.wire.chunks import ChunkWriter, read_chunk
from photon.wire.messages import (
    Done,
    Get,
    Piece,
    Put,
    Trained,
    pack_reply,
    pack_request,
    unpack_reply,
    unpack_request,
)

KEY = b"key of node a"


def sign(text: bytes) -> bytes:
    return hmac.digest(KEY, text, "sha256")


def verify(name: str, text: bytes, signature: bytes) -> bool:
    return name == "a" and hmac.compare_digest(sign(text), signature)


def sent(message: Buffers) -> Buffers:
    """As it arrives elsewhere."""
    return Buffers(memoryview(bytearray(b"".join(message.parts))))


def put(data: bytes) -> Put:
    return Put(digest="0" * 64, size=len(data), offset=0, data=Buffers(data))


def test_buffers_come_back_wherever_they_were():
    inner = pack({"x": Buffers(b"ab", b"c"), "n": 1})
    value = unpack(sent(pack({"one": Buffers(b"xyz"), "inner": inner, "list": [Buffers(b"")]})))
    assert bytes(value["one"].view()) == b"xyz"
    assert value["list"][0].size == 0
    nested = unpack(value["inner"])
    assert (bytes(nested["x"].view()), nested["n"]) == (b"abc", 1)


def test_the_digest_is_that_of_all_bytes():
    message = pack({"one": Buffers(b"xyz"), "two": 2})
    assert message.digest == blake3(b"".join(message.parts)).digest()
    assert sent(message).digest == message.digest


@pytest.mark.parametrize("value", [[1], 7, "text"])
def test_only_a_mapping_is_a_message(value):
    head = msgpack.packb(value)
    with pytest.raises(PayloadError, match="not one of ours"):
        unpack(Buffers(LENGTH.pack(len(head)) + head))


def test_what_pack_does_not_make_is_refused():
    def message(code: int, span: bytes, attached: bytes) -> Buffers:
        head = msgpack.packb({"data": msgpack.ExtType(code, span)})
        return Buffers(LENGTH.pack(len(head)) + head + attached)

    whole = msgpack.packb({"x": 1})
    with pytest.raises(PayloadError, match="cut off"):
        unpack(Buffers(LENGTH.pack(len(whole) + 1) + whole))
    assert bytes(unpack(message(1, SPAN.pack(1, 2), b"abc"))["data"].view()) == b"bc"
    for bad in (message(1, SPAN.pack(2, 2), b"abc"), message(1, SPAN.pack(2**64 - 1, 1), b"abc"),
                message(2, SPAN.pack(0, 1), b"abc"), message(1, b"short", b"abc"),
                Buffers(b""), Buffers(b"\0\0"), Buffers(LENGTH.pack(9) + b"short")):  # fmt: skip
        with pytest.raises(PayloadError, match="unreadable"):
            unpack(bad)


@pytest.mark.parametrize("empty", [b"\x80", b"\x90"])
def test_a_message_of_empty_lists_and_maps_takes_no_memory(empty):
    """Each is one byte of a message, and 60 here, which would end a server."""
    count = 300_000
    head = b"\x81\xa1x\xdd" + count.to_bytes(4, "big") + empty * count
    message = Buffers(LENGTH.pack(len(head)) + head)
    tracemalloc.start()
    with pytest.raises(PayloadError, match="more than 65536 lists and maps"):
        unpack(message)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10 << 20
    few = {client: {} for client in range(60_000)}
    assert unpack(sent(pack({"x": few})))["x"] == few


def test_what_does_not_travel_is_not_packed():
    with pytest.raises(TypeError, match="set does not travel"):
        pack({"x": {1, 2}})


def test_a_request_and_its_reply_come_back():
    request = pack_request(put(b"payload"))
    got = unpack_request(sent(request))
    assert isinstance(got, Put)
    assert bytes(got.data.view()) == b"payload"
    reply = Trained(updates={3: {"via": "inline", "data": Buffers(b"update")}}, failed={4: "no"})
    answer = pack_reply(sent(request), "a", reply, sign)
    node, trained = unpack_reply(request, sent(answer), Trained, verify)
    assert (node, trained.failed) == ("a", {4: "no"})
    assert bytes(trained.updates[3]["data"].view()) == b"update"


def test_no_two_requests_are_the_same_bytes():
    assert pack_request(put(b"x")).digest != pack_request(put(b"x")).digest


def test_a_replayed_reply_is_refused():
    first, second = pack_request(put(b"x")), pack_request(put(b"x"))
    answer = sent(pack_reply(first, "a", Done(), sign))
    assert unpack_reply(first, answer, Done, verify) == ("a", Done())
    with pytest.raises(PayloadError, match="answers another request"):
        unpack_reply(second, answer, Done, verify)


def test_a_reply_with_any_byte_changed_is_refused():
    """Those of the payload too: the signature covers what is attached."""
    request = pack_request(Get(digest="0" * 64, offset=0, length=8))
    answer = b"".join(pack_reply(request, "a", Piece(data=Buffers(b"payload!")), sign).parts)
    unpack_reply(request, Buffers(answer), Piece, verify)
    for at in range(len(answer)):
        changed = bytearray(answer)
        changed[at] ^= 1 << secrets.randbelow(8)
        with pytest.raises(PayloadError):
            unpack_reply(request, Buffers(changed), Piece, verify)


def test_another_nodes_key_does_not_sign():
    request = pack_request(put(b"x"))
    with pytest.raises(PayloadError, match="not signed with the key enrolled"):
        unpack_reply(request, sent(pack_reply(request, "b", Done(), sign)), Done, verify)
    with pytest.raises(PayloadError, match="not signed with the key enrolled"):
        unpack_reply(request, sent(pack_reply(request, "a", Done(), None)), Done, verify)


def test_payloads_are_not_copied(tmp_path):
    """Neither where a message is made nor where it is taken apart; mapped files are no memory."""
    count = 16 << 20
    (tmp_path / "payload").write_bytes(bytes(count))
    tracemalloc.start()
    try:
        data = Buffers(read_chunk(tmp_path / "payload", 0, count))
        request = pack_request(Put(digest="0" * 64, size=count, offset=0, data=data))
        assert request.size > count
        assert tracemalloc.get_traced_memory()[1] < count / 8
        arrived = sent(request)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        got = unpack_request(arrived)
        assert isinstance(got, Put)
        ref = ContainerRef("0" * 64, count)
        ChunkWriter(tmp_path / "copy", ref).write(0, got.data.view())
        assert tracemalloc.get_traced_memory()[1] - before < count / 8
    finally:
        tracemalloc.stop()
    assert (tmp_path / "copy.part").stat().st_size == count


def test_one_answer_is_read_at_a_time():
    inbox, read = Inbox(), []

    def receive(name: str) -> None:
        inbox.receive(name, lambda: read.append(name) or memoryview(name.encode()))

    receive("a")
    other = threading.Thread(target=receive, args=("b",))
    other.start()
    answers = inbox.drain(5.0)
    assert next(answers)[0] == "a"
    other.join(0.2)
    assert read == ["a"], "the next one is not read before this one is dealt with"
    inbox.lose("gone")
    assert next(answers) == ("gone", None), "a loss needs no room"
    assert [name for name, _ in inbox.drain(5.0)] == ["b"]
    other.join(5)


def test_a_failed_read_makes_room_again():
    inbox = Inbox()

    def fails() -> memoryview:
        raise OSError("gone")

    inbox.receive("a", fails)
    assert list(inbox.drain(0.1)) == [("a", None)]
    inbox.receive("b", lambda: memoryview(b"x"))
    assert [name for name, _ in inbox.drain(0.1)] == ["b"]


def test_frames_are_sent_in_parts_and_bounded():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames.send_bytes(ours, b"ab", memoryview(b"c"), b"")
        assert frames.receive_bytes(theirs, 3) == b"abc"
        frames.send_bytes(ours, b"four")
        with pytest.raises(ValueError, match="frame of 4 bytes; at most 3"):
            frames.receive_bytes(theirs, 3)
