"""What the suite starts in place of `ssh-keygen -Qf LIST KEY`: asks `revoked`. Imports little, for it is started often.

python -I -S ask.py SOCKET LIST KEY
"""

import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as line:
    line.connect(sys.argv[1])
    line.sendall(b"\0".join(os.fsencode(os.path.abspath(path)) for path in sys.argv[2:4]))
    line.shutdown(socket.SHUT_WR)
    code, *said = b"".join(iter(lambda: line.recv(65536), b""))
sys.stdout.buffer.write(bytes(said) + b"\n")
sys.stdout.flush()
sys.exit(code)
