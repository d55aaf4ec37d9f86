# Verifies a webhook of Shopery. Python 3.9 or later, no packages.
import base64
import hashlib
import hmac
import json
import os
import time

SECRET = os.environ["SHOPERY_WEBHOOK_SECRET"]
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

    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    if not key:
        raise ValueError("there is no secret")
    signed = f"{id}.{timestamp}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    # While a secret is rotated there are several signatures: one of them must be ours.
    if not any(hmac.compare_digest(given.encode(), expected) for given in signatures.split(" ")):
        raise ValueError("no signature is of this secret")
    return json.loads(body)
