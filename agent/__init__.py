"""vmgate's agent: what runs in the guest and starts processes, terminals and copies for the host.

Two processes. The *agent* speaks gRPC (`server`, `execution`, `copying`, `forward`, `call`) and moves
bytes (`process`, `terminal`, `descriptor`, `intake`, `endpoint`, `files`, `tree`). The *launcher*,
forked before gRPC is imported, is the parent of every session's process (`launcher`, `child`,
`census`, `sftp`). They talk in `order`s over a socket; `line` is the agent's end of it. `vsock` is the
way in. Nothing here knows of Twisted or of the gateway.
"""

VERSION = "0.1.0"
