"""One benchmark cell: its options, its inputs, its check, its timing and its compilation."""
