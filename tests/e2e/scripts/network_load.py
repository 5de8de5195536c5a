"""Asks a resolver and keeps connections busy until stdin ends; says when all are up, and in the end what failed.

usage: network_load.py NAME ADDRESS ECHO_HOST:PORT...
"""

import socket
import struct
import sys
import threading
import time

name, address, *echoes = sys.argv[1:]
stop = threading.Event()
STREAMS = 50
working = threading.Barrier(STREAMS + 1)
asked = failed = echoed = broken = 0


def question(number):
    labels = b"".join(bytes([len(part)]) + part for part in name.encode().split(b".")) + b"\0"
    return struct.pack(">HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">HH", 1, 1)


def ask():
    global asked, failed
    wanted = socket.inet_aton(address)
    begun = time.monotonic()
    while not stop.is_set():
        asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asker.settimeout(10)
        asked += 1
        try:
            asker.sendto(question(asked), ("127.0.0.11", 53))
            reply = asker.recv(512)
            if reply[-4:] != wanted or struct.unpack(">H", reply[:2])[0] != asked & 0xFFFF:
                failed += 1
        except OSError:
            failed += 1
        asker.close()
        # A hundred a second, whatever one takes.
        time.sleep(max(0, begun + asked / 100 - time.monotonic()))


def stream(place):
    global echoed, broken
    host, port = place.rsplit(":", 1)
    try:
        connection = socket.create_connection((host, int(port)), 20)
        connection.settimeout(20)
        count = 0
        while not stop.is_set():
            count += 1
            text = b"%063d\n" % count
            connection.sendall(text)
            heard = b""
            while len(heard) < len(text):
                part = connection.recv(len(text) - len(heard))
                if not part:
                    raise OSError("closed")
                heard += part
            if heard != text:
                raise OSError("another text")
            echoed += 1
            if count == 1:
                working.wait(60)
            time.sleep(0.02)
    except OSError as error:
        broken += 1
        print("a connection to", place, "broke:", error, file=sys.stderr)


threads = [threading.Thread(target=ask)]
threads += [threading.Thread(target=stream, args=(echoes[number % len(echoes)],)) for number in range(STREAMS)]
for thread in threads:
    thread.start()
working.wait(60)
print("ready", flush=True)
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
print(f"asked {asked}, failed {failed}; echoed {echoed}, broken {broken}")
