"""Decoding of objects to the rows encoded by the sink."""

from services.feedback.lake import parquet


def decode(data: bytes) -> list[parquet.Row]:
    """Return the rows of an object, with times in microseconds since 1970."""
    return parquet.to_rows(parquet.read(data))
