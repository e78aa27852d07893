"""Fields of the dataclasses that command lines are made of, and their limits."""

from typing import Any

from ..errors import UsageError


class Checked:
    """Values of flags with limits."""

    def require(self, name: str, condition: bool, allowed: str) -> None:
        """Raise `UsageError` unless the condition holds."""
        if not condition:
            raise UsageError(f"`{name}` must be {allowed}, got {getattr(self, name)!r}.")

    def require_all(self, names: str, condition: Any, allowed: str) -> None:
        """The same for several flags; those that are None are left out."""
        for name in names.split():
            value = getattr(self, name)
            self.require(name, value is None or condition(value), allowed)
