"""Writes JSON in its canonical form (RFC 8785): one text a line in and one a line out, in base64.

The numbers of that form are doubles, so integers are read as such: the package refuses larger ones than a double can hold exactly.
"""

import base64
import json
import sys

import rfc8785

for line in sys.stdin:
    text = base64.b64decode(line)
    print(base64.b64encode(rfc8785.dumps(json.loads(text, parse_int=float))).decode())
