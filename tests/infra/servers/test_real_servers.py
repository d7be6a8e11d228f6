"""The real servers answer their own clients, keep what they acknowledged when they are killed, and are asked for fresh rooms."""

import io

import pg8000.dbapi
from kafka import KafkaConsumer, KafkaProducer
from valkey import Valkey

from infra.servers.seaweedfs import connect
from tests.servers import Database, KafkaServer, PostgresServer, S3Server, ValkeyServer


def query(database: Database, text: str) -> list[tuple[object, ...]]:
    connection = pg8000.dbapi.connect(
        database.user, host=database.host, port=database.port, password=database.password, database=database.name
    )
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(text)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
    finally:
        connection.close()


def produce(server: KafkaServer, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=server.bootstrap, acks="all", enable_idempotence=False)
    for sent in [producer.send(topic, value, partition=0) for value in values]:
        sent.get(timeout=30)
    producer.close()


def consume(server: KafkaServer, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=server.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    found = []
    for message in consumer:
        found.append(message.value)
        if len(found) == count:
            break
    consumer.close()
    return found


def test_kafka_keeps_acknowledged_messages_when_it_is_killed(kafka: KafkaServer) -> None:
    topic = kafka.topic(partitions=2)
    values = [f"message {number}".encode() for number in range(100)]
    produce(kafka, topic, values)
    kafka.kill()
    kafka.start()
    assert consume(kafka, topic, len(values)) == values


def test_postgres_keeps_committed_rows_when_it_is_killed(postgres: PostgresServer) -> None:
    database = postgres.database()
    query(database, "CREATE TABLE thumbs (id integer)")
    query(database, "INSERT INTO thumbs SELECT generate_series(1, 100)")
    postgres.kill()
    postgres.start()
    assert query(database, "SELECT count(*) FROM thumbs") == [(100,)]


def test_postgres_syncs_every_commit(postgres: PostgresServer) -> None:
    names = ("fsync", "full_page_writes", "synchronous_commit")
    assert [query(postgres.database(), f"SHOW {name}") for name in names] == [[("on",)]] * 3


def test_valkey_keeps_its_keys_when_it_is_stopped(valkey: ValkeyServer) -> None:
    url = valkey.database()
    Valkey.from_url(url).set("quota", "7")
    valkey.stop()
    valkey.start()
    assert Valkey.from_url(url).get("quota") == b"7"
    assert Valkey.from_url(valkey.database()).dbsize() == 0


def test_the_store_keeps_acknowledged_objects_when_it_is_killed(s3: S3Server) -> None:
    bucket = s3.bucket()
    client = connect(bucket.endpoint, bucket.secret_key)
    for number in range(20):
        client.put_object(bucket.name, f"part-{number}", io.BytesIO(b"x" * 10_000), 10_000)
    s3.kill()
    s3.start()
    assert len(list(client.list_objects(bucket.name))) == 20
    assert client.get_object(bucket.name, "part-7").read() == b"x" * 10_000
