"""Folder with certificate files, updated like a mounted secret of Kubernetes."""

from pathlib import Path

from infra.machine.certificates.authority import Authority

NAMES = ("tls.crt", "tls.key", "ca.crt")


class SecretVolume:
    """Certificate files of a name in a folder.

    The kubelet writes a new folder and replaces the target of the link `..data`, through which all
    files are read.
    """

    def __init__(self, folder: Path, name: str, authority: Authority, days: float = 1.0) -> None:
        self._folder, self._name, self._days = folder, name, days
        self._generation = 0
        self.replace(authority)
        for file in NAMES:
            (folder / file).symlink_to(f"..data/{file}")

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """Return the paths of certificate, key and authority."""
        certificate, key, authority = (self._folder / name for name in NAMES)
        return certificate, key, authority

    def replace(self, issuer: Authority, *trusted: Authority) -> None:
        """Issue another certificate and replace all files at once.

        Args:
            trusted: authorities of `ca.crt`; by default the issuer.
        """
        self._generation += 1
        pair = issuer.issue(self._name, self._days)
        written = self._folder / f"..{self._generation}"
        written.mkdir(parents=True)
        authorities = b"".join(each.pair.certificate for each in trusted or (issuer,))
        contents = (pair.certificate, pair.key, authorities)
        for name, content in zip(NAMES, contents, strict=True):
            (written / name).write_bytes(content)
        link = self._folder / "..data_tmp"
        link.symlink_to(written.name)
        link.replace(self._folder / "..data")
