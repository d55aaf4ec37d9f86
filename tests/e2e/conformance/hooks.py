"""What schemathesis has to be told of the API."""

import uuid

import schemathesis


@schemathesis.hook
def map_headers(context, headers):
    """A key is for one request: each needs one of its own."""
    if headers and "Idempotency-Key" in headers:
        key = str(headers["Idempotency-Key"])
        if 1 <= len(key) <= 200 and key.isascii() and key.isprintable() and " " not in key:
            headers["Idempotency-Key"] = f"{key}-{uuid.uuid4()}"
    return headers
