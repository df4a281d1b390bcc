"""What the payment gateway and the mail sink have seen, in their own words."""

from __future__ import annotations

from typing import Any, TypeAlias

import httpx

Entry: TypeAlias = dict[str, Any]  # Any: JSON, in the form that the public interface promises


class Sandbox:
    """The logs of a running sandbox."""

    def __init__(self, url: str) -> None:
        """Ask the sandbox at ``url``."""
        self._client = httpx.Client(base_url=url, timeout=10)

    def charges(self) -> list[Entry]:
        """Return every attempt to charge, in order."""
        return self._log("charges")

    def mails(self) -> list[Entry]:
        """Return every delivery of a mail, in order."""
        return self._log("mails")

    def refunds(self) -> list[Entry]:
        """Return what was given back, in order."""
        return self._log("refunds")

    def calls(self) -> list[Entry]:
        """Return every call that would change something, refused ones included, in order."""
        return self._log("calls")

    def misbehave(self, fault: str, *, count: int = 1, seconds: float | None = None) -> None:
        """Make the next ``count`` calls go wrong, as ``POST /sandbox/faults`` says."""
        order = {"fault": fault, "count": count, "seconds": seconds}
        self._client.post("/sandbox/faults", json=order).raise_for_status()

    def behave(self) -> None:
        """Make no further call go wrong."""
        self._client.delete("/sandbox/faults").raise_for_status()

    def close(self) -> None:
        """Ask no more."""
        self._client.close()

    def _log(self, name: str) -> list[Entry]:
        answer = self._client.get(f"/sandbox/{name}").raise_for_status()
        return list(answer.json()["data"])
