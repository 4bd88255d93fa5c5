"""Running pytest in a child process that may die, and going on without the cell that ended it."""
