"""Privacy: the removal of secrets from text. Input: a URL that may contain a secret. Output: a text without secrets.

`redaction` removes secrets from URLs. `printing` escapes control characters.
"""

from missive.privacy.redaction import redact_url

__all__ = ["redact_url"]
