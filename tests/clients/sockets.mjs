// The official socket client, as the app and Immich's pages use it. Each line of stdin is one of
// {"open": name, "url", "headers", "options"}, {"close": name}, {"emit": name, "event"}; each line of stdout is what a
// socket heard: {"name", "heard", "args"}, where "heard" is connect, connect_error, disconnect or an event of the server's.
import { createInterface } from 'node:readline';
import { io } from 'socket.io-client';

const sockets = new Map();
const tell = (name, heard, args) => process.stdout.write(`${JSON.stringify({ name, heard, args })}\n`);

function open({ open: name, url, headers, options }) {
  const socket = io(url, {
    path: '/api/socket.io',
    transports: ['websocket'],
    forceNew: true,
    extraHeaders: headers,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
    ...options,
  });
  sockets.set(name, socket);
  socket.on('connect', () => tell(name, 'connect', []));
  socket.on('connect_error', (error) => tell(name, 'connect_error', [error.message, `${error.description?.message}`]));
  socket.on('disconnect', (reason) => tell(name, 'disconnect', [reason]));
  socket.onAny((event, ...args) => tell(name, event, args));
}

for await (const line of createInterface({ input: process.stdin })) {
  const said = JSON.parse(line);
  if (said.open) open(said);
  if (said.close) sockets.get(said.close).disconnect();
  if (said.emit) sockets.get(said.emit).emit(said.event, said.data);
}
process.exit();
