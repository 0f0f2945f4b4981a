"""Create certificates for tests with the command openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
LEAF: Final = """\
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""
"""The extensions of a certificate that is no authority. Python 3.13 verifies them strictly."""


def available() -> bool:
    """Return whether this machine has the command openssl."""
    return shutil.which("openssl") is not None


class Authority:
    """A certificate authority. It writes certificates that are valid for a day into its directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.certificate, self._key = directory / "ca.pem", directory / "ca.key"
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # required since Python 3.13
        subject = ("-subj", "/CN=Missive tests")
        self._run("req", "-x509", *KEY, *subject, *usage, "-keyout", self._key, "-out", self.certificate)

    def sign(self, name: str, *subjects: str) -> tuple[Path, Path]:
        """Sign a new certificate for subjects such as ``DNS:localhost``. Return its file and the file of its key."""
        certificate, key, request = (self.directory / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        self._run("req", "-new", *KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions = self.directory / f"{name}.ext"
        names = f"subjectAltName={','.join(subjects)}\n" if subjects else ""
        extensions.write_text(names + LEAF)
        signing = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "1")
        self._run("x509", "-req", "-in", request, *signing, "-extfile", extensions, "-out", certificate)
        return certificate, key

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
