"""Deny by default: every RPC and every route of the gateway has an access rule.

An RPC has one rule, or a public rule of the gateway and a rule of the service to which the gateway
forwards the call.
"""

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from starlette.routing import Mount

from infra.machine.certificates.authority import COMMANDS
from infra.service_table import service_table
from services.gateway.access import PAGE_FILES, ROUTES, RPCS, Rule
from services.gateway.http.app import ProtectedRoute
from tests.services.gateway.gateway_under_test import run_gateway

ROOT = Path(__file__).resolve().parents[2]
INNER_SERVICES = tuple(service.name for service in service_table().internal)


def descriptors() -> list[ServiceDescriptor]:
    """Return all services of all protos."""
    files = sorted((ROOT / "gen" / "thumbwheel").rglob("*_pb2.py"))
    modules = [".".join(file.relative_to(ROOT / "gen").with_suffix("").parts) for file in files]
    found = [importlib.import_module(module).DESCRIPTOR for module in modules]
    return [service for file in found for service in file.services_by_name.values()]


def callers(service: str) -> Mapping[str, frozenset[str]]:
    table: Mapping[str, frozenset[str]] = importlib.import_module(
        f"services.{service}.access"
    ).CALLERS
    return table


def test_every_rpc_has_exactly_one_rule_and_every_rule_an_rpc() -> None:
    inner = [callers(service) for service in INNER_SERVICES]
    methods = {method.full_name for service in descriptors() for method in service.methods}
    assert len(methods) > 25
    # Users reach a forwarded call through the gateway only.
    forwarded = [
        name
        for table in inner
        for name, peers in table.items()
        if name in RPCS and peers == {"gateway"}
    ]
    rules = [*RPCS, *(name for table in inner for name in table)]
    assert sorted(rules) == sorted([*methods, *forwarded])


def test_callers_of_internal_methods_are_in_the_service_table() -> None:
    for service in INNER_SERVICES:
        allowed = service_table().callers(service) | {*COMMANDS}
        for method, peers in callers(service).items():
            assert peers, f"{method} has no callers"
            assert peers <= allowed, method


@pytest.mark.parametrize("service", INNER_SERVICES)
def test_services_that_call_a_service_have_an_rpc_of_it(service: str) -> None:
    peers = frozenset().union(*callers(service).values())
    assert service_table().callers(service) <= peers


@pytest.mark.parametrize("service", INNER_SERVICES)
def test_internal_service_uses_its_table_of_callers(service: str) -> None:
    tree = ast.parse((ROOT / "services" / service / "__main__.py").read_text())
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "run_service"
    ]
    assert [ast.unparse(call.args[3]) for call in calls] == ["CALLERS"]


async def test_every_route_has_a_rule_and_every_rule_a_route(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    async with run_gateway(tmp_path, page_directory=page, http_metrics=True) as gateway:
        routes = gateway.app.routes
    names = [
        f"{method} {route.path}"
        for route in routes
        if isinstance(route, ProtectedRoute)
        for method in route.methods or ()
        if method != "HEAD"
    ]
    # Routes outside the router have no access rule; only the files of the page may be such a route.
    others = [route for route in routes if not isinstance(route, ProtectedRoute)]
    assert [
        (type(route), route.path, route.name) for route in others if isinstance(route, Mount)
    ] == [(Mount, "", "page")]
    assert len(others) == 1
    assert sorted([*names, PAGE_FILES]) == sorted(ROUTES)


def test_public_routes_are_a_short_list() -> None:
    assert {name for name, rule in ROUTES.items() if rule == Rule(None)} == {
        "GET /health",
        "GET /metrics",
        PAGE_FILES,
    }
    assert not [name for name, rule in RPCS.items() if rule.scope is None]


def test_routes_of_the_page_accept_its_session_and_no_others_do() -> None:
    names = {name for name in ROUTES if name.partition(" ")[2].startswith("/api/")}
    # A session is created with a key only.
    accepted = names - {"POST /api/session"}
    assert {name for name, rule in ROUTES.items() if rule.session} == accepted
