"""Asks the container's resolver by TCP, two questions on one connection, and prints the addresses.

usage: dns_by_tcp.py NAME NAME
"""

import socket
import struct
import sys

connection = socket.create_connection(("127.0.0.11", 53), 5)
connection.settimeout(5)
for number, name in enumerate(sys.argv[1:]):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    query = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">HH", 1, 1)
    connection.sendall(struct.pack(">H", len(query)) + query)
    length = struct.unpack(">H", connection.recv(2, socket.MSG_WAITALL))[0]
    reply = connection.recv(length, socket.MSG_WAITALL)
    assert struct.unpack(">H", reply[:2])[0] == number, reply
    print(socket.inet_ntoa(reply[-4:]))
