"""Crawler: polite downloads from a list of hosts into WARC files, with a log of each URL."""
