"""Asks 127.0.0.11 for every name of a file at once, and for the name of every address; prints what is wrong, and how much is right.

usage: resolve_all.py FILE      lines of the file: NAME ADDRESS
"""

import socket
import struct
import sys
import time

ADDRESS, POINTER = 1, 12


def question(number, name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", number, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)


def skip_name(message, at):
    while (length := message[at]) and length < 0xC0:
        at += 1 + length
    return at + (2 if length else 1)


def read_name(message, at):
    labels = []
    while length := message[at]:
        if length >= 0xC0:
            at = (length & 0x3F) << 8 | message[at + 1]
            continue
        labels.append(message[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels)


def answer(message):
    """The number and the first answer of a reply, as text."""
    number, _, _, count, _, _ = struct.unpack_from(">6H", message)
    if count == 0:
        return number, None
    at = skip_name(message, skip_name(message, 12) + 4)
    kind, _, _, _ = struct.unpack_from(">2HIH", message, at)
    at += 10
    return number, read_name(message, at) if kind == POINTER else socket.inet_ntoa(message[at : at + 4])


hosts = [line.split() for line in open(sys.argv[1])]
wanted = {}
for name, address in hosts:
    wanted[len(wanted)] = (name, ADDRESS, lambda text, address=address: text == address)
    reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    wanted[len(wanted)] = (reverse, POINTER, lambda text, name=name: text and text.split(".")[0] == name)
right = 0
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.5)
deadline = time.monotonic() + 20
while wanted and time.monotonic() < deadline:
    # A few at a time, as the socket's queue is short.
    for number in list(wanted)[:20]:
        sock.sendto(question(number, wanted[number][0], wanted[number][1]), ("127.0.0.11", 53))
    try:
        for _ in range(min(20, len(wanted))):
            number, text = answer(sock.recv(512))
            if number in wanted:
                name, _, is_right = wanted.pop(number)
                if is_right(text):
                    right += 1
                else:
                    print(f"{name}: {text}")
    except TimeoutError:
        pass
print(f"{right} right, {len(wanted)} unanswered")
