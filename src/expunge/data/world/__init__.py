"""The embedded world: seeded fictitious authors, books and publishers in TOFU's roles, with nothing to download."""
