"""Tells each client its own address by SCTP, or asks for that.

usage: sctp.py PORT            serves; says when it listens
       sctp.py HOST PORT       prints the answer
"""

import socket
import sys

association = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
if len(sys.argv) == 3:
    association.settimeout(20)
    association.connect((sys.argv[1], int(sys.argv[2])))
    print(association.recv(100).decode())
    sys.exit()
association.bind(("0.0.0.0", int(sys.argv[1])))
association.listen(16)
print("ready", flush=True)
while True:
    client, peer = association.accept()
    client.sendall(peer[0].encode())
    client.close()
