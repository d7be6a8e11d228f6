"""Audit log of administrative acts: their records, and the tables in the databases of services."""
