"""Database of battles, votes, accounts, items, reviews and the outbox."""
