"""A call on the server side: its request is read, its handler runs, its answer is sent."""
