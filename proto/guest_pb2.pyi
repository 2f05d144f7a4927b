from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExecRequest(_message.Message):
    __slots__ = ("start", "stdin", "resize", "signal", "end", "deaf")
    START_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    DEAF_FIELD_NUMBER: _ClassVar[int]
    start: ExecStart
    stdin: bytes
    resize: WindowSize
    signal: ExecSignal
    end: ExecEnd
    deaf: ExecDeaf
    def __init__(self, start: _Optional[_Union[ExecStart, _Mapping]] = ..., stdin: _Optional[bytes] = ..., resize: _Optional[_Union[WindowSize, _Mapping]] = ..., signal: _Optional[_Union[ExecSignal, _Mapping]] = ..., end: _Optional[_Union[ExecEnd, _Mapping]] = ..., deaf: _Optional[_Union[ExecDeaf, _Mapping]] = ...) -> None: ...

class ExecStart(_message.Message):
    __slots__ = ("command", "tty", "env", "cwd", "timeout_seconds", "rows", "cols", "revision", "user", "shell", "subsystem", "modes", "width_pixels", "height_pixels", "session_id")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    SHELL_FIELD_NUMBER: _ClassVar[int]
    SUBSYSTEM_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PIXELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PIXELS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    command: _containers.RepeatedScalarFieldContainer[str]
    tty: bool
    env: _containers.ScalarMap[str, str]
    cwd: str
    timeout_seconds: int
    rows: int
    cols: int
    revision: int
    user: str
    shell: LoginShell
    subsystem: str
    modes: _containers.RepeatedCompositeFieldContainer[TerminalMode]
    width_pixels: int
    height_pixels: int
    session_id: str
    def __init__(self, command: _Optional[_Iterable[str]] = ..., tty: _Optional[bool] = ..., env: _Optional[_Mapping[str, str]] = ..., cwd: _Optional[str] = ..., timeout_seconds: _Optional[int] = ..., rows: _Optional[int] = ..., cols: _Optional[int] = ..., revision: _Optional[int] = ..., user: _Optional[str] = ..., shell: _Optional[_Union[LoginShell, _Mapping]] = ..., subsystem: _Optional[str] = ..., modes: _Optional[_Iterable[_Union[TerminalMode, _Mapping]]] = ..., width_pixels: _Optional[int] = ..., height_pixels: _Optional[int] = ..., session_id: _Optional[str] = ...) -> None: ...

class LoginShell(_message.Message):
    __slots__ = ("line",)
    LINE_FIELD_NUMBER: _ClassVar[int]
    line: bytes
    def __init__(self, line: _Optional[bytes] = ...) -> None: ...

class TerminalMode(_message.Message):
    __slots__ = ("opcode", "value")
    OPCODE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    opcode: int
    value: int
    def __init__(self, opcode: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...

class ExecSignal(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ExecEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExecDeaf(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WindowSize(_message.Message):
    __slots__ = ("rows", "cols", "width_pixels", "height_pixels")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PIXELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_PIXELS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    cols: int
    width_pixels: int
    height_pixels: int
    def __init__(self, rows: _Optional[int] = ..., cols: _Optional[int] = ..., width_pixels: _Optional[int] = ..., height_pixels: _Optional[int] = ...) -> None: ...

class ExecResponse(_message.Message):
    __slots__ = ("stdout", "stderr", "exit_code", "started", "stdin_credit", "ending")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STDIN_CREDIT_FIELD_NUMBER: _ClassVar[int]
    ENDING_FIELD_NUMBER: _ClassVar[int]
    stdout: bytes
    stderr: bytes
    exit_code: int
    started: ExecStarted
    stdin_credit: int
    ending: ExecEnding
    def __init__(self, stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., exit_code: _Optional[int] = ..., started: _Optional[_Union[ExecStarted, _Mapping]] = ..., stdin_credit: _Optional[int] = ..., ending: _Optional[_Union[ExecEnding, _Mapping]] = ...) -> None: ...

class ExecStarted(_message.Message):
    __slots__ = ("pid", "tty", "stdin_window")
    PID_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    STDIN_WINDOW_FIELD_NUMBER: _ClassVar[int]
    pid: int
    tty: str
    stdin_window: int
    def __init__(self, pid: _Optional[int] = ..., tty: _Optional[str] = ..., stdin_window: _Optional[int] = ...) -> None: ...

class ExecEnding(_message.Message):
    __slots__ = ("signal", "core_dumped", "timed_out")
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    CORE_DUMPED_FIELD_NUMBER: _ClassVar[int]
    TIMED_OUT_FIELD_NUMBER: _ClassVar[int]
    signal: str
    core_dumped: bool
    timed_out: bool
    def __init__(self, signal: _Optional[str] = ..., core_dumped: _Optional[bool] = ..., timed_out: _Optional[bool] = ...) -> None: ...

class CopyToGuestRequest(_message.Message):
    __slots__ = ("start", "data", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: CopyToGuestStart
    data: bytes
    end: CopyToGuestEnd
    def __init__(self, start: _Optional[_Union[CopyToGuestStart, _Mapping]] = ..., data: _Optional[bytes] = ..., end: _Optional[_Union[CopyToGuestEnd, _Mapping]] = ...) -> None: ...

class CopyToGuestStart(_message.Message):
    __slots__ = ("path", "mode", "is_dir", "size", "mtime", "uid", "gid", "set_owner")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    IS_DIR_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MTIME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    SET_OWNER_FIELD_NUMBER: _ClassVar[int]
    path: str
    mode: int
    is_dir: bool
    size: int
    mtime: int
    uid: int
    gid: int
    set_owner: bool
    def __init__(self, path: _Optional[str] = ..., mode: _Optional[int] = ..., is_dir: _Optional[bool] = ..., size: _Optional[int] = ..., mtime: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., set_owner: _Optional[bool] = ...) -> None: ...

class CopyToGuestEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CopyToGuestResponse(_message.Message):
    __slots__ = ("success", "error", "bytes_written")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    success: bool
    error: str
    bytes_written: int
    def __init__(self, success: _Optional[bool] = ..., error: _Optional[str] = ..., bytes_written: _Optional[int] = ...) -> None: ...

class CopyFromGuestRequest(_message.Message):
    __slots__ = ("path", "follow_links", "revision", "user", "raw_path", "offset", "session_id", "plain")
    PATH_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_LINKS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    RAW_PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    path: str
    follow_links: bool
    revision: int
    user: str
    raw_path: bytes
    offset: int
    session_id: str
    plain: bool
    def __init__(self, path: _Optional[str] = ..., follow_links: _Optional[bool] = ..., revision: _Optional[int] = ..., user: _Optional[str] = ..., raw_path: _Optional[bytes] = ..., offset: _Optional[int] = ..., session_id: _Optional[str] = ..., plain: _Optional[bool] = ...) -> None: ...

class CopyFromGuestResponse(_message.Message):
    __slots__ = ("header", "data", "end", "error", "hole", "batch")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    HOLE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    header: CopyFromGuestHeader
    data: bytes
    end: CopyFromGuestEnd
    error: CopyFromGuestError
    hole: int
    batch: CopyFromGuestBatch
    def __init__(self, header: _Optional[_Union[CopyFromGuestHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., end: _Optional[_Union[CopyFromGuestEnd, _Mapping]] = ..., error: _Optional[_Union[CopyFromGuestError, _Mapping]] = ..., hole: _Optional[int] = ..., batch: _Optional[_Union[CopyFromGuestBatch, _Mapping]] = ...) -> None: ...

class CopyFromGuestBatch(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[CopyFromGuestResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[CopyFromGuestResponse, _Mapping]]] = ...) -> None: ...

class CopyFromGuestHeader(_message.Message):
    __slots__ = ("path", "mode", "is_dir", "is_symlink", "link_target", "size", "mtime", "uid", "gid", "mtime_nanos", "hard_link", "raw_path", "raw_link_target", "raw_hard_link")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    IS_DIR_FIELD_NUMBER: _ClassVar[int]
    IS_SYMLINK_FIELD_NUMBER: _ClassVar[int]
    LINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MTIME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    MTIME_NANOS_FIELD_NUMBER: _ClassVar[int]
    HARD_LINK_FIELD_NUMBER: _ClassVar[int]
    RAW_PATH_FIELD_NUMBER: _ClassVar[int]
    RAW_LINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    RAW_HARD_LINK_FIELD_NUMBER: _ClassVar[int]
    path: str
    mode: int
    is_dir: bool
    is_symlink: bool
    link_target: str
    size: int
    mtime: int
    uid: int
    gid: int
    mtime_nanos: int
    hard_link: str
    raw_path: bytes
    raw_link_target: bytes
    raw_hard_link: bytes
    def __init__(self, path: _Optional[str] = ..., mode: _Optional[int] = ..., is_dir: _Optional[bool] = ..., is_symlink: _Optional[bool] = ..., link_target: _Optional[str] = ..., size: _Optional[int] = ..., mtime: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., mtime_nanos: _Optional[int] = ..., hard_link: _Optional[str] = ..., raw_path: _Optional[bytes] = ..., raw_link_target: _Optional[bytes] = ..., raw_hard_link: _Optional[bytes] = ...) -> None: ...

class CopyFromGuestEnd(_message.Message):
    __slots__ = ("final",)
    FINAL_FIELD_NUMBER: _ClassVar[int]
    final: bool
    def __init__(self, final: _Optional[bool] = ...) -> None: ...

class CopyFromGuestError(_message.Message):
    __slots__ = ("message", "path", "raw_path")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    RAW_PATH_FIELD_NUMBER: _ClassVar[int]
    message: str
    path: str
    raw_path: bytes
    def __init__(self, message: _Optional[str] = ..., path: _Optional[str] = ..., raw_path: _Optional[bytes] = ...) -> None: ...

class StatPathRequest(_message.Message):
    __slots__ = ("path", "follow_links", "user")
    PATH_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_LINKS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    path: str
    follow_links: bool
    user: str
    def __init__(self, path: _Optional[str] = ..., follow_links: _Optional[bool] = ..., user: _Optional[str] = ...) -> None: ...

class StatPathResponse(_message.Message):
    __slots__ = ("exists", "is_dir", "is_file", "is_symlink", "link_target", "mode", "size", "error", "mtime", "mtime_nanos", "uid", "gid")
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    IS_DIR_FIELD_NUMBER: _ClassVar[int]
    IS_FILE_FIELD_NUMBER: _ClassVar[int]
    IS_SYMLINK_FIELD_NUMBER: _ClassVar[int]
    LINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MTIME_FIELD_NUMBER: _ClassVar[int]
    MTIME_NANOS_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    exists: bool
    is_dir: bool
    is_file: bool
    is_symlink: bool
    link_target: str
    mode: int
    size: int
    error: str
    mtime: int
    mtime_nanos: int
    uid: int
    gid: int
    def __init__(self, exists: _Optional[bool] = ..., is_dir: _Optional[bool] = ..., is_file: _Optional[bool] = ..., is_symlink: _Optional[bool] = ..., link_target: _Optional[str] = ..., mode: _Optional[int] = ..., size: _Optional[int] = ..., error: _Optional[str] = ..., mtime: _Optional[int] = ..., mtime_nanos: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...
