"""Tells each client its own address and how many bytes it has sent, by TCP (at the end of the stream) and by UDP; says when it
listens.

usage: peer_server.py PORT [ADDRESS]
"""

import socket
import sys
import threading

port = int(sys.argv[1])
host = sys.argv[2] if len(sys.argv) > 2 else "0.0.0.0"
family = socket.AF_INET6 if ":" in host else socket.AF_INET


def serve(connection, peer):
    count = 0
    while data := connection.recv(65536):
        count += len(data)
    connection.sendall(f"{peer[0]} {count}".encode())
    connection.close()


def answer(datagrams):
    while True:
        data, peer = datagrams.recvfrom(65536)
        datagrams.sendto(f"{peer[0]} {len(data)}".encode(), peer)


datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.bind((host, port))
threading.Thread(target=answer, args=(datagrams,), daemon=True).start()
listener = socket.socket(family, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((host, port))
listener.listen(128)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
