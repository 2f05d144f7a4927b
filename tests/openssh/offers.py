"""What the gateway offers, by the names that `ssh -Q` sorts it under."""

from __future__ import annotations

from gateway.config.ssh import CIPHERS, KEX, MACS, PUBKEY_ACCEPTED

# Of users and of hosts alike: the suite makes a host key and a user's key of each. Security keys enter
# too, but are no host keys.
KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


def offers() -> dict[str, list[str]]:
    """Query → names."""
    return {
        "cipher": list(CIPHERS),
        "cipher-auth": [name for name in CIPHERS if not name.endswith("-ctr")],
        "mac": list(MACS),
        "kex": list(KEX),
        "key-plain": list(KEY_TYPES),
        "pubkey": list(PUBKEY_ACCEPTED),
        "compression": ["none", "zlib@openssh.com"],
    }
