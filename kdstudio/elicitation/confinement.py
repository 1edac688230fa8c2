"""What a child process gives up before it runs a stranger's Python: rights that it cannot take back.

Linux keeps four locks here, each tried by itself, so that one that a system does not offer leaves the others: resource
limits; namespaces of its own (no network, a small disk in memory for its folder); Landlock for files; and a seccomp
filter for system calls. Elsewhere the resource limits and Python's audit hooks remain, which a determined program gets
round. Imported in a child that has nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
import sys
from collections.abc import Callable, Iterable, Mapping

LIMITS = "limits"
NAMESPACES = "namespaces"
FOLDER_DISK = "folder disk"
FILES = "files"
CALLS = "calls"

_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_NETWORK = 0x20000, 0x8000000, 0x10000000, 0x40000000
_PR_DEATH_SIGNAL, _PR_DUMPABLE, _PR_SECCOMP, _PR_NO_NEW_PRIVILEGES = 1, 4, 22, 38
_MS_PRIVATE_ALL, _MS_PLAIN = 0x40000 | 0x4000, 0x2 | 0x4  # private and recursive; no set-user-id, no devices
_ENTRIES = 1024
"""Files and folders that the disk in memory can hold."""


def confine(folder: str, limits: Mapping[str, float], parent: int) -> set[str]:
    """Lock this process into `folder`, by whatever the system has; returns the locks that hold.

    `limits`: memory_bytes, processor_seconds, file_bytes, folder_bytes, open_files. The process ends with `parent`.
    """
    held = set[str]()
    if sys.platform == "linux":
        c = ctypes.CDLL(None, use_errno=True)
        c.prctl(_PR_DEATH_SIGNAL, 9, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it went before the line above
        held |= _own_namespaces(c, folder, int(limits["folder_bytes"]))
    os.chdir(folder)
    held |= _limit_resources(limits)
    if sys.platform == "linux":
        _drop_capabilities(c)
        c.prctl(_PR_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        c.prctl(_PR_DUMPABLE, 0, 0, 0, 0)
        held |= {FILES} if _lock_files(c, folder) else set()
        held |= {CALLS} if _filter_calls(c) else set()
    if CALLS not in held:
        _forbid_processes()
    return held


def _limit_resources(limits: Mapping[str, float]) -> set[str]:
    try:
        import resource
    except ImportError:  # Windows
        return set()
    seconds, memory = max(1, math.ceil(limits["processor_seconds"])), _own_bytes() + int(limits["memory_bytes"])
    wanted = [
        (resource.RLIMIT_CPU, seconds, seconds + 1),  # a warning first, which tells it from other ends
        (resource.RLIMIT_FSIZE, int(limits["file_bytes"]), int(limits["file_bytes"])),
        (resource.RLIMIT_NOFILE, int(limits["open_files"]), int(limits["open_files"])),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_AS, memory, memory),
    ]
    for which, soft, hard in wanted:
        try:
            resource.setrlimit(which, (soft, hard))
        except (OSError, ValueError):  # a lower limit was there before; macOS knows no limit of addresses
            continue
    return {LIMITS}


def _own_bytes() -> int:
    """Bytes of addresses that Python itself has taken by now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123 - pathlib is slow to import
            return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _forbid_processes() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    except (ImportError, OSError, ValueError):
        return  # the audit hooks remain


def _own_namespaces(c: ctypes.CDLL, folder: str, folder_bytes: int) -> set[str]:
    """No network and no other program's shared memory; the folder becomes a disk in memory that holds so much."""
    user, group = os.getuid(), os.getgid()
    if c.unshare(_NEW_USER | _NEW_MOUNTS | _NEW_NETWORK | _NEW_IPC):
        return set()
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:  # noqa: PTH123 - pathlib is slow to import
                stream.write(text)
    except OSError:
        return {NAMESPACES}  # of its own, but without the right to mount
    options = f"size={folder_bytes},nr_inodes={_ENTRIES},mode=700".encode()
    if c.mount(None, b"/", None, _MS_PRIVATE_ALL, None):
        return {NAMESPACES}
    if c.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _MS_PLAIN, options):
        return {NAMESPACES}
    return {NAMESPACES, FOLDER_DISK}


def _drop_capabilities(c: ctypes.CDLL) -> None:
    header = struct.pack("<Ii", 0x20080522, 0)
    c.capset(header, struct.pack("<6I", 0, 0, 0, 0, 0, 0))


# ------------------------------------------------------------------------------------------------- files: Landlock
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_OF_FOLDERS = 0x10 | 0x20 | 0x80 | 0x100 | 0x1000  # remove folder, remove file, make folder, make file, make link
_BY_VERSION = ((1, 0x1FFF), (2, 0x2000), (3, 0x4000), (5, 0x8000))  # rename across, truncate, device control
_NET_TCP, _SCOPES = 0x3, 0x3  # bind and connect; abstract sockets and signals to others


def _lock_files(c: ctypes.CDLL, folder: str) -> bool:
    """Landlock (https://docs.kernel.org/userspace-api/landlock.html): write in the folder, read Python, no more."""
    version = c.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = sum(rights for since, rights in _BY_VERSION if version >= since)
    attribute = struct.pack("<3Q", handled, _NET_TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    ruleset = c.syscall(_CREATE_RULESET, attribute, len(attribute), 0)
    if ruleset < 0:
        return False
    for path, rights in _readable(folder):
        _allow(c, ruleset, path, rights & handled)
    done = c.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return bool(done)


def _readable(folder: str) -> Iterable[tuple[str, int]]:
    yield folder, _WRITE | _READ | _LIST | _OF_FOLDERS | 0x2000 | 0x4000
    for path in (f"{sys.base_prefix}/lib" if sys.base_prefix != "/usr" else "/usr/lib", "/usr/share/zoneinfo"):
        yield path, _READ | _LIST
    for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"):
        yield path, _READ | _LIST
    yield "/etc/ld.so.cache", _READ
    yield "/dev/null", _READ | _WRITE
    yield "/dev/urandom", _READ


def _allow(c: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    c.syscall(_ADD_RULE, ruleset, 1, struct.pack("<Qi", rights, descriptor), 0)
    os.close(descriptor)


# ------------------------------------------------------------------------------------------ system calls: seccomp
_ALLOW, _REFUSE, _PRETEND, _ABSENT = 0x7FFF0000, 0x50000 | 1, 0x50000, 0x50000 | 38
_CLONE_THREAD, _STREAM = 0x10000, 1
_X32 = 0x40000000

_SAME_EVERYWHERE = {
    "io_uring_setup", "open_tree", "move_mount", "fsopen", "pidfd_send_signal", "pidfd_open", "pidfd_getfd",
    "mount_setattr", "setxattrat", "removexattrat", "fchmodat2",
}  # fmt: skip
_PRETENDED = {
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime", "utimes",
    "utimensat", "futimesat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    "setxattrat", "removexattrat",
}  # fmt: skip
"""Rights and times of files, which Landlock does not guard: done in appearance only, so that copying a file works."""
_NEW_CALLS = {
    "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "pidfd_send_signal": 424,
    "pidfd_open": 434, "pidfd_getfd": 438, "mount_setattr": 442, "fchmodat2": 452, "setxattrat": 463,
    "removexattrat": 466, "clone3": 435,
}  # fmt: skip
_ARCHITECTURES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {
        "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "socket": 41, "ptrace": 101, "tkill": 200,
        "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "process_vm_readv": 310, "process_vm_writev": 311,
        "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250,
        "memfd_create": 319, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240,
        "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "fchmodat": 268,
        "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280, "setxattr": 188, "lsetxattr": 189,
        "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199,
        "clone": 56, "kill": 62, "tgkill": 234, "prlimit64": 302, "connect": 42, "bind": 49, "socketpair": 53,
    }),
    "aarch64": (0xC00000B7, {
        "execve": 221, "execveat": 281, "socket": 198, "ptrace": 117, "tkill": 130,
        "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "process_vm_readv": 270, "process_vm_writev": 271,
        "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "bpf": 280,
        "perf_event_open": 241, "userfaultfd": 282, "add_key": 217, "request_key": 218, "keyctl": 219,
        "memfd_create": 279, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180,
        "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "setxattr": 5, "lsetxattr": 6,
        "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
        "clone": 220, "kill": 129, "tgkill": 131, "prlimit64": 261, "connect": 203, "bind": 200, "socketpair": 199,
    }),
}  # fmt: skip


def _filter_calls(c: ctypes.CDLL) -> bool:
    """Refuse what starts programs, opens sockets or reaches other processes; threads of its own stay possible."""
    known = _ARCHITECTURES.get(os.uname().machine)
    if known is None or sys.maxsize < 2**32:
        return False
    program = _program(known[0], known[1] | _NEW_CALLS, os.getpid())
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, padding, and where they are
    filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    return bool(c.prctl(_PR_SECCOMP, 2, filter_, 0, 0) == 0)


def _program(architecture: int, calls: Mapping[str, int], process: int) -> bytes:
    """The filter in classic BPF, 8 bytes an instruction. `process` is the only one that signals may go to."""

    def load(offset: int) -> bytes:
        return struct.pack("<HBBI", 0x20, 0, 0, offset)

    def unless(operation: int, value: int, skipped: int) -> bytes:
        return struct.pack("<HBBI", operation, 0, skipped, value)

    def end(verdict: int) -> bytes:
        return struct.pack("<HBBI", 0x06, 0, 0, verdict)

    equal, at_least, bits = 0x15, 0x35, 0x45
    parts = [load(4), struct.pack("<HBBI", equal, 1, 0, architecture), end(_REFUSE), load(0)]
    parts += [unless(at_least, _X32, 1), end(_REFUSE)]
    first, kind = load(16), load(24) + struct.pack("<HBBI", 0x54, 0, 0, 0xF)  # the second argument's lowest four bits
    only_for = {"clone": (first, bits, (_CLONE_THREAD,)), "prlimit64": (first, equal, (0, process))}
    only_for |= {"kill": (first, equal, (process,)), "tgkill": (first, equal, (process,))}
    only_for |= {"socketpair": (kind, equal, (_STREAM,))}  # asyncio needs one; a datagram's end could be sent elsewhere
    for name, number in calls.items():
        if name in only_for:
            argument, operation, values = only_for[name]
            body = argument + b"".join(unless(operation, value, 1) + end(_ALLOW) for value in values) + end(_REFUSE)
        else:
            body = end(_ABSENT if name == "clone3" else _PRETEND if name in _PRETENDED else _REFUSE)
        parts += [unless(equal, number, len(body) // 8), body]
    return b"".join([*parts, end(_ALLOW)])


# --------------------------------------------------------------------------------------------- Python's audit hooks
_PROCESSES = ("subprocess.", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.")
_NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethost")
_CHANGES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "os.setxattr", "os.removexattr", "os.chflags", "sqlite3.connect",
)  # fmt: skip


def watch_calls(folder: str, *, files: bool) -> None:
    """Refuse, in words, processes, sockets and foreign code; and files outside the folder where nothing else does.

    Raises `PermissionError` inside the code. Python's own calls are watched, not the system's: see `protects`.
    """
    real, within = os.path.realpath, (os.path.realpath(folder), *map(os.path.realpath, {sys.base_prefix, sys.prefix}))
    separator, own, process, local = os.sep, within[:1], os.getpid(), 1

    def inside(path: object, places: tuple[str, ...]) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # a descriptor that was opened before
        place = real(os.fsdecode(path))
        return place == os.devnull or any(place == root or place.startswith(root + separator) for root in places)

    def hook(event: str, values: tuple[object, ...]) -> None:
        if event.startswith(_PROCESSES) or event == "os.system":
            raise PermissionError("no other program can be started here")
        if event.startswith(_NETWORK) or (event == "socket.__new__" and values[1] != local):
            raise PermissionError("there is no network here")
        if event.startswith("ctypes.") or (event == "import" and values[0] in ("ctypes", "_ctypes")):
            raise PermissionError("no foreign code can be called here")
        if event == "os.killpg" or (event == "os.kill" and values[0] != process):
            raise PermissionError("no signal can be sent from here")
        if files:
            _check_file(event, values, lambda path, write: inside(path, own if write else within))

    sys.addaudithook(hook)


def _check_file(event: str, values: tuple[object, ...], allowed: Callable[[object, bool], bool]) -> None:
    if event == "open":
        flags = values[2] if isinstance(values[2], int) else 0
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
        if not allowed(values[0], writes):
            raise PermissionError("only the code's own folder can be used")
    elif event in ("os.listdir", "os.scandir"):
        if not allowed(values[0] or ".", False):
            raise PermissionError("only the code's own folder can be used")
    elif event in _CHANGES and not all(allowed(path, True) for path in values[:2] if isinstance(path, str | bytes)):
        raise PermissionError("only the code's own folder can be used")
