// An OpenID provider: npm's oidc-provider with its own pages for development, where people are who they say they are.
// Access tokens for the API are JWTs with the tenants of the account.

import { generateKeyPairSync } from "node:crypto";
import { Provider, errors } from "oidc-provider";

const { issuer, port, api, scope, client, accounts } = JSON.parse(process.env.SETTINGS);

const key = (type, options, alg) => {
  const { privateKey } = generateKeyPairSync(type, options);
  // Named anew at each start, as its keys are new ones.
  return { ...privateKey.export({ format: "jwk" }), kid: `${alg}-${Date.now()}`, alg, use: "sig" };
};

// The lifetimes of an account's next access tokens, in seconds; the last one goes for all that follow.
const lifetime = ({ accountId }) => {
  const { seconds = [3600] } = accounts[accountId] ?? {};
  return seconds.length > 1 ? seconds.shift() : seconds[0];
};

const provider = new Provider(issuer, {
  clients: [client],
  jwks: { keys: [key("rsa", { modulusLength: 2048 }, "RS256"), key("ec", { namedCurve: "P-256" }, "ES256")] },
  cookies: { keys: ["signs the cookies of the provider of the suite"] },
  findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  extraTokenClaims: (_, { accountId }) => ({ tenants: accounts[accountId]?.tenants ?? [] }),
  ttl: { AccessToken: (_, token) => lifetime(token), IdToken: 600, Interaction: 600, Session: 3600, Grant: 3600 },
  features: {
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => {
        if (resource !== api) throw new errors.InvalidTarget();
        return { scope, audience: api, accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } };
      },
    },
  },
});

provider.on("server_error", (_, error) => console.error(error));
provider.listen(port, "127.0.0.1", () => console.log("ready"));
