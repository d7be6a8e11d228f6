"""Database of battles, votes, accounts and the outbox."""
