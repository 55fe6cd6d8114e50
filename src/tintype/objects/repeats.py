"""Repeats: how often requests may be sent again, so that a store in trouble is not given more to do by us."""

from dataclasses import dataclass, field

SHARE = 0.1
"""A request that went well pays for a tenth of a repeat."""
SAVED = 20.0
"""Repeats that can be saved up: enough for a hiccup under load, or for a service that has just begun."""


@dataclass(slots=True)
class Repeats:
    """A budget for one dependency, as a token bucket (the AWS Architecture Blog calls it a retry quota).

    A request that failed to its end used its repeats for nothing: they are taken off. Once too little is
    left, each request is tried once, and fails fast. What goes well earns repeats again. So a store that is
    away is asked hardly more often than we are, and one that fails now and then is asked again.
    """

    each: int
    """What a single request may use."""
    left: float = field(default=SAVED, init=False)

    @property
    def allowed(self) -> bool:
        """Whether the next request may be repeated."""
        return self.left >= self.each

    def went_well(self) -> None:
        """Earn a part of a repeat."""
        self.left = min(SAVED, self.left + SHARE)

    def failed(self) -> None:
        """Pay for the repeats of a request that failed nevertheless."""
        self.left = max(0, self.left - self.each)
