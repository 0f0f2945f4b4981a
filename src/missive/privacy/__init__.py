"""What may be shown, and what is kept from being shown."""

from missive.privacy.urls import expand_environment, redact_url

__all__ = ["expand_environment", "redact_url"]
