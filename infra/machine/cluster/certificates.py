"""Certificates and kubeconfigs of a cluster, created for each cluster.

No system outside the cluster trusts them. There are two authorities, because the signer of the
API's front proxy must not be able to sign for users.
"""

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from infra.machine.certificates.authority import Authority, CertificatePair, write_pair
from infra.machine.cluster.layout import ADMIN, API, API_SERVICE, DOMAIN, NODE, NODE_ADDRESS, Layout

DAYS = 30.0
AUTHORITY, FRONT_AUTHORITY = "authority", "front-authority"
API_SERVER, KUBELET, FRONT_PROXY = "apiserver", "kubelet", "front-proxy"
SERVICE_ACCOUNTS = "service-accounts"


@dataclass(frozen=True)
class Identity:
    """Subject of a certificate. Kubernetes reads the user from CN and the group from O."""

    user: str
    group: str | None = None
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def subject(self) -> x509.Name:
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, self.user)]
        if self.group:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.group))
        return x509.Name(attributes)

    @property
    def alternatives(self) -> list[x509.GeneralName]:
        addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in self.addresses]
        return [*(x509.DNSName(name) for name in self.names), *addresses]


SERVICE = "kubernetes.default.svc"
IDENTITIES = {
    API_SERVER: Identity(
        "kube-apiserver",
        names=("kubernetes", "kubernetes.default", SERVICE, f"{SERVICE}.{DOMAIN}", "localhost"),
        addresses=(API_SERVICE, NODE_ADDRESS, "127.0.0.1"),
    ),
    KUBELET: Identity(
        f"system:node:{NODE}", "system:nodes", names=(NODE,), addresses=(NODE_ADDRESS, "127.0.0.1")
    ),
    ADMIN: Identity("admin", "system:masters"),
    "apiserver-to-kubelet": Identity("kube-apiserver-kubelet-client", "system:masters"),
    "controller-manager": Identity("system:kube-controller-manager"),
    "scheduler": Identity("system:kube-scheduler"),
    "proxy": Identity("system:kube-proxy"),
}
# Identities that call the API.
CALLERS = (ADMIN, KUBELET, "controller-manager", "scheduler", "proxy")


def write_certificates(layout: Layout) -> None:
    """Write all certificates and the kubeconfigs that refer to them."""
    folder = layout.certificates
    folder.mkdir(parents=True, mode=0o700)
    authority, front = Authority.create(DAYS), Authority.create(DAYS)
    write_pair(folder, AUTHORITY, authority.pair)
    write_pair(folder, FRONT_AUTHORITY, front.pair)
    for name, identity in IDENTITIES.items():
        write_pair(folder, name, authority.sign(identity.subject, identity.alternatives, DAYS))
    write_pair(folder, FRONT_PROXY, front.sign(Identity("front-proxy-client").subject, [], DAYS))
    # The key that signs service account tokens; its public key takes the place of a certificate.
    key = generate_private_key(SECP256R1())
    public_key = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_pair(folder, SERVICE_ACCOUNTS, CertificatePair(public_key, private_key))
    for name in CALLERS:
        file = layout.kubeconfig(name)
        file.touch(mode=0o600)
        file.write_text(json.dumps(kubeconfig(folder, name), indent=2))


def kubeconfig(folder: Path, name: str) -> dict[str, object]:
    """Return the kubeconfig of an API caller."""
    cluster = {"server": API, "certificate-authority": str(folder / f"{AUTHORITY}.pem")}
    user = {
        "client-certificate": str(folder / f"{name}.pem"),
        "client-key": str(folder / f"{name}.key"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "thumbwheel", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "thumbwheel", "context": {"cluster": "thumbwheel", "user": name}}],
        "current-context": "thumbwheel",
    }
