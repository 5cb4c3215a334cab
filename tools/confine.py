"""What code that students wrote may do while it is graded: as little as this system can hold it to."""

import contextlib
import ctypes
import importlib.util
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NUMBERS = {"create": 444, "add": 445, "restrict": 446}  # of Landlock's calls, the same on every processor
WRITES = 0b111111110010  # write_file, and all that makes, moves and removes files and folders
READS = 0b000000001101  # execute, read_file, read_dir
LIBRARIES = ("numpy", "torch", "pandas", "scipy", "matplotlib", "IPython", "nbformat")


def isolation() -> list[str]:
    """The start of a command line that takes away network and, when it ends, everything it started; or nothing."""
    command = ["unshare", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    for options in (command, command[:-1]):
        if shutil.which("unshare") and subprocess.run([*options, "true"], capture_output=True).returncode == 0:
            return options
    return []


def _landlock(name: str, *arguments) -> int:
    return ctypes.CDLL(None, use_errno=True).syscall(NUMBERS[name], *arguments)


def can_confine_files() -> bool:
    """Whether this system has Landlock (Linux 5.13 and newer)."""
    return platform.system() == "Linux" and _landlock("create", None, 0, 1) >= 1


def confine_files(readable: Sequence[Path], writable: Sequence[Path]) -> bool:
    """From now on this process and all that it starts read and write only in these folders. False if it cannot be."""
    if not can_confine_files():
        return False
    version = _landlock("create", None, 0, 1)
    handled = WRITES | READS | (1 << 12) | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    attributes = ctypes.create_string_buffer(struct.pack("Q", handled))
    ruleset = _landlock("create", attributes, 8, 0)
    if ruleset < 0:
        return False
    for folders, allowed in ((readable, READS), (writable, handled)):
        for folder in folders:
            if not folder.exists():
                continue
            opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            only = allowed if folder.is_dir() else allowed & (0b111 | (1 << 14 if version >= 3 else 0))
            rule = ctypes.create_string_buffer(struct.pack("=Qi", only, opened))
            added = _landlock("add", ruleset, 1, rule, 0)
            os.close(opened)
            if added != 0:
                return False
    no_new_privileges = 38
    ctypes.CDLL(None).prctl(no_new_privileges, 1, 0, 0, 0)
    done = _landlock("restrict", ruleset, 0) == 0
    os.close(ruleset)
    return done


def needed_folders() -> list[Path]:
    """What Python, its packages and the course need to read."""
    names = {sys.prefix, sys.base_prefix, *("/usr /lib /lib64 /bin /etc /proc /dev /sys /opt".split())}
    names |= {path for path in sys.path if path.rstrip("/").endswith("-packages")}
    found = [importlib.util.find_spec(name) for name in LIBRARIES]  # wherever they were installed
    names |= {str(Path(spec.origin).parent.parent) for spec in found if spec and spec.origin}
    import sam_lite

    return [Path(name) for name in sorted(names)] + [Path(sam_lite.__file__).parent, Path(__file__).parent]


def loopback() -> None:
    """Switch on the loopback device of a new network namespace: some libraries talk to themselves through it."""
    import fcntl
    import socket

    up_and_running, set_flags = 0x41, 0x8914
    with contextlib.suppress(OSError), socket.socket() as opened:
        fcntl.ioctl(opened, set_flags, struct.pack("16sH14s", b"lo", up_and_running, b""))


def limit(memory_gb: float) -> None:
    """Limits for this process and all that it starts."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_gb * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200 * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def lacking() -> list[str]:
    """What this system cannot keep students' code from, in words for the screen."""
    found = []
    if not isolation():
        found.append("run the students' code without network: it can reach what you can")
    if not can_confine_files():
        found.append("keep the students' code from your files: it can read and write what you can")
    if sys.platform == "win32":
        found.append("limit the memory that the students' code takes")
    return [f"NOTE: this system gives no way to {lack}." for lack in found]
