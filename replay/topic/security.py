"""The security options of a connection, checked before any client sees them.

A client takes a protocol that it does not know for plaintext without a login, and leaves out what the protocol does
not use. So what is not known to work as it reads is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from schemas.errors import ConfigurationError

__all__ = ["MECHANISMS", "PROTOCOLS", "SECURITY_OPTIONS", "check_security"]

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")

#: Those of kafka-python, less OAUTHBEARER: that one needs an object that makes tokens, which no option can be.
MECHANISMS = ("AWS_MSK_IAM", "GSSAPI", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_BY_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

#: The options of every client of kafka-python that are text, a number or a flag, and their type.
SECURITY_OPTIONS: dict[str, type] = {
    "security_protocol": str,
    "sasl_mechanism": str,
    "sasl_plain_username": str,
    "sasl_plain_password": str,
    "sasl_kerberos_name": str,
    "sasl_kerberos_service_name": str,
    "sasl_kerberos_domain_name": str,
    "ssl_check_hostname": bool,
    "ssl_cafile": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_crlfile": str,
}
_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile")
_KINDS = {str: ("text", "write it in quotes"), bool: ("true or false", "write one of the two, without quotes")}

WHERE = "[kafka.security]"


def check_security(options: Mapping[str, object]) -> None:
    """Raise ConfigurationError for the first option that would not do what it says, with what would."""
    for what, next_step in _faults(options):
        raise ConfigurationError(what, where=WHERE, next_step=next_step)


def _faults(options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if name not in SECURITY_OPTIONS:
            yield f"there is no security option {name!r}", f"there are {', '.join(SECURITY_OPTIONS)}"
        elif type(value) is not SECURITY_OPTIONS[name] or value == "":
            kind, step = _KINDS[SECURITY_OPTIONS[name]]
            # The value may be a secret, so it is not shown.
            yield f"{name} is {'empty' if value == '' else f'not {kind}'}", step if value != "" else "give it, or none"
    protocol = options.get("security_protocol", "PLAINTEXT")
    if protocol not in PROTOCOLS:
        yield f"there is no security_protocol {protocol!r}", f"use one of {', '.join(PROTOCOLS)}"
    yield from _unused(options, str(protocol))
    if str(protocol).startswith("SASL_"):
        yield from _login_faults(options, str(protocol))
    for name in _FILES:
        if name in options and not Path(str(options[name])).is_file():
            yield f"{name} names no file: {options[name]}", "check the path, and what this user may read"
    for name in ("ssl_keyfile", "ssl_password"):
        if name in options and "ssl_certfile" not in options:
            yield f"{name} is for a certificate, and none is named", "name it with ssl_certfile"


def _unused(options: Mapping[str, object], protocol: str) -> Iterator[tuple[str, str]]:
    for prefix, wanted in (("sasl_", ("SASL_PLAINTEXT", "SASL_SSL")), ("ssl_", ("SSL", "SASL_SSL"))):
        for name in options:
            if name.startswith(prefix) and protocol not in wanted:
                said = protocol if "security_protocol" in options else "absent, which means PLAINTEXT"
                step = f"set security_protocol to {' or '.join(wanted)}, or leave {name} away"
                yield f"{name} is given, but security_protocol is {said}: it would not be used", step


def _login_faults(options: Mapping[str, object], protocol: str) -> Iterator[tuple[str, str]]:
    mechanism = options.get("sasl_mechanism")
    if mechanism not in MECHANISMS:
        found = f"{protocol} needs a sasl_mechanism" if mechanism is None else f"no sasl_mechanism {mechanism!r}"
        yield found, f"use one of {', '.join(MECHANISMS)}"
    if mechanism == "AWS_MSK_IAM" and protocol != "SASL_SSL":
        yield "AWS_MSK_IAM works only over TLS", "use security_protocol SASL_SSL"
    for name in ("sasl_plain_username", "sasl_plain_password"):
        if mechanism in _BY_PASSWORD and name not in options:
            yield f"{mechanism} needs {name}", f"give {name}; a secret as {{ env = ... }} or {{ file = ... }}"
