"""Training texts from a crawl or an archive: reading, cleaning, duplicates, and a log of each."""
