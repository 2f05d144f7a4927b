"""The tables [[instances]]."""

from __future__ import annotations

from gateway.config.policy import pairs
from gateway.model import ID, Address, CidAddress, Instance, MuxerAddress, UnixAddress
from gateway.table import Table


def read_instances(top: Table) -> tuple[Instance, ...]:
    """Every instance the file lists; what is wrong with one is its table's problem."""
    instances: list[Instance] = []
    taken: set[str] = set()
    for table in top.tables("instances"):
        instance = Instance(
            id=table.text("id"),
            name=table.text("name", ""),
            address=_address(table),
            state=table.text("state", "Running"),
            image=table.text("image", ""),
            created_at=table.text("created_at", ""),
            labels=pairs(labels) if (labels := table.table("labels")) is not None else {},
        )
        table.done()
        for key, word in {"id": instance.id, "name": instance.name}.items():
            if word and not ID.fullmatch(word):
                table.problem(key, f"{word!r} may hold letters, digits, dot, dash and underscore only")
        for word in {instance.id, instance.name} - {""}:
            if word in taken:
                table.problem("id" if word == instance.id else "name", f"{word!r} is the name of another instance too")
            taken.add(word)
        instances.append(instance)
    return tuple(instances)


def _address(table: Table) -> Address:
    """Exactly one of three keys says how the guest is reached."""
    muxer, unix = table.maybe_path("vsock_socket"), table.maybe_path("agent_socket")
    cid = table.whole("vsock_cid", 0, 3, 2**32 - 2) if "vsock_cid" in table.data else None
    given = [a for a in (muxer, unix, cid) if a is not None]
    if len(given) != 1:
        table.problem("", "give exactly one of vsock_socket, vsock_cid and agent_socket")
    if cid is not None:
        return CidAddress(cid)
    if unix is not None:
        return UnixAddress(str(unix))
    return MuxerAddress(str(muxer))
