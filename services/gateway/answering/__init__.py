"""Path of a turn from the typed text to the stored answer."""
