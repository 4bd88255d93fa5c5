"""The formulation of a saved cell whose file gives only its text."""


def legacy_formulation(text: str) -> str:
    """An identifier of the formulation that `text` describes."""
    return f"text:{text}"
