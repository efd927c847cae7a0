-- Append one event of a session that lives and set one field of its checkpoints: what append.lua does to almost every
-- session, with a third of its arguments. All or nothing.
-- KEYS  stream, session, checkpoints; marks (list), if the event is one
-- ARGV  session id (32 bytes), schema, expected seq, expected hash, seq, at, event, hash, field and value to set in the
--         checkpoints
-- Gives 1, or 0 with nothing written where the session is not at that version or does not live.
-- PERF: each argument takes the server a hundredth of all.
local KEYS, ARGV, call = KEYS, ARGV, redis.call
local session, seq = KEYS[2], ARGV[5]

-- All checks come before the first write, and fail on every key of another type (the stream's is the first write).
local was = call('HMGET', session, 'seq', 'hash', 'head')
call('HLEN', KEYS[3])
if KEYS[4] then
  call('LLEN', KEYS[4])
end
if was[1] ~= ARGV[3] or was[2] ~= ARGV[4] then
  return 0
end

local head = call('XADD', KEYS[1], '*', 'sid', ARGV[1], 'seq', seq, 'at', ARGV[6], 'schema', ARGV[2], 'event', ARGV[7],
  'hash', ARGV[8], 'prev', was[3] or '')
if KEYS[4] then
  call('RPUSH', KEYS[4], head)
end
call('HSET', session, 'head', head, 'seq', seq, 'at_us', ARGV[6], 'hash', ARGV[8])
call('HSET', KEYS[3], ARGV[9], ARGV[10])
return 1
