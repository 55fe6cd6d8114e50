"""Named points where tests may stop, kill or delay the process; they cost nothing in production."""

from collections.abc import Callable

_hooks: dict[str, Callable[[], None]] = {}


def checkpoint(name: str) -> None:
    """Mark a point of a story at which a crash must be survivable."""
    if _hooks and (hook := _hooks.get(name)):
        hook()


def arm(name: str, hook: Callable[[], None]) -> None:
    """Run `hook` whenever the point called `name` is passed."""
    _hooks[name] = hook


def disarm() -> None:
    """Forget every hook."""
    _hooks.clear()
