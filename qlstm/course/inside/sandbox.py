"""The protections of the machine and of its files from what a submission does, as far as the system
has them: Linux's namespaces and Landlock, which need no privileges, and limits of POSIX.

Nothing here is needed for the grades to be right; that the grader sees to itself.
"""

import ctypes
import os
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

PROCESSES, FILE = 128, 2**30
"""The most processes at a time, of the user where the system counts for itself, and the bytes of a
file."""
_LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True) if _LINUX else None

# <linux/prctl.h>, <linux/sched.h>, <linux/capability.h>, <linux/mount.h>
_DEATH_SIGNAL, _SUBREAPER, _NO_NEW_PRIVILEGES = 1, 36, 38
_MOUNTS, _IPC, _USERS, _PIDS, _NETWORK = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_CAPABILITIES = 0x20080522
_PRIVATE, _BIND, _TREE, _NO_SPECIAL = 0x44000, 0x1000, 0x5000, 0xE
_SET_ATTRIBUTES, _RECURSIVE, _READ_ONLY = 442, 0x8000, 1

# <linux/landlock.h>; the same numbers on all architectures
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_READ, _ALL, _ON_FILES = 0b1101, 2**13 - 1, 0b111 | 1 << 14 | 1 << 15
_SYSTEM = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/run/systemd",
           "/sbin", "/sys", "/usr")
_HIDDEN = ("/home", "/media", "/mnt", "/root", "/run", "/srv", "/tmp", "/var")
"""Where programs listen at sockets, from which neither Landlock nor a read-only file keeps."""
_DEVICES = ("/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero")


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "users")]


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64),
                ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("access", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def keep_children():
    """Let what becomes an orphan below this process be its child, and end with its parent."""
    if _libc:
        _libc.prctl(_SUBREAPER, 1, 0, 0, 0)
        end_with_parent()


def end_with_parent():
    """Be killed when the parent ends."""
    if _libc:
        _libc.prctl(_DEATH_SIGNAL, 9, 0, 0, 0)


def separate() -> bool:
    """Let the next child be the first of processes that see no other ones and no network, all of
    which end with it.

    Returns:
        Whether the system does that.
    """
    user, group = os.getuid(), os.getgid()
    if _libc is None or _libc.unshare(_MOUNTS | _IPC | _USERS | _PIDS | _NETWORK) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user or 1000} {user} 1")  # not root inside
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        return False
    return True


def own_view(folder: str, readable: list[str]) -> bool:
    """Let all files but those of one folder be read-only, the places of the users' files and of
    sockets be empty but for what is needed, and ``/proc`` show the processes of this one's
    namespace; for the processes that :func:`separate` has separated, this one the first.

    Args:
        folder: The folder.
        readable: Folders and files that are needed.

    Returns:
        Whether the system does that.
    """
    here = folder.encode()
    _libc.mount(None, b"/", None, _PRIVATE, None)
    done = _hide({folder, *readable})
    _libc.mount(here, here, None, _BIND, None)
    done = done and _attributes(b"/", set_to=_READ_ONLY) and _attributes(here, clear=_READ_ONLY)
    os.chdir(os.getcwd())  # by the new mount
    _libc.mount(b"proc", b"/proc", b"proc", _NO_SPECIAL, None)  # not in most containers
    _libc.capset(ctypes.byref((ctypes.c_uint32 * 2)(_CAPABILITIES)), (ctypes.c_uint32 * 6)())
    return done


def _hide(kept):
    """Put empty folders over :data:`_HIDDEN`, and what is ``kept`` of them back in its place."""
    opened = {path: os.open(path, os.O_PATH) for path in sorted(kept) if os.path.exists(path)}
    done = True
    for place in sorted({os.path.realpath(place) for place in _HIDDEN if os.path.isdir(place)}):
        done &= _libc.mount(b"none", place.encode(), b"tmpfs", _NO_SPECIAL, b"mode=755") == 0
    for path, descriptor in opened.items():  # what others lie in comes first
        source = f"/proc/self/fd/{descriptor}"
        if not os.path.exists(path):
            if os.path.isdir(source):
                os.makedirs(path)
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                Path(path).touch()
            done &= _libc.mount(source.encode(), path.encode(), None, _TREE, None) == 0
        os.close(descriptor)
    return done


def _attributes(path, set_to=0, clear=0):
    attributes = _Attributes(set_to, clear, 0, 0)
    return _libc.syscall(_SET_ATTRIBUTES, -100, path, _RECURSIVE, ctypes.byref(attributes),
                         ctypes.sizeof(attributes)) == 0


def limit(memory: int):
    """Limit what a process may take.

    Args:
        memory: Its bytes.
    """
    if resource is None:
        return
    limits = {"RLIMIT_DATA": memory, "RLIMIT_FSIZE": FILE, "RLIMIT_CORE": 0}
    if _LINUX and os.getuid():
        limits["RLIMIT_NPROC"] = _processes() + PROCESSES
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):  # macOS has names that it does not heed
            continue


def _processes():
    """How many threads this user has, which is what is limited."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        try:
            count += path.stat().st_uid == os.getuid()
        except OSError:
            continue
    return count


def landlock() -> int:
    """The version of Landlock that the system has, 0 for none."""
    return max(0, _libc.syscall(_CREATE, None, 0, 1)) if _libc else 0


def confine(writable: str, readable: list[str]) -> bool:
    """Let this process and its children write in one folder only, read little else, reach nobody
    by TCP and signal nobody else.

    Args:
        writable: The folder.
        readable: Folders and files that they may read beside the system's own.

    Returns:
        Whether the system does that.
    """
    version = landlock()
    if not version:
        return False
    extra = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # to link across folders, to truncate, ioctl
    handled = _ALL | sum(right for since, right in extra.items() if since <= version)
    rules = _Ruleset(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _libc.syscall(_CREATE, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return False
    for path in (*_SYSTEM, *readable):
        _allow(ruleset, path, _READ)
    for path in _DEVICES:
        _allow(ruleset, path, _READ | 0b10)
    _allow(ruleset, writable, handled)
    _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = _libc.syscall(_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return done


def _allow(ruleset, path, access):
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rule = _Beneath(access if os.path.isdir(path) else access & _ON_FILES & ~(1 << 15), place)
    _libc.syscall(_ADD, ruleset, 1, ctypes.byref(rule), 0)
    os.close(place)
