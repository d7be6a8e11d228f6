"""The page's API: the events of gRPC, resumption, and static files with a strict policy."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.protobuf import json_format
from thumbwheel.chat.v1 import chat_pb2
from yarl import URL

from services.gateway.identity.credential import DEFAULT_SCOPES
from tests.services.gateway.bad_input import MISSING_UUID
from tests.services.gateway.fakes import CANDIDATE, STABLE
from tests.services.gateway.gateway_under_test import (
    BOB,
    GatewayUnderTest,
    kinds_of,
    new_key,
    run_gateway,
    text_of,
)


async def read_events(
    response: aiohttp.ClientResponse, until_text: bool = False
) -> tuple[list[chat_pb2.ChatEvent], Any]:
    """Return the events, and the final error if any."""
    assert response.headers["content-type"].startswith("text/event-stream")
    events, error, kind = [], None, ""
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: ") and kind == "error":
            error = json.loads(line.removeprefix("data: "))["error"]
        elif line.startswith("data: "):
            events.append(json_format.Parse(line.removeprefix("data: "), chat_pb2.ChatEvent()))
            if until_text and events[-1].HasField("text_delta"):
                break
    return events, error


def post(gateway: GatewayUnderTest, path: str, body: object = None) -> Any:
    return gateway.http.post(gateway.url + path, json=body, headers=gateway.headers())


def get(gateway: GatewayUnderTest, path: str, **headers: str) -> Any:
    return gateway.http.get(gateway.url + path, headers={**gateway.headers(), **headers})


async def test_stream_has_the_events_of_grpc_with_sequences_as_ids(
    gateway: GatewayUnderTest,
) -> None:
    async with post(
        gateway, "/api/messages", {"input": {"text": "hw does it work?"}, "requestId": "once"}
    ) as response:
        events, error = await read_events(response)
    assert error is None
    assert kinds_of(events) == ["started", "enhanced", "text_delta", "usage", "completed"]
    assert await gateway.ask("hw does it work?", request_id="once") == events
    path = f"/api/messages/{events[0].message_id}/events"
    async with get(gateway, path) as response:
        lines = (await response.text()).splitlines()
    assert [line for line in lines if line.startswith("id: ")] == [
        f"id: {event.sequence}" for event in events
    ]


async def test_reload_during_an_answer_shows_the_whole_answer(gateway: GatewayUnderTest) -> None:
    go = asyncio.Event()
    gateway.fakes.generator.gate = lambda number: go.wait() if number == 1 else asyncio.sleep(0)
    async with post(gateway, "/api/messages", {"input": {"text": "Hello"}}) as response:
        seen, _ = await read_events(response, until_text=True)
        response.close()
    go.set()
    path = f"/api/messages/{seen[0].message_id}/events"
    async with get(gateway, path, **{"last-event-id": str(seen[-1].sequence)}) as response:
        rest, _ = await read_events(response)
    assert text_of(seen + rest) == "The answer is 42."
    async with get(gateway, f"{path}?after={seen[-1].sequence}") as response:
        assert (await read_events(response))[0] == rest
    assert not gateway.fakes.generator.cancelled.is_set()


async def test_stop_ends_the_generation(gateway: GatewayUnderTest) -> None:
    never = asyncio.Event()
    gateway.fakes.generator.gate = lambda number: never.wait() if number == 1 else asyncio.sleep(0)
    async with post(gateway, "/api/messages", {"input": {"text": "Hello"}}) as response:
        seen, _ = await read_events(response, until_text=True)
        async with post(gateway, f"/api/messages/{seen[0].message_id}/cancel") as cancelled:
            assert await cancelled.json() == {"cancelled": True}
        rest, _ = await read_events(response)
    assert rest[-1].completed.finish_reason == chat_pb2.FINISH_REASON_CANCELLED
    await asyncio.wait_for(gateway.fakes.generator.cancelled.wait(), 5)


async def test_error_is_an_event_after_text_and_a_status_before(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.generator.breaks_after = 1
    async with post(gateway, "/api/messages", {"input": {"text": "Hello"}}) as response:
        events, error = await read_events(response)
    assert (response.status, text_of(events)) == (200, "The ")
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_FAILED
    assert (error["type"], error["code"]) == ("unavailable_error", "model_server_away")
    gateway.fakes.generator.away = True
    async with post(gateway, "/api/messages", {"input": {"text": "Hello"}}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "away")


async def test_conversations_are_listed_read_cleared_and_deleted(gateway: GatewayUnderTest) -> None:
    conversation_id = (await gateway.ask())[0].started.conversation_id
    path = f"/api/conversations/{conversation_id}"
    async with get(gateway, "/api/conversations?page_size=5") as response:
        assert [found["id"] for found in (await response.json())["conversations"]] == [
            conversation_id
        ]
    async with get(gateway, path) as response:
        roles = [message["role"] for message in (await response.json())["messages"]]
    assert roles == ["ROLE_USER", "ROLE_ASSISTANT"]
    async with post(gateway, f"{path}/clear") as response:
        assert response.status == 200
    async with get(gateway, path) as response:
        assert (await response.json())["messages"] == []
    async with gateway.http.delete(gateway.url + path, headers=gateway.headers()) as response:
        assert response.status == 200
    async with get(gateway, path) as response:
        assert response.status == 404


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/api/conversations?page_size=101", "page_size"),
        ("/api/conversations?page_size=-1", "page_size"),
        ("/api/conversations/x", "conversation_id"),
        (f"/api/conversations/{MISSING_UUID}?page_size=101", "page_size"),
        (f"/api/conversations/{MISSING_UUID}?page_size=many", "page_size"),
        (f"/api/conversations/{MISSING_UUID}?page_token=x", "page_token"),
        ("/api/messages/x/events", "message_id"),
        ("/api/messages/018f0000-0000-7000-8000-000000000000/events?after=-1", "after"),
        ("/api/loop/report/..", "run"),
        ("/api/loop/report/%2e%2e%2fsecret", ""),
        ("/api/loop/report/.hidden", "run"),
    ],
)
async def test_invalid_paths_and_queries_are_rejected_with_the_field(
    shared_gateway: GatewayUnderTest, path: str, param: str
) -> None:
    async with shared_gateway.http.get(
        URL(shared_gateway.url + path, encoded=True), headers=shared_gateway.headers()
    ) as response:
        body = (await response.json())["error"]
    assert (response.status, body["param"] or "") == (400 if param else 404, param)


async def test_long_conversation_is_read_in_pages(gateway: GatewayUnderTest) -> None:
    """Finding S-18: a conversation of more than 4 MiB could never be opened again."""
    conversation_id = (await gateway.ask("0"))[0].started.conversation_id
    for number in range(1, 3):
        await gateway.ask(f"{number}", conversation_id=conversation_id)
    path, token, pages = f"/api/conversations/{conversation_id}?page_size=4&page_token=", "", []
    while not pages or token:
        async with get(gateway, path + token) as response:
            page = await response.json()
        pages.append([message["text"] for message in page["messages"][::2]])
        token = page["nextPageToken"]
    assert pages == [["1", "2"], ["0"]]


async def test_rollout_is_shown(gateway: GatewayUnderTest) -> None:
    async with get(gateway, "/api/rollout") as response:
        rollout = await response.json()
    assert (rollout["stable"]["version"], rollout["candidate"]["version"]) == (STABLE, CANDIDATE)


async def test_loop_status_and_reports_are_shown_once_present(
    gateway: GatewayUnderTest,
) -> None:
    async with get(gateway, "/api/loop") as response:
        assert await response.json() == {}
    run = gateway.directory / "loop" / "runs" / "2026-11-24.1"
    run.mkdir(parents=True)
    (gateway.directory / "loop" / "status.json").write_text('{"stage": "sft"}')
    (run / "report.html").write_text("<h1>report</h1>")
    async with get(gateway, "/api/loop") as response:
        assert await response.json() == {"stage": "sft"}
    async with get(gateway, "/api/loop/report/2026-11-24.1") as response:
        assert await response.text() == "<h1>report</h1>"
        assert "sandbox" in response.headers["content-security-policy"]
        assert "script-src" not in response.headers["content-security-policy"]
    async with get(gateway, "/api/loop/report/another") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/api/feedback", f"/api/messages/{MISSING_UUID}/cancel"]
)
async def test_get_on_a_path_for_other_methods_is_405_beside_the_page(
    tmp_path: Path, path: str
) -> None:
    page = tmp_path / "page"
    page.mkdir()
    async with (
        run_gateway(tmp_path, page_directory=page) as gateway,
        get(gateway, path) as response,
    ):
        assert response.status == 405
        assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_page_is_public_and_its_policy_forbids_foreign_origins(tmp_path: Path) -> None:
    page = tmp_path / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html>")
    (page / "assets" / "app.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    async with run_gateway(tmp_path, page_directory=page) as gateway:
        for path, status in (
            ("/", 200),
            ("/assets/app.js", 200),
            ("/%2e%2e/secret.txt", 404),
            ("/nothing", 404),
        ):
            url = URL(gateway.url + path, encoded=True)
            async with gateway.http.get(url) as response:
                assert response.status == status
                policy = response.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "connect-src 'self'" in policy
                assert response.headers["x-content-type-options"] == "nosniff"
        async with gateway.http.get(f"{gateway.url}/api/conversations") as response:
            assert response.status == 401


async def test_apis_work_without_a_built_page(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, page_directory=tmp_path / "nothing") as gateway:
        assert kinds_of(await gateway.ask())[-1] == "completed"
        async with gateway.http.get(gateway.url) as response:
            assert (response.status, (await response.json())["error"]["type"]) == (
                404,
                "not_found_error",
            )


async def test_metrics_count_events_without_user_text(tmp_path: Path) -> None:
    text = "a very particular sentence"
    async with run_gateway(tmp_path, http_metrics=True) as gateway:
        turn = await gateway.ask(text)
        said = {"messageId": turn[0].message_id, "requestId": "r", "thumb": {"up": True}}
        async with post(gateway, "/api/feedback", said) as response:
            assert response.status == 200
        async with gateway.http.get(f"{gateway.url}/metrics") as response:
            figures = await response.text()
    assert f'thumbwheel_turns_total{{arm="stable",reason="stop",version="{STABLE}"}}' in figures
    assert f'thumbwheel_thumbs_total{{arm="stable",value="up",version="{STABLE}"}}' in figures
    for name in (
        "thumbwheel_ttft_seconds_count",
        "thumbwheel_added_seconds_count",
        "thumbwheel_turns_running",
    ):
        assert name in figures
    assert 'route="/api/feedback",status="200"' in figures
    assert "particular" not in figures


async def test_metrics_are_absent_from_the_public_port_by_default(
    gateway: GatewayUnderTest,
) -> None:
    """Finding S-27: strangers read the names of versions and the number of users' calls."""
    async with gateway.http.get(f"{gateway.url}/metrics") as response:
        assert response.status == 404


async def test_account_shows_tenant_user_and_scopes(
    gateway: GatewayUnderTest,
) -> None:
    usual = await new_key(gateway.store, BOB, scopes=DEFAULT_SCOPES)
    for key, user, scopes in (
        (gateway.key, "ada", ["chat", "feedback", "account", "review", "operate"]),
        (usual, "bob", ["chat", "feedback", "account"]),
    ):
        async with gateway.http.get(
            gateway.url + "/api/account", headers=gateway.headers(key)
        ) as response:
            assert await response.json() == {"tenant": "acme", "user": user, "scopes": scopes}
