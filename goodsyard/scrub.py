"""Keys, tokens, passwords and numbers of cards are taken out of whatever is logged or kept.

A net under what is careful already: payloads hold ids, settings hold ``SecretStr``. It knows
secrets by their form alone.
"""

from __future__ import annotations

import re

# Our keys, the gateway's, those of webhooks, JWTs, whatever follows "Bearer" or "Basic", and what
# has a card's digits (ISO/IEC 7812: 13 to 19), in groups or not. A number in a line of JSON stays:
# nothing but text holds a card's, and the line must stay JSON.
_TOKEN = re.compile(
    r"""(?ix)
    (?: \b(?:bearer|basic)\s+ | \bgy_live_ | \bwhsec_ | \b[sr]k_(?:live|test)_ )[\w.~+/=-]+
    | \beyJ[\w-]+\.[\w-]+\.[\w-]*
    | (?<![\w-])(?<!":\ )\d(?:[ -]?\d){12,18}(?![\w-])
    """
)
_PASSWORD_IN_URL = re.compile(r"""(?i)(\b[a-z][a-z0-9+.-]*://[^\s:/@"']*:)[^\s/@"']+@""")


def scrub(said: str) -> str:
    """Return a text without what looks like a secret: an ellipsis is in its place."""
    return _TOKEN.sub("…", _PASSWORD_IN_URL.sub(r"\1…@", said))
