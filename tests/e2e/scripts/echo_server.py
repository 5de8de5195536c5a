"""Sends back what comes, on each connection; says when it listens.

usage: echo_server.py PORT
"""

import socket
import sys
import threading


def serve(connection):
    while data := connection.recv(4096):
        connection.sendall(data)
    connection.close()


listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", int(sys.argv[1])))
listener.listen(128)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
