// Verifies a webhook of Shopery. Node 18 or later, no packages.
const { createHmac, timingSafeEqual } = require("node:crypto");

const SECRET = process.env.SHOPERY_WEBHOOK_SECRET;
const TOLERANCE = 5 * 60; // seconds

// headers: names in lower case, as Node has them. body: a Buffer of the bytes as they came, before any parsing.
// Returns the payload; throws an Error if the message is not to be trusted.
function verify(headers, body) {
  const id = headers["webhook-id"];
  const timestamp = headers["webhook-timestamp"];
  const signatures = headers["webhook-signature"];
  if (!id || !timestamp || !signatures) throw new Error("a header is missing");
  const age = Math.abs(Date.now() / 1000 - Number(timestamp));
  if (!(age <= TOLERANCE)) throw new Error("the timestamp is too far from now");

  const key = Buffer.from((SECRET ?? "").replace(/^whsec_/, ""), "base64");
  if (key.length === 0) throw new Error("there is no secret");
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  // While a secret is rotated there are several signatures: one of them must be ours.
  const isOurs = signatures.split(" ").some((signature) => {
    const [version, value] = signature.split(",");
    const given = Buffer.from(value ?? "", "base64");
    return version === "v1" && given.length === expected.length && timingSafeEqual(given, expected);
  });
  if (!isOurs) throw new Error("no signature is of this secret");
  return JSON.parse(body);
}
