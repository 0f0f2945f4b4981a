"""Privacy: what may be shown, and what is hidden."""

from missive.privacy.redaction import redact_url

__all__ = ["redact_url"]
