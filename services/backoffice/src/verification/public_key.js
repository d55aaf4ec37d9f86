// Verifies a webhook of Shopery that is signed with Ed25519. Node 18 or later, no packages.
const { createPublicKey, verify: isSigned } = require("node:crypto");

const PUBLIC_KEY = process.env.SHOPERY_WEBHOOK_PUBLIC_KEY;
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

  const x = Buffer.from(PUBLIC_KEY.replace(/^whpk_/, ""), "base64").toString("base64url");
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  const signed = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  // While a key is rotated there are several signatures: one of them must be of ours.
  const isOurs = signatures.split(" ").some((signature) => {
    const [version, value] = signature.split(",");
    return version === "v1a" && isSigned(null, signed, key, Buffer.from(value ?? "", "base64"));
  });
  if (!isOurs) throw new Error("no signature is of this key");
  return JSON.parse(body);
}
