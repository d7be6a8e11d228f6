"""Call the rollout service once in the generator's pod, as training does, and print JSON.

The output also contains the version assigned to some users.
"""

import json
import sys

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2, status_pb2
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

DETAILS = "grpc-status-details-bin"
ASK = [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="Hello!")]


def start(stub, version, seconds="170"):
    directory = f"/models/{version}"
    lease = Duration(seconds=1800)
    stub.StartCanary(
        generator_pb2.StartCanaryRequest(
            version=version, directory=directory, share=0.5, lease=lease
        ),
        timeout=float(seconds),
    )


def promote(stub, version):
    stub.PromoteCanary(
        generator_pb2.PromoteCanaryRequest(version=version, reason="better"), timeout=20
    )


def users(channel, count):
    stub = generator_pb2_grpc.GeneratorServiceStub(channel)
    found = []
    for number in range(int(count)):
        request = generator_pb2.GenerateRequest(user_key=f"user {number}", messages=ASK)
        events = list(stub.Generate(request, timeout=60))
        assert events[-1].HasField("finished")
        found.append(events[0].selected.model_version)
    return found


def refusal(error):
    """Return reason, field and limit of an error."""
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS:
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(info)
    return info.reason, info.metadata.get("field", ""), info.metadata.get("limit", "")


def main(what, *words):
    with grpc.insecure_channel("127.0.0.1:50055") as channel:
        stub = generator_pb2_grpc.RolloutServiceStub(channel)
        result = {}
        try:
            if what == "users":
                result["versions"] = users(channel, *words)
            elif what != "show":
                {"start": start, "promote": promote}[what](stub, *words)
        except grpc.RpcError as error:
            result["error"] = error.details()
            result["refusal"] = [error.code().name, *refusal(error)]
        result["rollout"] = MessageToDict(
            stub.GetRollout(generator_pb2.GetRolloutRequest(), timeout=20)
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
