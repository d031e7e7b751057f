"""Values of the cells of a table: lists written as text, and codes in place of answers."""
