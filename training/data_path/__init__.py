"""Building of a corpus from crawls, archives and tables, with a log of every record."""
