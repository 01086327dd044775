"""How long ago something was, in three or four cells."""

from __future__ import annotations

from datetime import datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def age(then: float, now: float) -> str:
    """Times are seconds since the epoch. A clock set back makes nothing older than now."""
    seconds = max(now - then, 0)
    if seconds < _MINUTE:
        return "now"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f}m"
    if seconds < _DAY:
        return f"{seconds // _HOUR:.0f}h"
    if seconds < 7 * _DAY:
        return f"{seconds // _DAY:.0f}d"
    date = datetime.fromtimestamp(then)
    return f"{date.day} {date:%b}" if date.year == datetime.fromtimestamp(now).year else f"{date.year}"
