// The official SDK of CloudEvents, which carries the specification's JSON schema. Each line of stdin is an event in the
// JSON format; each line of stdout is what the schema finds wrong with it, as a list.
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { CloudEvent, HTTP } from 'cloudevents';

const require = createRequire(import.meta.url);
const schema = require(join(dirname(require.resolve('cloudevents')), 'schema', 'v1.js'));

for await (const line of createInterface({ input: process.stdin })) {
  const fits = schema(JSON.parse(line));
  const wrong = fits ? [] : [...schema.errors];
  try {
    const read = HTTP.toEvent({ headers: { 'content-type': 'application/cloudevents+json' }, body: line });
    if (!(read instanceof CloudEvent)) wrong.push({ message: 'it is no single event' });
    else read.validate();
  } catch (error) {
    wrong.push({ message: error.message });
  }
  process.stdout.write(`${JSON.stringify(wrong)}\n`);
}
