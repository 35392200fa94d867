"""Networks. Each file is one kind of part; agents put them together."""
