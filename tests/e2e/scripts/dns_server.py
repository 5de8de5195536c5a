"""A DNS server for tests: answers every question for an address, by UDP and TCP, or refuses to.

usage: dns_server.py LISTEN ANSWER|servfail LOG
"""

import socket
import struct
import sys
import threading

listen, answer, log = sys.argv[1:]


def reply(query):
    end = 12
    labels = []
    while query[end]:
        labels.append(query[end + 1 : end + 1 + query[end]].decode())
        end += 1 + query[end]
    end += 5
    with open(log, "a") as notes:
        notes.write(".".join(labels) + "\n")
    head = query[:2]
    question = query[12:end]
    kind = struct.unpack(">H", query[end - 4 : end - 2])[0]
    if answer == "servfail":
        return head + struct.pack(">HHHHH", 0x8182, 1, 0, 0, 0) + question
    if kind != 1:
        return head + struct.pack(">HHHHH", 0x8180, 1, 0, 0, 0) + question
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 30, 4) + socket.inet_aton(answer)
    return head + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0) + question + record


def tcp(listener):
    while True:
        connection, _ = listener.accept()
        length = struct.unpack(">H", connection.recv(2, socket.MSG_WAITALL))[0]
        said = reply(connection.recv(length, socket.MSG_WAITALL))
        connection.sendall(struct.pack(">H", len(said)) + said)
        connection.close()


stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
stream.bind((listen, 53))
stream.listen()
threading.Thread(target=tcp, args=(stream,), daemon=True).start()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((listen, 53))
print("ready", flush=True)
while True:
    query, peer = datagrams.recvfrom(4096)
    datagrams.sendto(reply(query), peer)
