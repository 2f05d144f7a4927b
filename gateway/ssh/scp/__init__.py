"""scp's old protocol (`scp -O`), served here over the copy doors: no scp is needed in a guest. Who may
do it and what it is called in the audit, the gate says, as for every copy."""

from gateway.ssh.scp.command import Command, read_command
from gateway.ssh.scp.conversation import Conversation
from gateway.ssh.scp.words import Needs, read_words

__all__ = ["Command", "Conversation", "Needs", "read_command", "read_words"]
