"""The search for FlexAttention's fastest options: `pytest -m tune`."""
