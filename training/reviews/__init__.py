"""Items for reviewers, drawn from the feedback table, and the export of their reviews."""
