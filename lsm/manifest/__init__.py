"""Which objects are the database."""
