"""A server never runs as root, and no mode outside its own folder is changed to allow that."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from ops.children import Account
from ops.embedded.server import ServerError

_PREFERRED = ("postgres", "nobody")


def ordinary_account(*used: Path) -> Account | None:
    """Return the user a server runs as where we are root; None, ourselves, where we are not.

    Args:
        used: what the server reads: where a folder above one of them is closed to others, the
            server gets the capability to pass through, and only then.
    """
    if os.geteuid() != 0:
        return None
    user = _preferred_user()
    return Account(user.pw_uid, user.pw_gid, search=not all(map(_open_to_others, used)))


def owner_account(folder: Path, *used: Path) -> Account | None:
    """Like ``ordinary_account``, for data that exists already: only its owner can serve it.

    Raises:
        ServerError: the data is another user's and we are not root.
    """
    owner = folder.stat()
    if os.geteuid() == 0:
        search = not all(map(_open_to_others, (folder, *used)))
        return Account(owner.st_uid, owner.st_gid, search=search)
    if owner.st_uid != os.geteuid():
        raise ServerError(
            f"{folder} belongs to user {owner.st_uid}, and you are user {os.geteuid()}. "
            "Nothing was changed. Run as that user, or choose another folder with --data-dir."
        )
    return None


def _preferred_user() -> pwd.struct_passwd:
    for name in _PREFERRED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerError(
        "You are root, whom Postgres refuses, and there is no user 'postgres' or 'nobody' to run "
        "it as. Run goodsyard as an ordinary user, or set GOODSYARD_DATABASE_URL."
    )


def _open_to_others(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)
