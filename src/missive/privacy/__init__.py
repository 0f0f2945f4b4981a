"""Privacy: what Missive may show. Input: a value that may contain a secret. Output: a text that contains none.

`redaction` removes secrets from URLs.
"""

from missive.privacy.redaction import redact_url

__all__ = ["redact_url"]
