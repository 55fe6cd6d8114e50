"""A seccomp filter without a library: the system calls that decoding needs; the rest answer EPERM.

The list was made by tracing a worker (`strace -f`) over JPEG, PNG, GIF, WebP, AVIF, TIFF and HEIC
files, good and hostile. What is missing on purpose: everything that opens, connects, starts a
process, signals another one, or maps memory for execution.
"""

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

# Numbers from Linux's tables: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
_X86_64 = {
    "brk": 12, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "clone": 56,
    "clone3": 435, "close": 3, "exit": 60, "exit_group": 231, "fcntl": 72, "futex": 202,
    "getcpu": 309, "getpid": 39, "getrandom": 318, "getrusage": 98, "gettid": 186, "gettimeofday": 96,
    "madvise": 28, "membarrier": 324, "mmap": 9, "mprotect": 10, "mremap": 25, "munmap": 11,
    "nanosleep": 35, "prlimit64": 302, "recvmsg": 47, "restart_syscall": 219, "rseq": 334,
    "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_getaffinity": 204, "sched_yield": 24,
    "seccomp": 317, "sendto": 44, "set_robust_list": 273, "sigaltstack": 131, "sysinfo": 99,
}  # fmt: skip
_AARCH64 = {
    "brk": 214, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "clone": 220,
    "clone3": 435, "close": 57, "exit": 93, "exit_group": 94, "fcntl": 25, "futex": 98,
    "getcpu": 168, "getpid": 172, "getrandom": 278, "getrusage": 165, "gettid": 178, "gettimeofday": 169,
    "madvise": 233, "membarrier": 283, "mmap": 222, "mprotect": 226, "mremap": 216, "munmap": 215,
    "nanosleep": 101, "prlimit64": 261, "recvmsg": 212, "restart_syscall": 128, "rseq": 293,
    "rt_sigprocmask": 135, "rt_sigreturn": 139, "sched_getaffinity": 123, "sched_yield": 124,
    "seccomp": 277, "sendto": 206, "set_robust_list": 99, "sigaltstack": 132, "sysinfo": 179,
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
"""AUDIT_ARCH_* of linux/audit.h with the machine's table."""

_ALLOWED = (
    # memory (mmap and mprotect: see below)
    "brk", "madvise", "mremap", "munmap",
    # threads of the decoders (clone: see below)
    "exit", "exit_group", "futex", "getcpu", "getpid", "gettid", "membarrier", "restart_syscall", "rseq",
    "sched_getaffinity", "sched_yield", "set_robust_list",
    # signals: a handler returns, a thread starts with its own mask
    "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
    # the clock, chance, what this process has used
    "clock_getres", "clock_gettime", "clock_nanosleep", "getrandom", "getrusage", "gettimeofday",
    "nanosleep", "sysinfo",
    # the channel to the parent, which hands over the file; Python's mmap duplicates its descriptor
    "close", "fcntl", "recvmsg", "sendto",
)  # fmt: skip

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_X32 = 0x40000000
"""Calls of the x32 ABI pass as x86_64 with this bit, and would slip past a list of numbers."""

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
"""SECCOMP_SET_MODE_FILTER and SECCOMP_FILTER_FLAG_TSYNC: libvips has threads by now."""

_PROT_EXEC = 4
_CLONE_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020000 | 0x00000080
"""CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID, -NET and -TIME."""

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand: `struct sock_filter`."""


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


@dataclass(frozen=True, slots=True)
class _Call:
    """Lets one system call through, where `with_bits` of its argument are set and `without_bits` are not."""

    number: int
    argument: int | None = None
    with_bits: int = 0
    without_bits: int = 0

    def __iter__(self) -> Iterator[Instruction]:
        checks: list[Instruction] = []
        refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
        if self.argument is not None:
            checks.append((_LOAD, 0, 0, _ARGUMENTS_AT + 8 * self.argument))  # little-endian: the low half
        if self.with_bits:
            checks += [(_ANY_BIT, 1, 0, self.with_bits), refuse]
        if self.without_bits:
            checks += [(_ANY_BIT, 0, 1, self.without_bits), refuse]
        checks.append((_RETURN, 0, 0, _ALLOW))
        yield (_EQUAL, 0, len(checks), self.number)
        yield from checks


def install() -> bool:
    """Confine this process, all its threads, for ever. False where the kernel or the machine cannot."""
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return False
    architecture, numbers = _ARCHITECTURES[platform.machine()]
    program = _assemble(architecture, numbers)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    filters = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    prepared = _Program(len(program), filters)
    result = libc.syscall(numbers["seccomp"], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(prepared))
    return result == 0


def _assemble(architecture: int, numbers: dict[str, int]) -> list[Instruction]:
    """Write the filter: the machine first, then each allowed call, then the refusal of all others."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_ANY_BIT, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        # glibc starts threads with clone3, whose flags a filter cannot see; told that there is no
        # such call it takes clone.
        (_EQUAL, 0, 1, numbers["clone3"]),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    special = (
        _Call(numbers["clone"], 0, with_bits=_CLONE_THREAD, without_bits=_NEW_NAMESPACES),
        _Call(numbers["mmap"], 2, without_bits=_PROT_EXEC),
        _Call(numbers["mprotect"], 2, without_bits=_PROT_EXEC),
        _Call(numbers["prlimit64"], 0, without_bits=0xFFFFFFFF),  # its own limits, not another process's
    )
    for call in (*(_Call(numbers[name]) for name in _ALLOWED), *special):
        program += call
    program.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return program
