"""STUB until merged."""


def device_is_lost(device: str) -> str | None:
    return None
