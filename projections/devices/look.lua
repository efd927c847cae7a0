-- Read of sessions what tells their places in the index of devices.
-- KEYS  per session: session hash, checkpoints (hash), sent (list)
-- ARGV  the entity type whose checkpoint tells of a completion
-- Gives per session: its seq, when it was created (µs), that checkpoint, how many streams are on record; false for what
--         is not there.
local call, found = redis.call, {}
for at = 1, #KEYS, 3 do
  local seq, created = unpack(call('HMGET', KEYS[at], 'seq', 'created_at_us'))
  found[#found + 1] = seq or false
  found[#found + 1] = created or false
  found[#found + 1] = call('HGET', KEYS[at + 1], ARGV[1]) or false
  found[#found + 1] = call('LLEN', KEYS[at + 2])
end
return found
