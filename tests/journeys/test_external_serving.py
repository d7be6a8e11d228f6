"""The embedded system in front of an external endpoint: chat, feedback, outage, refusals."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from infra.run.supervision.ports import free_port
from tests.journeys.browser import SIZES, opened
from tests.journeys.client import Client, finish_of, text_of
from tests.journeys.external_endpoint import running_endpoint, set_external_model
from tests.journeys.rows import wait_for_row
from tests.journeys.stack import ROOT, running_stack

MODEL, VERSION = "large-2", "external.main"


def set_endpoint(folder: Path, port: int, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Set the variables of the documented command."""
    set_external_model(folder, port, monkeypatch, "main", MODEL, **changes)
    monkeypatch.setenv("TW_SESSION_CONTEXT_TOKENS", "128000")


@pytest.mark.slow
def test_a_user_chats_with_an_external_model_and_rates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Browser
) -> None:
    port = free_port()
    set_endpoint(tmp_path, port, monkeypatch)
    state = tmp_path / "state"
    with running_stack(state, options=("--server", "external")) as stack:
        assert stack.wait_for_line("go to its provider")
        client = Client(stack.http, stack.make_keys("user")[0])
        # The system is up before its endpoint.
        status, body = client.call(
            "POST",
            "/v1/chat/completions",
            {"model": "thumbwheel", "messages": [{"role": "user", "content": "hello"}]},
        )
        assert (status, body["error"]["code"]) == (503, "external_model_unreachable")
        with running_endpoint(port, MODEL):
            turn = client.ask("hello")
            assert (text_of(turn), finish_of(turn)) == ("Hello there.", "FINISH_REASON_STOP")
            assert client.call("GET", "/api/models")[1]["models"] == [VERSION]
            with opened(browser, stack, SIZES["phone"], f"/#key={client.key}") as page:
                expect(page.get_by_text("sent to Example, the provider")).to_be_visible()
                expect(page.get_by_text("chats and thumbs train nothing")).to_be_visible()
                assert "on this machine" not in page.locator("main").inner_text()
        event = client.thumb(turn[0]["messageId"], True)
        wait_for_row(stack, "event_id", event)
        versions = {one["event_id"]: one["model_version"] for one in stack.rows("feedback")}
        assert versions[event] == VERSION
        loop = subprocess.run(
            [sys.executable, "-m", "infra.run.embedded", "loop", "--state", str(state)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert loop.returncode == 1
        assert "cannot be trained" in loop.stderr


@pytest.mark.slow
def test_a_wrong_setting_is_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_endpoint(tmp_path, free_port(), monkeypatch, max_tokens=0)
    words = ["up", "--server", "external", "--state", str(tmp_path / "state")]
    started = subprocess.run(
        [sys.executable, "-m", "infra.run.embedded", *words, "--port", "0", "--grpc-port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert started.returncode == 1
    # At the end, after the lines of all services.
    last = started.stderr.rpartition("==> ")[2]
    assert "generator" in last
    assert "external_models.main.max_tokens" in last
