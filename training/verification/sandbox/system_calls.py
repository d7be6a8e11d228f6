"""Seccomp filter (classic BPF) of system calls denied to sandboxed code.

Namespaces already hide most targets of these calls; the filter covers the rest. socket() is denied
entirely, because vsock reaches the host of a virtual machine from any network namespace.
memfd_create is denied because its memory is not counted by limits per process.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass

from training.errors import DetailedError

# System call numbers of x86_64 (asm/unistd_64.h) and aarch64 (asm-generic/unistd.h).
_DENIED = {
    "socket": (41, 198), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "mount_setattr": (442, 442), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "open_tree": (428, 428), "move_mount": (429, 429),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "unshare": (272, 97),
    "setns": (308, 268), "personality": (135, 92), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239),
    "migrate_pages": (256, 238), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "fanotify_init": (300, 262), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "acct": (163, 89),
    "quotactl": (179, 60), "syslog": (103, 116),
}  # fmt: skip
_CLONE3 = 435  # its flags are in memory, invisible to filters; libc falls back to clone
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW* of linux/sched.h

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # struct seccomp_data
# SECCOMP_RET_*; the last two return EPERM and ENOSYS.
_ALLOW, _KILL, _REFUSE, _NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_X32 = 0x40000000  # x32 ABI: another numbering of the same calls


@dataclass(frozen=True)
class _Architecture:
    audit: int
    column: int
    clone: int


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, 0, 56),
    "aarch64": _Architecture(0xC00000B7, 1, 220),
}


class UnknownArchitectureError(DetailedError):
    """Error for a processor architecture without a filter."""

    reason = "UNSUPPORTED"


def build_filter(machine: str = "") -> bytes:
    """Return the filter in bubblewrap's format.

    Raises:
        UnknownArchitectureError: the machine is neither x86_64 nor aarch64.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise UnknownArchitectureError(
            f"no system-call filter for {machine}, only for {known}", field=machine, limit=known
        )
    here = _ARCHITECTURES[machine]
    numbers = sorted(pair[here.column] for pair in _DENIED.values())
    # The tail is: allow, refuse, no such call, kill. Jump offsets count the instructions in
    # between.
    after = len(numbers)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 0, after + 9, here.audit),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, after + 7, 0, _X32),
        *((_EQUAL, after - place + 4, 0, number) for place, number in enumerate(numbers)),
        (_EQUAL, 5, 0, _CLONE3),
        (_EQUAL, 0, 2, here.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_ANY_BIT, 1, 0, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _NO_SUCH_CALL),
        (_RETURN, 0, 0, _KILL),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
