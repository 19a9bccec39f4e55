"""TLS contexts for clients."""

from __future__ import annotations

import ssl
import subprocess
import sys

from millrace.io.crypto import trusting_nobody

DAEMON = """
import ssl
made = []
def parsing(self, *args): made.append(self)
ssl.SSLContext.load_default_certs = parsing
from millrace.io.crypto import trusting_nobody
with trusting_nobody():
    import aiohttp.connector
assert not made, "the system's certificates were parsed"
context = aiohttp.connector._SSL_CONTEXT_VERIFIED
assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
"""


def test_a_default_context_made_meanwhile_trusts_nobody_and_later_ones_are_as_usual() -> None:
    usual = ssl.create_default_context
    with trusting_nobody():
        context = ssl.create_default_context()
    assert not context.get_ca_certs() and context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert ssl.create_default_context is usual


def test_the_daemon_imports_aiohttp_without_parsing_the_certificates_of_all_authorities() -> None:
    done = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
