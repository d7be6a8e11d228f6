"""Certificates of API callers name user and group and are signed by the right authority."""

import ipaddress
import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID, NameOID

from infra.machine.cluster.certificates import CALLERS, IDENTITIES, write_certificates
from infra.machine.cluster.layout import NODE_ADDRESS, Layout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("state"))
    write_certificates(layout)
    return layout


def certificate(layout: Layout, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((layout.certificates / f"{name}.pem").read_bytes())


def test_certificates_name_users_and_groups_of_kubernetes(layout: Layout) -> None:
    subjects = {
        name: certificate(layout, name).subject.rfc4514_string()
        for name in ("admin", "kubelet", "scheduler")
    }
    assert subjects == {
        "admin": "CN=admin,O=system:masters",
        "kubelet": "CN=system:node:node0,O=system:nodes",
        "scheduler": "CN=system:kube-scheduler",
    }


def test_api_certificate_contains_names_and_addresses_of_clients(layout: Layout) -> None:
    extension = certificate(layout, "apiserver").extensions.get_extension_for_oid(
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME
    )
    names = extension.value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert "kubernetes.default.svc.cluster.local" in names.get_values_for_type(x509.DNSName)
    assert ipaddress.ip_address(NODE_ADDRESS) in names.get_values_for_type(x509.IPAddress)
    assert not extension.critical


def test_front_proxy_authority_signs_only_the_proxy(layout: Layout) -> None:
    front, authority = certificate(layout, "front-authority"), certificate(layout, "authority")
    certificate(layout, "front-proxy").verify_directly_issued_by(front)
    for name in IDENTITIES:
        certificate(layout, name).verify_directly_issued_by(authority)
        with pytest.raises(InvalidSignature):
            certificate(layout, name).verify_directly_issued_by(front)


def test_kubeconfig_refers_to_matching_files_with_private_keys(
    layout: Layout,
) -> None:
    for name in CALLERS:
        found = json.loads(layout.kubeconfig(name).read_text())
        user = found["users"][0]["user"]
        ssl.create_default_context(
            cafile=found["clusters"][0]["cluster"]["certificate-authority"]
        ).load_cert_chain(user["client-certificate"], user["client-key"])
        assert Path(user["client-key"]).stat().st_mode & 0o077 == 0
    assert layout.certificates.stat().st_mode & 0o077 == 0


def test_certificates_have_distinct_users(layout: Layout) -> None:
    users = [
        certificate(layout, name).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        for name in IDENTITIES
    ]
    assert len(set(users)) == len(users) == 7
