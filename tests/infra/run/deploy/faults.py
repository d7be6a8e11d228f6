"""Faults of the test release, each with its return to a healthy state."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.infra.run.deploy.deployed import STORES, Deployed, ask, until

READY_SECONDS = 180
# Many small processes, so that the service is the largest process of its container when memory is
# exhausted.
MEMORY_HOG = """
import os, time
for number in range(60):
    if os.fork() == 0:
        held = b"x" * 20_000_000
        time.sleep(60)
        os._exit(0)
    time.sleep(0.02)
time.sleep(60)
"""
UNSIGNED_CALL = """
import sys, grpc
from thumbwheel.guardrail.v1 import guardrail_pb2 as pb, guardrail_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    try:
        guardrail = guardrail_pb2_grpc.GuardrailServiceStub(channel)
        guardrail.CheckInput(pb.CheckInputRequest(), timeout=20)
    except grpc.RpcError as error:
        print(error.code())
"""
# As another program with rights on the topic of feedback would write.
FOREIGN_RECORD = """
from kafka import KafkaProducer
from services.chassis.settings import load_settings
from services.feedback.events import Stream
from services.feedback.settings import FeedbackSettings
settings = load_settings(FeedbackSettings)
producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
producer.send(settings.topic(Stream.FEEDBACK), b"not of this installation").get(timeout=30)
producer.close()
"""


def kill(deployed: Deployed, component: str) -> None:
    """Kill a pod of the component and wait for a ready replacement."""
    lose(deployed, component, "--grace-period=0", "--force")


def lose(deployed: Deployed, component: str, *words: str) -> None:
    """Delete a pod of the component and wait for a ready replacement.

    Args:
        words: options of `kubectl delete`. None: the pod ends as at the drain of a node.
    """
    pods = deployed.pods(component)
    victim = sorted(pods)[0]
    deployed.kubectl("delete", "pod", victim, *words)

    def replaced() -> bool:
        there = deployed.pods(component)
        return len(there) == len(pods) and pods[victim] not in there.values()

    until(f"{component} has another pod", replaced)
    ready(deployed, component)


def ready(deployed: Deployed, component: str) -> None:
    """Wait until the pods of the component are ready."""
    deployed.kubectl(
        "wait",
        "pod",
        "--selector",
        selector(deployed, component),
        "--for=condition=Ready",
        f"--timeout={READY_SECONDS}s",
    )


def selector(deployed: Deployed, component: str) -> str:
    """Return the labels of the component's pods."""
    return f"app.kubernetes.io/instance={deployed.name},app.kubernetes.io/component={component}"


def exhaust(deployed: Deployed, component: str) -> None:
    """Exhaust the memory of a container and wait for its restart by kubelet."""
    pod = sorted(deployed.pods(component))[0]
    deployed.shell.run(
        "sh",
        "-c",
        f"kubectl exec -n {deployed.namespace} {pod} -- python3 -c '{MEMORY_HOG}' || true",
    )

    def was_killed() -> bool:
        status = deployed.objects("pods", "--field-selector", f"metadata.name={pod}")[0]["status"]
        last = status["containerStatuses"][0]["lastState"].get("terminated", {})
        return last.get("reason") == "OOMKilled"

    until(f"{component} was killed for its memory", was_killed)
    ready(deployed, component)


@contextmanager
def stopped(deployed: Deployed, component: str) -> Iterator[None]:
    """Run the block without a running pod of the component, and wait for answers afterwards.

    Its pods cannot be scheduled meanwhile. `kubectl scale` would take the number of replicas from
    Helm, whose next change would be a conflict.
    """
    kind = "statefulset" if component in (*STORES, "feedback") else "deployment"
    labels = ("--selector", selector(deployed, component))
    nodes = deployed.shell.run("kubectl", "get", "nodes", "-o", "name").split()
    for node in nodes:
        deployed.shell.run("kubectl", "cordon", node)
    try:
        deployed.kubectl("delete", "pods", *labels)
        until(f"{component} waits for a node", lambda: is_pending(deployed, component))
        yield
    finally:
        for node in nodes:
            deployed.shell.run("kubectl", "uncordon", node)
        workload = f"{kind}/{deployed.name}-{component}"
        deployed.kubectl("rollout", "status", workload, f"--timeout={READY_SECONDS}s")
        until("users are answered", lambda: is_answered(deployed))


def is_pending(deployed: Deployed, component: str) -> bool:
    """Return True if the component has pods, and none of them is on a node."""
    pods = deployed.objects("pods", "--selector", selector(deployed, component))
    return bool(pods) and all(pod["status"]["phase"] == "Pending" for pod in pods)


def is_answered(deployed: Deployed) -> bool:
    """Ask a question as the owner; return True if the answer is complete."""
    with suppress(AssertionError, OSError):
        return bool(ask(deployed.person(), f"Hello at {time.time()}"))
    return False


def send_thumb(deployed: Deployed, message_id: str) -> int:
    """Send a thumb as the owner. Returns the status."""
    body = {"messageId": message_id, "requestId": str(uuid.uuid4()), "thumb": {"up": True}}
    status, _ = deployed.person().call("POST", "/api/feedback", body)
    return status


@contextmanager
def full_write_ahead_log(deployed: Deployed, limit_bytes: int) -> Iterator[None]:
    """Run the block while the write-ahead log is full, because Kafka is stopped.

    Args:
        limit_bytes: size of the log, for a few thumbs.
    """
    deployed.install({"services": {"feedback": {"settings": {"max_spool_bytes": limit_bytes}}}})
    try:
        deployed.settle()
        _, message = ask(deployed.person(), "Hello!")
        with stopped(deployed, "kafka"):
            until("the log is full", lambda: send_thumb(deployed, message) == 503)
            yield
    finally:
        deployed.install()
        deployed.settle()
