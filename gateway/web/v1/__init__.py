"""The subprotocol vmgate.v1 (docs/protocol.md): its messages, both ways, and the sockets that serve it."""
