"""S3 stores on loopback with time-outs for tests."""

from services.feedback.lake.s3_store import S3Location, S3Store


def place(port: int, request_seconds: float = 10.0, bucket: str = "thumbs") -> S3Location:
    return S3Location(
        endpoint=f"127.0.0.1:{port}",
        bucket=bucket,
        region="us-east-1",
        secure=False,
        access_key="access",
        secret_key="a secret of the tests",
        connect_seconds=3.0,
        request_seconds=request_seconds,
    )


def store_at(port: int, request_seconds: float = 10.0, bucket: str = "thumbs") -> S3Store:
    return S3Store(place(port, request_seconds, bucket))
