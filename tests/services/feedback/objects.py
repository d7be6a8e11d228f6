"""What is in an object: its rows, as the sink encoded them."""

from services.feedback.lake import parquet


def decode(data: bytes) -> list[parquet.Row]:
    """Times are microseconds since 1970."""
    return parquet.to_rows(parquet.read(data))
