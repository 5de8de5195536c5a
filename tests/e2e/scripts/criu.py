#!/usr/bin/env python3
"""Stands in for `criu swrk FD`: says what CRIU says and saves nothing, so that its caller can be tested anywhere.

The file `mode` beside it decides: `save` answers a dump as one that worked, `refuse` as one that did not, `wait` asks nobody until
there is a file `go` beside it. A restore always fails.
"""

import os
import signal
import socket
import sys
import time

DUMP, RESTORE, NOTIFY, VERSION = 1, 2, 6, 10
HERE = os.path.dirname(os.path.realpath(__file__))


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out + bytes([number]))


def number(field, value):
    return varint(field << 3) + varint(value)


def data(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


def fields(message):
    place = 0

    def read():
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    found = {}
    while place < len(message):
        key = read()
        value = read()
        if key & 7 == 2:
            value, place = message[place : place + value], place + value
        found[key >> 3] = value
    return found


def main():
    link = socket.socket(fileno=int(sys.argv[2]))
    request = fields(link.recv(1 << 16))
    kind = request[1]
    if kind == VERSION:
        link.send(number(1, VERSION) + number(2, 1) + data(10, number(1, 3) + number(2, 17)))
        return
    options = fields(request[2])
    with open(f"{HERE}/mode") as file:
        mode = file.read().strip()
    images = f"/proc/{os.getppid()}/fd/{options[1]}"
    if kind == RESTORE or mode == "refuse":
        link.send(number(1, kind) + number(2, 0) + number(7, 22) + data(9, b"the stand-in refuses"))
        return
    with open(f"{images}/pages-1.img", "w") as file:
        file.write("memory")
    while mode == "wait" and not os.path.exists(f"{HERE}/go"):
        time.sleep(0.02)
    link.send(number(1, NOTIFY) + number(2, 1) + data(5, data(1, b"post-dump") + number(2, options[2])))
    agreed = fields(link.recv(1 << 16)).get(3, 0)
    if agreed and not options.get(3):
        os.kill(options[2], signal.SIGKILL)
    link.send(number(1, DUMP) + number(2, agreed))


main()
