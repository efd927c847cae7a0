// A real OpenID provider for tests: oidc-provider with its development log-in pages, on loopback, all in memory.
// Its port is the only argument. Each line of stdin is {"call", "args"}, each line of stdout what came of it: {"value"}
// or {"error"}; the first line says that it listens. It ends with its stdin.
//
// A change of keys or clients makes a new Provider behind the same address: what was stored, codes and sessions, stays.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';

console.info = console.warn = console.log = console.error; // stdout is for answers alone

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
const realNow = Date.now;

const started = () => ({
  clients: {
    immich: {
      client_secret: 'immich-secret',
      application_type: 'native',
      redirect_uris: ['app.immich:///oauth-callback'],
      token_endpoint_auth_method: 'client_secret_post',
    },
    'immich-web': {
      client_secret: 'web secret: 100% +/&=',
      application_type: 'web',
      redirect_uris: ['http://127.0.0.1:2283/auth/login'],
      token_endpoint_auth_method: 'client_secret_basic',
    },
  },
  accounts: {
    'no-email': { id_token: { email: null }, userinfo: { email: null } },
    'no-name': { id_token: { name: null }, userinfo: { name: null } },
    'userinfo-email': { id_token: { email: null, name: null } },
    'upper-email': { id_token: { email: '  Upper.Email@Example.TEST ' } },
    'with-role': { id_token: { immich_role: 'admin' }, userinfo: { immich_role: 'admin' } },
  },
});

let { clients, accounts } = started();
let keys = [];
let made = 0;
let provider;

// What every Provider made here stores. Nothing is dropped when it expires: its model knows when that is.
const stored = new Map();

class Store {
  constructor(model) {
    this.model = model;
  }

  key(id) {
    return `${this.model}:${id}`;
  }

  async upsert(id, payload) {
    stored.set(this.key(id), structuredClone(payload));
  }

  async find(id) {
    return structuredClone(stored.get(this.key(id)));
  }

  async findByUid(uid) {
    const found = [...stored].find(([name, payload]) => name.startsWith(`${this.model}:`) && payload.uid === uid);
    return structuredClone(found?.[1]);
  }

  async consume(id) {
    stored.get(this.key(id)).consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    stored.delete(this.key(id));
  }

  async revokeByGrantId(grantId) {
    stored.forEach((payload, name) => payload.grantId === grantId && stored.delete(name));
  }
}

const key = async (alg) => {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: `${alg}-${(made += 1)}` };
};

const claimsOf = (login, use) => {
  const claims = {
    sub: login,
    email: `${login}@example.test`,
    email_verified: true,
    name: `The User ${login}`,
    preferred_username: login,
    ...accounts[login]?.[use],
  };
  return Object.fromEntries(Object.entries(claims).filter(([, value]) => value !== null));
};

const restart = () => {
  provider = new Provider(issuer, {
    adapter: Store,
    clients: Object.entries(clients).map(([client_id, metadata]) => ({
      client_id,
      grant_types: ['authorization_code'],
      response_types: ['code'],
      ...metadata,
    })),
    jwks: { keys },
    cookies: { keys: ['of no importance'] },
    claims: {
      openid: ['sub'],
      email: ['email', 'email_verified'],
      profile: ['name', 'preferred_username', 'immich_role', 'ledger_user', 'ledger_library'],
    },
    conformIdTokenClaims: false, // claims of scopes in the ID token too
    pkce: { required: () => true },
    features: { backchannelLogout: { enabled: true }, jwtUserinfo: { enabled: true } },
    enabledJWA: {
      idTokenSigningAlgValues: ['RS256', 'ES256', 'PS256'],
      userinfoSigningAlgValues: ['RS256', 'ES256', 'PS256'],
    },
    // Without its dispatcher, which keeps it from calling addresses on this machine back.
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
    findAccount: (_, login) => ({ accountId: login, claims: (use) => claimsOf(login, use) }),
  });
  provider.on('backchannel.error', (_, error) => console.error(`back-channel logout: ${error}`));
};

const calls = {
  // New keys sign from now on; with `keepOld` the JWKS still lists those before.
  rotateKeys: async (keepOld) => {
    keys = [await key('RS256'), await key('ES256'), ...(keepOld ? keys : [])];
    restart();
  },
  // Metadata of a client, added to what it has; null takes one away.
  client: (id, metadata) => {
    const merged = Object.entries({ ...clients[id], ...metadata });
    clients[id] = Object.fromEntries(merged.filter(([, value]) => value !== null));
    restart();
  },
  // Claims of a login name where they differ: {id_token, userinfo}; null leaves a claim out.
  account: (login, claims) => {
    accounts[login] = claims;
  },
  // The provider's clock, in seconds ahead of the real one. Set far back it makes cookies that are expired at once.
  clock: (ahead) => {
    Date.now = () => realNow() + ahead * 1000;
  },
  // Everything as at the start, but for the keys and what is stored.
  reset: () => {
    ({ clients, accounts } = started());
    Date.now = realNow;
    restart();
  },
};

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

await calls.rotateKeys(false);
createServer((request, response) => provider.callback()(request, response)).listen(port, '127.0.0.1', async () => {
  say({ value: issuer });
  for await (const line of createInterface({ input: process.stdin })) {
    const { call, args } = JSON.parse(line);
    try {
      say({ value: (await calls[call](...args)) ?? null });
    } catch (error) {
      say({ error: `${error}` });
    }
  }
  process.exit(0);
});
