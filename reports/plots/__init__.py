"""The pictures of saved runs. Each module draws one kind of picture from a table of cells."""
