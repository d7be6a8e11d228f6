"""Databases of the services: settings, URLs, and the schema with its migrations."""
