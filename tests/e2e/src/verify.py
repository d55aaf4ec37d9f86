"""Verifies messages as a receiver would: one JSON object a line in, "ok" or the reason against it a line out.

With a secret by the package standardwebhooks; with a public key (whpk_…) by cryptography, since that package knows v1 alone.
"""

import base64
import json
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook


def verify_asymmetric(key, body, headers):
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    for signature in headers["webhook-signature"].split(" "):
        version, _, value = signature.partition(",")
        try:
            if version == "v1a":
                return key.verify(base64.b64decode(value), signed)
        except Exception:
            pass
    raise ValueError("no v1a signature is of this key")


for line in sys.stdin:
    message = json.loads(line)
    body = base64.b64decode(message["body"])
    try:
        if message["secret"].startswith("whpk_"):
            verify_asymmetric(message["secret"], body, message["headers"])
        else:
            Webhook(message["secret"]).verify(body, message["headers"])
        print("ok")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
