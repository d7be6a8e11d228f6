"""From a log to the lake, one partition at a time: read, object, ledger, trim."""
