"""Values that a user has configured, and what to say of a wrong one."""


def expect(fits: bool, key: str, value: object, expected: str) -> None:
    """Raises ValueError unless the value fits."""
    if not fits:
        raise ValueError(f"{key} must be {expected}, got {value!r}")


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_integer(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
