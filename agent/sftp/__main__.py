"""The SFTP server on standard input and output: what `sftp -D` and sshd's Subsystem start."""

import sys

from agent.sftp import serve

sys.exit(serve(0, 1))
