# Verifies a webhook of Shopery that is signed with Ed25519. Python 3.9 or later; pip install cryptography
import base64
import binascii
import json
import os
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PUBLIC_KEY = os.environ["SHOPERY_WEBHOOK_PUBLIC_KEY"]
TOLERANCE = 5 * 60  # seconds


def verify(headers, body):
    """Returns the payload; raises ValueError if the message is not to be trusted.

    headers finds names in lower case; body is the bytes as they came, before any parsing.
    """
    id, timestamp = headers.get("webhook-id"), headers.get("webhook-timestamp")
    signatures = headers.get("webhook-signature")
    if not id or not timestamp or not signatures:
        raise ValueError("a header is missing")
    if abs(int(time.time()) - int(timestamp)) > TOLERANCE:
        raise ValueError("the timestamp is too far from now")

    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(PUBLIC_KEY.removeprefix("whpk_")))
    signed = f"{id}.{timestamp}.".encode() + body
    # While a key is rotated there are several signatures: one of them must be of ours.
    for given in signatures.split(" "):
        version, _, value = given.partition(",")
        try:
            if version == "v1a":
                key.verify(base64.b64decode(value), signed)
                return json.loads(body)
        except (InvalidSignature, binascii.Error):
            pass
    raise ValueError("no signature is of this key")
