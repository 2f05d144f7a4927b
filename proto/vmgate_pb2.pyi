from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PutKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE: _ClassVar[PutKind]
    DIRECTORY: _ClassVar[PutKind]
    SYMLINK: _ClassVar[PutKind]
    HARD_LINK: _ClassVar[PutKind]
FILE: PutKind
DIRECTORY: PutKind
SYMLINK: PutKind
HARD_LINK: PutKind

class HelloRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("revision", "version", "boot_id", "abilities")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    ABILITIES_FIELD_NUMBER: _ClassVar[int]
    revision: int
    version: str
    boot_id: str
    abilities: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, revision: _Optional[int] = ..., version: _Optional[str] = ..., boot_id: _Optional[str] = ..., abilities: _Optional[_Iterable[str]] = ...) -> None: ...

class Place(_message.Message):
    __slots__ = ("tcp", "path", "private")
    TCP_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_FIELD_NUMBER: _ClassVar[int]
    tcp: TCPPlace
    path: str
    private: PrivatePlace
    def __init__(self, tcp: _Optional[_Union[TCPPlace, _Mapping]] = ..., path: _Optional[str] = ..., private: _Optional[_Union[PrivatePlace, _Mapping]] = ...) -> None: ...

class TCPPlace(_message.Message):
    __slots__ = ("host", "port")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class PrivatePlace(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConnectRequest(_message.Message):
    __slots__ = ("start", "data", "credit", "end", "deaf")
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    DEAF_FIELD_NUMBER: _ClassVar[int]
    start: ConnectStart
    data: bytes
    credit: int
    end: ConnectEnd
    deaf: ConnectDeaf
    def __init__(self, start: _Optional[_Union[ConnectStart, _Mapping]] = ..., data: _Optional[bytes] = ..., credit: _Optional[int] = ..., end: _Optional[_Union[ConnectEnd, _Mapping]] = ..., deaf: _Optional[_Union[ConnectDeaf, _Mapping]] = ...) -> None: ...

class ConnectStart(_message.Message):
    __slots__ = ("place", "arrival", "user", "window", "session_id")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    place: Place
    arrival: int
    user: str
    window: int
    session_id: str
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., arrival: _Optional[int] = ..., user: _Optional[str] = ..., window: _Optional[int] = ..., session_id: _Optional[str] = ...) -> None: ...

class ConnectEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConnectDeaf(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("connected", "refused", "data", "credit", "end")
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    connected: Connected
    refused: Refused
    data: bytes
    credit: int
    end: ConnectEnd
    def __init__(self, connected: _Optional[_Union[Connected, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., data: _Optional[bytes] = ..., credit: _Optional[int] = ..., end: _Optional[_Union[ConnectEnd, _Mapping]] = ...) -> None: ...

class Connected(_message.Message):
    __slots__ = ("window",)
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    window: int
    def __init__(self, window: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ListenRequest(_message.Message):
    __slots__ = ("start", "drop")
    START_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    start: ListenStart
    drop: int
    def __init__(self, start: _Optional[_Union[ListenStart, _Mapping]] = ..., drop: _Optional[int] = ...) -> None: ...

class ListenStart(_message.Message):
    __slots__ = ("place", "user", "session_id")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    place: Place
    user: str
    session_id: str
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., user: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class ListenResponse(_message.Message):
    __slots__ = ("listening", "refused", "arrival")
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_FIELD_NUMBER: _ClassVar[int]
    listening: Listening
    refused: Refused
    arrival: Arrival
    def __init__(self, listening: _Optional[_Union[Listening, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., arrival: _Optional[_Union[Arrival, _Mapping]] = ...) -> None: ...

class Listening(_message.Message):
    __slots__ = ("port", "path")
    PORT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    port: int
    path: str
    def __init__(self, port: _Optional[int] = ..., path: _Optional[str] = ...) -> None: ...

class Arrival(_message.Message):
    __slots__ = ("id", "host", "port")
    ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    id: int
    host: str
    port: int
    def __init__(self, id: _Optional[int] = ..., host: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("start", "entry", "data", "hole", "end", "finish", "batch")
    START_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HOLE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    start: PutStart
    entry: PutEntry
    data: bytes
    hole: int
    end: PutEnd
    finish: PutFinish
    batch: PutBatch
    def __init__(self, start: _Optional[_Union[PutStart, _Mapping]] = ..., entry: _Optional[_Union[PutEntry, _Mapping]] = ..., data: _Optional[bytes] = ..., hole: _Optional[int] = ..., end: _Optional[_Union[PutEnd, _Mapping]] = ..., finish: _Optional[_Union[PutFinish, _Mapping]] = ..., batch: _Optional[_Union[PutBatch, _Mapping]] = ...) -> None: ...

class PutBatch(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[PutRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[PutRequest, _Mapping]]] = ...) -> None: ...

class PutStart(_message.Message):
    __slots__ = ("path", "user", "parents", "sync", "session_id")
    PATH_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    user: str
    parents: bool
    sync: bool
    session_id: str
    def __init__(self, path: _Optional[bytes] = ..., user: _Optional[str] = ..., parents: _Optional[bool] = ..., sync: _Optional[bool] = ..., session_id: _Optional[str] = ...) -> None: ...

class PutEntry(_message.Message):
    __slots__ = ("path", "kind", "target", "mode", "size", "mtime", "owner", "resume")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MTIME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    kind: PutKind
    target: bytes
    mode: int
    size: int
    mtime: PutTime
    owner: PutOwner
    resume: str
    def __init__(self, path: _Optional[bytes] = ..., kind: _Optional[_Union[PutKind, str]] = ..., target: _Optional[bytes] = ..., mode: _Optional[int] = ..., size: _Optional[int] = ..., mtime: _Optional[_Union[PutTime, _Mapping]] = ..., owner: _Optional[_Union[PutOwner, _Mapping]] = ..., resume: _Optional[str] = ...) -> None: ...

class PutTime(_message.Message):
    __slots__ = ("seconds", "nanos")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    NANOS_FIELD_NUMBER: _ClassVar[int]
    seconds: int
    nanos: int
    def __init__(self, seconds: _Optional[int] = ..., nanos: _Optional[int] = ...) -> None: ...

class PutOwner(_message.Message):
    __slots__ = ("uid", "gid")
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    uid: int
    gid: int
    def __init__(self, uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...

class PutEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PutFinish(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PutResponse(_message.Message):
    __slots__ = ("ready", "refused", "held", "problem", "placed", "done")
    READY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    PLACED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    ready: PutReady
    refused: Refused
    held: PutHeld
    problem: PutProblem
    placed: PutPlaced
    done: PutDone
    def __init__(self, ready: _Optional[_Union[PutReady, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., held: _Optional[_Union[PutHeld, _Mapping]] = ..., problem: _Optional[_Union[PutProblem, _Mapping]] = ..., placed: _Optional[_Union[PutPlaced, _Mapping]] = ..., done: _Optional[_Union[PutDone, _Mapping]] = ...) -> None: ...

class PutReady(_message.Message):
    __slots__ = ("exists", "is_dir")
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    IS_DIR_FIELD_NUMBER: _ClassVar[int]
    exists: bool
    is_dir: bool
    def __init__(self, exists: _Optional[bool] = ..., is_dir: _Optional[bool] = ...) -> None: ...

class PutHeld(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class PutProblem(_message.Message):
    __slots__ = ("path", "message")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    message: str
    def __init__(self, path: _Optional[bytes] = ..., message: _Optional[str] = ...) -> None: ...

class PutPlaced(_message.Message):
    __slots__ = ("entries", "bytes")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    entries: int
    bytes: int
    def __init__(self, entries: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class PutDone(_message.Message):
    __slots__ = ("entries", "bytes", "problems")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    entries: int
    bytes: int
    problems: int
    def __init__(self, entries: _Optional[int] = ..., bytes: _Optional[int] = ..., problems: _Optional[int] = ...) -> None: ...
