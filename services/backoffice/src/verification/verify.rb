# Verifies a webhook of Shopery. Ruby 3.0 or later, no gems.
require "json"
require "openssl"

SHOPERY_SECRET = ENV.fetch("SHOPERY_WEBHOOK_SECRET")
SHOPERY_TOLERANCE = 5 * 60 # seconds

# headers: names in lower case. body: the bytes as they came, before any parsing.
# Returns the payload; raises ArgumentError if the message is not to be trusted.
def verify_shopery_webhook(headers, body)
  id, timestamp, signatures = headers.values_at("webhook-id", "webhook-timestamp", "webhook-signature")
  raise ArgumentError, "a header is missing" unless id && timestamp && signatures
  age = (Time.now.to_i - Integer(timestamp, 10)).abs
  raise ArgumentError, "the timestamp is too far from now" if age > SHOPERY_TOLERANCE

  key = SHOPERY_SECRET.delete_prefix("whsec_").unpack1("m0")
  raise ArgumentError, "there is no secret" if key.empty?
  signed = "#{id}.#{timestamp}.".b + body.b
  expected = "v1," + [OpenSSL::HMAC.digest("SHA256", key, signed)].pack("m0")
  # While a secret is rotated there are several signatures: one of them must be ours.
  is_ours = signatures.split(" ").any? { |given| OpenSSL.secure_compare(given, expected) }
  raise ArgumentError, "no signature is of this secret" unless is_ours
  JSON.parse(body)
end
