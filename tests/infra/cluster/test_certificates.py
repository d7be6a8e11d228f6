"""Every caller's certificate names its user and group, and is signed by the authority that the API
trusts for it.
"""

import ipaddress
import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID, NameOID

from infra.cluster.certificates import CALLERS, IDENTITIES, write_certificates
from infra.cluster.layout import NODE_ADDRESS, Layout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("state"))
    write_certificates(layout)
    return layout


def certificate(layout: Layout, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((layout.certificates / f"{name}.pem").read_bytes())


def test_users_and_groups_are_those_of_kubernetes(layout: Layout) -> None:
    subjects = {
        name: certificate(layout, name).subject.rfc4514_string()
        for name in ("admin", "kubelet", "scheduler")
    }
    assert subjects == {
        "admin": "CN=admin,O=system:masters",
        "kubelet": "CN=system:node:node0,O=system:nodes",
        "scheduler": "CN=system:kube-scheduler",
    }


def test_the_api_is_reached_by_the_names_and_addresses_that_clients_use(layout: Layout) -> None:
    extension = certificate(layout, "apiserver").extensions.get_extension_for_oid(
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME
    )
    names = extension.value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert "kubernetes.default.svc.cluster.local" in names.get_values_for_type(x509.DNSName)
    assert ipaddress.ip_address(NODE_ADDRESS) in names.get_values_for_type(x509.IPAddress)
    assert not extension.critical


def test_the_front_proxys_authority_signs_for_nobody_else(layout: Layout) -> None:
    front, authority = certificate(layout, "front-authority"), certificate(layout, "authority")
    certificate(layout, "front-proxy").verify_directly_issued_by(front)
    for name in IDENTITIES:
        certificate(layout, name).verify_directly_issued_by(authority)
        with pytest.raises(InvalidSignature):
            certificate(layout, name).verify_directly_issued_by(front)


def test_a_kubeconfig_leads_to_files_that_fit_each_other_and_only_the_owner_reads_keys(
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


def test_no_two_certificates_name_the_same_user(layout: Layout) -> None:
    users = [
        certificate(layout, name).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        for name in IDENTITIES
    ]
    assert len(set(users)) == len(users) == 7
