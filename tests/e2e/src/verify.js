// Verifies messages as a receiver would: one JSON object a line in, "ok" or the reason against it a line out.
// With a secret by the package standardwebhooks; with a public key (whpk_…) by Node's own crypto.

const crypto = require("node:crypto");
const readline = require("node:readline");
const { Webhook } = require("standardwebhooks");

function verifyAsymmetric(text, body, headers) {
  const x = Buffer.from(text.replace("whpk_", ""), "base64").toString("base64url");
  const key = crypto.createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  const signed = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`), body]);
  const isOfKey = (signature) => {
    const [version, value] = signature.split(",");
    return version === "v1a" && crypto.verify(null, signed, key, Buffer.from(value, "base64"));
  };
  if (!headers["webhook-signature"].split(" ").some(isOfKey)) throw new Error("no v1a signature is of this key");
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { secret, body: text, headers } = JSON.parse(line);
  const body = Buffer.from(text, "base64");
  try {
    if (secret.startsWith("whpk_")) verifyAsymmetric(secret, body, headers);
    else new Webhook(secret).verify(body.toString("utf8"), headers);
    console.log("ok");
  } catch (error) {
    console.log(`${error.name}: ${error.message}`);
  }
});
