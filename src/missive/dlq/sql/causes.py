"""Why a database cannot be reached, in words of our own: servers and drivers quote values in their messages."""

from __future__ import annotations

_UNKNOWN = "it cannot be reached, or it refuses the user, the password or the database"
_NO_USER = "it refuses the user or the password"
_NO_DATABASE = "the server has no such database: create it first, or correct its name"
_NO_HOST = "the name of its host cannot be resolved"
_NO_SERVER = "no server answers there: it does not run, or the host or the port is wrong"

_MYSQL = {
    1044: "the user has no permission for the database, or the server has no such database",
    1045: _NO_USER,
    1049: _NO_DATABASE,
    2003: _NO_SERVER,
}
"""Causes by the number of an error."""
_PHRASES = (
    ("password authentication failed", _NO_USER),
    ("authentication failed for user", _NO_USER),
    ("no password supplied", "it asks for a password: add one to the URL, such as ${PASSWORD}"),
    ("role", "the server has no such user, or refuses it"),
    ("database", _NO_DATABASE),
    ("pg_hba.conf", "its pg_hba.conf does not allow this user, database and machine"),
    ("failed to resolve host", _NO_HOST),
    ("could not translate host name", _NO_HOST),
    ("name or service not known", _NO_HOST),
    ("temporary failure in name resolution", _NO_HOST),
    ("getaddrinfo failed", _NO_HOST),
    ("no such file or directory", "there is no such socket: the server does not run, or the host is wrong"),
    ("certificate verify failed", "its certificate is not trusted: name the authority, or see the page on stores"),
    ("does not support ssl", "the server has no TLS: set it up there, or use a tunnel"),
    ("too many clients", "the server has no free connection"),
    ("starting up", "the server is starting"),
    ("shutting down", "the server is shutting down"),
    ("connection refused", _NO_SERVER),
    ("no route to host", _NO_SERVER),
    ("network is unreachable", _NO_SERVER),
)
"""Phrases of PostgreSQL's, libpq's and the system's messages in English, in the order in which they decide."""
_ABSENT = "does not exist"


def connection_cause(original: BaseException, code: object) -> str:
    """Return why a connection failed. A message in another language gives all causes that are possible."""
    text = str(original).lower()
    if isinstance(code, int) and code in _MYSQL:
        resolved = not any(phrase in text for phrase, cause in _PHRASES if cause is _NO_HOST)
        return _MYSQL[code] if resolved else _NO_HOST
    for phrase, cause in _PHRASES:
        if phrase in {"role", "database"}:
            if f'{phrase} "' in text and _ABSENT in text:
                return cause
        elif phrase in text:
            return cause
    return _UNKNOWN


def is_connection_code(code: object) -> bool:
    """Return whether the number of an error states that no connection was made."""
    return code in _MYSQL
