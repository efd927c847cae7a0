// Drives the official SDK from a test: each line of stdin is {"call", "args"}, each line of stdout what came of it:
// {"value", "status", "contentType"} or {"error", "status", "contentType"}. The SDK is used as it is published; its
// fetch is only looked at.
import { createInterface } from 'node:readline';
import * as sdk from '@immich/sdk';

let last = {};
sdk.setFetch(async (input, options) => {
  const response = await fetch(input, options);
  last = { status: response.status, contentType: response.headers.get('content-type') };
  return response;
});

const described = (error) => ({
  name: sdk.isMalformedResponseError(error) ? 'MalformedResponseError' : sdk.isHttpError(error) ? 'HttpError' : error.name,
  message: error.message,
  status: error.status,
  data: error.data,
});

const actions = {
  // Forgets what setHeader and init left, so that one process can be several clients.
  forget: () => {
    sdk.defaults.headers = {};
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { call, args } = JSON.parse(line);
  last = {};
  let result;
  try {
    result = { value: (await (actions[call] ?? sdk[call])(...args)) ?? null };
  } catch (error) {
    result = { error: described(error) };
  }
  process.stdout.write(`${JSON.stringify({ ...result, ...last })}\n`);
}
