"""Ray starts this program instead of Python: it asks the fork server for a worker and waits until the worker ends.

It is run by its path with -I -S, and imports the standard library only. Usage: forkclient.py SOCKET [-u] SCRIPT
ARGUMENTS…
"""

import array
import json
import os
import socket
import sys


def main() -> None:
    path, *argv = sys.argv[1:]
    if argv[0] == "-u":
        del argv[0]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    request = json.dumps({"argv": argv, "env": dict(os.environ), "cwd": os.getcwd()}).encode() + b"\n"
    stdio = array.array("i", [0, 1, 2])
    sent = connection.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, stdio)])
    connection.sendall(request[sent:])
    # The worker holds the other end: end of file means that it has ended.
    while connection.recv(1):
        pass


if __name__ == "__main__":
    main()
