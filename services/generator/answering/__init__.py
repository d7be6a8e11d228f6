"""Path of a request from its messages to the stream of the model server."""
