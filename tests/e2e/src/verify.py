"""Verifies messages as a receiver would: one JSON object a line in, "ok" or the reason against it a line out."""

import base64
import json
import sys

from standardwebhooks import Webhook

for line in sys.stdin:
    message = json.loads(line)
    try:
        Webhook(message["secret"]).verify(base64.b64decode(message["body"]), message["headers"])
        print("ok")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
