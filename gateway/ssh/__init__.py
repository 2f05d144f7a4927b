"""The SSH front: Conch's only room. Nothing here knows gRPC, HTTP or where instances come from."""

from gateway.ssh.front import SSHFront

__all__ = ["SSHFront"]
