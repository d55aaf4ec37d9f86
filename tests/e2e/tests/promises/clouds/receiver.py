"""A merchant's receiver, with the libraries that the clouds themselves offer: it reads a queue behind an event bus with boto3, or pulls
a subscription with google-cloud-pubsub, and verifies each delivery with standardwebhooks. Writes what it finds, one JSON object a line.
"""

import json
import os

import boto3
import rfc8785
from google.cloud import pubsub_v1
from standardwebhooks import Webhook

settings = json.loads(os.environ["SETTINGS"])


def events():
    """What came over EventBridge. It writes JSON anew, so what is signed is the canonical form of the payload (RFC 8785)."""
    credentials = {"aws_access_key_id": "AKIAOFARECEIVEROFSQS", "aws_secret_access_key": "of a receiver"}
    sqs = boto3.client("sqs", endpoint_url=settings["endpoint"], region_name=settings["region"], **credentials)
    queue = sqs.get_queue_url(QueueName=settings["queue"])["QueueUrl"]
    while True:
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            # The numbers of the canonical form are doubles; rfc8785 refuses an int that none can hold.
            detail = json.loads(message["Body"], parse_int=float)["detail"]
            yield detail["metadata"], rfc8785.dumps(detail["payload"])
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])


def messages():
    """What came over Pub/Sub: the very bytes that were signed."""
    with pubsub_v1.SubscriberClient() as subscriber:
        while True:
            request = {"subscription": settings["subscription"], "max_messages": 10}
            for received in subscriber.pull(request=request, timeout=10).received_messages:
                yield dict(received.message.attributes), received.message.data
                acknowledged = {"subscription": settings["subscription"], "ack_ids": [received.ack_id]}
                subscriber.acknowledge(request=acknowledged)


def verdict(body, headers):
    try:
        Webhook(settings["secret"]).verify(body, headers)
        return "ok"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


left = settings["count"]
for headers, body in events() if settings["kind"] == "eventbridge" else messages():
    # A test that was sent when the webhook was saved.
    if headers.get("X-Shopery-Test") == "true":
        continue
    tampered = "ok" if verdict(body + b" ", headers) == "ok" else "refused"
    found = {"event": headers["X-Shopery-Event-Id"], "verdict": verdict(body, headers), "tampered": tampered}
    print(json.dumps(found), flush=True)
    left -= 1
    if not left:
        break
