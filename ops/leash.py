"""Becomes another program, which the kernel ends as soon as the process that started it is gone.

``ops.children`` runs this file by its path, with the standard library alone, between fork and exec:

    python -I -S leash.py PARENT SIGNAL [--account UID:GID [--search]] -- PROGRAM ARGUMENT …

PARENT is the pid of the process that must stay alive, SIGNAL the number the program gets when that
process dies. With ``--account`` the program runs as that user, without any of root's capabilities;
with ``--search`` it keeps CAP_DAC_READ_SEARCH alone, for paths below folders that only root enters.

Doing this in a process of its own, not between fork and exec of the parent, keeps Python code out
of the one place where it may deadlock. See prctl(2) and capabilities(7).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys

# <linux/prctl.h>, <linux/securebits.h>, <linux/capability.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Do what the module says; returns only by an error, on standard error, and status 126."""
    options = _parse(arguments)
    try:
        if options.account:
            _become(options.account, keep_search=options.search)
        _follow(options.parent, options.signal)
        _restore_signals()
        os.execv(options.program[0], options.program)  # noqa: S606 - the purpose of this file
    except OSError as error:
        sys.stderr.write(f"cannot start {options.program[0]}: {error}\n")
        sys.exit(126)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="leash")
    parser.add_argument("parent", type=int)
    parser.add_argument("signal", type=int)
    parser.add_argument("--account", type=lambda text: tuple(map(int, text.split(":"))))
    parser.add_argument("--search", action="store_true")
    parser.add_argument("program", nargs="+")
    return parser.parse_args(arguments)


def _become(account: tuple[int, int], *, keep_search: bool) -> None:
    uid, gid = account
    if keep_search:
        # Without this bit access(2) judges by the user alone and ignores the capability, and
        # Postgres, which asks access(2) about its own executable, would not start.
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if keep_search:
        _keep_only(_CAP_DAC_READ_SEARCH)


def _keep_only(capability: int) -> None:
    mask = 1 << capability
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if _libc.capset(header, effective_permitted_inheritable) != 0:
        raise OSError(
            ctypes.get_errno(),
            "it or its data is below a folder that only root may enter, and root may not pass that "
            "on here: a container without CAP_DAC_READ_SEARCH. Move both to where everyone may "
            "enter, or run as an ordinary user",
        )
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _follow(parent: int, number: int) -> None:
    # After the change of user, which clears it.
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the line above: nobody would tell us any more
        sys.exit(128 + number)


def _restore_signals() -> None:
    # Python ignores these for itself, and a program inherits what is ignored or blocked.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *padded) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


if __name__ == "__main__":
    main(sys.argv[1:])
