<?php
// Verifies a webhook of Shopery. PHP 8 or later, no packages.
const SHOPERY_TOLERANCE = 5 * 60; // seconds

// $headers: names in lower case. $body: the bytes as they came: file_get_contents('php://input').
// Returns the payload; throws a RuntimeException if the message is not to be trusted.
function verify_shopery_webhook(array $headers, string $body): mixed
{
    $id = $headers['webhook-id'] ?? '';
    $timestamp = $headers['webhook-timestamp'] ?? '';
    $signatures = $headers['webhook-signature'] ?? '';
    if ($id === '' || $timestamp === '' || $signatures === '') {
        throw new RuntimeException('a header is missing');
    }
    if (!ctype_digit($timestamp) || abs(time() - (int) $timestamp) > SHOPERY_TOLERANCE) {
        throw new RuntimeException('the timestamp is too far from now');
    }

    $secret = (string) getenv('SHOPERY_WEBHOOK_SECRET');
    $key = base64_decode(preg_replace('/^whsec_/', '', $secret), true);
    if ($key === false || $key === '') {
        throw new RuntimeException('there is no secret');
    }
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $key, true));
    // While a secret is rotated there are several signatures: one of them must be ours.
    foreach (explode(' ', $signatures) as $given) {
        if (hash_equals($expected, $given)) { // takes constant time
            return json_decode($body, true, 512, JSON_THROW_ON_ERROR);
        }
    }
    throw new RuntimeException('no signature is of this secret');
}
