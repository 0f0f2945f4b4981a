"""Certificates for tests, made by the command openssl: an authority, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def available() -> bool:
    """Tell whether the command is there."""
    return shutil.which("openssl") is not None


class Authority:
    """Signs certificates, each for a day, into files of its own directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.certificate, self._key = directory / "ca.pem", directory / "ca.key"
        self._run("req", "-x509", *KEY, "-subj", "/CN=Missive tests", "-keyout", self._key, "-out", self.certificate)

    def sign(self, name: str, *subjects: str) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key, for subjects such as ``DNS:localhost``."""
        certificate, key, request = (self.directory / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        self._run("req", "-new", *KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(subjects)}\n" if subjects else "")
        signing = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "1")
        self._run("x509", "-req", "-in", request, *signing, "-extfile", extensions, "-out", certificate)
        return certificate, key

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
